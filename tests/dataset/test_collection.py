"""What is a collection of images, and what is not: groups, patches, their clones, and crops."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.core.image import read_image
from fiftyone_cam.dataset.collection import require_images

BOXES = {"left": [0.0, 0.0, 0.5, 1.0], "right": [0.5, 0.25, 0.5, 0.5]}


@pytest.fixture
def photos(tmp_path):
    """Two pictures, red on the left and blue on the right, with an object in each half."""
    dataset = fo.Dataset()
    for index in range(2):
        pixels = np.zeros((40, 60, 3), np.uint8)
        pixels[:, :30, 0], pixels[:, 30:, 2] = 200 + index, 100 + index
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        objects = [fo.Detection(label=label, bounding_box=box) for label, box in BOXES.items()]
        dataset.add_sample(
            fo.Sample(
                filepath=str(tmp_path / f"{index}.png"), scene=f"s{index}", objects=fo.Detections(detections=objects)
            )
        )
    yield dataset
    dataset.delete()


def test_dynamic_groups_are_flattened(photos):
    """FIELD_REPORTS 11: the App's Group by ended in an AttributeError."""
    grouped = photos.group_by("scene")
    assert set(require_images(grouped).values("id")) == set(photos.values("id"))


def test_patches_and_their_clones_are_refused_with_the_way_out(photos):
    patches = photos.to_patches("objects")
    with pytest.raises(focam.RunError, match="crop_patches"):
        require_images(patches)
    clone = patches.clone()
    with pytest.raises(focam.RunError, match=r"whole images.*crop_patches"):
        require_images(clone)
    clone.delete()


def test_crops_are_what_lies_in_the_boxes(photos, tmp_path):
    patches = photos.to_patches("objects")
    crops = focam.crop_patches(patches, tmp_path / "crops")
    assert require_images(crops) is crops
    assert len(crops) == 4
    for crop in crops:
        image, source = read_image(crop.filepath), read_image(crop.source_filepath)
        left, top, width, height = crop.source_box
        assert list(crop.source_box) == BOXES[crop.objects.label]
        rows = slice(round(top * 40), round((top + height) * 40))
        columns = slice(round(left * 60), round((left + width) * 60))
        np.testing.assert_array_equal(image, source[rows, columns])
        assert photos[crop.source_id].filepath == crop.source_filepath
    crops.delete()


def test_a_crop_that_cannot_be_made_is_left_out_and_said(photos, tmp_path):
    first = photos.first()
    first.objects.detections.append(fo.Detection(label="beyond", bounding_box=[1.2, 0.1, 0.3, 0.3]))
    first.save()
    (tmp_path / "1.png").write_bytes(b"")
    crops = focam.crop_patches(photos.to_patches("objects"), tmp_path / "crops", margin=0.1)
    assert len(crops) == 2
    assert sorted(crops.info["left_out"].values()) == ["empty file", "empty file", "it lies outside the image"]
    assert read_image(crops.match({"objects.label": "left"}).first().filepath).shape == (40, 33, 3)
    crops.delete()
    with pytest.raises(focam.RunError, match="expected a view of patches"):
        focam.crop_patches(photos, tmp_path / "crops")


def test_crops_that_make_no_sense_are_refused_before_anything_is_written(photos, tmp_path):
    patches = photos.to_patches("objects")
    for arguments, words in (
        ((tmp_path / "0.png",), "is a file: give a folder"),
        ((None,), "the folder is None, expected a path"),
    ):
        with pytest.raises(focam.CamError, match=words):
            focam.crop_patches(patches, *arguments)
    for settings, words in (
        ({"name": photos.name}, "there is a dataset"),
        ({"margin": "x"}, "margin is 'x', expected"),
    ):
        with pytest.raises(focam.RunError, match=words):
            focam.crop_patches(patches, tmp_path / "crops", **settings)
    assert not (tmp_path / "crops").exists()
