"""Decoding: whatever the file is, either the picture that a person sees or a reason."""

from __future__ import annotations

import csv
import math
import os
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.limits import Limits
from tests.helpers.images import BLUE, BY_DEFINITION, GREEN, RED, difference, exif, reason, save, smooth

# real files

# Pillow says "truncated", OpenCV "fine": the file ends where its pixels should begin, and a grey area is no picture.
NO_PIXELS_AT_ALL = "pillow/ultrahdr.jpg"


def test_reads_every_hard_image_that_pillow_or_opencv_reads_and_refuses_all_others(data: Path) -> None:
    with open(data / "hard_images" / "manifest.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        path = data / "hard_images" / row["file"]
        readable = row["pil_load"] == "ok" or row["cv2_imread_shape"] != "None"
        if readable and row["file"] != NO_PIXELS_AT_ALL:
            image = read_image(path)
            width, height = map(int, row["pil_size"].split("x"))
            if row["exif_orientation"] in ("5", "6", "7", "8"):
                width, height = height, width
            assert image.shape == (height, width, 3), row["file"]
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable
        else:
            text = reason(path)
            assert text.split(":")[0] in (
                "empty file",
                "not an image",
                "unreadable PNG",
                "too large",
                "truncated JPEG",
            ), row["file"]
            assert len(text) < 250
            assert "\n" not in text


# Mean difference in levels of 255. The files were made from one picture, each compressed anew, as was the baseline.
TOLERANCE = {"bmp": 2.5, "webp": 2.5, "27mp.jpg": 4.0, "cmyk.jpg": 2.5, "palette.png": 6.0, "rgb16.png": 2.5}
TOLERANCE |= {f"exif{orientation}.jpg": 2.5 for orientation in (2, 4, 5, 6, 7, 8)}


@pytest.mark.parametrize("name", TOLERANCE)
def test_the_dog_is_the_same_dog_in_every_encoding(data: Path, name: str) -> None:
    derived = data / "hard_images" / "derived"
    dog = read_image(derived / "dog_baseline.jpg")
    image = read_image(derived / (f"dog.{name}" if name in ("bmp", "webp") else f"dog_{name}"))
    if name == "27mp.jpg":
        image = cv2.resize(image, (500, 375), interpolation=cv2.INTER_AREA)
    assert difference(image, dog) <= TOLERANCE[name]


def test_lossless_encodings_of_the_dog_are_equal(data: Path) -> None:
    derived = data / "hard_images" / "derived"
    dog = read_image(derived / "dog.bmp")
    np.testing.assert_array_equal(read_image(derived / "dog_rgb16.png"), dog)
    grey = np.asarray(Image.fromarray(dog).convert("L"))[..., None].repeat(3, 2)
    np.testing.assert_array_equal(read_image(derived / "dog_gray16.png"), grey)
    np.testing.assert_array_equal(read_image(derived / "dog_la.png"), grey)  # its alpha is 255 throughout


@pytest.mark.parametrize(
    ("name", "blur", "tolerance"), [("gray.jpg", 1, 1.0), ("gray16.png", 1, 1.0), ("1bit.png", 25, 6.0)]
)
def test_the_dog_is_the_same_dog_in_grey(data: Path, name: str, blur: int, tolerance: float) -> None:
    derived = data / "hard_images" / "derived"
    dog = cv2.cvtColor(read_image(derived / "dog_baseline.jpg"), cv2.COLOR_RGB2GRAY)
    image = read_image(derived / f"dog_{name}")
    assert np.ptp(image, axis=2).max() == 0
    # 1 bit is dithered: black and white dots, which make the grey only from afar
    assert difference(cv2.blur(image[..., 0], (blur, blur)), cv2.blur(dog, (blur, blur))) <= tolerance


def test_all_eight_photos_of_one_scene_come_out_alike(data: Path) -> None:
    """exif/: one landscape and one portrait, stored eight ways (lossily, with a number painted on each)."""
    for kind in ("Landscape", "Portrait"):
        photos = [read_image(path) for path in sorted((data / "hard_images" / "exif").glob(f"{kind}_*.jpg"))]
        assert len(photos) >= 4
        for photo in photos[1:]:
            assert difference(photo, photos[0]) < 12


# not images


def test_says_what_is_wrong_with_what_is_no_image(folder: Path) -> None:
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "P").write_bytes(b"P")
    (folder / "half.png").write_bytes(save(smooth(9, 9), folder / "whole.png").read_bytes()[:-30])
    assert reason(folder / "missing.jpg") == "file not found"
    assert reason(folder / "empty.jpg") == "empty file"
    assert reason(folder) == "not a file: a directory"
    assert reason(folder / "text.jpg") == 'not an image: begins with "version https://"'
    assert reason(folder / "P") == 'not an image: begins with "P"'
    (folder / "zip.jpg").write_bytes(b"PK\x03\x04 and so on")
    assert reason(folder / "zip.jpg") == "not an image: begins with the bytes 50 4b 03 04 20 61 6e 64"
    assert reason(folder / "half.png").startswith("unreadable PNG: ")
    assert reason(folder / "text.jpg" / "inside.jpg") == "cannot open: Not a directory"
    assert reason(Path("nul\0nul.jpg")).startswith("cannot open: ")
    with pytest.raises(ImageError, match=r"^file not found$"):
        read_image("")


