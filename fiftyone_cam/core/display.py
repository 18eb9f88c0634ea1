"""From a signed map to what is drawn: laid over the whole image, in whole steps."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box


@lru_cache(maxsize=1024)
def _interpolation(
    start: float, length: float, seen_start: float, seen_length: float, cells: int, pixels: int
) -> NDArray[np.float32]:
    """The ``(pixels, cells)`` matrix of linear interpolation between cell centres; rows beyond what was seen are 0."""
    centre = (np.arange(pixels) + 0.5) / pixels
    position = np.clip((centre - start) / length * cells - 0.5, 0, cells - 1)
    low = np.minimum(position.astype(int), max(cells - 2, 0))
    matrix = np.zeros((pixels, cells), np.float32)
    rows = np.arange(pixels)
    fraction = position - low
    matrix[rows, low] = 1 - fraction
    matrix[rows, np.minimum(low + 1, cells - 1)] += fraction
    matrix[(centre < seen_start) | (centre > seen_start + seen_length)] = 0
    matrix.setflags(write=False)
    return matrix


def lay_out(grid: NDArray[np.float32], box: Box, seen: Box, height: int, width: int) -> NDArray[np.float32]:
    """The grid laid over the whole image: bilinear between cell centres, exactly 0 where the network saw nothing.

    Same units as the grid. Where ``box`` and ``seen`` are the whole image and the size is a multiple of the grid's,
    this is ``align_corners=False`` interpolation, which keeps the mean.

    >>> lay_out(np.ones((7, 7), np.float32), (0.25, 0, 0.5, 1), (0.25, 0, 0.5, 1), 4, 8)[0]
    array([0., 0., 1., 1., 1., 1., 0., 0.], dtype=float32)
    """
    rows = _interpolation(box[1], box[3], seen[1], seen[3], grid.shape[0], height)
    columns = _interpolation(box[0], box[2], seen[0], seen[2], grid.shape[1], width)
    result: NDArray[np.float32] = rows @ np.asarray(grid, np.float32) @ columns.T
    return result


def display_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a display map: the image's aspect, its long side 96, or 64 where the image is no larger.

    >>> display_size(480, 640), display_size(32, 32)
    ((72, 96), (64, 64))
    """
    scale = (64 if max(height, width) <= 64 else 96) / max(height, width)
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def quantize(
    evidence: NDArray[np.float32], ceiling: float | None = None, *, both_signs: bool = False
) -> tuple[NDArray[np.uint8] | NDArray[np.int8], float]:
    """Evidence in whole steps for display, and the step in logit units: ``evidence ≈ levels * step``.

    Args:
        evidence: a signed map.
        ceiling: stronger evidence is drawn as strong as this; by default the largest value. What is below a tenth of it
            becomes 0, which the App draws as transparent: the photo stays clear where there is no evidence.
        both_signs: int8 in [-127, 127] instead of uint8 in [0, 255] for the positive evidence alone.

    >>> quantize(np.float32([[-1.0, 0.0, 0.5, 1.0]]))
    (array([[  0,   0, 128, 255]], dtype=uint8), 0.00392156862745098)
    """
    strength = np.abs(evidence) if both_signs else np.maximum(evidence, 0)
    top = float(strength.max(initial=0.0))
    ceiling = top if ceiling is None else ceiling
    top = min(top, ceiling)
    dtype, steps = (np.int8, 127) if both_signs else (np.uint8, 255)
    if top <= 0:
        return np.zeros(evidence.shape, dtype), 0.0
    levels = np.rint(np.clip(evidence, -top if both_signs else 0, top) * np.float64(steps / top))
    levels[strength < ceiling / 10] = 0
    return levels.astype(dtype), top / steps
