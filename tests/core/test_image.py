"""Decoding: whatever the file is, either the picture that a person sees or a reason."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
import shutil
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
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.limits import Limits

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)

# What each EXIF orientation does to the stored picture, by definition of the tag: "the 0th row is the … side of the
# picture, the 0th column the …".
BY_DEFINITION = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of soft colours: what JPEG keeps, at any scale."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def save(array: np.ndarray, path: Path, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x112] = orientation
    return tags.tobytes()


def reason(path: Path, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    return str(caught.value)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


# --- real files -------------------------------------------------------------------------------------------------------

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


# --- not images -------------------------------------------------------------------------------------------------------


def test_says_what_is_wrong_with_what_is_no_image(folder: Path) -> None:
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "P").write_bytes(b"P")
    (folder / "half.png").write_bytes(save(smooth(9, 9), folder / "whole.png").read_bytes()[:-30])
    assert reason(folder / "missing.jpg") == "file not found"
    assert reason(folder / "empty.jpg") == "empty file"
    assert reason(folder) == "not a file: a directory"
    assert reason(folder / "text.jpg") == "not an image: begins with b'version https://'"
    assert reason(folder / "P") == "not an image: begins with b'P'"
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


# --- truncated --------------------------------------------------------------------------------------------------------


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


# --- colours ----------------------------------------------------------------------------------------------------------


def test_channels_are_red_green_blue_at_every_scale(folder: Path) -> None:
    quarters = np.repeat(np.repeat(np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8), 64, 0), 64, 1)
    for kind in ("jpg", "png", "webp", "avif", "bmp", "tif", "jp2", "ppm"):
        path = save(quarters, folder / f"quarters.{kind}")
        for min_size in (None, 64, 32, 16):
            image = read_image(path, min_size=min_size)
            small = cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA)[::3, ::3]
            assert np.abs(small.astype(int) - quarters[::64, ::64]).max() < 12, (kind, min_size)


def test_cmyk_with_and_without_adobe_s_marker(folder: Path) -> None:
    picture = Image.fromarray(smooth(40, 60)).convert("CMYK")
    path = folder / "cmyk.jpg"
    picture.save(path, quality=98)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 3
    # As browsers do, inverted inks are taken for granted also where no marker says so.
    content = path.read_bytes()
    start = content.index(b"\xff\xee")
    path.write_bytes(content[:start] + content[start + 2 + struct.unpack_from(">H", content, start + 2)[0] :])
    assert b"Adobe" not in path.read_bytes()
    assert np.abs(read_image(path).astype(int) - expected).max() <= 3


def test_grey_jpeg_and_one_bit(folder: Path) -> None:
    grey = smooth(30, 50)[..., 0]
    image = read_image(save(grey, folder / "grey.jpg", quality=98))
    assert np.abs(image.astype(int) - grey[..., None]).max() <= 4
    bits = grey > 128
    for kind in ("png", "tif", "bmp", "gif"):
        image = read_image(save(bits, folder / f"bits.{kind}"))
        np.testing.assert_array_equal(image, np.where(bits, 255, 0)[..., None].repeat(3, 2))


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "png"), ("LA", "png"), ("RGBA", "tif"), ("RGBA", "webp")])
def test_alpha_lies_over_white(folder: Path, rng: np.random.Generator, mode: str, kind: str) -> None:
    pixels = rng.integers(0, 256, (20, 30, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels).save(
        folder / f"alpha.{kind}", **({"lossless": True, "exact": True} if kind == "webp" else {})
    )
    opaque = pixels[..., -1:] / 255
    expected = pixels[..., :-1] * opaque + 255 * (1 - opaque)
    assert np.abs(read_image(folder / f"alpha.{kind}") - expected).max() <= 1


def test_palettes_and_single_transparent_values(folder: Path) -> None:
    indices = np.arange(60, dtype=np.uint8).reshape(6, 10) % 4
    palette = np.array([RED, GREEN, BLUE, YELLOW], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    for kind, options in {"png": {}, "gif": {}, "tif": {"compression": "tiff_lzw"}, "bmp": {}}.items():
        image.save(folder / f"p.{kind}", **options)
        np.testing.assert_array_equal(read_image(folder / f"p.{kind}"), palette[indices])
    image.save(folder / "p_plain.tif")
    np.testing.assert_array_equal(read_image(folder / "p_plain.tif"), palette[indices])

    over_white = np.where(indices[..., None] == 2, 255, palette[indices])
    for kind in ("png", "gif"):
        image.save(folder / f"p_transparent.{kind}", transparency=2)
        np.testing.assert_array_equal(read_image(folder / f"p_transparent.{kind}"), over_white)
    image.save(folder / "p_alpha.png", transparency=bytes([255, 0, 255, 51]))  # an alpha for each colour
    expected = palette.astype(float)
    expected[1], expected[3] = 255, expected[3] * 0.2 + 255 * 0.8
    assert np.abs(read_image(folder / "p_alpha.png") - expected[indices]).max() <= 1

    Image.fromarray(palette[indices]).save(folder / "rgb_t.png", transparency=BLUE)
    np.testing.assert_array_equal(read_image(folder / "rgb_t.png"), over_white)
    Image.fromarray(indices * 40).save(folder / "l_t.png", transparency=80)
    np.testing.assert_array_equal(read_image(folder / "l_t.png")[..., 0], np.where(indices == 2, 255, indices * 40))


# --- more than 8 bits -------------------------------------------------------------------------------------------------


def tiff(rows: bytes, width: int, height: int, bits: int, photometric: int = 1) -> bytes:
    """A minimal uncompressed little-endian grey TIFF."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(rows)))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + directory + b"\0\0\0\0"


