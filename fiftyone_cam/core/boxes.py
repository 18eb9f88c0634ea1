"""Boxes on an image: ``(x, y, width, height)`` relative to the whole image as displayed.

``(0, 0, 1, 1)`` is all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def to_image_coordinates(outer: Box, inner: Box) -> Box:
    """Convert ``inner`` from coordinates of ``outer`` to coordinates of the image.

    >>> to_image_coordinates((0.5, 0.5, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5))
    (0.5, 0.5, 0.25, 0.25)
    """
    return (outer[0] + outer[2] * inner[0], outer[1] + outer[3] * inner[1], outer[2] * inner[2], outer[3] * inner[3])


def clip_to_image(frame: Box) -> Box:
    """The part of a frame that lies on the image.

    >>> clip_to_image((-0.5, 0.0, 2.0, 0.5))
    (0.0, 0.0, 1.0, 0.5)
    """
    x0, y0 = max(0.0, frame[0]), max(0.0, frame[1])
    x1, y1 = min(1.0, frame[0] + frame[2]), min(1.0, frame[1] + frame[3])
    return (x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0))


def cell_edges(start: float, length: float, seen_start: float, seen_length: float, cells: int) -> NDArray[np.float64]:
    """Edges of the ``cells`` grid cells along one axis, ``(cells + 1,)``, relative to the image.

    Inner edges are where the grid puts them, clipped to what the network saw. The outermost edges are the edges of what
    it saw. So the cells tile exactly that part.

    >>> cell_edges(0.1, 1.0, 0.0, 1.0, 4)      # a grid whose cells look a tenth further right
    array([0.  , 0.35, 0.6 , 0.85, 1.  ])
    """
    edges = start + length * np.arange(cells + 1) / cells
    edges = np.clip(edges, seen_start, seen_start + seen_length)
    edges[0], edges[-1] = seen_start, seen_start + seen_length
    return edges


def as_box(values: Sequence[float]) -> Box:
    """Four finite numbers with a positive area, or ValueError.

    >>> as_box([0, 0, 1, 1])
    (0.0, 0.0, 1.0, 1.0)
    """
    if len(values) != 4:
        raise ValueError(f"expected a box [x, y, width, height], found {list(values)}")
    x, y, w, h = (float(value) for value in values)
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        raise ValueError(f"expected a box with finite numbers and a positive area, found {[x, y, w, h]}")
    return (x, y, w, h)
