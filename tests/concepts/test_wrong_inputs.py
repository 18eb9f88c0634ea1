"""What is asked of concepts wrongly is refused in words, and harms nothing that is there."""

from __future__ import annotations

from functools import partial

import fiftyone as fo
import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.runs.concept_sums import Sums


@pytest.fixture()
def found(photos, classifier):
    focam.compute_cam(photos, classifier, ground_truth="ground_truth", progress=False)
    return focam.find_concepts(photos, "cam", classifier, count=6, progress=False)


def test_predictions_without_a_concept_are_written_over_nothing_else(photos, found):
    focam.what_if(photos, "cam", without="concept 1", into="clean")
    before = {path: photos.values(path) for path in ("cam_prediction", "cam_concepts.detections.label")}
    maps = [heat.cam.grid for heat in photos.values("cam_heatmap")]
    for into in ("heatmap", "prediction", "error", "concepts", "clean_change", "a b", "", None):
        with pytest.raises(focam.CamError, match=r"into is .*(holds something else|expected the end)"):
            focam.what_if(photos, "cam", without="concept 2", into=into)
    assert {path: photos.values(path) for path in before} == before
    np.testing.assert_array_equal(maps, [heat.cam.grid for heat in photos.values("cam_heatmap")])
    assert focam.what_if(photos, "cam", without="concept 2", into="clean").without == ["concept 2"]  # its own, again
    focam.what_if(photos, "cam", without="concept 2", into="boxes")
    with pytest.raises(focam.FieldError, match="'cam_boxes' holds Classification, expected Detections"):
        focam.localize(photos, "cam")


@pytest.mark.parametrize("delete", [focam.delete_concepts, focam.delete_run], ids=["concepts", "run"])
def test_what_a_clone_does_with_its_concepts_is_its_own_affair(photos, found, classifier, delete):
    clone = photos.clone()
    delete(clone, "cam")
    assert Sums(found.record.folder).path.is_dir()
    assert focam.what_if(photos, "cam", without="concept 1").judged == 12
    clone.delete()
    focam.find_concepts(photos, "cam", classifier, count=5, progress=False)
    assert not Sums(found.record.folder).path.exists(), "nobody needs it any more"


def test_names_and_numbers_that_are_none(photos, found, classifier):
    calls = [
        (lambda: focam.what_if(photos, without=[]), "no concept is left out"),
        (lambda: focam.what_if(photos, without=None), "without is None, expected names"),
        (lambda: focam.what_if(photos, without=[7]), r"without is \[7\], expected names"),
        (lambda: focam.what_if(photos.limit(0), without="concept 1"), "there are no samples"),
        (lambda: focam.what_if(photos.to_patches("cam_concepts"), without="concept 1"), "expected whole images"),
        (lambda: found.concept(None), "no concept None"),
        (lambda: focam.find_concepts(photos, "cam", classifier, seed="x"), "seed is 'x', expected a whole number"),
        (lambda: focam.find_concepts(photos, "cam", classifier, seed=-1), "seed is -1, expected a whole number"),
    ]
    for call, words in calls:
        with pytest.raises(focam.CamError, match=words):
            call()
    report = focam.name_concept(photos, "cam", "concept 1", "a\nb | ü $x.y/'\"")
    assert len(str(report).splitlines()) == len(str(found).splitlines()), "a name is one line of the table"
    photos.delete_sample_field("cam_concepts")
    for places in (report.view, report.patches):
        with pytest.raises(focam.FieldError, match="has no field 'cam_concepts'"):
            places("concept 2")


@pytest.mark.parametrize("samples", [None, "photos", 7, []])
def test_what_is_no_dataset_is_named(samples):
    calls = [focam.list_runs, focam.list_trainings, focam.list_concepts, focam.load_concepts, focam.load_audit]
    calls += [partial(each, key="cam") for each in (focam.load_run, focam.load_training, focam.delete_run)]
    calls += [partial(focam.what_if, without="concept 1")]
    for call in calls:
        with pytest.raises(focam.RunError, match="expected a FiftyOne dataset or view, found"):
            call(samples)


def test_a_view_of_another_groups_concepts_says_so(photos, found):
    photos.add_sample(fo.Sample(filepath="/none.jpg"))
    with pytest.raises(focam.RunError, match="none of these samples has concepts"):
        focam.what_if(photos.skip(12), without="concept 1")
