"""Settings and views that nobody expects: a right result, or an error in words; nothing counted wrongly."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_cam as focam
from tests.helpers.networks import NAMES


@pytest.mark.parametrize(
    "kwargs",
    [
        {"top_k": True},
        {"batch_size": True},
        {"class_map": {0: "cat"}, "ground_truth": "ground_truth"},
        {"class_map": {"cat": None}, "ground_truth": "ground_truth"},
        {"class_map": [("cat", "dog")], "ground_truth": "ground_truth"},
        {"class_map": {}, "ground_truth": "ground_truth"},
        {"ground_truth": "ground_truth.label"},
        {"ground_truth": "frames.ground_truth"},
        {"precision": "torch.float32"},
        {"engine": focam.Local},
        {"key": "é"},
        {"classifier": []},
    ],
    ids=str,
)
def test_settings_that_make_no_sense(photos, classifier, kwargs):
    with pytest.raises(focam.CamError):
        focam.compute_cam(photos, **{"classifier": classifier, **kwargs})


def test_a_deleted_dataset_says_so(photos, classifier):
    view = photos.limit(2)
    photos.delete()
    for samples in (photos, view):
        with pytest.raises(focam.RunError, match="is deleted"):
            focam.compute_cam(samples, classifier)


def test_whole_numbers_of_numpy_are_whole_numbers(photos, classifier):
    run = focam.compute_cam(photos, classifier, top_k=np.int64(2), batch_size=np.int32(5))
    assert run.record.settings.top_k == 2
    assert photos.count("cam_heatmap_2") == 12


@pytest.mark.parametrize("name", ["prediction", "heatmap", "contrast", "error"])
def test_a_field_that_somebody_deleted_is_computed_again(photos, classifier, name):
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    before = photos.values(f"cam_{name}.label" if name != "error" else "cam_error")
    photos.delete_sample_field(f"cam_{name}")
    again = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    assert photos.values(f"cam_{name}.label" if name != "error" else "cam_error") == before
    assert (again.counts.computed, again.record.accuracy) == (12, run.record.accuracy)
    assert focam.compute_cam(photos, classifier, ground_truth="ground_truth").counts.new == 0


def test_a_view_of_few_fields_is_counted_and_goes_on(photos, classifier):
    view = photos.sort_by("id", reverse=True).limit(5).select_fields("ground_truth")
    first = focam.compute_cam(view, classifier, ground_truth="ground_truth")
    assert (first.counts.samples, first.counts.computed, first.counts.new) == (5, 5, 5)
    assert first.record.accuracy is not None
    again = focam.compute_cam(view, classifier, ground_truth="ground_truth")
    assert (again.counts.computed, again.counts.new) == (5, 0)
    assert focam.compute_cam(photos.select_fields(), classifier, "bare").counts.computed == 12


def test_a_view_that_holds_samples_twice(photos, classifier):
    twice = photos.limit(3).concat(photos.limit(3))
    run = focam.compute_cam(twice, classifier, ground_truth="ground_truth")
    assert photos.count("cam_heatmap") == 3
    assert run.counts.failed == 0


def test_a_translation_in_a_circle_is_one_step(photos, classifier):
    """cat is called dog, dog fish, fish cat: each prediction is translated once."""
    circle = dict(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth", class_map=circle)
    predicted, true = photos.values(["cam_prediction.label", "ground_truth.label"])
    expected = np.mean([circle[label] == word for label, word in zip(predicted, true, strict=True)])
    assert run.record.accuracy == pytest.approx(expected)


def test_metadata_that_lie_change_nothing(photos, classifier):
    focam.compute_cam(photos, classifier)
    photos.set_values("metadata", [fo.ImageMetadata(width=9999, height=1, num_channels=9)] * 12)
    focam.compute_cam(photos, classifier, "lied")
    honest, lied = (photos.values([f"{key}_heatmap.cam.box", f"{key}_heatmap.logit"]) for key in ("cam", "lied"))
    assert lied == honest


def test_pictures_of_one_pixel_and_of_one_row(dataset, classifier, tmp_path):
    for number, size in enumerate([(1, 1), (1, 5000), (5000, 1)]):
        Image.new("RGB", size, (200, 10, 10)).save(tmp_path / f"{number}.png")
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / f"{number}.png")))
    run = focam.compute_cam(dataset, classifier)
    assert (run.counts.computed, run.counts.failed) == (3, 0)
    logits = dataset.values("cam_heatmap.logit")
    np.testing.assert_allclose(logits, logits[0], rtol=1e-5)  # one colour, whatever its shape
