"""How much of each cell of a grid a region covers: exact areas for any mix of boxes, polygons and masks.

All coordinates are relative to the whole image as displayed. The image is cut into horizontal strips, at every height
where an outline bends, or crosses another outline or a column of the grid. Within a strip every outline is straight, so
its width on the strip's middle line times the strip's height is its exact area (float64). One case is not exact: in a
strip where the outline of a polygon crosses the outline of a mask, the error is less than one pixel of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box, cell_edges

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


class Cells(NamedTuple):
    """The edges of a grid's cells on the image: ``rows`` ``(h + 1,)`` and ``columns`` ``(w + 1,)``, ascending.

    >>> Cells.of((7, 7), box=(0, 0, 1, 1), seen=(0, 0, 1, 1)).rows
    array([0.        , 0.14285714, 0.28571429, 0.42857143, 0.57142857, 0.71428571, 0.85714286, 1.        ])
    """

    rows: Floats
    columns: Floats

    @classmethod
    def of(cls, shape: tuple[int, ...], box: Box, seen: Box) -> Cells:
        """The cells of a grid of ``shape`` (h, w) at ``box``, on an image whose part ``seen`` the network saw."""
        return _cells(shape, box, seen)

    @property
    def areas(self) -> Floats:
        """The cells' areas, ``(h, w)``; 0 for a cell that lies wholly beyond what was seen."""
        areas: Floats = np.outer(np.diff(self.rows), np.diff(self.columns))
        return areas


@lru_cache(maxsize=1024)  # images of a size have the same
def _cells(shape: tuple[int, ...], box: Box, seen: Box) -> Cells:
    rows = cell_edges(box[1], box[3], seen[1], seen[3], shape[0])
    columns = cell_edges(box[0], box[2], seen[0], seen[2], shape[1])
    rows.flags.writeable = columns.flags.writeable = False
    return Cells(rows, columns)


@dataclass(frozen=True)
class Polygon:
    """Closed rings of ``(n, 2)`` points ``(x, y)``, filled by the even-odd rule: a ring within a ring is a hole.

    That is how FiftyOne itself fills a polyline of several shapes.

    >>> Polygon((np.array([[0, 0], [1, 0], [0, 1]]),))        # the upper left half of the image
    """

    rings: tuple[Floats, ...]

    @classmethod
    def box(cls, box: Box) -> Polygon:
        x, y, w, h = box
        return cls((np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float64),))


@dataclass(frozen=True)
class Mask:
    """Pixels, ``(H, W)`` bool, stretched over ``box``.

    >>> Mask(np.eye(2, dtype=bool), (0, 0, 1, 1))             # two quarters of the image
    """

    pixels: NDArray[np.bool_]
    box: Box = (0.0, 0.0, 1.0, 1.0)


Shape = Polygon | Mask