@pytest.fixture(scope="module")
def grey16() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)


def expected16(grey16: np.ndarray) -> np.ndarray:
    return np.floor(grey16 / 257 + 0.5)[..., None].repeat(3, 2)


@pytest.mark.parametrize("kind", ["png", "tif", "tif+lzw", "pgm", "jp2"])
def test_sixteen_bit_grey_is_scaled_not_clipped(folder: Path, grey16: np.ndarray, kind: str) -> None:
    options: dict[str, Any] = {"compression": "tiff_lzw"} if kind == "tif+lzw" else {}
    path = save(grey16, folder / f"grey16.{kind[:3]}", **options)
    np.testing.assert_array_equal(read_image(path), expected16(grey16))


def test_sixteen_bit_tiffs_of_other_kinds(folder: Path, grey16: np.ndarray) -> None:
    Image.frombytes("I;16B", (30, 20), grey16.astype(">u2").tobytes()).save(folder / "big_endian.tif")
    np.testing.assert_array_equal(read_image(folder / "big_endian.tif"), expected16(grey16))
    (folder / "white_is_zero.tif").write_bytes(tiff(grey16.tobytes(), 30, 20, 16, photometric=0))
    np.testing.assert_array_equal(read_image(folder / "white_is_zero.tif"), 255 - expected16(grey16))


def test_twelve_bits_count_as_declared(folder: Path) -> None:
    a, b = np.meshgrid(np.arange(0, 4096, 273), np.arange(0, 4096, 273))  # two values a time, in three bytes
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8)
    (folder / "twelve.tif").write_bytes(tiff(packed.tobytes(), 32, 16, 12))
    values = np.stack([a, b], -1).reshape(16, 32)
    np.testing.assert_allclose(read_image(folder / "twelve.tif")[..., 0], values * 255 / 4095, atol=0.51)
    # declared as sixteen: nearly black, as in every viewer
    np.testing.assert_array_equal(read_image(save(values.astype(np.uint16), folder / "dark.png")), expected16(values))


