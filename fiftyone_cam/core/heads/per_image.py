"""Exact for this image: a tail that is linear once its gates, scales and choices are those of the image.

Also the exact heads whose weight is no single vector for all cells: sum and max pooling, flatten and one linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fiftyone_cam.core.cam import class_activation_maps, product_dtype
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads.frozen import MAXIMA, Frozen
from fiftyone_cam.core.heads.head import EXACT, PER_IMAGE, Head, Reading
from fiftyone_cam.core.heads.tap import LogitsAt, Tap, read_logits, words
from fiftyone_cam.core.heads.tape import Replay, Tape, between


@dataclass(frozen=True)
class PerImageHead(Head):
    """A tail that is run again for each batch, with its gates frozen; the gradient is the weight.

    ``pooled`` is the tape's node of the spatial mean, None where cells have weights of their own. ``froze`` are the
    functions in the tail that are not linear by themselves.
    """

    pooled: int | None
    froze: tuple[str, ...]

    @property
    def grade(self) -> str:
        return EXACT if set(self.froze) <= set(MAXIMA) else PER_IMAGE

    def read(
        self,
        module: nn.Module,
        pixels: Tensor,
        precision: AbstractContextManager[Any] | None = None,
        anew: bool = False,
    ) -> Reading:
        with precision or nullcontext():
            tape, logits, end = taped_forward(module, pixels, self.tap, self.logits_at)
        return self.reading(tape, logits, end, tuple(pixels.shape[-2:]), anew)

    def reading(self, tape: Tape, logits: Tensor, end: int, size: tuple[int, ...], anew: bool) -> Reading:
        features = self.tap.feature_maps(tape.begin, (size[0], size[1]))
        dtype = product_dtype(features.device)
        frozen = Frozen(tape, self.pooled or 0, end, dtype)
        check_path(tape, end, self.steps)
        begin = features.to(dtype).mean((2, 3)).reshape(tape.shapes[self.pooled]) if self.pooled else tape.begin
        begin = begin.detach().to(dtype)
        if anew:
            with torch.no_grad():
                logits = frozen(begin)

        def maps(indices: Tensor) -> tuple[Tensor, Tensor]:
            gradients, rest = linearised(frozen, begin, indices)
            if self.pooled:
                return class_activation_maps(features, gradients.flatten(2)), rest.gather(1, indices).float()
            parts = gradients * begin[:, None]  # (N, C, …) as the tapped tensor
            grids = torch.stack([self.tap.feature_maps(part, (size[0], size[1])).sum(1) for part in parts.unbind(1)], 1)
            unplaced = parts.flatten(2).sum(2) - grids.flatten(2).sum(2)  # tokens that have no place
            cells = grids.shape[2] * grids.shape[3]
            return (grids * cells).float(), (rest.gather(1, indices) + unplaced).float()

        return Reading(logits.float(), features, maps, pooled=before_last_linear(tape, 0, end, tape.begin))


def taped_forward(
    module: nn.Module,
    pixels: Tensor,
    tap: Tap,
    at: LogitsAt,
    keep: Collection[int] | None = (),
    hold: bool = False,
) -> tuple[Tape, Tensor, int]:
    """One forward with its tail from a tap on written down: the tape, the logits, and the logits' node."""
    with torch.inference_mode(False), torch.no_grad():
        tape = Tape(tap=tap, watch=at.top, keep=keep, hold=hold)
        batch = pixels.clone() if pixels.is_inference() else pixels
        with tape:
            output = module(batch)
        logits = read_logits(output, at.index) if at.top is None else tape.watched
    end = tape.node(logits)
    if end is None:
        raise HeadError("the logits do not depend on what passes there")
    if not tape.untouched:
        raise HeadError("the feature maps are changed in place after they were read")
    return tape, logits, end


def linearised(frozen: Frozen, begin: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of chosen logits, ``(N, k, …)``, and what a zero gives at all of them, ``(N, C)``."""
    with torch.inference_mode(False):
        begin, indices = begin.clone(), indices.clone()  # made in inference mode they could not be differentiated
        with torch.enable_grad():
            leaf = begin.requires_grad_()
            logits = frozen(leaf.clone())
            columns: list[Tensor] = []
            for j in range(indices.shape[1]):
                if j and torch.equal(indices[:, j], indices[:, 0]):
                    columns.append(columns[0])
                elif logits.requires_grad:
                    chosen = logits.gather(1, indices[:, j : j + 1]).sum()
                    columns.append(torch.autograd.grad(chosen, leaf, retain_graph=True)[0])
                else:  # a tail that began at zero
                    columns.append(torch.zeros_like(leaf))
        with torch.no_grad():
            rest = frozen(torch.zeros_like(begin))
    return torch.stack(columns, 1), rest.detach()


_LINEAR = words("linear addmm matmul bmm conv2d conv1d")


def before_last_linear(tape: Tape, begin: int, end: int, value: Tensor) -> Callable[[], Tensor] | None:
    """What enters the last linear layer of a tail that begins with a value, ``(N, D)``.

    None where that is not one vector for each image, but one for each place.
    """
    linear = [i for i in between(tape.steps, begin, end) if tape.steps[i].name in _LINEAR]
    if not linear:
        return None
    node, *others = tape.steps[linear[-1]].reads
    _, *sizes = tape.shapes[node]
    if others or not sizes or math.prod(sizes) != sizes[0]:
        return None

    def pooled() -> Tensor:
        with torch.no_grad():
            return Replay(tape, begin, node, torch.float32)(value.float().clone()).flatten(1)

    return pooled


def check_path(tape: Tape, end: int, expected: tuple[str, ...]) -> None:
    """Refuse a tail of other steps than the probe's: its nodes would be others."""
    if tuple(tape.steps[i].name for i in between(tape.steps, 0, end)) != expected:
        raise HeadError("the forward takes another path than probed")
