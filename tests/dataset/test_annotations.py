"""Annotations as people have them: one place in every form, their names, and what is broken in them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import fiftyone as fo
import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.runs import catalog
from tests.helpers.annotations import CLASSES, LEFT, RIGHT, add, boxes, column, left_half, true
from tests.helpers.stored_runs import Made, made_run


def rectangle(kind, tmp_path):
    """The left half of the image as the object, in every form that FiftyOne has for it."""
    corners = [(0, 0), (0.5, 0), (0.5, 1), (0, 1)]
    mask = np.zeros((10, 20), np.uint8)
    mask[:, :10] = 1
    if kind == "detection":
        return fo.Detection(bounding_box=[0, 0, 0.5, 1])
    if kind == "detections":
        return boxes((None, (-1, -1, 1.5, 3)))  # reaches beyond the image
    if kind == "overlapping":
        return boxes((None, (0, 0, 0.3, 1)), (None, (0.1, 0, 0.4, 1)))
    if kind == "polyline":
        return fo.Polyline(points=[corners], filled=True)
    if kind == "polylines":
        return fo.Polylines(polylines=[fo.Polyline(points=[corners[:3] + corners[2:]], closed=True)])
    if kind == "hole":
        right = [(0.5 + x, y) for x, y in corners]
        whole = [(0, 0), (1, 0), (1, 1), (0, 1)]
        return fo.Polylines(polylines=[fo.Polyline(points=[whole, right], closed=True, filled=True)])
    if kind == "instance mask":
        return fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1], mask=mask.astype(bool))])
    if kind == "instance mask file":
        path = str(tmp_path / "instance.png")
        cv2.imwrite(path, mask * 255)
        return fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1], mask_path=path)])
    if kind == "segmentation":
        return fo.Segmentation(mask=mask * 255)
    if kind == "segmentation of another size":
        return fo.Segmentation(mask=np.uint8([[1, 0]]))
    if kind == "segmentation file":
        path = str(tmp_path / "mask.png")
        cv2.imwrite(path, mask)
        return fo.Segmentation(mask_path=path)
    colour = np.zeros((4, 8, 3), np.uint8)  # "segmentation in colour"
    colour[:, :4] = (0, 128, 255)
    return fo.Segmentation(mask=colour)


FORMS = (
    "detection, detections, overlapping, polyline, polylines, hole, instance mask, instance mask file, segmentation, "
    "segmentation of another size, segmentation file, segmentation in colour"
)


@pytest.mark.parametrize("kind", FORMS.split(", "))
def test_one_place_in_every_form(dataset, kind, tmp_path, rng):
    grid = rng.normal(size=(3, 7))  # the middle column is half in, half out
    [sample_id] = add(dataset, {"ground_truth": true("cat"), "objects": rectangle(kind, tmp_path)})
    made_run(dataset, {sample_id: Made("cat", grid)}, CLASSES, ground_truth="ground_truth")
    found = focam.audit(dataset, objects="objects")
    coverage = np.array([1, 1, 1, 0.5, 0, 0, 0])
    evidence = np.float32(grid).astype(float)
    assert column(dataset, "evidence_in") == pytest.approx([(coverage * evidence).mean()])
    assert column(dataset, "inside") == pytest.approx([(coverage * evidence.clip(0)).sum() / evidence.clip(0).sum()])
    assert found.record.notes == []
    assert [part.label for part in dataset.first().cam_regions.classifications] == ["object", "background"]


@pytest.mark.parametrize("colour", [False, True])
def test_classes_of_a_mask_by_the_datasets_own_names(dataset, colour):
    mask = np.uint8([[1, 1, 2, 0]])
    names = {1: "cat", 2: "grass"}
    if colour:
        mask = np.stack([mask * 50, mask, mask], -1)
        names = {"#320101": "cat", "#640202": "grass"}
    [sample_id] = add(dataset, {"ground_truth": true("cat"), "scene": fo.Segmentation(mask=mask)})
    dataset.mask_targets = {"scene": names}
    made_run(dataset, {sample_id: Made("cat", np.float32([[2, 1, 3, 4]]))}, CLASSES, ground_truth="ground_truth")
    focam.audit(dataset, objects="scene")
    parts = {part.label: part.confidence for part in dataset.first().cam_regions.classifications}
    assert parts == pytest.approx({"cat": 0.3, "grass": 0.3, "background": 0.4})
    assert column(dataset, "inside") == pytest.approx([0.3])


def test_values_of_a_mask_that_has_no_names(dataset):
    [sample_id] = add(dataset, {"ground_truth": true("cat"), "scene": fo.Segmentation(mask=np.uint8([[1, 1, 2, 0]]))})
    made_run(dataset, {sample_id: Made("cat", np.float32([[2, 1, 3, 4]]))}, CLASSES, ground_truth="ground_truth")
    focam.audit(dataset, objects="scene")
    assert column(dataset, "inside") == pytest.approx([0.6])  # all that is not 0
    focam.audit(dataset, objects="scene", object_labels=[2])
    assert column(dataset, "inside") == pytest.approx([0.3])
    focam.audit(dataset, objects="scene", object_labels={"cat": [1]})
    assert column(dataset, "inside") == pytest.approx([0.3])
    assert {part.label for part in dataset.first().cam_regions.classifications} == {"1", "2", "background"}


def test_boxes_with_labels_are_the_object_of_their_class_alone(dataset):
    """The quarters of the image, from the left: cat, dog, both, nothing."""
    quarters = boxes(("cat", (0, 0, 0.25, 1)), ("dog", (0.25, 0, 0.5, 1)), ("cat", (0.5, 0, 0.25, 1)))
    ids = add(dataset, *[{"ground_truth": true(label), "objects": quarters} for label in ("cat", "dog", "owl")])
    grid = np.float32([[1, 2, 3, 4]])
    made_run(dataset, {i: Made("cat", grid) for i in ids}, CLASSES, ground_truth="ground_truth")
    focam.audit(dataset, objects="objects")
    assert column(dataset, "inside") == [pytest.approx(0.4), pytest.approx(0.5), None]  # the object keeps what is both
    assert column(dataset, "unjudged") == [None, None, "no object"]
    shares = [{p.label: p.confidence for p in s.cam_regions.classifications} for s in dataset]
    assert shares[0] == pytest.approx({"cat": 0.4, "dog": 0.2, "background": 0.4})
    assert shares[1] == pytest.approx({"dog": 0.5, "cat": 0.1, "background": 0.4})
    # no object here: to the smaller of two regions, and among equals by name
    assert shares[2] == pytest.approx({"cat": 0.4, "dog": 0.2, "background": 0.4})


def test_parts_count_as_the_object_where_one_says_so(dataset):
    things = boxes(("head", (0, 0, 0.25, 1)), ("tail", (0.75, 0, 0.25, 1)), ("bowl", (0.25, 0, 0.25, 1)))
    ids = add(dataset, *[{"ground_truth": true(label), "objects": things} for label in ("cat", "dog")])
    made_run(dataset, {i: Made("cat", [[1, 2, 3, 4]]) for i in ids}, CLASSES, ground_truth="ground_truth")
    with pytest.raises(focam.FieldError, match=r"'bowl', 'head', 'tail'.*'cat', 'dog'.*object_labels"):
        focam.audit(dataset, objects="objects")
    focam.audit(dataset, objects="objects", object_labels={"cat": ["head", "tail"], "dog": ["head"]})
    assert column(dataset, "inside") == pytest.approx([0.5, 0.1])
    assert {p.label for p in dataset.first().cam_regions.classifications} == {"head", "tail", "bowl", "background"}
    focam.audit(dataset, objects="objects", object_labels=["head", "tail"])
    assert column(dataset, "inside") == pytest.approx([0.5, 0.5])


def test_a_region_called_background_and_the_rest_are_one(dataset):
    things = boxes(("background", (0, 0, 0.25, 1)), (None, (0.25, 0, 0.25, 1)))
    [sample_id] = add(dataset, {"objects": things, "ground_truth": true("cat")})
    made_run(dataset, {sample_id: Made("cat", [[1, 2, 3, 4]])}, CLASSES, ground_truth="ground_truth")
    focam.audit(dataset, objects="objects")
    assert {p.label: p.confidence for p in dataset.first().cam_regions.classifications} == pytest.approx(
        {"object": 0.2, "background": 0.8}
    )


def test_annotations_without_an_area_are_ignored_and_counted(dataset):
    broken = boxes(
        (None, (0, 0, 0.5, 1)),
        (None, (0.5, 0, 0, 1)),
        (None, (0.9, 0.9, -0.2, 0.1)),
        (None, (float("nan"), 0, 1, 1)),
        (None, (0, 0, float("inf"), 1)),
    )
    broken.detections.append(fo.Detection(bounding_box=[0.5, 0, 0.5, 1], mask=np.zeros((4, 4), bool)))
    lines = fo.Polylines(
        polylines=[
            fo.Polyline(points=[[(0.5, 0), (1, 0), (1, 1)]]),
            fo.Polyline(points=[[(0.5, 0), (1, 0)]], closed=True),
            fo.Polyline(points=[[(0.5, 0), (float("nan"), 0), (1, 1)]], filled=True),
            fo.Polyline(points=[]),
        ]
    )
    [sample_id] = add(dataset, {"ground_truth": true("cat"), "boxes": broken, "lines": lines})
    made_run(dataset, {sample_id: Made("cat", LEFT + RIGHT / 2)}, CLASSES, ground_truth="ground_truth")
    found = focam.audit(dataset, objects=["boxes", "lines"])
    assert column(dataset, "inside") == pytest.approx([2 / 3])
    notes = " ".join(found.record.notes)
    assert "4 annotations ignored: box without an area" in notes
    assert "1 annotations ignored: empty mask" in notes
    assert "1 annotations ignored: open line" in notes
    assert "2 annotations ignored: polygon of fewer than three points" in notes
    assert "4 annotations ignored" in str(found)


def test_boxes_beyond_the_image_count_with_what_is_on_it(dataset):
    ids = add(dataset, *[{"objects": boxes((None, box))} for box in ((-0.5, -0.5, 1, 2), (0, 0, 0.5, 1))])
    made_run(dataset, {i: Made("cat", np.arange(12).reshape(3, 4)) for i in ids}, CLASSES)
    focam.audit(dataset, objects="objects")
    for name in ("inside", "area", "evidence_in"):
        beyond, within = column(dataset, name)
        assert beyond == pytest.approx(within)


def test_a_class_map_translates_many_to_one_and_what_it_lacks_is_wrong(dataset):
    ids = add(dataset, *[{"ground_truth": true("pet"), "objects": left_half()}] * 3)
    run = made_run(
        dataset, {i: Made(label, LEFT) for i, label in zip(ids, CLASSES, strict=True)}, CLASSES, class_map=None
    )
    with pytest.raises(focam.FieldError, match=r"no label of 'ground_truth' matches a class.*class_map"):
        focam.audit(dataset, ground_truth="ground_truth", objects="objects")
    with pytest.raises(focam.FieldError, match=r"'cow'.*does not predict"):
        focam.audit(dataset, ground_truth="ground_truth", objects="objects", class_map={"cow": "pet"})
    focam.audit(dataset, ground_truth="ground_truth", objects="objects", class_map={"cat": "pet", "dog": "pet"})
    assert column(dataset, "correct") == [True, True, False]
    assert column(dataset, "verdict") == ["trusted", "trusted", "confused"]
    # the run's own map is the default
    run = catalog.load_run(dataset, "cam")
    run.update(settings=replace(run.record.settings, class_map={"owl": "pet"}, ground_truth="ground_truth"))
    focam.audit(dataset, objects="objects")
    assert column(dataset, "correct") == [False, False, True]
