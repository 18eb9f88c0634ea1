"""Small pictures for panels: they show the place, whatever the photo's shape and however small it is decoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fiftyone_cam.plugin import crops


def test_what_cannot_be_read_costs_its_own_crop(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    cv2.imwrite(str(good), np.full((40, 60, 3), 200, np.uint8))
    broken.write_bytes(b"no picture")
    place = (0.2, 0.2, 0.3, 0.3)
    found = crops.crops([(str(path), place) for path in (broken, good, tmp_path / "nowhere.png")])
    assert [url is None for url in found] == [True, False, True]


@pytest.mark.parametrize("size", [(1200, 900), (300, 1600), (40, 30)])
@pytest.mark.parametrize(
    "place", [(0.0, 0.0, 0.1, 0.1), (0.45, 0.45, 0.1, 0.1), (0.9, 0.8, 0.1, 0.2), (0.0, 0.0, 1.0, 1.0)]
)
def test_a_crop_is_around_its_place(
    size: tuple[int, int], place: tuple[float, float, float, float], tmp_path: Path
) -> None:
    """The place is painted red: in the crop, red fills what is outlined, and nothing beyond."""
    height, width = size
    image = np.full((height, width, 3), 90, np.uint8)
    x, y, w, h = place
    left, top, right, bottom = (round(v) for v in (x * width, y * height, (x + w) * width, (y + h) * height))
    image[top:bottom, left:right] = (0, 0, 255)
    path = tmp_path / "photo.jpg"
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    crop = crops.crop(str(path), place).astype(int)
    assert crop.shape == (crops.SIDE, crops.SIDE, 3)
    red = (crop[..., 0] > 150) & (crop[..., 1] < 110) & (crop[..., 2] < 110)
    side = min(height, width, max(1, round(max(1.4 * max(right - left, bottom - top), 0.25 * min(height, width)))))
    expected = min(right - left, side) * min(bottom - top, side) / side**2
    assert red.mean() == pytest.approx(expected, abs=0.06)
    grey = (np.abs(crop - 90) < 25).all(2)
    assert (red | grey).mean() > 0.8  # the rest is the outline
