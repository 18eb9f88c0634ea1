"""Batch normalisation folded into the convolutions before it: the same function in fewer steps."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from fiftyone_cam.core.heads.tap import read_logits, same

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

_ROUNDING, _ROUNDING_GPU = 1e-3, 2e-2
"""How far the logits of a fold may be from the module's, of the largest: seen 1e-6; a GPU may compute with ten bits."""


def folded(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy of a classifier for inference alone, with batch normalisation folded where that changes nothing.

    A pair is folded if the normalisation's input *is* the output of a convolution, and nothing else reads that output.
    A forward is watched to find out, not the source, so it works for any module that runs. A layer may do more than
    its class says (a convolution that standardises its weights, a hook): where the copy's logits are others, only
    layers of PyTorch's own are folded, and none where they still are.

    Args:
        module: in eval mode; left as it is.
        example: an input of the module, ``(N, 3, H, W)``.

    >>> fast = folded(torchvision.models.resnet18().eval(), torch.randn(1, 3, 224, 224))
    >>> sum(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    0
    """
    with torch.no_grad():
        expected = read_logits(module(example))
        for fitting in (lambda part: True, _is_plain):
            with suppress(Exception):  # layers that make their weights in each forward take no others
                fast = _with_pairs(module, example, fitting)
                rounding = _ROUNDING if example.device.type == "cpu" else _ROUNDING_GPU
                if same(read_logits(fast(example)), expected, rounding):
                    return fast
    return copy.deepcopy(module).requires_grad_(False)


def _with_pairs(module: nn.Module, example: Tensor, fitting: Callable[[nn.Module], bool]) -> nn.Module:
    """A copy in which all pairs of fitting layers are one layer each."""
    fast = copy.deepcopy(module).requires_grad_(False)
    parts = dict(fast.named_modules())
    for convolution, norm in _pairs(fast, example):
        if fitting(parts[convolution]) and fitting(parts[norm]):
            fused = fuse_conv_bn_eval(parts[convolution], parts[norm])
            _replace(fast, convolution, fused)
            _replace(fast, norm, nn.Identity())
    return fast


def _is_plain(part: nn.Module) -> bool:
    """Whether a layer does what its class says and nothing else."""
    hooks = (vars(part).get(name) for name in ("_forward_hooks", "_forward_pre_hooks"))
    added = (*hooks, getattr(part, "parametrizations", None))
    return type(part) in (*_CONVOLUTIONS, *_NORMS) and not any(added) and "forward" not in vars(part)


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, part)


def _pairs(module: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions, each with the normalisation that is the only reader of its output. Both run once."""
    made: dict[int, str] = {}  # by the tensor's id, which is unique because `reads` keeps all tensors alive
    pairs: list[tuple[str, str, int]] = []
    calls: Counter[str] = Counter()
    names = {part: name for name, part in module.named_modules()}

    def after(part: nn.Module, args: Any, output: Any) -> None:
        calls[names[part]] += 1
        if isinstance(part, _CONVOLUTIONS) and isinstance(output, Tensor):
            made[id(output)] = names[part]
            reads.kept.append(output)

    def before(part: nn.Module, args: Any) -> None:
        if args and id(args[0]) in made:
            pairs.append((made[id(args[0])], names[part], id(args[0])))

    hooks = [part.register_forward_hook(after) for part in names if isinstance(part, (*_CONVOLUTIONS, *_NORMS))]
    hooks += [part.register_forward_pre_hook(before) for part in names if isinstance(part, _NORMS)]
    reads = _Reads()
    try:
        with torch.no_grad(), reads:
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (convolution, norm)
        for convolution, norm, tensor in pairs
        if calls[convolution] == calls[norm] == 1 and reads.count[tensor] == 1
    ]


class _Reads(TorchFunctionMode):
    """How often each tensor is an argument of a torch function that makes another."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.kept: list[Any] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if _tensors(output):  # a function that only asks for a shape reads no values
            for value in _tensors([*args, *(kwargs or {}).values()]):
                self.count[id(value)] += 1
                self.kept.append(value)  # an id is unique only while its tensor lives
        return output


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
