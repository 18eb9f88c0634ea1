"""The caller's module as it is run here: a copy of its own, that takes an image and returns logits.

Nothing is taken silently: where a forward returns several things that may be logits, the caller chooses.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fiftyone_cam.core.errors import SourceError, first_line
from fiftyone_cam.core.float32 import ieee_float32
from fiftyone_cam.core.heads.head import SHAPE_ONLY
from fiftyone_cam.core.preprocessing import Preprocessing

logger = logging.getLogger(__name__)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy that may be cast and moved, of what lies inside ``DataParallel`` and ``torch.compile``.

    The caller's module is never changed. What cannot be copied is used itself, and the log says so.

    >>> own_copy(module) is module
    False
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = module.module
        if not isinstance(inner, nn.Module):
            break
        module = inner
    # what was computed from parameters is made anew in each forward (weight_norm, pruning), and cannot be copied
    computed = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, computed)
    except Exception as error:  # modules hold anything: locks, graphs, handles
        logger.warning(
            "%s cannot be copied (%s): it is used itself, in float32 and on the device of the run",
            *(type(module).__name__, first_line(error)[:200]),
        )
        return module


def with_output(
    module: nn.Module, preprocessing: Preprocessing, output: str | int | None = None
) -> tuple[nn.Module, int, str | None]:
    """The module with one output, ``(N, classes)``, whatever else it returns; how many classes; its own activation.

    That is ``"sigmoid"`` where it returns the sigmoid of its logits beside them, else None.

    Args:
        module: that takes an image batch.
        preprocessing: how it is fed.
        output: the name or the number of what to take, where there are several.

    Raises:
        SourceError: the forward fails, returns nothing that may be logits, or several things and none was chosen.

    >>> module, count, activation = with_output(module, preprocessing, output="animal")
    >>> module(batch).shape
    torch.Size([N, 3])
    """
    returned = _returned(module, preprocessing)
    if isinstance(returned, Tensor):
        if output is not None:
            raise SourceError(f"the forward returns one tensor: leave out output={output!r}")
        logits = _logits(returned, "the forward")
        return (module if logits is returned else _Chosen(module, None, logits)), logits.shape[1], None
    parts = _parts(returned)
    key = _chosen(parts, output)
    logits = _logits(parts[key], f"output {key!r}")
    readable = key == "logits" and logits is parts[key]  # Hugging Face's word, known everywhere
    beside = any(isinstance(part, Tensor) and _is(part, logits.float().sigmoid()) for part in parts.values())
    return (module if readable else _Chosen(module, key, logits)), logits.shape[1], "sigmoid" if beside else None


_LIMITS = ("clamp", "clip", "clamp_min", "clamp_max")

_REPEATED = 1e-4
"""How far apart the logits of one image may be in two forwards, of the largest. Rounding makes some 1e-6."""


def require_values(module: nn.Module) -> None:
    """Refuse a module whose weights are not loaded.

    Raises:
        SourceError: they are on the device ``meta``, which has shapes and no values, or still without a shape.

    >>> require_values(module)
    """
    for part in module.modules():
        library = type(part).__module__
        of_torch = library.startswith("torch.ao.nn.") and "quant" in library
        if of_torch or library.startswith(("bitsandbytes", "torchao")):
            raise SourceError(
                f"the module is quantised, with {library}.{type(part).__name__} in it: load the float module that it "
                "was made from"
            )
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise SourceError(
            "the module has lazy layers that never ran, so that their weights would be random: run it once on an "
            "input, and load its weights"
        )
    if any(parameter.is_meta for parameter in module.parameters()):
        raise SourceError(
            "the module's weights are on the device 'meta', which holds no values: load its weights first, "
            "module.to_empty(device='cpu') and module.load_state_dict(…)"
        )


@ieee_float32()
def require_function_of_image(module: nn.Module, preprocessing: Preprocessing) -> None:
    """Refuse a forward whose logits of an image are not those of this image alone, each time the same.

    Raises:
        SourceError: they are no numbers, other ones each time, or depend on what else is in the batch.

    >>> require_function_of_image(module, preprocessing)
    """
    together, again, alone = (_logits_of(module, preprocessing, count) for count in (2, 2, 1))
    if together is None or again is None:
        return  # what it returns is judged elsewhere
    if not bool(together.isfinite().all()):
        sick = [name for name, value in module.named_parameters() if not bool(value.isfinite().all())]
        where = f": its weights {', '.join(sick[:3])} hold NaN or infinity" if sick else ""
        raise SourceError(f"the logits of a plain input are NaN or infinity{where}. Load other weights")
    scale = float(together.abs().max())
    if float((together - again).abs().max()) > _REPEATED * scale:
        raise SourceError(
            "the network gives other logits each time for the same input, also in eval mode: take what is random out "
            "of its forward, such as noise, or dropout with training=True"
        )
    if alone is not None and float((together[:1] - alone).abs().max()) > _REPEATED * scale:
        raise SourceError(
            "the logits of an image depend on the other images in its batch: such as by batch normalisation with "
            "track_running_stats=False, which takes its statistics from the batch. Give it running statistics"
        )


def require_logits(module: nn.Module, preprocessing: Preprocessing, steps: Sequence[str]) -> None:
    """Refuse a forward that returns probabilities in a way that cannot be seen through.

    A map of them would add up to a probability, and the confidence would be a softmax of probabilities.

    Args:
        module: with one output.
        preprocessing: how it is fed.
        steps: what it does after its feature maps, as :attr:`Head.steps` has it.

    Raises:
        SourceError: its outputs are shares of one, or a sigmoid's.

    >>> require_logits(module, preprocessing, network.head.steps)
    """
    rows = _logits_of(module, preprocessing, 2)
    shares = rows is not None and rows.shape[1] > 1 and bool((rows >= 0).all() and _is(rows.sum(1), rows.new_ones(2)))
    last = next((step for step in reversed(steps) if step not in (*SHAPE_ONLY, *_LIMITS)), None)
    if shares or last == "sigmoid":
        raise SourceError(
            "the network returns probabilities, expected logits: let it return what goes into its softmax or sigmoid. "
            "Pass activation='softmax' if they are logits in spite of that"
        )


def _logits_of(module: nn.Module, preprocessing: Preprocessing, count: int) -> Tensor | None:
    try:
        returned = _returned(module, preprocessing, count)
    except SourceError:
        return None
    logits = returned if isinstance(returned, Tensor) else _parts(returned).get("logits")
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 2 or len(logits) != count:
        return None
    return logits.float()


def _chosen(parts: Mapping[str | int, Any], output: str | int | None) -> str | int:
    """Which of the things that a forward returned are the logits."""
    if output is not None:
        if output not in parts:
            raise SourceError(f"the forward returns no {output!r}, but {_told(parts)}")
        return output
    if isinstance(parts.get("logits"), Tensor):
        return "logits"
    fitting = {key: part for key, part in parts.items() if _may_be_logits(part)}
    for key, part in fitting.items():  # logits, with what softmax or sigmoid makes of them beside
        if all(other is part or _is_squashed(other, part) for other in fitting.values()):
            return key
    if not fitting:
        raise SourceError(f"expected the forward to return logits of shape (N, classes), found {_told(parts)}")
    first = next(iter(fitting))
    raise SourceError(f"the forward returns several things: {_told(parts)}. Pass output={first!r}, or another of them")


def with_two_sides(module: nn.Module) -> nn.Module:
    """A module of one logit, z, as one of two: -z for the class below zero, z for the class above.

    The map of the class below is then the same with its sign turned, and the confidence of each the sigmoid of its own.

    >>> with_two_sides(module)(batch).shape
    torch.Size([N, 2])
    """
    return TwoSides(module)


class TwoSides(nn.Module):
    """Its weights have the module's own names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        returned = self.module(*args, **kwargs)
        logit = returned if isinstance(returned, Tensor) else _parts(returned)["logits"]
        return torch.cat([-logit, logit], 1)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)


