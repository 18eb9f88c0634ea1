"""Heatmaps on photos: blended in float, with a caption that can be read on a picture of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.errors import CamError

COLORMAPS = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}
"""OpenCV's colour maps by name: ``jet`` (the posts'), ``viridis``, ``inferno``, …"""

PAPER = (24, 24, 24)
INK = (240, 240, 240)
_GAP = 8
_LEAST_LETTERS = 14
_LINE_LENGTH = 80

Picture = NDArray[np.uint8]


def blend(
    photo: Picture, evidence: NDArray[np.float32], seen: Box, scale: float, colormap: str = "jet", alpha: float = 0.5
) -> Picture:
    """A heatmap over a photo: ``(1 - alpha) * photo + alpha * colour``, where the network saw something.

    The colour map begins at no evidence (or evidence against the class) and ends at ``scale``. What the network did
    not see stays exactly as it is. The sum is made in float and rounded once.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        evidence: ``(H, W)``, in logit units, as :func:`fiftyone_cam.signed_map` gives it.
        seen: the part of the photo that the network saw, relative.
        scale: evidence that gets the last colour.
        colormap: one of :data:`COLORMAPS`.
        alpha: 0 shows the photo alone, 1 the colours.

    >>> blend(photo, focam.signed_map(heatmap, photo.shape[:2]), heatmap.seen, scale=8.0).dtype
    dtype('uint8')
    """
    check_style(colormap, alpha)
    if photo.shape[:2] != evidence.shape:
        raise CamError(f"the evidence is {evidence.shape}, expected the photo's {photo.shape[:2]}")
    result: Picture = photo.copy()
    rows, columns = _seen_pixels(seen, *evidence.shape)
    part = photo[rows, columns]
    if part.size == 0:
        return result
    scale = max(scale, 1e-35)  # 255 divided by less is beyond float32
    levels = np.clip(evidence[rows, columns], 0, np.float32(scale)) * np.float32(255 / scale)
    colours = cv2.applyColorMap(np.rint(levels).astype(np.uint8), COLORMAPS[colormap])
    for channel in range(3):  # one at a time: a quarter of the memory on a 100-megapixel photo
        mixed = (1 - alpha) * part[..., channel].astype(np.float32) + alpha * colours[..., 2 - channel]  # OpenCV: BGR
        result[rows, columns, channel] = np.rint(mixed)
    return result


def check_style(colormap: str, alpha: float) -> None:
    """Check that there is such a colour map, and that alpha is between 0 and 1.

    Raises:
        CamError: with what there is.
    """
    if colormap not in COLORMAPS:
        raise CamError(f"there is no colour map {colormap!r}, expected one of {', '.join(sorted(COLORMAPS))}")
    if not 0 <= alpha <= 1:
        raise CamError(f"alpha is {alpha}, expected 0 to 1")


def _seen_pixels(seen: Box, height: int, width: int) -> tuple[slice, slice]:
    """The pixels whose centres the network saw; all others are 0 in a map that is laid out."""
    slices = []
    for start, length, count in ((seen[1], seen[3], height), (seen[0], seen[2], width)):
        centres = (np.arange(count) + 0.5) / count
        inside = np.flatnonzero((centres >= start) & (centres <= start + length))
        slices.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    return slices[0], slices[1]


def printable(text: str, length: int = _LINE_LENGTH) -> str:
    """One line that can be drawn: no control characters, not longer than ``length``.

    >>> printable("a\\nb" + "c" * 100, 8)
    'a bcccc…'
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def caption(picture: Picture, lines: Sequence[str]) -> Picture:
    """A picture with lines of text above it, on their own ground: nothing of the picture is hidden.

    The letters grow with the picture, shrink to fit its width, and have at least 14 pixels. If the picture is narrower
    than its caption, it stands at the left of a wider ground.

    >>> caption(photo, ["tabby 97%"]).shape[1] >= photo.shape[1]
    True
    """
    height, width = picture.shape[:2]
    texts = [printable(line) for line in lines]
    size = round(min(max(_LEAST_LETTERS, 0.04 * min(width, 2 * height)), 160))
    while (wide := _width(texts, size)) > width and size > _LEAST_LETTERS:
        size -= 1
    font, line_height = _font(size), round(1.3 * size)
    band = Image.new("RGB", (max(width, wide), line_height * len(texts) + size // 2), PAPER)
    draw = ImageDraw.Draw(band)
    for number, text in enumerate(texts):
        draw.text((size // 2, size // 4 + number * line_height), text, fill=INK, font=font)
    return stack([np.asarray(band), picture], axis=0, gap=0)


def _width(texts: Sequence[str], size: int) -> int:
    return size + max((math.ceil(_font(size).getlength(text)) for text in texts), default=0)


def stack(pictures: Sequence[Picture], axis: int, gap: int = _GAP) -> Picture:
    """Pictures below each other (axis 0) or beside each other (axis 1), on dark ground.

    >>> stack([np.zeros((10, 20, 3), np.uint8), np.zeros((5, 30, 3), np.uint8)], axis=0, gap=2).shape
    (17, 30, 3)
    """
    across = 1 - axis
    extent = max(picture.shape[across] for picture in pictures)
    length = sum(picture.shape[axis] for picture in pictures) + gap * (len(pictures) - 1)
    shape = (length, extent) if axis == 0 else (extent, length)
    ground: Picture = np.empty((*shape, 3), np.uint8)
    ground[:] = PAPER
    at = 0
    for picture in pictures:
        height, width = picture.shape[:2]
        top, left = (at, 0) if axis == 0 else (0, at)
        ground[top : top + height, left : left + width] = picture
        at += picture.shape[axis] + gap
    return ground


def thumbnail(picture: Picture, side: int) -> Picture:
    """A picture in the middle of a ``side`` x ``side`` square, its long side the square's."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    square: Picture = np.empty((side, side, 3), np.uint8)
    square[:] = PAPER
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def sheet(pictures: Sequence[Picture], columns: int = 6) -> Picture:
    """A grid of pictures of one size, row by row.

    >>> sheet([np.zeros((10, 10, 3), np.uint8)] * 4, columns=2).shape
    (28, 28, 3)
    """
    rows = [stack(pictures[start : start + columns], axis=1) for start in range(0, len(pictures), columns)]
    return stack(rows, axis=0)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings, for its many scripts. OpenCV's letters are ASCII, Pillow's hardly more."""
    from matplotlib.font_manager import findfont  # a third of a second

    return ImageFont.truetype(findfont("DejaVu Sans"), size)
