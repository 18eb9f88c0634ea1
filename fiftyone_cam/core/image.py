"""Decode any image file to the picture that a person sees.

JPEGs go through OpenCV, everything else through Pillow. OpenCV decodes a JPEG straight into the array, without the
GIL, in about half of Pillow's time, and reads truncated ones; Pillow has the headers and all the other formats right
(palettes, alpha, animations). No global setting of either is touched, so any number of threads may decode at once.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable
from typing import IO, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.remote_files import fetch, is_url

# Bytes of a JPEG that are not its pixels: profiles, previews. No JPEG has 8 bytes a pixel.
_MOST_METADATA = 64 << 20

_SMALL = 1 << 20

Range: TypeAlias = "float | tuple[float, float]"
"""The value that means white, or the values that mean black and white."""

# Recognised by content, never by the file's name. Not everything that Pillow opens: EPS, say, would run Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
Image.init()

# What Chromium, in which people look at the App, was seen to obey: EXIF in a JPEG's first EXIF segment, EXIF in a PNG's
# eXIf chunk ahead of the pixels, and an AVIF's irot and imir (Pillow reports them as EXIF). It ignores EXIF in a WebP,
# ImageMagick's "Raw profile type exif" in a PNG, and XMP's tiff:Orientation everywhere. It shows no TIFF at all:
# there Pillow turns the picture by the file's own tag while it loads.
_TURNED_BY_EXIF = ("JPEG", "PNG", "AVIF")

_TURN: dict[int, Callable[[Any], Any]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.flip(cv2.transpose(image), -1),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}

_ON_ITS_SIDE = (5, 6, 7, 8)

# OpenCV names no reduced RGB reads, but RGB and 1/2, 1/4, 1/8 are bits; the "grey" names are those of the scale alone.
# RGB as libjpeg gives it: swapping the channels of a whole BGR picture afterwards took a quarter of the time.
_REDUCE = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def read_image(
    path: str | os.PathLike[str],
    *,
    min_size: int | Callable[[int, int], int] | None = None,
    max_pixels: int | None = None,
    full: Range | None = None,
) -> NDArray[np.uint8]:
    """Read an image file as the App shows it: upright, first frame, 8 bits a channel.

        image = read_image("dog.jpg")                # (375, 500, 3) uint8
        small = read_image("dog.jpg", min_size=128)  # (188, 250, 3): decoded at half size

    - Orientation: as a browser applies it; a tag that is not 1 to 8 is ignored.
    - Transparency lies over white, the paper that cut-outs are made for. (Simply dropping alpha, as ``convert("RGB")``
      does, would show whatever colours lie hidden under the transparent pixels, often black.) A fourth band of a TIFF
      that is mostly neither 0 nor 255 is no transparency but a band, such as near infrared: it is left out.
    - 16 bits are divided by 257, full range to full range; likewise what a TIFF declares as 12 bits. Twelve bits in
      a file that declares sixteen stay as dark as every viewer shows them: guessing the range from the pixels would
      brighten every night picture: say it, ``full=4095``. (16-bit colour comes from Pillow cut to its high byte: one
      level off at most.)
    - Float and 32-bit pixels say nothing of their range: floats must lie in 0 to 1, integers in 0 to 65535.
    - CMYK is converted by the plain formula that browsers use, to within a few levels. Colour profiles and gamma are
      not applied, here the App may differ: the networks were trained on pixels as they are stored.
    - A truncated JPEG gives what is there, grey for the rest, if a tenth or more of the picture is there.

    Args:
        path: a file on disk, or a URL that fsspec can open; its name does not matter, only its content.
        min_size: a hint that the caller will shrink the picture's *short* side to this many pixels: a JPEG may then
            be decoded at 1/2, 1/4 or 1/8, its short side never below ``min_size``. Sides are rounded up, so the
            aspect is the original's to within one pixel of the result: relative coordinates stay valid. A function
            gets the picture's height and width.
        max_pixels: refuse more than this many pixels (width x height), told by the header, before anything is decoded;
            by default as :func:`~fiftyone_cam.core.limits.limits` says. Above its default, decoders may still refuse by
            limits of their own (a WebP right away, a JPEG at 2^30).
        full: the value that means white in pixels of more than 8 bits, or those that mean black and white:
            ``4095`` (12 bits), ``10000`` (reflectance), ``(-1000, 1000)``. What lies beyond is cut off. Files of 8
            bits stay as they are.

    Returns:
        ``(H, W, 3)`` uint8 RGB, C-contiguous, writable.

    Raises:
        ImageError: with a short reason, ``"kind"`` or ``"kind: detail"``, such as ``file not found``, ``empty file``,
            ``not an image: begins with "..."``, ``unreadable PNG: ...``, ``too large: ...``.
    """
    max_pixels = limits().pixels if max_pixels is None else max_pixels
    if is_url(url := os.fspath(path)):
        content = fetch(url, 8 * max_pixels)  # what 16-bit RGBA would take, uncompressed
        if not content:
            raise ImageError("empty file")
        return _read(io.BytesIO(content), min_size, max_pixels, full)
    try:
        # Before it is opened: opening a FIFO waits for its writer.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a file: a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if status.st_size == 0:
            raise ImageError("empty file")
        with open(path, "rb") as file:
            # Pillow reads a header in some forty bites, each of which costs more from a file than from memory.
            source = io.BytesIO(file.read()) if status.st_size <= _SMALL else file
            return _read(source, min_size, max_pixels, full)
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except PermissionError:
        raise ImageError("permission denied") from None
    except (OSError, ValueError) as error:  # a path through a file, a NUL in the path, …
        raise ImageError(f"cannot open: {getattr(error, 'strerror', None) or error}") from error


def call_reader(
    reader: Callable[[str], Any], path: str | os.PathLike[str], full: Range | None = None
) -> NDArray[np.uint8]:
    """The pixels that a caller's own function reads from a file, as 8 bits a channel.

    Args:
        reader: from a path to ``(H, W)`` or ``(H, W, C)``: bytes, or other numbers together with ``full``.
        path: of the file.
        full: the value that means white, or those that mean black and white.

    Returns:
        ``(H, W, C)`` uint8.

    Raises:
        ImageError: the function fails, or returns something else.

    >>> call_reader(np.load, "scan.npy", full=(-1000, 1000)).shape
    (512, 512, 1)
    """
    try:
        values = np.asarray(reader(os.fspath(path)))
    except Exception as error:  # the function is anybody's
        raise ImageError(f"read= fails on it: {type(error).__name__}: {str(error)[:200]}") from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size or values.dtype.kind not in "uif":
        raise ImageError(f"read= gave {values.dtype} {values.shape}, expected numbers of shape (H, W) or (H, W, C)")
    if values.dtype == np.uint8 and full is None:
        return np.ascontiguousarray(values)
    if full is None:
        raise ImageError(
            f"read= gave {values.dtype}, whose range is not known: give bytes, or a Preprocessing with full="
        )
    return _scaled(values, full)


def _scaled(values: NDArray[Any], full: Range) -> NDArray[np.uint8]:
    """From a range of values to 0 to 255; what lies beyond is cut off."""
    low, high = full if isinstance(full, tuple) else (0.0, full)
    if not np.isfinite(values.min()):
        raise ImageError("there are pixels that are no finite numbers")
    levels = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.asarray(np.rint(levels.clip(0, 255)), np.uint8)


def _said(prefix: bytes) -> str:
    """The first bytes of a file for a person: as text where they are text, otherwise as numbers."""
    text = prefix.decode("latin-1")
    if text.isascii() and all(char.isprintable() or char.isspace() for char in text):
        return f'"{" ".join(text.split())}"'
    return f"the bytes {prefix[:8].hex(' ')}"


def _read(
    file: IO[bytes],
    min_size: int | Callable[[int, int], int] | None,
    max_pixels: int,
    full: Range | None = None,
) -> NDArray[np.uint8]:
    prefix = file.read(16)
    # Not Image.open: it warns of, and refuses, what is too large for Pillow's own global limit, not for ours.
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:
            break
    else:
        raise ImageError(f"not an image: begins with {_said(prefix)}")
    try:
        file.seek(0)
        header = factory(file, "")
        if (pixels := header.width * header.height) > max_pixels:
            raise ImageError(f"too large: {pixels:,} pixels, the limit is {max_pixels:,}")
        orientation = _exif_orientation(header.info.get("exif", b"")) if name in _TURNED_BY_EXIF else 1
        if name == "JPEG":
            file.seek(0)
            short = min(header.size)
            if callable(min_size):
                height, width = header.size if orientation in _ON_ITS_SIDE else header.size[::-1]
                min_size = min_size(height, width)
            factor = max(s for s in _REDUCE if s == 1 or (min_size is not None and short // s >= min_size))
            image = _decode_jpeg(
                file.read(_MOST_METADATA + 8 * pixels), factor
            )  # there may be a film after the picture
        elif full is not None and name in ("PNG", "TIFF") and (deep := _decode_deep(file, name)) is not None:
            image = _scaled(deep, full)
            if name == "TIFF":  # turned below as Pillow would, while it loads
                orientation = int(getattr(header, "tag_v2", {}).get(274, 1))
        else:
            image = _decode_other(header)
        if turn := _TURN.get(orientation):
            image = turn(image)
        return image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # a canvas that Pillow would have to make to read the header
        raise ImageError(f"too large: {error}") from error
    except Exception as error:  # a broken file makes decoders raise nearly anything, and must cost this image only
        raise ImageError(f"unreadable {name}: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


def _decode_jpeg(data: bytes, factor: int) -> NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCE[factor]
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        # Ended by us, a truncated file decodes as far as it goes; libjpeg paints the rest in one colour.
        image = cv2.imdecode(np.frombuffer(data + b"\xff\xd9", np.uint8), flags)
        if image is None:
            raise ImageError("unreadable JPEG: corrupt, or nothing after the header")
        if (image == image[-1, -1]).all(axis=2).mean() > 0.9:
            raise ImageError("truncated JPEG: less than a tenth of the picture is there")
    return np.asarray(image, np.uint8)


def _decode_other(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    if image.info.get("default_image"):  # an animated PNG whose still picture is for viewers that cannot animate
        image.seek(1)
    if tile_size := getattr(image, "_tile_size", None):
        # A TIFF's load checks Pillow's own limit once more, unless the canvas is there.
        image.im = Image.new(image.mode, tile_size).im
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.has_transparency_data and not (image.format == "TIFF" and _is_a_band(image)):
        paper = Image.new("RGB", image.size, "white")
        picture = image.convert("RGBA")
        paper.paste(picture, mask=picture)
        return np.array(paper)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _is_a_band(image: Image.Image) -> bool:
    """Whether a TIFF's fourth band is pixels as the others are: transparency is mostly all or nothing."""
    if image.mode != "RGBA":
        return False
    fourth = np.asarray(image.getchannel("A"))
    return float(((fourth == 0) | (fourth == 255)).mean()) < 0.5


