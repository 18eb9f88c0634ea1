"""Small pictures for panels: places of photos, cut out and kept."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.workers import Workers, default_count

SIDE = 128
"""Pixels of a crop's sides."""

_AROUND, _LEAST = 1.4, 0.25
"""A crop's side over that of its place, and its least share of the picture's short side: a place alone says little."""


def crops(places: Sequence[tuple[str, Box]]) -> list[str | None]:
    """A square around each place of a file, the place outlined, as data URLs; None where a file cannot be read.

    Those of the last thousand places are kept.

    Args:
        places: a file and a box, ``(left, top, width, height)``, relative to the picture as displayed.

    >>> [url] = crops([("dog.jpg", (0.2, 0.3, 0.1, 0.1))])
    """
    with Workers(min(4, default_count()), seconds=limits().seconds, name="cam-crop") as workers:
        tasks = [workers.submit(_crop, path, box) for path, box in places]
        found: list[str | None] = []
        for task in tasks:
            try:
                found.append(workers.result(task))
            except CamError:  # a file that is gone, or hangs, costs its own crop
                found.append(None)
        return found


@lru_cache(maxsize=1000)
def _crop(path: str, box: Box) -> str:
    return data_url(crop(path, box))


def crop(path: str, box: Box, side: int = SIDE) -> NDArray[np.uint8]:
    """A square of a photo around a place, ``(side, side, 3)``, the place outlined. Decoded no larger than needed.

    Raises:
        ImageError: the file cannot be read.

    >>> crop("dog.jpg", (0.2, 0.3, 0.1, 0.1)).shape
    (128, 128, 3)
    """

    def enough(height: int, width: int) -> int:
        return math.ceil(min(height, width) * side / _square(box, height, width)[2])

    image = read_image(path, min_size=enough)
    x, y, size = _square(box, *image.shape[:2])
    part = image[y : y + size, x : x + size]
    shrinks = size > side
    square = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    left, top, width, height = box
    scale = side / size
    start, end = [
        (round((fx * image.shape[1] - x) * scale), round((fy * image.shape[0] - y) * scale))
        for fx, fy in ((left, top), (left + width, top + height))
    ]
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # to be seen on dark and on bright
        cv2.rectangle(square, start, end, color, thickness)
    return np.asarray(square, np.uint8)


def data_url(image: NDArray[np.uint8], quality: int = 85) -> str:
    """A picture as a JPEG in a data URL.

    >>> data_url(np.zeros((8, 8, 3), np.uint8))[:23]
    'data:image/jpeg;base64,'
    """
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _square(box: Box, height: int, width: int) -> tuple[int, int, int]:
    """A square around a box, inside a picture: its left, its top, its side."""
    left, top, across, down = box
    short = min(height, width)
    side = min(short, max(1, round(max(_AROUND * max(across * width, down * height), _LEAST * short))))
    x, y = (round((start + size / 2) * full - side / 2) for start, size, full in (
        (left, across, width), (top, down, height)))  # fmt: skip
    return min(max(0, x), width - side), min(max(0, y), height - side), side
