"""The shares of cells that regions cover, of many images at once: one set of calls for all that is annotated by boxes.

It gives what :func:`~fiftyone_cam.core.regions.partition` gives for each image. Boxes cut the image into a raster of
rectangles, each wholly inside a box or outside. A few boxes make a small raster, so those of hundreds of images fit
into one array. Other shapes, and images with many boxes, go through ``partition`` one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.regions import Cells, Shape, box_corners, partition

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_MOST_BOXES = 6
"""On an image. The raster grows with the square of their number, and each of them is compared with all of it."""

Corners = tuple[float, float, float, float]


def partitions(
    regions: Sequence[Sequence[Sequence[Shape]]], cells: Sequence[Cells], priorities: Sequence[Sequence[int]]
) -> Floats:
    """Each region's share of each cell, ``(images, regions, h, w)``: 0 for a region that an image does not have.

    Args:
        regions: of each image the shapes of its regions.
        cells: of each image the cells; all grids have the same size.
        priorities: of each image the priorities of its regions, as of ``partition``.

    >>> left, all = Polygon.box((0, 0, 0.5, 1)), Polygon.box((0, 0, 1, 1))
    >>> cells = Cells.of((1, 2), (0, 0, 1, 1), (0, 0, 1, 1))
    >>> partitions([[[left], [all]], [[left]]], [cells, cells], [[0, 0], [0]])[:, :, 0]
    array([[[1., 0.],
            [0., 1.]],
    <BLANKLINE>
           [[1., 0.],
            [0., 0.]]])
    """
    most = max(map(len, regions), default=0)
    height, width = (len(cells[0].rows) - 1, len(cells[0].columns) - 1) if cells else (0, 0)
    owned = np.zeros((len(regions), most, height, width))
    of_boxes: dict[int, dict[int, tuple[list[Corners], list[int]]]] = {}  # by the number of boxes, by image
    for image, shapes in enumerate(regions):
        owners = [number for number, region in enumerate(shapes) for _ in region]
        found = [box_corners(shape) for region in shapes for shape in region] if len(owners) <= _MOST_BOXES else [None]
        boxes = [box for box in found if box is not None]
        if len(boxes) == len(owners):
            of_boxes.setdefault(len(boxes), {})[image] = boxes, owners
        else:
            owned[image, : len(shapes)] = partition(shapes, cells[image], priorities[image])

    of_boxes.pop(0, None)  # nothing covers nothing
    for images in of_boxes.values():
        corners, numbers = (np.array(values) for values in zip(*images.values(), strict=True))
        ranks = np.zeros((len(images), most), np.intp)
        for row, image in enumerate(images):
            ranks[row, : len(priorities[image])] = priorities[image]
        rows, columns = (np.stack([cells[image][axis] for image in images]) for axis in (0, 1))
        owned[list(images)] = _of_boxes(corners, numbers, ranks, rows, columns)
    return owned


def _of_boxes(boxes: Floats, owners: Indices, priorities: Indices, rows: Floats, columns: Floats) -> Floats:
    """The shares ``(n, regions, h, w)`` where each of n images has the same number of boxes.

    ``boxes`` ``(n, k, 4)`` are left, top, right and bottom; ``owners`` ``(n, k)`` the regions that they belong to;
    ``priorities`` ``(n, regions)``; ``rows`` ``(n, h + 1)`` and ``columns`` ``(n, w + 1)`` the edges of the cells.
    """
    (lefts, tops, rights, bottoms), every = np.moveaxis(boxes, -1, 0), np.arange(len(boxes))
    across, along_columns, in_columns = _lines(columns, lefts, rights)
    down, along_rows, in_rows = _lines(rows, tops, bottoms)
    # which rectangles of the raster (n, regions, down, across) lie in a region: in any of its boxes
    inside = np.zeros((*priorities.shape, down.shape[1], across.shape[1]), bool)
    for box in range(boxes.shape[1]):
        inside[every, owners[:, box]] |= in_rows[:, box, :, None] & in_columns[:, box, None, :]

    sizes = (inside * (down[:, None, :, None] * across[:, None, None, :])).sum((-2, -1))
    order = np.lexsort((sizes, priorities))
    owned, free = np.zeros(inside.shape), np.ones_like(inside[:, 0])
    for region in order.T:
        mine = inside[every, region] & free
        owned[every, region] = mine
        free &= ~mine
    covered = along_rows[:, None] @ owned @ along_columns[:, None].swapaxes(-2, -1)
    areas = (np.diff(rows)[:, :, None] * np.diff(columns)[:, None, :])[:, None]
    shares: Floats = np.divide(covered, areas, out=np.zeros_like(covered), where=areas > 0)
    np.clip(shares, 0, 1, out=shares)
    return shares


def _lines(edges: Floats, starts: Floats, ends: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Cut an axis at all edges of cells and sides of boxes, ``(n, lines)``.

    Returns the lengths of the pieces ``(n, pieces)``, the length of each in each cell ``(n, cells, pieces)``, and
    whether each lies in each box ``(n, boxes, pieces)``.
    """
    first, last = edges[:, :1], edges[:, -1:]
    starts, ends = starts.clip(first, last), ends.clip(first, last)
    lines = np.sort(np.concatenate([edges, starts, ends], axis=1))
    lower, upper = lines[:, None, :-1], lines[:, None, 1:]
    overlaps = np.minimum(upper, edges[:, 1:, None]) - np.maximum(lower, edges[:, :-1, None])
    within = (starts[:, :, None] <= lower) & (upper <= ends[:, :, None])
    return (upper - lower)[:, 0], np.maximum(overlaps, 0), within
