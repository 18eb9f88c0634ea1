"""Where the cells of feature maps look: measured with bright spots, never guessed from a number of positions."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads.tap import Enough, Listener, Tap, grid_of

_STIMULI = 16
_MOST_PREFIX = 16
_FOLLOWS = 0.5
"""Least correlation, down and across, between where the spots were and where a grid answered, to be their grid."""


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