class _Chosen(nn.Module):
    """One of the outputs of a module, as ``(N, classes)``. Its weights have the module's own names."""

    def __init__(self, module: nn.Module, key: str | int | None, example: Tensor) -> None:
        super().__init__()
        self.module = module
        self.key = key
        self.classes = example.shape[1]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        returned = self.module(*args, **kwargs)
        chosen = returned if self.key is None else _parts(returned)[self.key]
        return chosen.reshape(-1, self.classes)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.state_dict(*args, **kwargs)


def _returned(module: nn.Module, preprocessing: Preprocessing, count: int = 2) -> Any:
    """What the forward returns for inputs of noise: for the first of two what it returns for one."""
    height, width = preprocessing.input_size()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, len(preprocessing.mean), height, width, generator=generator, dtype=torch.float32)
    parameter = next(module.parameters(), noise)
    flags = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            return module(noise[:count].to(parameter.device))
    except Exception as error:  # the module is anybody's
        reason = first_line(error)[:300]
        raise SourceError(
            f"the network fails on an input of shape {tuple(noise.shape)}, which its preprocessing makes: "
            f"{type(error).__name__}: {reason}. {_advice(error, noise.shape[1])}"
        ) from error
    finally:
        for part, flag in flags:
            part.training = flag


def _advice(error: Exception, channels: int) -> str:
    if isinstance(error, TypeError) or "'NoneType'" in str(error):  # an argument that is None by default
        return "If it needs more than the image, wrap it in a module whose forward takes the image alone"
    if "dtype" in str(error) or "type should be the same" in str(error) or "bias type" in str(error):
        return "If it casts inside its forward, such as x.half(), take that out: here it is run in float32"
    if "Guard failed" in str(error):
        return "It was exported for inputs of one shape: load the module that it was exported from"
    if "channel" in str(error):
        grey = "mean=(0.5,), std=(0.5,) for grey" if channels != 1 else "three means for colour"
        return f"If it takes other channels, pass preprocessing=Preprocessing(…) with a mean for each: {grey}"
    return "If it takes another size, pass preprocessing=Preprocessing((Resize(size=(…, …)),))"


