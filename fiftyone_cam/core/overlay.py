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
from fiftyone_cam.core.display import HEAT, OPACITY, THRESHOLD, fade_width
from fiftyone_cam.core.errors import CamError, is_number

APP = "heat"
"""The colours of the App."""

_OPENCV = {
    name.removeprefix("COLORMAP_").lower(): getattr(cv2, name) for name in dir(cv2) if name.startswith("COLORMAP_")
}

COLORMAPS = (APP, *_OPENCV)
"""``heat`` as in the App, and OpenCV's colour maps by name: ``jet`` (the posts'), ``viridis``, ``inferno``, …"""

PAPER = (24, 24, 24)
INK = (240, 240, 240)
_GAP = 8
_LEAST_LETTERS = 14
_LINE_LENGTH = 80

Picture = NDArray[np.uint8]


def blend(
    photo: Picture,
    evidence: NDArray[np.float32],
    seen: Box,
    scale: float,
    colormap: str = APP,
    alpha: float = OPACITY,
    threshold: float = THRESHOLD,
) -> Picture:
    """A heatmap over a photo, as the App shows it: ``(1 - weight) * photo + weight * colour``.

    The weight is ``alpha`` where evidence is strong, fades with weak evidence, and is 0 below the threshold, against
    the class, and where the network saw nothing: the photo stays exactly as it is there. The sum is made in float and
    rounded once.

    Args:
        photo: ``(H, W, 3)`` uint8 RGB.
        evidence: ``(H, W)``, in logit units, as :func:`fiftyone_cam.signed_map` gives it.
        seen: the part of the photo that the network saw, relative.
        scale: evidence that gets the last colour; the first is for none.
        colormap: one of :data:`COLORMAPS`.
        alpha: 0 shows the photo alone, 1 the colours.
        threshold: the share of the scale below which evidence is not drawn.

    >>> blend(photo, focam.signed_map(heatmap, photo.shape[:2]), heatmap.cam.seen, scale=8.0).dtype
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
    scale = max(scale, 1e-35)  # 1 divided by less is beyond float32
    share = np.clip(evidence[rows, columns], 0, np.float32(scale)) * np.float32(1 / scale)
    levels = np.rint(share * 255).astype(np.uint8)
    weight = np.float32(alpha) * _visible(share, threshold)
    colours = _colours(colormap)
    for channel in range(3):  # one at a time: a third of the memory on a 100-megapixel photo
        mixed = (1 - weight) * part[..., channel] + weight * colours[levels, channel]
        result[rows, columns, channel] = np.rint(mixed)
    return result


def _visible(share: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """How much of the colour is seen: what the App's dithering gives on average."""
    width = fade_width(threshold)
    if width == 0:
        return (share > threshold).astype(np.float32)
    visible: NDArray[np.float32] = np.clip((share - np.float32(threshold)) * np.float32(1 / width), 0, 1)
    return visible


@lru_cache(maxsize=8)
def _colours(colormap: str) -> NDArray[np.float32]:
    """The 256 colours of a colour map, RGB."""
    if colormap != APP:
        bgr = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], _OPENCV[colormap])[:, 0]
        return bgr[:, ::-1].astype(np.float32)
    stops = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in HEAT], np.float32)
    places = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(places, np.arange(len(stops)), channel) for channel in stops.T]
    return np.stack(channels, axis=1).astype(np.float32)


def check_style(colormap: str, alpha: float) -> None:
    """Check that there is such a colour map, and that alpha is between 0 and 1.

    Raises:
        CamError: with what there is.
    """
    if colormap not in COLORMAPS:
        raise CamError(f"there is no colour map {colormap!r}, expected one of {', '.join(sorted(COLORMAPS))}")
    if not is_number(alpha) or not 0 <= alpha <= 1:
        raise CamError(f"alpha is {alpha!r}, expected 0 to 1")


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
    font, line_height = letters(size), round(1.3 * size)
    band = Image.new("RGB", (max(width, wide), line_height * len(texts) + size // 2), PAPER)
    draw = ImageDraw.Draw(band)
    for number, text in enumerate(texts):
        draw.text((size // 2, size // 4 + number * line_height), text, fill=INK, font=font)
    return stack([np.asarray(band), picture], axis=0, gap=0)


def _width(texts: Sequence[str], size: int) -> int:
    return size + max((math.ceil(letters(size).getlength(text)) for text in texts), default=0)


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


@lru_cache(maxsize=64)
def letters(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings, for its many scripts. OpenCV's letters are ASCII, Pillow's hardly more."""
    from matplotlib.font_manager import findfont  # a third of a second

    return ImageFont.truetype(findfont("DejaVu Sans"), size)
