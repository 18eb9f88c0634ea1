"""How well a map finds the object, in the measures of weakly supervised localization.

Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020: MaxBoxAcc, MaxBoxAccV2, PxAP.
Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016: pointing game. Wang et al., Score-CAM, CVPR
Workshops 2020: energy pointing game. Arras et al., CLEVR-XAI, Information Fusion 2022: relevance rank accuracy.

A score map is a raster ``(S, S)`` of the whole image, squashed, from 0 to 1. Boxes are ``(x0, y0, x1, y1)`` in its
pixels, and the last pixel belongs to them. The rules are those of the authors' own code, with all their habits, so that
figures can be compared with printed ones: maps are cut in 255 steps, the outline of a hole counts as a part of the map,
and a box is one pixel wider than its sides say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.display import lay_out

Floats = NDArray[np.float64]
Scores = NDArray[np.float64]

SIDE = 224
"""Pixels of a side of a score map, as in the paper."""

IOUS = (0.3, 0.5, 0.7)
"""MaxBoxAccV2 is the mean over these; MaxBoxAcc takes 0.5."""

TOLERANCE = 15
"""Pixels by which the pointing game may miss the object."""


def score_map(grid: NDArray[np.float32], box: Box, seen: Box, side: int = SIDE) -> Scores:
    """A signed grid as a score map: laid over the whole image, its smallest value 0, its largest 1.

    What the network did not see gets 0. A map that is the same everywhere is 0 everywhere.

    >>> score_map(np.float32([[-1, 3]]), (0, 0, 1, 1), (0, 0, 1, 1), side=4)[0]
    array([0.  , 0.25, 0.75, 1.  ])
    """
    laid = lay_out(np.asarray(grid, np.float32), box, seen, side, side).astype(np.float64)
    there = lay_out(np.ones_like(grid, np.float32), box, seen, side, side) > 0
    low, high = (float(f(laid[there])) for f in (np.min, np.max)) if there.any() else (0.0, 0.0)
    if not high > low:
        return np.zeros_like(laid)
    scores: Scores = np.where(there, (laid - low) / (high - low), 0)
    return scores


def to_pixels(box: Box, side: int = SIDE) -> tuple[int, int, int, int]:
    """A relative box ``(x, y, width, height)`` as corners in a score map's pixels, rounded down.

    >>> to_pixels((0.5, 0.25, 0.5, 0.5))
    (112, 56, 224, 168)
    """
    x, y, width, height = box
    # A step of a float must not make 55.999… of 56
    left, top, right, bottom = (int(side * value + 1e-9) for value in (x, y, x + width, y + height))
    return left, top, right, bottom


class Outlines(NamedTuple):
    """The boxes around a map's parts at each threshold.

    ``boxes`` ``(B, 4)`` are those of all levels, one after the other; those of a level begin at ``starts`` ``(L,)``,
    ``largest`` ``(L,)`` is the box of its largest part, and ``levels`` ``(T,)`` says which level a threshold has.
    """

    boxes: NDArray[np.int64]
    starts: NDArray[np.int64]
    largest: NDArray[np.int64]
    levels: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Scores, thresholds: Sequence[float]) -> Outlines:
        """Those of a score map; thresholds are shares of its maximum."""
        steps = (scores * 255).astype(np.uint8)
        top = int(steps.max())
        wanted = [int(threshold * top) for threshold in thresholds]
        numbers = {level: number for number, level in enumerate(dict.fromkeys(wanted))}
        found, starts, largest = [], [], []
        count = 0
        for level in numbers:
            boxes, biggest = _boxes(steps, level)
            found.append(boxes)
            starts.append(count)
            largest.append(count + biggest)
            count += len(boxes)
        levels = [numbers[level] for level in wanted]
        return cls(np.concatenate(found), *(np.array(each, np.int64) for each in (starts, largest, levels)))

    def best_ious(self, objects: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The best overlap with an object at each threshold, ``(T,)``: of the largest part's box (MaxBoxAcc), and of
        all parts' boxes (MaxBoxAccV2). ``objects`` are boxes ``(n, 4)``.

        >>> Outlines.of(np.eye(4), [0.5]).best_ious(np.array([[0, 0, 3, 3]]))
        (array([1.]), array([1.]))
        """
        best = box_ious(self.boxes, objects).max(1)
        return best[self.largest][self.levels], np.maximum.reduceat(best, self.starts)[self.levels]


