"""Where the cells of feature maps look: measured with bright spots, never guessed from a number of positions."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.float32 import ieee_float32
from fiftyone_cam.core.heads.tap import Enough, Listener, Tap, grid_of

_STIMULI = 16
_MOST_PREFIX = 16
_FOLLOWS = 0.5
"""Least correlation, down and across, between where the spots were and where a grid answered, to be their grid."""

_TURNED = 0.8
"""From this correlation on, with the other axis or against its own, a grid is that of a picture that was turned."""

_CUT = 0.4
"""Of a cell, at both sides: a network that sees all of its input reads something there, also one that picks a pixel of
each cell. A crop to 7/8, as evaluations make it, leaves out more than that from seven cells on."""

_SILENT = 1e-10
"""Squared change, of that by a spot, below which feature maps did not change: rounding makes some 1e-14."""


@dataclass(frozen=True)
class Answer:
    """What feature maps did when a spot was put at ``places`` (down, across): squared changes of a tapped tensor."""

    response: Tensor
    places: Tensor
    size: tuple[int, int]

    def grid(self, tap: Tap) -> Tensor:
        """``(stimuli, h, w)``, for a reading of the tensor's axes.

        Raises:
            HeadError: its positions form no grid.
        """
        return tap.feature_maps(self.response, self.size).sum(1)

    def centroids(self, grid: Tensor) -> Tensor:
        columns = []
        for axis in (0, 1):
            profile = grid.sum(2 - axis)
            count = profile.shape[1]
            centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
            columns.append(profile @ centres / profile.sum(1))
        return torch.stack(columns, 1)

    def frame(self, tap: Tap) -> Box:
        """Where that grid lies on the input, relative to it: its nominal place, shifted by half a cell at most."""
        grid = self.grid(tap)
        shifts = []
        for axis, shift in enumerate((self.places - self.centroids(grid)).mean(0).tolist()):
            half = 0.5 / grid.shape[1 + axis]
            # a dead network responds nowhere: nothing is known, the nominal place stands
            shifts.append(float(np.clip(shift, -half, half)) if np.isfinite(shift) else 0.0)
        return (shifts[1], shifts[0], 1.0, 1.0)

    def require_upright(self, tap: Tap) -> None:
        """Refuse a grid that answers in mirrored or exchanged places: its maps would lie there.

        Raises:
            HeadError: the network turns its input first.
        """
        grid = self.grid(tap)
        centroids = self.centroids(grid)
        known = centroids.isfinite().all(1)
        if min(grid.shape[1:]) < 2 or int(known.sum()) < _STIMULI // 2:
            return
        both = torch.corrcoef(torch.cat([self.places[known], centroids[known]], 1).T)[:2, 2:].nan_to_num()
        own, other = both.diagonal(), both.fliplr().diagonal()
        mirrored, exchanged = bool((own < -_TURNED).any()), bool((other.abs() > _TURNED).all())
        if mirrored or exchanged:
            how = "mirrors" if mirrored else "exchanges rows and columns of"
            raise HeadError(
                f"the network {how} its input before it looks at it, so that its maps would lie in the wrong places: "
                "load it without that step"
            )

    def turned(self, tap: Tap) -> Answer:
        """The answer if the tokens without a place came last."""
        return replace(self, response=self.response.roll(tap.prefix, 1 if tap.layout == "NLC" else 2))

    def misfit(self, tap: Tap) -> float:
        """How far a grid's answers lie from the spots, in cells; infinite where they do not follow them."""
        if len(self.response) != len(self.places):
            return float("inf")  # its first axis does not count the images
        try:
            grid = self.grid(tap)
        except HeadError:
            return float("inf")
        centroids = self.centroids(grid)
        if not bool(centroids.isfinite().all()) or grid.shape[1] * grid.shape[2] < 2:
            return float("inf")
        errors = []
        for axis in (0, 1):
            if grid.shape[1 + axis] == 1:
                continue
            if float(torch.corrcoef(torch.stack([self.places[:, axis], centroids[:, axis]]))[0, 1]) < _FOLLOWS:
                return float("inf")
            errors.append(float((self.places - centroids)[:, axis].abs().mean()) * grid.shape[1 + axis])
        return max(errors)