def partition(
    regions: Sequence[Sequence[Shape]], cells: Cells, priority: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """Each region's share of each cell, ``(regions, h, w)``. The rest to 1 belongs to no region.

    A region is the union of its shapes: a place where two of them overlap counts once. Where regions overlap, the place
    belongs to the region with the lowest ``priority``. Among equals it belongs to the smallest, because a small region
    is more specific (a collar on a dog), then to the first. So the order of the shapes never matters, and the shares
    never sum up to more than 1.

    >>> left, all = Polygon.box((0, 0, 0.5, 1)), Polygon.box((0, 0, 1, 1))
    >>> partition([[left], [all]], Cells.of((1, 2), (0, 0, 1, 1), (0, 0, 1, 1)))
    array([[[1., 0.]],
           [[0., 1.]]])
    """
    height, width = len(cells.rows) - 1, len(cells.columns) - 1
    owned = np.zeros((len(regions), height, width))
    filled = [i for i, region in enumerate(regions) if region]
    if not filled or cells.rows[0] == cells.rows[-1] or cells.columns[0] == cells.columns[-1]:
        return owned

    shapes = [shape for i in filled for shape in regions[i]]
    if len(shapes) == 1 and (corners := box_corners(shapes[0])):
        owned[filled[0]] = _box_shares(*corners, cells)
        return owned
    edges = _edges(shapes)
    breaks = _breaks(shapes, edges, cells)
    heights, middles = np.diff(breaks), (breaks[:-1] + breaks[1:]) / 2
    strip, x, shape = _crossings(shapes, edges, middles)
    x = x.clip(cells.columns[0], cells.columns[-1])
    order = np.lexsort((x, strip))
    strip, x, shape = strip[order], x[order], shape[order]

    # Every crossing turns its shape on or off. Each shape crosses each strip an even number of times, so that all are
    # off where the next strip begins, and one running sum serves for all of them.
    within = np.zeros((len(x), len(shapes)), np.int32)
    within[np.arange(len(x)), shape] = 1
    inside = (np.cumsum(within, axis=0, out=within) & 1).astype(bool)[:-1]
    kept = np.flatnonzero(inside.any(axis=1) & (np.diff(x) > 0))
    inside, start, end, strip = inside[kept], x[kept], x[kept + 1], strip[kept]

    starts = np.cumsum([0, *(len(regions[i]) for i in filled[:-1])])
    inside = np.logical_or.reduceat(inside, starts, axis=1)
    sizes = inside.T @ ((end - start) * heights[strip])
    rank = np.lexsort((sizes, np.zeros(len(filled)) if priority is None else np.asarray(priority)[filled]))
    owner = np.asarray(filled)[rank[inside[:, rank].argmax(axis=1)]]

    # by the upper end: in a strip as thin as one float step, the midpoint rounds to the lower end
    row = np.searchsorted(cells.rows, breaks[strip], side="right") - 1
    lower, upper = cells.columns[:-1], cells.columns[1:]
    lengths = np.clip(end[:, None], lower, upper) - np.clip(start[:, None], lower, upper)
    index = (owner * height + row)[:, None] * width + np.arange(width)
    weights = lengths * heights[strip][:, None]
    covered = np.bincount(index.ravel(), weights.ravel(), minlength=owned.size).reshape(owned.shape)
    areas = cells.areas
    np.divide(covered, areas, out=owned, where=areas > 0)
    return owned.clip(0, 1, out=owned)


def contains(shapes: Sequence[Shape], x: float, y: float) -> bool:
    """Whether a point lies in the union of the shapes.

    >>> contains([Polygon.box((0.25, 0.25, 0.5, 0.5))], 0.5, 0.5)
    True
    """
    boxes = [box for shape in shapes if (box := box_corners(shape))]
    if len(boxes) == len(shapes):  # the most frequent, and what their outlines come to
        return any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)
    _, crossings, shape = _crossings(shapes, _edges(shapes), np.array([y]))
    return bool((np.bincount(shape[crossings <= x]) & 1).any())


def box_corners(shape: Shape) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a polygon that is a box; None for any other shape.

    >>> box_corners(Polygon.box((0.25, 0.25, 0.5, 0.5)))
    (0.25, 0.25, 0.75, 0.75)
    """
    if not isinstance(shape, Polygon) or len(shape.rings) != 1 or len(shape.rings[0]) != 4:
        return None
    (a, b), (c, d), (e, f), (g, h) = shape.rings[0].tolist()
    if (a, b, c, e) != (g, d, e, c) or f != h:
        return None
    left, top, right, bottom = (round(value * _STEPS) / _STEPS for value in (a, b, e, f))
    return (min(left, right), min(top, bottom), max(left, right), max(top, bottom))


def _box_shares(left: float, top: float, right: float, bottom: float, cells: Cells) -> Floats:
    """A box's share of each cell: what the strips come to, bit for bit. Most objects are one box, so it pays."""
    rows, columns = cells.rows, cells.columns
    heights = np.minimum(rows[1:], bottom) - np.maximum(rows[:-1], top)
    widths = np.minimum(columns[1:], right) - np.maximum(columns[:-1], left)
    areas = cells.areas
    shares = np.zeros_like(areas)
    np.divide(np.outer(np.maximum(heights, 0), np.maximum(widths, 0)), areas, out=shares, where=areas > 0)
    return np.minimum(shares, 1, out=shares)


_STEPS = 2.0**40
"""Corners are rounded to this part of the image (1e-12), so that no outline is too flat to divide by its height."""


class _Edges(NamedTuple):
    """The outlines of all polygons, without horizontal edges; each edge from its upper to its lower end."""

    top: Floats
    bottom: Floats
    x: Floats  # at the upper end
    slope: Floats  # x by y
    shape: Indices

    def at(self, y: Floats, which: Indices) -> Floats:
        x: Floats = self.x[which] + (y - self.top[which]) * self.slope[which]
        return x


