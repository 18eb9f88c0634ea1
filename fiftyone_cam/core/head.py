"""Finding the head of a GAP classifier, by one probe forward, and tapping its feature maps afterwards.

Nothing is guessed from names of modules. The probe watches every torch function that the forward calls, and looks for
an activation whose spatial mean *is* the input of the linear layer whose output *is* the logits; equality is numeric.
A ``TorchFunctionMode`` watches instead of hooks: it sees functional pooling as well as modules, it is local to the
thread, and when it ends nothing is left on the module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from fiftyone_cam.core.cam import CERTIFICATE_TOLERANCE, certificate, class_activation_maps, product_dtype
from fiftyone_cam.core.errors import HeadError

_MATCH = 1e-4  # relative: one activation against another; the certificate afterwards is stricter

_TOLERANCE_GPU = 2e-3
"""Instead of :data:`CERTIFICATE_TOLERANCE`, where the network's last layer may be computed in TensorFloat-32."""


@dataclass(frozen=True)
class Tap:
    """Where the feature maps pass: the input of the ``ordinal``-th call of ``function`` in a forward.

    ``layout`` names the axes of that tensor: ``NCHW``, ``NHWC``, ``NCL`` or ``NLC`` (L: positions in row-major order).
    """

    function: str
    ordinal: int
    layout: str

    def feature_maps(self, tensor: Tensor, input_size: tuple[int, int]) -> Tensor:
        """The tapped tensor as ``(N, K, h, w)``."""
        if self.layout == "NCHW":
            return tensor
        if self.layout == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        if self.layout == "NLC":
            tensor = tensor.transpose(1, 2)
        return tensor.reshape(*tensor.shape[:2], *_grid(tensor.shape[2], input_size))


