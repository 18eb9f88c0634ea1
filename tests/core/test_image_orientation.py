"""Orientation: as the App shows it."""

from __future__ import annotations

import base64
import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.image import read_image
from tests.helpers.images import BLUE, BY_DEFINITION, GREEN, RED, YELLOW, difference, exif, save

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


@pytest.mark.slow
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
