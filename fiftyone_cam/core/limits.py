"""What one image file may cost: settings of the machine that reads it, so that no form in a browser can lift them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fiftyone_cam.core.errors import CamError

MAX_PIXELS = "FIFTYONE_CAM_MAX_PIXELS"
FILE_SECONDS = "FIFTYONE_CAM_FILE_SECONDS"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one file.

    ``pixels``: width times height. A larger image is refused after reading its header, before decoding. The default is
    Pillow's own limit: 512 MiB as RGB. ``seconds``: to read and decode a file, counted from when a thread begins with
    it. After that the thread is left behind. None: no limit.
    """

    pixels: int = 178_956_970
    seconds: float | None = 60.0


def limits() -> Limits:
    """The limits as the environment sets them: ``FIFTYONE_CAM_MAX_PIXELS``, ``FIFTYONE_CAM_FILE_SECONDS`` (0: none).

    Raises:
        CamError: a value is no such number.

    >>> limits()
    Limits(pixels=178956970, seconds=60.0)
    """
    seconds = _number(FILE_SECONDS, 60.0)
    return Limits(int(_number(MAX_PIXELS, Limits().pixels, least=1)), seconds or None)


def _number(name: str, default: float, least: float = 0) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise CamError(f"the environment variable {name} is {text!r}, expected a number of at least {least:g}")
    return value