def test_permission_denied(folder: Path) -> None:
    path = save(smooth(9, 9), folder / "private.png")
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # root reads everything: be nobody for a moment
        os.seteuid(65534)
    try:
        assert reason(path) == "permission denied"
    finally:
        if root:
            os.seteuid(0)


def test_a_fifo_or_a_device_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "fifo.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "link.png").symlink_to(save(smooth(9, 9), folder / "target.png"))
    with ThreadPoolExecutor(2) as pool:
        try:
            for name in ("fifo.jpg", "zero.jpg"):
                assert pool.submit(reason, folder / name).result(timeout=10) == "not a regular file"
        finally:  # let a hanging reader go, should there be one
            os.close(os.open(folder / "fifo.jpg", os.O_RDWR | os.O_NONBLOCK))
    assert read_image(folder / "link.png").shape == (9, 9, 3)


SEEDS = {"jpg": {}, "png": {}, "webp": {}, "avif": {}, "gif": {}, "bmp": {}, "tif": {}, "jp2": {}, "ppm": {}}


@settings(max_examples=150, deadline=None)
@given(data_=st.data(), kind=st.sampled_from(sorted(SEEDS)))
def test_a_damaged_file_is_a_picture_or_an_image_error_and_nothing_else(folder: Path, data_: Any, kind: str) -> None:
    content = bytearray(save(smooth(16, 24), folder / f"seed.{kind}").read_bytes())
    for place in data_.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data_.draw(st.integers(0, 255))
    path = folder / f"damaged.{kind}"
    path.write_bytes(content[: data_.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read_image(path, max_pixels=10**6)
        except ImageError as error:
            text, image = str(error), None
    if image is None:
        assert 0 < len(text) < 300
    else:
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3


# truncated


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("min_size", [None, 100])
def test_a_truncated_jpeg_gives_what_is_there(data: Path, folder: Path, options: dict[str, Any], min_size: int) -> None:
    whole = folder / "whole.jpg"
    Image.open(data / "hard_images" / "derived" / "dog_baseline.jpg").save(whole, quality=90, **options)
    content, picture = whole.read_bytes(), read_image(whole, min_size=min_size)
    cut = folder / "cut.jpg"

    cut.write_bytes(content[:-2])  # only the end marker is missing
    np.testing.assert_array_equal(read_image(cut, min_size=min_size), picture)

    cut.write_bytes(content[: int(len(content) * 0.6)])
    rows = len(picture) // 3
    # a progressive file has all rows by then, but not yet their finest detail
    assert difference(read_image(cut, min_size=min_size)[:rows], picture[:rows]) < (8 if options else 0.01)

    start = content.index(b"\xff\xda")
    cut.write_bytes(content[: start + 40])  # headers and a few blocks
    assert reason(cut, min_size=min_size) == "truncated JPEG: less than a tenth of the picture is there"
    cut.write_bytes(content[:start])
    assert reason(cut, min_size=min_size).startswith("unreadable JPEG: ")


# animations and sizes


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "avif", "tif"])
def test_the_first_frame_of_several(folder: Path, kind: str) -> None:
    red, green, blue = (Image.new("RGB", (30, 20), colour) for colour in (RED, GREEN, BLUE))
    path = folder / f"animated.{kind}"
    red.save(path, save_all=True, append_images=[green, blue])
    assert getattr(Image.open(path), "n_frames", 1) == 3
    assert np.abs(read_image(path).astype(int) - RED).max() <= 3


def test_an_animated_png_whose_still_picture_is_not_a_frame(folder: Path) -> None:
    red, green, blue = (Image.new("RGB", (30, 20), colour) for colour in (RED, GREEN, BLUE))
    red.save(folder / "still.png", save_all=True, append_images=[green, blue], default_image=True)
    np.testing.assert_array_equal(read_image(folder / "still.png")[0, 0], np.asarray(green)[0, 0])


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "tif"])
@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (2000, 1)])
def test_extreme_shapes(folder: Path, kind: str, size: tuple[int, int]) -> None:
    path = folder / f"extreme.{kind}"
    Image.new("RGB", size, RED).save(path)
    for min_size in (None, 1, 224):
        image = read_image(path, min_size=min_size)
        assert np.abs(image.astype(int) - RED).max() <= 2
        if min_size != 1:
            assert image.shape == (size[1], size[0], 3)


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    nothing = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, nothing, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_too_many_pixels_are_refused_by_the_header(folder: Path) -> None:
    bomb = folder / "bomb.png"
    bomb.write_bytes(png_header(20_000, 20_000))
    assert reason(bomb) == f"too large: 400,000,000 pixels, the limit is {Limits().pixels:,}"
    assert reason(bomb, max_pixels=10**9).startswith("unreadable PNG")  # only now it tried
    jpeg = save(smooth(30, 40), folder / "limit.jpg")
    assert read_image(jpeg, max_pixels=1200).shape == (30, 40, 3)
    # by the original's size, also where fewer would be decoded
    assert reason(jpeg, max_pixels=1199, min_size=10) == "too large: 1,200 pixels, the limit is 1,199"
    bomb.write_bytes(png_header(0, 5))
    assert reason(bomb).startswith("unreadable PNG")