def _edges(shapes: Sequence[Shape]) -> _Edges:
    rings = [(i, ring) for i, shape in enumerate(shapes) if isinstance(shape, Polygon) for ring in shape.rings]
    lengths = [len(ring) for _, ring in rings]
    ends = np.cumsum(lengths, dtype=np.intp)
    following = np.arange(1, sum(lengths) + 1)
    following[ends - 1] = ends - lengths  # the last corner of a ring is joined to its first
    x, y = np.concatenate([np.zeros((0, 2)), *(ring for _, ring in rings)]).T
    x, y = np.round(x * _STEPS) / _STEPS, np.round(y * _STEPS) / _STEPS
    owner = np.repeat(np.array([i for i, _ in rings], np.intp), lengths)

    first, last = np.arange(len(x)), following
    slanted = y[first] != y[last]
    first, last = first[slanted], last[slanted]
    down = y[first] < y[last]
    upper, lower = np.where(down, first, last), np.where(down, last, first)
    return _Edges(y[upper], y[lower], x[upper], (x[lower] - x[upper]) / (y[lower] - y[upper]), owner[first])


def _breaks(shapes: Sequence[Shape], edges: _Edges, cells: Cells) -> Floats:
    """Where strips begin and end: within a strip every outline is straight, and none crosses another."""
    found = [cells.rows, edges.top, edges.bottom]
    if edges.slope.any():  # the sides of boxes cross nothing
        found += [_column_crossings(edges, cells.columns), _mutual_crossings(edges)]
    for shape in shapes:
        if isinstance(shape, Mask):
            found.append(shape.box[1] + shape.box[3] * np.arange(len(shape.pixels) + 1) / len(shape.pixels))
    breaks: Floats = np.unique(np.concatenate(found).clip(cells.rows[0], cells.rows[-1]))
    return breaks


def _column_crossings(edges: _Edges, columns: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = edges.top[:, None] + (columns - edges.x[:, None]) / edges.slope[:, None]
        crossings: Floats = y[(y > edges.top[:, None]) & (y < edges.bottom[:, None])]
    return crossings


def _mutual_crossings(edges: _Edges) -> Floats:
    order = np.argsort(edges.top)
    top, bottom, x, slope = (values[order] for values in edges[:4])
    # sorted by upper end: only the edges from the i-th to the first that begins below its lower end can cross it
    following = np.arange(1, len(top) + 1)
    counts = (np.searchsorted(top, bottom) - following).clip(0)
    first, second = np.repeat(following - 1, counts), _ranges(following, counts)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gap = x[first] + (top[second] - top[first]) * slope[first] - x[second]
        y = top[second] + gap / (slope[second] - slope[first])
        crossings: Floats = y[(y > top[second]) & (y < np.minimum(bottom[first], bottom[second]))]
    return crossings


def _crossings(shapes: Sequence[Shape], edges: _Edges, lines: Floats) -> tuple[Indices, Floats, Indices]:
    """Where the shapes' outlines cross horizontal lines (ascending): index of the line, x, index of the shape."""
    counts = np.searchsorted(lines, edges.bottom) - (first := np.searchsorted(lines, edges.top))
    edge = np.repeat(np.arange(len(counts)), counts)
    line = _ranges(first, counts)
    found = [(line, edges.at(lines[line], edge), edges.shape[edge])]
    for i, shape in enumerate(shapes):
        if isinstance(shape, Mask):
            line, x = _mask_crossings(shape, lines)
            found.append((line, x, np.full(len(x), i)))
    all_lines, all_x, all_shapes = zip(*found, strict=True)
    return np.concatenate(all_lines), np.concatenate(all_x), np.concatenate(all_shapes)


def _mask_crossings(mask: Mask, lines: Floats) -> tuple[Indices, Floats]:
    height, width = mask.pixels.shape
    x, y, w, h = mask.box
    padded = np.zeros((height, width + 2), bool)
    padded[:, 1:-1] = mask.pixels
    rows, columns = np.nonzero(padded[:, 1:] != padded[:, :-1])
    begins = np.searchsorted(rows, np.arange(height + 1))

    first, last = np.searchsorted(lines, (y, y + h))
    row = ((lines[first:last] - y) / h * height).astype(int).clip(0, height - 1)
    counts = begins[row + 1] - begins[row]
    line = np.repeat(np.arange(first, last), counts)
    return line, x + w * columns[_ranges(begins[row], counts)] / width


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """The ranges ``start … start + count - 1``, one after the other."""
    ranges: Indices = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return ranges
