"""Exact: one weight for every image. Maps are one product, whatever affine layers the weight came from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fiftyone_cam.core.cam import class_activation_maps, product_dtype
from fiftyone_cam.core.heads.head import EXACT, Head, Reading
from fiftyone_cam.core.heads.tap import tapped_forward
from fiftyone_cam.core.heads.tape import Replay

_CLASSES_AT_ONCE = 256


@dataclass(frozen=True)
class ConstantHead(Head):
    """Global average pooling, then an affine map: ``weight`` is ``(C, K)``, ``bias`` ``(C,)``.

    Where the pooled feature maps are the logits themselves (SqueezeNet), the weight is the identity, the bias zero.
    """

    weight: Tensor
    bias: Tensor

    constant: ClassVar[bool] = True

    @property
    def grade(self) -> str:
        return EXACT

    def to(self, device: torch.device) -> ConstantHead:
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def read(
        self,
        module: nn.Module,
        pixels: Tensor,
        precision: AbstractContextManager[Any] | None = None,
        anew: bool = False,
    ) -> Reading:
        with precision or nullcontext():
            logits, features = tapped_forward(module, pixels, self.tap, self.logits_at)
        return self.reading(self.logits(features) if anew else logits, features)

    def reading(self, logits: Tensor, features: Tensor) -> Reading:
        """What a forward that was made elsewhere gives."""

        def maps(indices: Tensor) -> tuple[Tensor, Tensor]:
            return class_activation_maps(features, self.weight[indices]), self.bias[indices]

        return Reading(logits.float(), features, maps, pooled=lambda: features.float().mean((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        """``(N, K, h, w)`` feature maps to float32 logits, ``(N, C)``, as exactly as the maps.

        >>> head.logits(features).shape
        torch.Size([N, 1000])
        """
        exact = product_dtype(features.device)
        pooled = features.float().mean((2, 3)).to(exact)
        return nnf.linear(pooled, self.weight.to(exact), self.bias.to(exact)).float()


def is_affine(replay: Replay, value: Tensor, scales: Sequence[float] = (30.0, 1.0)) -> bool:
    """Whether a tail acts so on probes: ``g(a) + g(b) - g(0) = g(a + b)``, here in float64.

    The probes are noise: of the values' own size, and larger, for what bends may be straight near zero, where
    untrained networks live.

    >>> is_affine(Replay(tape, pooled, logits, torch.float64), value)
    True
    """
    generator = torch.Generator().manual_seed(1)
    usual = float(value.abs().mean()) or 1.0
    with torch.no_grad():
        zero = torch.zeros_like(value, dtype=replay.dtype)
        rest = replay(zero.clone())
        for scale in (usual, *scales):
            first, second = (torch.randn(value.shape, generator=generator).to(zero) * scale for _ in range(2))
            parts = [replay(first.clone()), replay(second.clone()), rest]
            whole = replay(first + second)
            largest = max(float(part.abs().max()) for part in (*parts, whole))
            if not float((parts[0] + parts[1] - parts[2] - whole).abs().max()) <= 1e-6 * largest:
                return False
    return True


def matrix(replay: Replay, value: Tensor) -> tuple[Tensor, Tensor]:
    """Weight ``(C, K)`` and bias ``(C,)`` of an affine tail from what was pooled, ``(N, K, …)``.

    Where unit vectors at the output are fewer than at the input, the gradient reads it; both are exact.
    """
    zero = torch.zeros_like(value, dtype=replay.dtype)
    with torch.no_grad():
        bias = replay(zero)[0]
    rows = []
    with torch.enable_grad():
        leaf = zero.clone().requires_grad_()
        logits = replay(leaf.clone())[0]
        for chunk in torch.split(torch.eye(len(bias), dtype=bias.dtype, device=bias.device), _CLASSES_AT_ONCE):
            if not logits.requires_grad:  # the tail is a constant
                rows.append(torch.zeros(len(chunk), value[0].numel(), dtype=bias.dtype, device=bias.device))
                continue
            (gradient,) = torch.autograd.grad(logits, leaf, chunk, retain_graph=True, is_grads_batched=True)
            rows.append(gradient[:, 0].flatten(1))
    return torch.cat(rows).float(), bias.float()
