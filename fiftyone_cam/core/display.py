"""From a signed map to what is drawn: laid over the whole image, in whole steps, weak evidence fading out.

The App draws a pixel of a heatmap in full or not at all, and enlarges it without smoothing. So weak evidence fades by
dithering: the weaker it is, the fewer of its pixels are drawn. Which ones says a texture of blue noise, whose points
keep their distance from each other: on the grid they melt into a smooth veil, in the modal they are fine and even.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box

HEAT = ("#7a1d6d", "#9c2962", "#bc3952", "#d74c41", "#eb652f", "#f7831b", "#fba311", "#fbc22a", "#fcde5a")
"""For evidence: from magenta up, in even steps of lightness. Darker beginnings look like shadows on the photo."""

SIGNED = (
    *("#97ecff", "#54daff", "#00c5fb", "#00aeec", "#0098db", "#0082cb", "#006cbc", "#0056ae", "#003fa4"),
    *("#353156", *HEAT),
)
"""For contrast: blue against, :data:`HEAT` for, equally light at equal strength on both sides."""

OPACITY = 0.7
"""Of heatmaps, where the App's slider stands at first."""

THRESHOLD = 0.15
"""Of the scale: weaker evidence is not drawn."""

LONG_SIDE = 208
"""Of a display map, in pixels. More costs more storage than the eye gains: all that a run stores of a photo is 5.8 kB
at 208, and 6.4 at 224 (259 pets, 400 cats and dogs)."""

_SMALL, _SMALL_LONG_SIDE = 64, 96
_FADE = 0.15
_LEAST_STEPS = 32
_PARTS = 4
_LEAST_SCALE = _LEAST_STEPS * float(np.finfo(np.float32).tiny)
_TEXTURE = 64


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
    """Height and width of a display map: the image's aspect, its long side 208, or 96 where the image is tiny.

    >>> display_size(480, 640), display_size(32, 32)
    ((156, 208), (96, 96))
    """
    scale = (_SMALL_LONG_SIDE if max(height, width) <= _SMALL else LONG_SIDE) / max(height, width)
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def fade_width(threshold: float) -> float:
    """Evidence fades in from ``threshold`` to ``threshold + fade_width(threshold)``, both shares of the scale.

    >>> fade_width(0.0), fade_width(0.1), fade_width(0.5)
    (0.0, 0.1, 0.15)
    """
    return min(threshold, _FADE)


def draw_evidence(
    evidence: NDArray[np.float32],
    scale: float | None = None,
    threshold: float = THRESHOLD,
    *,
    both_signs: bool = False,
) -> tuple[NDArray[np.float32], float]:
    """What the App draws of a map, in logit units, and the evidence that gets the last colour.

    Values are whole multiples of one step, 32 to 39 of them up to the last colour: few values pack well, and from so
    many on the eye finds no contours between them. 0 is clear.

    Args:
        evidence: a signed map, laid out over the image.
        scale: evidence, in logit units, that gets the last colour, rounded down to a whole step. By default the map's
            own maximum. Stronger evidence is drawn as strong as this.
        threshold: the share of the scale below which evidence is clear. Above it, it fades in.
        both_signs: draw evidence against the class too.

    >>> draw_evidence(np.float32([[-1.0, 0.1, 0.5, 1.0]]))
    (array([[0. , 0. , 0.5, 1. ]], dtype=float32), 1.0)
    """
    if scale is None:
        strongest = float(np.abs(evidence).max(initial=0.0) if both_signs else evidence.max(initial=0.0))
        scale = strongest if strongest > 0 else 1.0
    scale = max(scale, _LEAST_SCALE)
    step = _step(scale)
    ceiling = math.floor(scale / step) * step
    # In float32 and in place, which takes a tenth of the time of the same in float64 with an array for each step. What
    # comes out is as exact: a step has three bits, and its multiples are not rounded.
    drawn = np.clip(np.asarray(evidence, np.float32), np.float32(-ceiling if both_signs else 0.0), np.float32(ceiling))
    shown = (np.abs(drawn) if both_signs else drawn) > _cutoffs(*evidence.shape, threshold, ceiling)
    drawn *= np.float32(1 / step)
    np.rint(drawn, out=drawn)
    drawn *= np.float32(step)
    drawn *= shown
    drawn += np.float32(0)  # makes -0.0 to 0.0, which packs better
    return drawn, ceiling


def _step(scale: float) -> float:
    """The largest of 1, 1.25, 1.5 and 1.75 times a power of two of which the scale has 32."""
    most = scale / _LEAST_STEPS
    power = 2.0 ** math.floor(math.log2(most))
    return math.floor(_PARTS * most / power) / _PARTS * power


@lru_cache(maxsize=64)
def _cutoffs(height: int, width: int, threshold: float, ceiling: float) -> NDArray[np.float32]:
    """For each pixel the evidence from which it is drawn. A run has one ceiling, and few sizes."""
    repeats = (math.ceil(height / _TEXTURE), math.ceil(width / _TEXTURE))
    noise = np.tile(blue_noise(), repeats)[:height, :width]
    shares = np.float32(threshold) + np.float32(fade_width(threshold)) * noise
    cutoffs: NDArray[np.float32] = np.float32(ceiling) * shares
    cutoffs.setflags(write=False)
    return cutoffs


@lru_cache(maxsize=1)
def blue_noise() -> NDArray[np.float32]:
    """A texture of 64 x 64 different numbers between 0 and 1; those below any bound are spread evenly, without a
    pattern. It can be tiled.

    Ranks are given one after the other, each to the largest void between those that have one. Ulichney, The
    void-and-cluster method for dither array generation, 1993, without its first phase.

    >>> blue_noise().shape, float(blue_noise().mean())
    ((64, 64), 0.5)
    """
    side, sigma = _TEXTURE, 1.5
    distance = np.minimum(np.arange(side), side - np.arange(side))
    bell = np.exp(-(distance**2) / (2 * sigma**2))
    around = np.tile(np.outer(bell, bell), (2, 2))
    crowded = np.random.default_rng(0).random((side, side)) * 1e-3  # or the first ones would lie on a lattice
    ranks = np.empty((side, side), np.int64)
    for rank in range(side * side):
        row, column = divmod(int(crowded.argmin()), side)
        ranks[row, column] = rank
        crowded += around[side - row : 2 * side - row, side - column : 2 * side - column]
        crowded[row, column] = np.inf
    noise: NDArray[np.float32] = ((ranks + 0.5) / side**2).astype(np.float32)
    noise.setflags(write=False)
    return noise