def box_ious(boxes: NDArray[np.int64], objects: NDArray[np.int64]) -> Floats:
    """Intersection over union of each box with each object, ``(n, m)``; a side counts its last pixel.

    >>> box_ious(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4]]))
    array([[0.5]])
    """
    one, two = boxes[:, None, :].astype(np.float64), objects[None, :, :].astype(np.float64)
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]) + 1
    shared = sides.clip(0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2] + 1).prod(-1) for each in (one, two)]
    union = areas[0] + areas[1] - shared
    ious: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def pixel_counts(scores: Scores, mask: NDArray[np.bool_], thresholds: Sequence[float]) -> Floats:
    """How many pixels of the object, and how many of the rest, have which score: ``(2, T + 2)``.

    The bins begin at the thresholds (ascending from 0), at 1 and at 2.

    >>> pixel_counts(np.float32([[0.1, 0.6]]), np.array([[False, True]]), [0, 0.5])
    array([[0., 1., 0., 0.],
           [1., 0., 0., 0.]])
    """
    edges = [*thresholds, 1.0, 2.0, 3.0]
    return np.stack([np.histogram(scores[part], bins=edges)[0] for part in (mask, ~mask)]).astype(np.float64)


def pixel_average_precision(counts: Floats) -> float | None:
    """PxAP, the area under precision over recall, of :func:`pixel_counts` summed over images. None without an object.

    >>> pixel_average_precision(np.array([[0, 0, 5.0], [9, 0, 0]]))
    1.0
    """
    true, false = counts[0, ::-1].cumsum(), counts[1, ::-1].cumsum()
    if true[-1] <= 0:
        return None
    chosen = true + false
    precision = np.divide(true, chosen, out=np.zeros_like(true), where=chosen > 0)
    recall = true / true[-1]
    return float((precision[1:] * np.diff(recall))[chosen[1:] > 0].sum())


def near(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """Where the pointing game counts a hit: on the object, or at most so many pixels beside it.

    >>> near(np.array([[True, False, False, False]]), tolerance=2)
    array([[ True,  True,  True, False]])
    """
    if not mask.any():
        return mask
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    close: NDArray[np.bool_] = away <= tolerance
    return close


def rank_accuracy(scores: Scores, mask: NDArray[np.bool_]) -> float | None:
    """The object's share of the strongest pixels, as many as the object has. None if it has none.

    Pixels of equal strength are taken in part, so that their order does not matter.

    >>> rank_accuracy(np.float32([[1, 2], [3, 4]]), np.array([[False, True], [False, True]]))
    0.5
    """
    size = int(mask.sum())
    if size == 0:
        return None
    flat, inside = scores.ravel(), mask.ravel()
    bar = np.partition(flat, len(flat) - size)[len(flat) - size]
    above, equal = flat > bar, flat == bar
    taken = (size - int(above.sum())) / int(equal.sum())
    return float((inside & above).sum() + taken * (inside & equal).sum()) / size


def _boxes(steps: NDArray[np.uint8], level: int) -> tuple[NDArray[np.int64], int]:
    """Boxes around what is above a level, and which is that of the largest part; one without size where nothing is."""
    height, width = steps.shape
    above = (steps > level).astype(np.uint8)
    outlines = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return np.zeros((1, 4), np.int64), 0
    found = np.array([cv2.boundingRect(outline) for outline in outlines], np.int64)
    found[:, 2:] += found[:, :2]
    found[:, 2] = np.minimum(found[:, 2], width - 1)
    found[:, 3] = np.minimum(found[:, 3], height - 1)
    return found, int(np.argmax([cv2.contourArea(outline) for outline in outlines]))
