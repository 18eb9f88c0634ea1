"""Pixels that are not eight bits of red, green and blue: ranges, bands, grey, and readers of one's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fiftyone_cam.core.errors import ImageError
from fiftyone_cam.core.explain import Prepared, prepare
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.results import Failure, Item

GREY = Preprocessing((Resize(size=(8, 8)),), mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_twelve_bits_in_sixteen_are_as_bright_as_they_are_said_to_be(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    values = np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(path)
    grey = read_image(path, full=4095)
    assert grey.shape == (48, 64, 3)
    np.testing.assert_array_equal(grey[..., 0], np.rint(values / 4095 * 255))
    colour = np.stack([values, values // 2, values // 4], 2)
    cv2.imwrite(str(path), colour[..., ::-1])
    np.testing.assert_array_equal(read_image(path, full=4095), np.rint(colour / 4095 * 255))
    assert read_image(path).max() == 15  # as every viewer shows it


def test_reflectance_and_hounsfield_units(tmp_path):
    path = str(tmp_path / "x.tiff")
    cv2.imwrite(path, np.full((4, 5), 2500, np.uint16))
    assert (read_image(path, full=10000) == 64).all()
    values = np.array([[-1000.0, 0.0, 1000.0, 3000.0]], np.float32)
    cv2.imwrite(path, values)
    assert read_image(path, full=(-1000, 1000))[0, :, 0].tolist() == [0, 128, 255, 255]
    cv2.imwrite(path, np.array([[np.nan, 0.0]], np.float32))
    with pytest.raises(ImageError, match="no finite numbers"):
        read_image(path, full=1)


def test_files_of_eight_bits_stay_as_they_are(tmp_path, rng):
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("x.png", "x.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, full=4095), pixels)


@pytest.mark.parametrize("writer", ["opencv", "unassociated", "unspecified"])
def test_near_infrared_is_no_transparency(tmp_path, writer):
    """FIELD_REPORTS 13: the colours of a four-band TIFF came out as if they lay over white."""
    path = str(tmp_path / "x.tiff")
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[...] = (200, 40, 40, 60)
    if writer == "opencv":
        cv2.imwrite(path, pixels[..., [2, 1, 0, 3]])
    else:
        Image.fromarray(pixels, "RGBA").save(path, tiffinfo={338: 2 if writer == "unassociated" else 0})
    assert read_image(path)[0, 0].tolist() == [200, 40, 40]


def test_a_cut_out_in_a_tiff_still_lies_over_white(tmp_path):
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[..., 0], pixels[:, :20, 3] = 200, 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "x.tiff")
    image = read_image(tmp_path / "x.tiff")
    assert image[0, 0].tolist() == [200, 0, 0]
    assert image[0, -1].tolist() == [255, 255, 255]


def test_one_mean_is_grey_as_pillow_makes_it(tmp_path, rng):
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    prepared = prepare(Item("", str(tmp_path / "x.png")), GREY)
    assert isinstance(prepared, Prepared)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    np.testing.assert_array_equal(prepared.pixels.numpy(), grey[None])
    torch.testing.assert_close(GREY.normalize(prepared.pixels[None])[0, 0], torch.tensor(grey / 255 * 4 - 2).float())


def test_a_reader_of_ones_own_gives_what_no_picture_holds(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.stack([np.full((6, 6), value) for value in (0.0, 0.5, 1.0, 2.0, 1.0)], 2))
    five = Preprocessing((Resize(size=(4, 4)),), mean=(0.5,) * 5, std=(0.5,) * 5, read=np.load, full=1.0)
    prepared = prepare(Item("", str(path)), five)
    assert isinstance(prepared, Prepared)
    assert five.normalize(prepared.pixels[None])[0, :, 2, 2].tolist() == pytest.approx([-1, 0, 1, 1, 1], abs=0.01)
    assert (prepared.size, prepared.frame) == ((6, 6), (0.0, 0.0, 1.0, 1.0))
    assert five.to_dict()["read"] == "numpy.load"
    with pytest.raises(ValueError, match=r"numpy\.load, which data cannot hold"):
        Preprocessing.from_dict(five.to_dict())

    one = Preprocessing(mean=(0.5,), std=(0.5,), read=lambda path: np.zeros((6, 7), np.uint8))
    assert one.apply(torch.from_numpy(one.pixels("")).permute(2, 0, 1)).shape == (1, 6, 7)
    three = Preprocessing(read=lambda path: np.zeros((6, 7), np.uint8))
    assert three.apply(torch.from_numpy(three.pixels("")).permute(2, 0, 1)).shape == (3, 6, 7)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (lambda path: np.zeros((3, 3), np.int16), "whose range is not known"),
        (lambda path: np.zeros(3), "expected numbers of shape"),
        (lambda path: 1 / 0, "read= fails on it: ZeroDivisionError"),
        (lambda path: np.zeros((3, 3, 2), np.uint8), "found 2 channels"),
    ],
)
def test_a_reader_that_fails_costs_its_file_and_says_why(reader, message):
    failure = prepare(Item("", "x"), Preprocessing(read=reader))
    assert isinstance(failure, Failure)
    assert message in failure.reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mean": (0.5,) * 4, "std": (0.5,) * 4}, "read="),
        ({"channels": "RGX"}, "letters R, G, B, L"),
        ({"channels": "L"}, "a mean for each"),
        ({"full": (3, 3)}, "black and white in order"),
        ({"full": -1}, "black and white in order"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**settings)


def test_what_is_said_survives_json():
    for preprocessing in (GREY, Preprocessing(channels="BGR", full=(-1000, 1000)), Preprocessing(full=4095.0)):
        assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    assert "channels" not in Preprocessing().to_dict()  # older records stay equal to new ones