def test_sixteen_bit_colour(folder: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    for kind in ("png", "tif"):
        cv2.imwrite(str(folder / f"rgb16.{kind}"), pixels[..., ::-1])
        assert np.abs(read_image(folder / f"rgb16.{kind}") - pixels / 257).max() <= 1


def test_the_transparent_grey_of_a_sixteen_bit_png_is_white(folder: Path, grey16: np.ndarray) -> None:
    hidden = int(grey16[3, 4])
    image = read_image(save(grey16, folder / "t16.png", transparency=hidden))
    np.testing.assert_array_equal(image, np.where((grey16 == hidden)[..., None], 255, expected16(grey16)))


def test_floats_lie_between_0_and_1_or_are_refused(folder: Path) -> None:
    ramp = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    np.testing.assert_allclose(read_image(save(ramp, folder / "float.tif"))[..., 0], ramp * 255, atol=0.51)
    for bad, found in [(ramp * 812 - 3, "from -3 to 809"), (np.where(ramp > 0.5, np.nan, ramp), "from nan to nan")]:
        text = reason(save(bad.astype(np.float32), folder / "bad.tif"))
        assert text == f"unknown range of values: pixels {found}, expected 0 to 1"
    integers = np.arange(600, dtype=np.int32).reshape(20, 30)
    np.testing.assert_array_equal(read_image(save(integers * 100, folder / "i.tif")), expected16(integers * 100))
    assert reason(save(integers - 1, folder / "i.tif")).endswith("pixels from -1 to 598, expected 0 to 65535")


# --- animations and sizes ---------------------------------------------------------------------------------------------


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


# --- orientation: as the App shows it ---------------------------------------------------------------------------------

QUARTERS = np.repeat(np.repeat(np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8), 24, 0), 40, 1)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\
<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'


def which_orientation(image: np.ndarray) -> int:
    """1 to 8: what was done to QUARTERS to get this."""
    for orientation, transform in BY_DEFINITION.items():
        expected = transform(QUARTERS)
        if expected.shape == image.shape and difference(image, expected) < 15:
            return orientation
    raise AssertionError(f"not the picture in any of eight ways: {image.shape}")


def directory(*entries: tuple[int, int, int], order: str = "<") -> bytes:
    """EXIF with (type, count, value) entries of the orientation tag."""
    body = struct.pack(f"{order}H", len(entries))
    for kind, count, value in entries:
        body += struct.pack(f"{order}HHI", 0x112, kind, count)
        body += {1: struct.pack("B3x", value), 3: struct.pack(f"{order}HH", value, 0)}.get(
            kind, struct.pack(f"{order}I", value)
        )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + magic + struct.pack(f"{order}I", 8) + body + b"\0\0\0\0"


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + jpeg[2:]