def _parts(returned: Any) -> dict[str | int, Any]:
    """Everything that a forward returned, by name or number."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    if isinstance(returned, (tuple, list)):
        return dict(enumerate(returned))
    return {key: value for key, value in getattr(returned, "__dict__", {}).items() if isinstance(value, Tensor)}


def _may_be_logits(part: Any) -> bool:
    return isinstance(part, Tensor) and part.is_floating_point() and (part.ndim == 2 or _trailing(part))


def _trailing(part: Tensor) -> bool:
    """Whether it is ``(N, C, 1, 1)``."""
    return part.ndim > 2 and part[0, 0].numel() == 1


def _logits(part: Any, name: str) -> Tensor:
    if isinstance(part, Tensor) and part.ndim == 1:  # (N,): one logit, squeezed
        return part[:, None]
    if not _may_be_logits(part):
        shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
        raise SourceError(f"expected logits of shape (N, classes) from {name}, found {shape}: not a classifier")
    return part if part.ndim == 2 else part.flatten(1)


def _is_squashed(other: Tensor, logits: Tensor) -> bool:
    """Whether the one is the softmax or the sigmoid of the other."""
    return any(_is(other, each) for each in (logits.float().softmax(1), logits.float().sigmoid()))


def _is(part: Tensor, made: Tensor) -> bool:
    return part.shape == made.shape and torch.allclose(part.float(), made, atol=1e-5)


def _told(parts: Mapping[str | int, Any]) -> str:
    found = (
        f"{key!r}: {tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for key, part in list(parts.items())[:8]
    )
    return ", ".join(found) or "nothing"
