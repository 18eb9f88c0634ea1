"""Connected places of one concept on a grid, and where they are on the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.regions import Cells

_PIXELS_A_CELL = 8

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """Neighbouring cells of one concept.

    Attributes:
        concept: its number.
        cells: which they are, ``(h, w)``.
        evidence: their part of the predicted class's logit.
        share: of the image's positive evidence.
    """

    concept: int
    cells: Mask
    evidence: float
    share: float


def places(
    assigned: NDArray[np.integer], evidence: NDArray[np.floating], least: float = 0.03, most: int = 8
) -> list[Place]:
    """The connected places that hold evidence for the prediction, the strongest first.

    Args:
        assigned: the concept of each cell, ``(h, w)``. Cells that touch by a corner are neighbours.
        evidence: each cell's part of the logit, ``(h, w)``.
        least: places with a smaller share of the positive evidence are left out.
        most: how many there are at most.

    >>> [place.share for place in places(np.array([[0, 0, 1]]), np.array([[1.0, 2.0, 1.0]]))]
    [0.75, 0.25]
    """
    positive = np.maximum(evidence, 0)
    total = float(positive.sum())
    if not total > 0:
        return []
    found = []
    for concept in np.unique(assigned):
        count, labels = cv2.connectedComponents((assigned == concept).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            cells: Mask = labels == label
            share = float(positive[cells].sum()) / total
            held = float(evidence[cells].sum())
            if share >= least and held > 0:
                found.append(Place(int(concept), cells, held, share))
    return sorted(found, key=lambda place: (-place.share, place.concept))[:most]


def outline(cells: Mask, box: Box, seen: Box) -> tuple[Box, Mask] | None:
    """The bounding box of cells on the image and a mask within it; None where the network saw nothing of them.

    >>> outline(np.array([[True, False]]), (0, 0, 1, 1), (0, 0, 1, 1))[0]
    (0.0, 0.0, 0.5, 1.0)
    """
    edges = Cells.of(cells.shape, box, seen)
    cut, index = [], []
    for axis, lines in ((1, edges.rows), (0, edges.columns)):
        used = np.flatnonzero(cells.any(axis))
        low, high = float(lines[used[0]]), float(lines[used[-1] + 1])
        if not high > low:
            return None
        pixels = (int(used[-1]) + 1 - int(used[0])) * _PIXELS_A_CELL
        middles = low + (np.arange(pixels) + 0.5) * (high - low) / pixels
        index.append(np.clip(np.searchsorted(lines, middles, side="right") - 1, used[0], used[-1]))
        cut.append((low, high - low))
    (y, height), (x, width) = cut
    return (x, y, width, height), cells[np.ix_(*index)]