@dataclass(frozen=True)
class Head:
    """What follows the feature maps: global average pooling and one linear layer.

    ``weight`` is ``(C, K)``, ``bias`` ``(C,)``; ``error`` is the certificate of the probe. Where the pooled feature
    maps are the logits themselves (SqueezeNet), the weight is the identity and the bias zero. A head of another kind
    (one that is linear only for a given input, say) would be a sibling with its own ``weight_for(features)``.
    """

    tap: Tap
    weight: Tensor
    bias: Tensor
    error: float

    def to(self, device: torch.device) -> Head:
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def logits(self, features: Tensor) -> Tensor:
        """``(N, K, h, w)`` feature maps to float32 logits, ``(N, C)``, as exactly as the maps.

        >>> head.logits(features).shape
        torch.Size([N, 1000])
        """
        exact = product_dtype(features.device)
        pooled = features.float().mean((2, 3)).to(exact)
        return nnf.linear(pooled, self.weight.to(exact), self.bias.to(exact)).float()

    def describe(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return {
            "kind": "global average pooling + linear",
            "features": int(self.weight.shape[1]),
            "classes": int(self.weight.shape[0]),
            "tap": f"input of {self.tap.function} #{self.tap.ordinal}",
            "layout": self.tap.layout,
            "probe_error": self.error,
        }


def find_head(module: nn.Module, example: Tensor) -> Head:
    """Find and certify the head of a classifier that ends in global average pooling and a linear layer.

    Args:
        module: the classifier, in eval mode.
        example: a ``(N, 3, H, W)`` float input, as the module expects it; noise is best.

    Raises:
        HeadError: no such head; the message names what follows the pooling instead.

    >>> head = find_head(torchvision.models.resnet18().eval(), torch.randn(2, 3, 224, 224))
    >>> head.weight.shape, head.tap
    (torch.Size([1000, 512]), Tap(function='torch.nn.functional.adaptive_avg_pool2d', ordinal=1, layout='NCHW'))
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise HeadError(f"{type(module).__name__} is compiled and cannot be looked into: load the eager module instead")
    probe = _Probe()
    with torch.no_grad(), probe:
        output = module(example)
    logits = read_logits(output)
    if logits.ndim != 2 or len(logits) != len(example):
        raise HeadError(f"expected logits of shape (N, classes), found {tuple(logits.shape)}: not a classifier")

    for pooled, tap in reversed(probe.pooled):
        for linear in reversed(probe.linear):
            if _same(linear.input, pooled) and _same(linear.output, logits):
                return certified(module, example, tap, linear.weight, linear.bias)
        if _same(pooled, logits):
            identity = torch.eye(logits.shape[1], device=logits.device)
            return certified(module, example, tap, identity, torch.zeros_like(identity[0]))
    if probe.single_cell and not probe.pooled:
        raise HeadError(
            f"the feature maps have a single cell for an input of {example.shape[2]}x{example.shape[3]}: there is no "
            "place to look at; give a preprocessing with a larger input size"
        )
    raise HeadError(
        "no exact head: expected global average pooling and then one linear layer (or 1x1 convolution), so that the "
        f"class activation map is the logit; {probe.found()}. "
        "Use a network that ends so: ResNet, DenseNet, EfficientNet, RegNet, MobileNetV2, Swin, …"
    )


def certified(module: nn.Module, example: Tensor, tap: Tap, weight: Tensor, bias: Tensor) -> Head:
    """This weight and bias as the module's head, if the mean of each map plus the bias *is* the logit.

    Raises:
        HeadError: it is not.

    >>> certified(module, example, head.tap, head.weight, head.bias).error < 1e-5
    True
    """
    weight, bias = weight.detach().float().clone(), bias.detach().float().clone()
    with torch.no_grad():
        logits, features = tapped_forward(module, example, tap)
        maps = class_activation_maps(features, weight.expand(len(features), -1, -1))
        scale = logits.float().abs().amax(1, keepdim=True)
        error = float(certificate(maps, bias, logits.float(), scale).max())
    tolerance = _TOLERANCE_GPU if logits.device.type == "cuda" else CERTIFICATE_TOLERANCE
    if error > tolerance:
        raise HeadError(
            f"the certificate fails: mean of the map plus bias differs from the logit by {error:.1e} (relative), "
            f"expected at most {tolerance:.0e}: what was found is not the head"
        )
    return Head(tap, weight, bias, error)


def tapped_forward(module: nn.Module, batch: Tensor, tap: Tap) -> tuple[Tensor, Tensor]:
    """One forward: logits ``(N, C)`` and feature maps ``(N, K, h, w)``.

    Raises:
        HeadError: the forward did not pass the tap (another path than the probe's).
    """
    listener = _Listener(tap)
    with listener:
        output = module(batch)
    if listener.heard is None:
        raise HeadError(f"the forward made no call #{tap.ordinal} of {tap.function}: it takes another path than probed")
    height, width = batch.shape[-2:]
    return read_logits(output), tap.feature_maps(listener.heard, (height, width))


def read_logits(output: Any) -> Tensor:
    """The logits in what a classifier returns: a tensor, an object or mapping with ``logits``, or a tuple's first.

    >>> read_logits({"logits": torch.zeros(1, 10)}).shape
    torch.Size([1, 10])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]  # type: ignore[no-any-return]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[no-any-return]
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise HeadError(f"expected the forward to return logits, found {type(output).__name__}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every submodule's own training flag is as it was."""
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            part.training = flag


@dataclass(frozen=True)
class _Linear:
    input: Tensor
    output: Tensor
    weight: Tensor
    bias: Tensor


class _Listener(TorchFunctionMode):
    """Keeps the input of one call."""

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self._tap = tap
        self._calls = 0
        self.heard: Tensor | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _name(func) == self._tap.function:
            self._calls += 1
            if self._calls == self._tap.ordinal:
                self.heard = args[0]
        return func(*args, **(kwargs or {}))


class _Probe(TorchFunctionMode):
    """Notes every pooling (by its effect) and every linear layer of a forward, and the order of all calls."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: Counter[str] = Counter()
        self._trace: list[tuple[str, Any, Any]] = []
        self.pooled: list[tuple[Tensor, Tap]] = []
        self.single_cell = False
        self.linear: list[_Linear] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        source = args[0] if args and isinstance(args[0], Tensor) else None
        shape = None if source is None else tuple(source.shape)
        output = func(*args, **kwargs)
        name = _name(func)
        self._calls[name] += 1
        if source is not None and shape is not None and isinstance(output, Tensor):
            self._trace.append((name, shape, tuple(output.shape)))
            if output.is_floating_point() and output.shape[:1] == shape[:1] and output.ndim > 1:
                self._note(func, name, source, output, args, kwargs)
        return output

    def _note(
        self,
        func: Callable[..., Any],
        name: str,
        source: Tensor,
        output: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        flat = output.flatten(1)
        if source.ndim == 4 and source[0, 0].numel() == 1:
            self.single_cell = True
        for layout, dims in _LAYOUTS.get(source.ndim, ()):
            # most calls keep their shape and fail the first test: the mean is taken for the few that do not
            joins = flat.shape[1] == source.shape[layout.index("C")] and source[0].numel() > flat.shape[1]
            if joins and _same(flat, source.mean(dims)):
                self.pooled.append((flat.clone(), Tap(name, self._calls[name], layout)))
                break
        if func in (nnf.linear, torch.conv2d, nnf.conv2d):
            weight, bias, *_ = [*args[1:], *(kwargs[key] for key in ("weight", "bias") if key in kwargs), None, None]
            if weight is None or weight[0, 0].numel() != 1 or source.flatten(1).shape[1] != weight.shape[1]:
                return  # grouped, larger than 1x1, or with places left: not a classifier's last layer
            bias = torch.zeros_like(weight[:, 0].flatten()) if bias is None else bias
            self.linear.append(_Linear(source.flatten(1).clone(), flat.clone(), weight.flatten(1), bias))

    def found(self) -> str:
        """What follows the last place where positions were joined, in words."""
        last = max(
            (
                i
                for i, (_, before, after) in enumerate(self._trace)
                if _positions(before) > 1 and _positions(after) == 1
            ),
            default=-1,
        )
        if last < 0:
            return "found no layer that joins the positions"
        name, before, after = self._trace[last]
        steps = [f"{_short(name)} {'x'.join(map(str, before[1:]))} -> {'x'.join(map(str, after[1:]))}"]
        for name, before, after in self._trace[last + 1 :]:
            if _short(name) in ("linear", "conv2d"):
                steps.append(f"{_short(name)} {before[1]} -> {after[1]}")
            elif _short(name) not in _SHAPE_ONLY:
                steps.append(_short(name))
        return "found " + ", then ".join(steps[:8]) + (", …" if len(steps) > 8 else "")


_LAYOUTS: Mapping[int, tuple[tuple[str, tuple[int, ...]], ...]] = {
    4: (("NCHW", (2, 3)), ("NHWC", (1, 2))),
    3: (("NCL", (2,)), ("NLC", (1,))),
}
_SHAPE_ONLY = {"flatten", "view", "reshape", "squeeze", "permute", "transpose", "dropout", "contiguous", "__getitem__"}


def _name(func: Callable[..., Any]) -> str:
    return str(resolve_name(func) or getattr(func, "__name__", repr(func)))


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _positions(shape: tuple[int, ...]) -> int:
    if len(shape) == 4:  # NHWC joins the last two as well as NCHW: the smaller side cannot be the channels
        return min(math.prod(shape[2:]), math.prod(shape[1:3]))
    return shape[1] if len(shape) == 3 else 1


def _grid(positions: int, input_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a flat row-major grid that has the input's aspect."""
    height, width = input_size
    rows = round(math.sqrt(positions * height / width))
    if rows < 1 or positions % rows:
        raise HeadError(f"{positions} positions do not form a grid over an input of {height}x{width}")
    return rows, positions // rows


def _same(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    first, second = first.float(), second.float()
    scale = second.abs().max()
    return bool(scale > 0) and bool((first - second).abs().max() <= _MATCH * scale)