def test_the_limit_on_pixels_is_a_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(smooth(30, 40), folder / "setting.png")
    monkeypatch.setenv("FIFTYONE_CAM_MAX_PIXELS", "1199")
    assert reason(path) == "too large: 1,200 pixels, the limit is 1,199"
    monkeypatch.setenv("FIFTYONE_CAM_MAX_PIXELS", "1200")
    assert read_image(path).shape == (30, 40, 3)


def test_a_film_behind_a_jpeg_is_not_read(folder: Path) -> None:
    """As phones append one; here 100 GB of nothing, which no memory would hold."""
    path = save(smooth(30, 40), folder / "film.jpg")
    expected = read_image(path)
    os.truncate(path, 100 << 30)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "bmp", "avif", "jp2", "ppm", "tif", "tif+lzw", "webp"])
def test_pillow_s_own_limit_neither_warns_nor_refuses(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    options: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "tif+lzw" else {}
    path = save(smooth(30, 40), folder / f"large.{kind[:4].rstrip('+')}", **options)
    expected = read_image(path)
    # Pillow warns from its limit on and refuses from twice as much; in a WebP, alone, it refuses by the header.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 if kind == "webp" else 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(path), expected)


# reduced decoding


@settings(max_examples=80, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    min_size=st.integers(1, 300),
    orientation=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_a_reduced_jpeg_is_the_shrunk_full_one(
    folder: Path, height: int, width: int, min_size: int, orientation: int, seed: int
) -> None:
    path = save(smooth(height, width, seed), folder / "reduce.jpg", exif=exif(orientation), quality=95)
    full, reduced = read_image(path), read_image(path, min_size=min_size)
    factor = next(s for s in (8, 4, 2, 1) if s == 1 or min(height, width) // s >= min_size)
    assert reduced.shape == (math.ceil(full.shape[0] / factor), math.ceil(full.shape[1] / factor), 3)
    assert min(reduced.shape[:2]) >= min(min_size, height, width)
    undo = BY_DEFINITION[{6: 8, 8: 6}.get(orientation, orientation)]
    if min(height, width) >= 64:  # the soft colours of smaller pictures are not soft within one of JPEG's blocks
        whole, parts = whole_blocks(undo(full), factor), undo(reduced)[: height // factor, : width // factor]
        assert np.abs(whole.mean((0, 1)) - parts.mean((0, 1))).max() < 2
        assert difference(whole, parts) < 2


def whole_blocks(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each factor x factor block; what is left over at the right and the bottom is cut off."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    image = np.ascontiguousarray(image[: height * factor, : width * factor])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def test_a_reduced_photo_is_the_shrunk_full_one(data: Path) -> None:
    path = data / "hard_images" / "derived" / "dog_27mp.jpg"
    full = read_image(path)
    for min_size, factor in [(4501, 1), (4500, 1), (2251, 1), (2250, 2), (1125, 4), (562, 8), (1, 8)]:
        reduced = read_image(path, min_size=min_size)
        assert reduced.shape == (math.ceil(4500 / factor), 6000 // factor, 3)
        assert difference(whole_blocks(full, factor), reduced[: 4500 // factor]) < 0.3


def test_only_jpegs_are_reduced(folder: Path) -> None:
    for kind in ("png", "webp", "tif"):
        assert read_image(save(smooth(300, 200), folder / f"full.{kind}"), min_size=20).shape == (300, 200, 3)


# threads


def test_many_threads_read_the_same_and_change_nothing_global(data: Path) -> None:
    def read(path: Path) -> Any:
        try:
            return read_image(path, min_size=100)
        except ImageError as error:
            return np.frombuffer(str(error).encode(), np.uint8)

    paths = [p for p in sorted((data / "hard_images").glob("*/*")) if p.name != "dog_27mp.jpg"]
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters), threading.active_count())
    alone = [read(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            for path, one, other in zip(paths, alone, pool.map(read, paths), strict=True):
                np.testing.assert_array_equal(one, other, err_msg=path.name)
    after = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters), threading.active_count())
    assert before == after
