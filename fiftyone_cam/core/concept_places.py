"""Connected places of one concept on a grid, and where they are on the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.regions import Cells

_PIXELS_A_CELL = 8

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Places:
    """Places on several images, each some neighbouring cells of one concept: ``m`` places on grids ``(h, w)``.

    Attributes:
        image: the number of the image, ``(m,)``, ascending; of one image the strongest place comes first.
        concept: its number, ``(m,)``.
        cells: which cells they are, ``(m, h, w)``.
        evidence: their part of the predicted class's logit, ``(m,)``.
        share: of the image's positive evidence, ``(m,)``.
    """

    image: NDArray[np.intp]
    concept: NDArray[np.integer]
    cells: Mask
    evidence: NDArray[np.float64]
    share: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image)

    def sums(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums of the images' ``values`` ``(n, h, w)`` over the cells of each place, ``(m,)``.

        >>> found.sums(np.ones((1, 1, 3)))         # how many cells each has
        array([2., 1.])
        """
        place, y, x = np.nonzero(self.cells)
        return np.asarray(np.bincount(place, values[self.image[place], y, x], minlength=len(self)), np.float64)


def find_places(
    assigned: NDArray[np.integer], evidence: NDArray[np.floating], least: float = 0.03, most: int = 8
) -> Places:
    """The connected places that hold evidence for the prediction, on several images at once.

    Args:
        assigned: the concept of each cell, ``(n, h, w)``. Cells that touch by a corner are neighbours.
        evidence: each cell's part of the logit, ``(n, h, w)``.
        least: places with a smaller share of the image's positive evidence are left out.
        most: how many there are at most of an image.

    >>> find_places(np.array([[[0, 0, 1]]]), np.array([[[1.0, 2.0, 1.0]]])).share
    array([0.75, 0.25])
    """
    evidence = evidence.astype(np.float64)
    positive = np.maximum(evidence, 0)
    totals = positive.sum((1, 2))
    labels = _components(assigned)
    first = np.unique(labels, return_index=True)[1]
    image = first // (assigned.shape[1] * assigned.shape[2])
    concept = assigned.reshape(-1)[first]
    held = np.bincount(labels.ravel(), evidence.ravel(), minlength=len(first))
    total = totals[image]
    share = np.bincount(labels.ravel(), positive.ravel(), minlength=len(first)) / np.where(total > 0, total, np.inf)

    kept = np.flatnonzero((total > 0) & (share >= least) & (held > 0))
    kept = kept[np.lexsort((first[kept], concept[kept], -share[kept], image[kept]))]
    rank = np.arange(len(kept)) - np.searchsorted(image[kept], image[kept])
    kept = kept[rank < most]
    return Places(image[kept], concept[kept], labels[image[kept]] == kept[:, None, None], held[kept], share[kept])


def _components(assigned: NDArray[np.integer]) -> NDArray[np.int32]:
    """A number for each connected place of one concept, from 0 on, ``(n, h, w)``."""
    index = np.arange(assigned.size).reshape(assigned.shape)
    firsts, seconds = [], []
    for one, other in (  # to the right, below, and the two that touch by a corner
        (np.s_[:, :, :-1], np.s_[:, :, 1:]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, :-1, :-1], np.s_[:, 1:, 1:]),
        (np.s_[:, :-1, 1:], np.s_[:, 1:, :-1]),
    ):
        same = assigned[one] == assigned[other]
        firsts.append(index[one][same])
        seconds.append(index[other][same])
    ends = np.concatenate(firsts), np.concatenate(seconds)
    graph = coo_array((np.ones(len(ends[0]), bool), ends), shape=(assigned.size, assigned.size))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels.reshape(assigned.shape)


def outline(cells: Mask, box: Box, seen: Box) -> tuple[Box, Mask] | None:
    """The bounding box of cells on the image and a mask within it; None where the network saw nothing of them.

    >>> outline(np.array([[True, False]]), (0, 0, 1, 1), (0, 0, 1, 1))[0]
    (0.0, 0.0, 0.5, 1.0)
    """
    spans = []
    for axis in (0, 1):
        used = np.flatnonzero(cells.any(1 - axis))
        span = _span(cells.shape, box, seen, axis, int(used[0]), int(used[-1]) + 1)
        if span is None:
            return None
        spans.append(span)
    (y, height, rows), (x, width, columns) = spans
    return (x, y, width, height), cells[np.ix_(rows, columns)]


@lru_cache(maxsize=4096)  # images of a size have the same
def _span(
    shape: tuple[int, ...], box: Box, seen: Box, axis: int, first: int, end: int
) -> tuple[float, float, NDArray[np.intp]] | None:
    """Where rows (axis 0) or columns from ``first`` to ``end`` begin, how far they reach, and the one at each pixel."""
    lines = Cells.of(shape, box, seen)[axis]
    low, high = float(lines[first]), float(lines[end])
    if not high > low:
        return None
    pixels = (end - first) * _PIXELS_A_CELL
    middles = low + (np.arange(pixels) + 0.5) * (high - low) / pixels
    index = np.clip(np.searchsorted(lines, middles, side="right") - 1, first, end - 1)
    index.flags.writeable = False
    return low, high - low, index
