"""Decoding colours: every colour space and every depth, as red, green and blue of 8 bits."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fiftyone_cam.core.image import read_image
from tests.helpers.images import BLUE, GREEN, RED, YELLOW, reason, save, smooth


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
    if kind == "tif":  # where it is mostly something between, it is a band and no transparency
        pixels[..., -1] = np.where(rng.random((20, 30)) < 0.8, 255 * (pixels[..., -1] > 127), pixels[..., -1])
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


# more than 8 bits


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