def _decode_deep(file: IO[bytes], name: str) -> NDArray[Any] | None:
    """Pixels of more than 8 bits as RGB, in their own numbers; None where there are none."""
    file.seek(0)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION if name == "PNG" else cv2.IMREAD_UNCHANGED
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flags)
    if values is None or values.dtype == np.uint8:
        return None
    bands = values.shape[2] if values.ndim == 3 else 1
    if bands not in (1, 3, 4):
        raise ImageError(
            f"{bands} bands, expected 1, 3 or 4: read it with a function of your own, Preprocessing(read=…)"
        )
    return np.repeat(values.reshape(*values.shape[:2], 1), 3, 2) if bands == 1 else values[..., 2::-1]


def _eight_bits(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    """Grey of more than 8 bits, which Pillow itself would clip at 255."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    full = 1 if image.mode == "F" else 4095 if tags.get(258) == (12,) else 65535  # 258: BitsPerSample
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= full):  # also where there are NaNs
        raise ImageError(f"unknown range of values: pixels from {low:g} to {high:g}, expected 0 to {full}")
    grey = np.rint(np.multiply(values, 255 / full, dtype=np.float32)).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: white is zero
        grey = 255 - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag, 1 where there is none; read as Chromium reads it: one SHORT, in the first directory."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for entry in range(start + 2, start + 2 + 12 * count, 12):
                tag, kind, length, value = struct.unpack_from(f"{order}HHIHxx", exif, entry)
                if (tag, kind, length) == (0x112, 3, 1):
                    return int(value)
    except struct.error:  # the directory points or runs beyond the end
        pass
    return 1