@ieee_float32()
def ask(module: nn.Module, example: Tensor, tap: Tap) -> Answer:
    """Put a patch of noise, one cell large, at places spread over the middle of a fainter noise image.

    Strides and one-sided padding move a cell's view off the middle of its nominal square, training moves it again:
    so it is measured. Borders pull centroids inwards on all sides alike and cancel.
    """
    size = (example.shape[-2], example.shape[-1])
    background = example[:1] * 0.5
    still = _heard(module, background, tap)
    cells = tap.feature_maps(still, size).shape[2:]
    patch = [max(1, round(pixels / count)) for pixels, count in zip(size, cells, strict=True)]
    batch = background.repeat(_STIMULI, 1, 1, 1)
    places = torch.empty(_STIMULI, 2, dtype=torch.float64)
    for i in range(_STIMULI):
        order = (i, 7 * i % _STIMULI)  # all rows and all columns differ: every phase against the stride counts
        top, left = (
            round((0.2 + 0.6 * k / (_STIMULI - 1)) * pixels - length / 2)
            for k, pixels, length in zip(order, size, patch, strict=True)
        )
        window = (slice(None), slice(top, top + patch[0]), slice(left, left + patch[1]))
        batch[i][window] += example[1][window]
        places[i] = torch.tensor([(top + patch[0] / 2) / size[0], (left + patch[1] / 2) / size[1]])
    return Answer((_heard(module, batch, tap) - still).square(), places, size)


@ieee_float32()
def locate(module: nn.Module, example: Tensor, tap: Tap) -> Box:
    """Where a grid lies on the input, relative to it: measured, and refused where no box can say it.

    Raises:
        HeadError: the network mirrors, turns or cuts its input itself.

    >>> locate(torchvision.models.resnet18().eval(), torch.randn(2, 3, 224, 224), head.place_tap)
    (0.04, 0.05, 1.0, 1.0)
    """
    answer = ask(module, example, tap)
    answer.require_upright(tap)
    require_whole(module, example, tap, answer)
    return answer.frame(tap)


def require_whole(module: nn.Module, example: Tensor, tap: Tap, answer: Answer) -> None:
    """Refuse a network that cuts its input itself: its grid would be laid over what it does not see.

    What is left over where strides do not divide the size is no cut: it is less than a cell, and at one side.

    Raises:
        HeadError: with the sides at which nothing has an influence.

    >>> require_whole(module, example, tap, ask(module, example, tap))
    """
    spots = float(answer.response.flatten(1).sum(1).amax())
    if len(answer.response) != _STIMULI or not spots > 0:
        return  # nothing is known of a dead network
    background = example[:1] * 0.5
    still = _heard(module, background, tap)
    cells = tap.feature_maps(still, answer.size).shape[2:]
    sides = ("top", "bottom", "left", "right")

    def silent(share: float) -> list[str]:
        batch = background.repeat(len(sides), 1, 1, 1)
        for i, (size, count) in enumerate(zip(answer.size, cells, strict=True)):
            length = max(1, math.ceil(size / count * share))
            for side, begin in ((2 * i, 0), (2 * i + 1, size - length)):
                batch[side].narrow(1 + i, begin, length).copy_(example[1].narrow(1 + i, begin, length))
        changes = (_heard(module, batch, tap) - still).square().flatten(1).sum(1)
        return [name for name, change in zip(sides, changes.tolist(), strict=True) if change <= _SILENT * spots]

    near = silent(_CUT)
    cut = [name for pair in (sides[:2], sides[2:]) for name in pair if set(pair) <= set(near)]
    if cut := cut or (near and silent(1.0)):
        raise HeadError(
            f"the network leaves out what lies at the {', '.join(cut)} of its input, so that its maps would be laid "
            "over what it does not see: load it without its own crop, and say that in preprocessing="
        )


def _heard(module: nn.Module, batch: Tensor, tap: Tap) -> Tensor:
    listener = Listener([tap], stop=True)
    with torch.inference_mode(), suppress(Enough), listener:
        module(batch)
    return listener.heard(tap).cpu().double()


def readings(shape: tuple[int, ...], size: tuple[int, int], tap: Tap) -> list[Tap]:
    """Every way in which a tensor of this shape could be feature maps."""
    if len(shape) == 4:
        ways = (("NCHW", shape[2] * shape[3]), ("NHWC", shape[1] * shape[2]))
        return [replace(tap, layout=layout) for layout, cells in ways if cells > 1]
    found = []
    for layout, length in (("NLC", shape[1]), ("NCL", shape[2])):
        for prefix in range(min(_MOST_PREFIX, length - 2) + 1):
            try:
                rows, columns = grid_of(length - prefix, size)
            except HeadError:
                continue
            if prefix and abs(rows - columns * size[0] / size[1]) >= 1:
                continue  # a grid without its first row, which then counts among the tokens that have no place
            found.append(replace(tap, layout=layout, prefix=prefix))
    return found