def orientation_cases(folder: Path) -> dict[str, int]:
    """Files, and the way in which Chromium 156 shows each (1 also means: the tag is ignored)."""
    cases = {}
    for kind in ("jpg", "png", "webp", "avif"):
        options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        for orientation in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 300):
            save(QUARTERS, folder / f"exif{orientation}.{kind}", exif=exif(orientation), **options)
            valid = 1 <= orientation <= 8 and kind != "webp"
            cases[f"exif{orientation}.{kind}"] = orientation if valid else 1
        save(QUARTERS, folder / f"xmp6.{kind}", xmp=XMP.format(6).encode(), **options)
        cases[f"xmp6.{kind}"] = 1
        save(QUARTERS, folder / f"xmp8_exif6.{kind}", xmp=XMP.format(8).encode(), exif=exif(6), **options)
        cases[f"xmp8_exif6.{kind}"] = 1 if kind == "webp" else 6
        if kind != "avif":
            save(QUARTERS, folder / f"garbage.{kind}", exif=b"Exif\0\0garbage!!", **options)
            cases[f"garbage.{kind}"] = 1

    six = directory((3, 1, 6))
    jpeg = save(QUARTERS, folder / "plain.jpg", quality=95).read_bytes()
    for name, expected, segments in [
        ("big_endian", 6, [directory((3, 1, 6), order=">")]),
        ("long", 1, [directory((4, 1, 6))]),
        ("byte", 1, [directory((1, 1, 6))]),
        ("two_values", 1, [directory((3, 2, 6))]),
        ("twice", 6, [directory((3, 1, 6), (3, 1, 8))]),
        ("two_segments", 6, [six, directory((3, 1, 8))]),
        ("two_segments_first_invalid", 1, [directory((3, 1, 0)), directory((3, 1, 8))]),
        ("xmp_first", 6, [b"http://ns.adobe.com/xap/1.0/\0" + XMP.format(8).encode(), six]),
        ("cut_in_the_entry", 1, [six[:26]]),
        ("points_outside", 1, [b"Exif\0\0II*\0\xff\xff\xff\x7f"]),
        ("claims_500_entries", 6, [six[:14] + struct.pack("<H", 500) + six[16:]]),
    ]:
        (folder / f"{name}.jpg").write_bytes(with_segments(jpeg, *segments))
        cases[f"{name}.jpg"] = expected

    png = save(QUARTERS, folder / "plain.png").read_bytes()
    profile = six.hex()
    profile = f"\nexif\n{len(six):8d}\n" + "\n".join(profile[i : i + 72] for i in range(0, len(profile), 72)) + "\n"
    for name, expected, kind, content, before in [
        ("exif_before_pixels", 6, b"eXIf", six[6:], b"IDAT"),
        ("exif_after_pixels", 1, b"eXIf", six[6:], b"IEND"),
        ("exif_with_jpeg_s_prefix", 1, b"eXIf", six, b"IDAT"),
        ("imagemagick_s_profile", 1, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile.encode()), b"IDAT"),
    ]:
        chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        at = png.index(before) - 4
        (folder / f"{name}.png").write_bytes(png[:at] + chunk + png[at:])
        cases[f"{name}.png"] = expected
    return cases


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_orientation_is_what_the_browser_makes_of_it(tmp_path: Path) -> None:
    cases = orientation_cases(tmp_path)
    assert {name: which_orientation(read_image(tmp_path / name)) for name in cases} == cases


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_which_no_browser_shows_is_turned_by_its_own_tag(folder: Path, compression: str) -> None:
    for orientation in range(10) if compression == "raw" else range(1, 9):  # libtiff writes no wrong tags
        path = save(QUARTERS, folder / "turned.tif", exif=exif(orientation), compression=compression)
        assert which_orientation(read_image(path)) == (orientation if 1 <= orientation <= 8 else 1)


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_chromium_shows_the_same_pictures(tmp_path: Path, data: Path) -> None:
    """The promise itself: orientation, first frames, alpha and 16 bits, as the browser shows them."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    draw = """async data => {
        const image = new Image();
        image.src = data;
        try { await image.decode(); } catch { return null; }
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext("2d");
        context.fillStyle = "white";
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.drawImage(image, 0, 0);
        return canvas.toDataURL("image/png");
    }"""
    kinds = {".jpg": "jpeg", ".png": "png", ".webp": "webp", ".avif": "avif", ".gif": "gif", ".bmp": "bmp"}
    paths = [tmp_path / name for name in orientation_cases(tmp_path)]
    paths += [path for path in (data / "hard_images").glob("*/*") if path.suffix in kinds]
    coloured = {"icc_profile_big.jpg", "xmp_tags_orientation.png", "pil123p.png", "exif_imagemagick_orientation.png"}
    compared = 0
    with sync_api.sync_playwright() as playwright:
        arguments = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        arguments += " --disable-component-update --disable-sync"
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments.split())
        page = browser.new_page()
        for path in paths:
            try:
                image = read_image(path, max_pixels=10**7)
            except ImageError:
                continue
            content = base64.b64encode(path.read_bytes()).decode()
            seen = page.evaluate(draw, f"data:image/{kinds[path.suffix]};base64,{content}")
            assert seen is not None, path.name
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen.split(",")[1]))).convert("RGB"))
            assert picture.shape == image.shape, path.name
            if "truncated" in path.name:  # the browser leaves the rest open, libjpeg makes it grey
                continue
            # colour profiles and gamma, which browsers apply, change colours but not what lies where
            assert difference(picture, image) <= (20 if path.name in coloured else 1.1), path.name
            compared += 1
        browser.close()
    assert compared > 100


@settings(max_examples=60, deadline=None)
@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
    orientation=st.integers(0, 9),
)
def test_a_png_of_any_orientation_round_trips(folder: Path, pixels: np.ndarray, orientation: int) -> None:
    path = save(pixels, folder / "any.png", exif=exif(orientation))
    np.testing.assert_array_equal(read_image(path), BY_DEFINITION.get(orientation, BY_DEFINITION[1])(pixels))


# --- reduced decoding -------------------------------------------------------------------------------------------------


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


# --- threads ----------------------------------------------------------------------------------------------------------


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
