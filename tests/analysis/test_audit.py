"""The audit on real datasets: its sums, its invariances, its words, and annotations as people have them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.analysis import audit_report
from fiftyone_cam.analysis.tables import class_name
from fiftyone_cam.core.evidence import focus
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.dataset import bulk
from fiftyone_cam.runs import catalog, lease
from fiftyone_cam.runs.record import to_plain
from tests.helpers.networks import Brightness, tiny_gap, write_photos
from tests.helpers.stored_runs import Made, made_run

CLASSES = ["cat", "dog", "owl"]
LEFT = np.float32([[4, 0]] * 2)  # all evidence on the left half of the image
RIGHT = LEFT[:, ::-1]


def add(dataset, *samples: dict) -> list[str]:
    """Samples with these fields; their ids in order."""
    start = dataset.count()
    return dataset.add_samples([fo.Sample(filepath=f"/none/{start + i}.jpg", **s) for i, s in enumerate(samples)])


def true(label: str | None) -> fo.Classification | None:
    return None if label is None else fo.Classification(label=label)


def boxes(*entries) -> fo.Detections:
    """Boxes ``(label, [x, y, w, h])``."""
    return fo.Detections(detections=[fo.Detection(label=label, bounding_box=list(box)) for label, box in entries])


def left_half(label=None):
    return boxes((label, (0, 0, 0.5, 1)))


def mirror(box):
    return (1 - box[0] - box[2], *box[1:])


def column(dataset, name, key="cam"):
    return dataset.values(f"{key}_{name}")


# sums, on everything at once


@pytest.fixture()
def zoo(dataset, rng):
    """Sixty samples with random maps on random grids, and annotations of every kind, overlapping at random."""
    made, samples = [], []
    for i in range(60):
        shape = tuple(rng.integers(1, 9, 2))
        seen = (0.1, 0.0, 0.8, 1.0) if i % 3 else (0.0, 0.0, 1.0, 1.0)
        box = (seen[0] - 0.01, seen[1] + 0.02, seen[2], seen[3])
        grid = rng.normal(-3 if i % 10 == 7 else 0.3, 1, shape)
        made.append(Made(str(rng.choice(CLASSES)), grid, float(rng.normal()), float(rng.random()), box, seen))
        names = rng.choice([*CLASSES, "grass"], 3)
        samples.append(
            {
                "ground_truth": true(str(rng.choice(CLASSES))),
                "boxes": boxes(*((str(n), (*rng.uniform(-0.2, 0.8, 2), *rng.uniform(0, 0.6, 2))) for n in names)),
                "outlines": fo.Polylines(
                    polylines=[
                        fo.Polyline(label=str(n), points=[rng.random((5, 2)).tolist()], closed=True, filled=bool(j))
                        for j, n in enumerate(names[:2])
                    ]
                ),
                "scene": fo.Segmentation(mask=rng.integers(0, 4, (6, 9)).astype(np.uint8)),
            }
        )
    ids = add(dataset, *samples)
    dataset.mask_targets = {"scene": {1: "cat", 2: "grass", 3: "sky"}}
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, ground_truth="ground_truth")
    return dataset


def test_every_sum_holds_on_every_sample(zoo):
    found = focam.audit(zoo, objects=["boxes", "outlines", "scene"])
    assert found.verdicts.keys() == set(audit_report.VERDICTS)
    assert sum(found.verdicts.values()) + sum(found.unjudged.values()) == 60
    assert len(found.unjudged) >= 2  # so that the sum has something to add up
    assert sum(row.samples for row in found.classes[:-1]) == found.classes[-1].samples == 60

    judged = 0
    for sample in zoo:
        heat = sample.cam_heatmap
        if sample.cam_evidence_in is not None:
            total = sample.cam_evidence_in + sample.cam_evidence_out + heat["bias"]
            assert total == pytest.approx(heat["logit"], rel=1e-9, abs=1e-9)
        if sample.cam_regions is None:
            assert heat["grid"].max() <= 0 or sample.cam_unjudged == "no object"
            continue
        parts = sample.cam_regions.classifications
        assert sum(part.confidence for part in parts) == pytest.approx(1, abs=1e-9)
        assert sum(part.area for part in parts) == pytest.approx(1, abs=1e-9)
        assert [part.label for part in parts].count("background") == 1
        mine = [part for part in parts if part.label == sample.ground_truth.label]
        if sample.cam_inside is not None:
            assert sum(part.confidence for part in mine) == pytest.approx(sample.cam_inside, abs=1e-9)
            assert sum(part.area for part in mine) == pytest.approx(sample.cam_area, abs=1e-9)
        assert (sample.cam_verdict is None) != (sample.cam_unjudged is None)
        if sample.cam_verdict is not None:
            judged += 1
            on = focus(sample.cam_inside, sample.cam_area) >= 0.6
            right = sample.cam_prediction.label == sample.ground_truth.label
            words = {(True, True): "trusted", (True, False): "shortcut", (False, True): "confused"}
            assert sample.cam_verdict == words.get((right, on), "distracted")
    assert judged >= 30


def test_flipping_images_and_annotations_together_changes_nothing(zoo):
    focam.audit(zoo, objects=["boxes", "outlines", "scene"])
    flipped, made, samples = fo.Dataset(), [], []
    for sample in zoo:
        heat = sample.cam_heatmap
        places = mirror(heat["box"]), mirror(heat["seen"])
        made.append(Made(heat.label, heat["grid"][:, ::-1], heat["bias"], sample.cam_prediction.confidence, *places))
        samples.append(
            {
                "ground_truth": true(sample.ground_truth.label),
                "boxes": boxes(*((d.label, mirror(d.bounding_box)) for d in sample.boxes.detections)),
                "outlines": fo.Polylines(
                    polylines=[
                        fo.Polyline(label=p.label, points=[[(1 - a, b) for a, b in p.points[0]]], closed=True)
                        for p in sample.outlines.polylines
                    ]
                ),
                "scene": fo.Segmentation(mask=sample.scene.mask[:, ::-1].copy()),
            }
        )
    flipped.mask_targets = zoo.mask_targets
    try:
        made_run(flipped, dict(zip(add(flipped, *samples), made, strict=True)), CLASSES, ground_truth="ground_truth")
        focam.audit(flipped, objects=["boxes", "outlines", "scene"])
        for name in ("spread", "border", "half_cells", "inside", "area", "focus", "evidence_in", "evidence_out"):
            assert column(flipped, name) == pytest.approx(column(zoo, name), abs=1e-6), name
        for name in ("verdict", "unjudged", "correct"):
            assert column(flipped, name) == column(zoo, name), name
        peaks = [(column(d, "peak"), d) for d in (zoo, flipped)]
        for one, other in zip(*(found for found, _ in peaks), strict=True):
            if one is not None:
                assert other.points[0][0] == pytest.approx(1 - one.points[0][0])
    finally:
        flipped.delete()


def test_flipping_real_images_with_their_boxes_changes_nothing(dataset, tmp_path):
    """Through a real forward pass of a network without a preferred side."""
    paths = write_photos(tmp_path, 8, (64, 64))
    for path in paths:
        cv2.imwrite(path.replace("photo", "flipped"), cv2.imread(path)[:, ::-1])
    box = (0.1, 0.2, 0.3, 0.6)
    dataset.add_samples(
        [
            fo.Sample(filepath=p, objects=boxes((None, b)), ground_truth=true("bright"))
            for p in paths
            for p, b in ((p, box), (p.replace("photo", "flipped"), mirror(box)))
        ]
    )
    classifier = focam.load_classifier(
        Brightness(8), ["bright", "dark"], preprocessing=Preprocessing((Resize(size=(64, 64)),))
    )
    classifier.network.grid_frame = (0.0, 0.0, 1.0, 1.0)  # exact by design; measured, it is off by noise
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth")
    focam.audit(dataset, objects="objects")
    for name in ("inside", "evidence_in", "evidence_out", "spread", "verdict"):
        values = column(dataset, name)
        if name == "verdict":
            assert values[::2] == values[1::2]
        else:
            assert values[::2] == pytest.approx(values[1::2], abs=1e-4), name
    assert len(set(column(dataset, "inside"))) > 4


# words


def test_the_four_verdicts(dataset):
    ids = add(dataset, *[{"ground_truth": true("cat"), "objects": left_half()}] * 4)
    made = [Made("cat", LEFT), Made("cat", RIGHT), Made("dog", LEFT), Made("dog", RIGHT)]
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES)
    found = focam.audit(dataset, ground_truth="ground_truth", objects="objects")
    assert (
        column(dataset, "verdict") == list(audit_report.VERDICTS) == ["trusted", "shortcut", "confused", "distracted"]
    )
    assert column(dataset, "inside") == [1, 0, 1, 0]
    assert column(dataset, "focus") == [1, 0, 1, 0]
    assert column(dataset, "area") == [0.5] * 4
    assert column(dataset, "peak_inside") == [True, False, True, False]
    assert column(dataset, "correct") == [True, True, False, False]
    assert found.unjudged == {}
    for verdict, sample_id in zip(audit_report.VERDICTS, ids, strict=True):
        assert dataset.load_saved_view(f"cam {verdict}").values("id") == [sample_id]


@pytest.mark.parametrize(("threshold", "verdict"), [(0.5, "trusted"), (0.7, "trusted"), (0.8, "shortcut")])
def test_the_threshold_is_a_focus_whatever_the_objects_size(dataset, threshold, verdict):
    """Three times as dense on the object as off it: focus 0.75, on a half and on an eighth of the image alike."""
    half = np.repeat([[3.0, 1.0]], 4, axis=0)
    eighth = np.ones((4, 2))
    eighth[0, 0] = 3
    ids = add(
        dataset,
        {"ground_truth": true("cat"), "objects": left_half()},
        {"ground_truth": true("cat"), "objects": boxes((None, (0, 0, 0.5, 0.25)))},
    )
    made_run(dataset, {ids[0]: Made("cat", half), ids[1]: Made("cat", eighth)}, CLASSES, ground_truth="ground_truth")
    focam.audit(dataset, objects="objects", threshold=threshold)
    assert column(dataset, "focus") == pytest.approx([0.75, 0.75])
    assert column(dataset, "inside") == pytest.approx([0.75, 0.3])
    assert column(dataset, "verdict") == [verdict] * 2


def test_an_object_that_fills_the_image_proves_nothing(dataset):
    ids = add(
        dataset,
        {"ground_truth": true("cat"), "objects": boxes((None, (0, 0, 1, 1)))},
        {"ground_truth": true("cat"), "objects": boxes((None, (0, 0, 1, 0.95)))},
        {"ground_truth": true("cat"), "objects": boxes((None, (0, 0, 1, 0.85)))},
    )
    made_run(dataset, {i: Made("cat", np.ones((20, 2))) for i in ids}, CLASSES, ground_truth="ground_truth")
    found = focam.audit(dataset, objects="objects")
    assert column(dataset, "inside") == pytest.approx([1, 0.95, 0.85])
    assert column(dataset, "unjudged") == ["object fills the image"] * 2 + [None]
    assert found.unjudged == {"object fills the image": 2}


def test_the_peak_is_where_the_strongest_cell_looks(dataset, rng):
    grid = rng.normal(size=(5, 7))
    grid[3, 1] = 9
    seen, box = (0.1, 0.0, 0.8, 1.0), (0.12, -0.01, 0.8, 1.0)
    [sample_id] = add(dataset, {})
    made_run(dataset, {sample_id: Made("cat", grid, box=box, seen=seen)}, CLASSES)
    focam.audit(dataset)
    peak = dataset.first().cam_peak
    assert peak.points == [pytest.approx([0.12 + 0.8 * 1.5 / 7, -0.01 + 3.5 / 5])]
    assert (peak.label, peak["value"]) == ("cat", 9)


# annotations as people have them


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


# less than everything


def test_without_any_annotation_it_says_how_the_evidence_is_spread(dataset):
    one = np.zeros((3, 3))
    one[1, 1] = 2
    ids = add(dataset, {}, {}, {})
    made = {ids[0]: Made("cat", one), ids[1]: Made("cat", np.ones((3, 3))), ids[2]: Made("cat", -np.ones((3, 3)))}
    made_run(dataset, made, CLASSES)
    found = focam.audit(dataset)
    assert column(dataset, "spread") == [0, pytest.approx(1), None]
    assert column(dataset, "border") == [0, pytest.approx(8 / 9), None]
    assert column(dataset, "half_cells") == [1, 5, None]
    assert column(dataset, "peak")[2] is None
    for name in ("verdict", "inside", "correct", "margin"):
        assert not dataset.has_sample_field(f"cam_{name}")
    assert not dataset.list_saved_views()
    assert "no annotation of objects" in str(found)
    assert found.verdicts == dict.fromkeys(audit_report.VERDICTS, 0)


def test_without_ground_truth_all_that_is_annotated_is_the_object(dataset):
    [sample_id] = add(dataset, {"objects": boxes(("cat", (0, 0, 0.25, 1)), ("bowl", (0.75, 0, 0.25, 1)))})
    made_run(dataset, {sample_id: Made("cat", [[1, 2, 3, 4]])}, CLASSES)
    found = focam.audit(dataset, objects="objects")
    assert column(dataset, "inside") == pytest.approx([0.5])
    assert not dataset.has_sample_field("cam_verdict")
    assert found.regions[0][:2] == (None, "background")
    assert found.classes[0].label == "cat"  # by prediction
    assert found.classes[0].accuracy is None
    focam.audit(dataset, objects="objects", object_labels=["cat"])
    assert column(dataset, "inside") == pytest.approx([0.1])


def test_the_margin_to_the_runner_up_where_the_run_kept_it(dataset):
    ids = add(dataset, {}, {})
    made = [
        Made("cat", np.full((2, 2), 3.0), 0.5, runner_up=("dog", 1.25)),
        Made("owl", np.ones((2, 2)), 0.0, runner_up=("cat", 0.5)),
    ]
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, top_k=2)
    focam.audit(dataset)
    assert column(dataset, "margin") == pytest.approx([2.25, 0.5])


# bad input


def test_samples_about_which_nothing_can_be_said_are_counted_by_reason(dataset, tmp_path):
    lost = fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 1, 1], mask_path=str(tmp_path / "lost.png"))])
    cases = {
        None: ("cat", left_half(), Made("cat", LEFT)),
        "no map": ("cat", left_half(), None),
        "no ground truth": (None, left_half(), Made("cat", LEFT)),
        "its label matches no class": ("Cat", left_half(), Made("cat", LEFT)),
        "no object": ("cat", None, Made("cat", LEFT)),
        "its object cannot be read": ("cat", lost, Made("cat", LEFT)),
        "object not seen": ("cat", boxes((None, (0.9, 0, 0.1, 1))), Made("cat", LEFT, seen=(0, 0, 0.8, 1))),
        "object fills the image": ("cat", boxes((None, (0, 0, 1, 1))), Made("cat", LEFT)),
        "no positive evidence": ("cat", left_half(), Made("cat", -LEFT - 1)),
    }
    ids = add(dataset, *[{"ground_truth": true(label), "objects": thing} for label, thing, _ in cases.values()])
    made_run(dataset, {i: made for i, (*_, made) in zip(ids, cases.values(), strict=True)}, CLASSES)
    found = focam.audit(dataset, ground_truth="ground_truth", objects="objects")
    assert column(dataset, "unjudged") == list(cases)
    assert found.unjudged == {reason: 1 for reason in cases if reason}
    assert found.verdicts == {"trusted": 1, "shortcut": 0, "confused": 0, "distracted": 0}
    assert any("1 samples have a label that matches no class: Cat" in note for note in found.record.notes)
    for reason in filter(None, cases):
        assert f"1 x {reason}" in str(found)
    seen_through = dataset.match(F("cam_unjudged") == "no positive evidence").first()
    assert seen_through.cam_evidence_in + seen_through.cam_evidence_out == pytest.approx(-3)


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


def test_fields_that_cannot_be_used_are_refused_with_what_could_be(dataset):
    ids = add(dataset, {"ground_truth": true("cat"), "objects": left_half(), "note": "x", "point": fo.Keypoint()})
    made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    with pytest.raises(focam.FieldError, match=r"no field 'boxes'.*this dataset has objects"):
        focam.audit(dataset, objects="boxes")
    for field in ("note", "point", "ground_truth"):
        with pytest.raises(focam.FieldError, match=f"'{field}' is of type .* says nothing about places.*Polylines"):
            focam.audit(dataset, objects=["objects", field])
    with pytest.raises(focam.FieldError, match=r"no field 'truth'.*ground_truth"):
        focam.audit(dataset, ground_truth="truth")
    with pytest.raises(focam.FieldError, match="'objects' is of type Detections, expected Classification"):
        focam.audit(dataset, ground_truth="objects")
    with pytest.raises(focam.CamError, match=r"threshold is 1\.5"):
        focam.audit(dataset, threshold=1.5)
    with pytest.raises(focam.RunError, match="no CAM run 'other'"):
        focam.audit(dataset, "other")
    with pytest.raises(focam.FieldError, match="leaves out the field 'cam_heatmap'"):
        focam.audit(dataset.select_fields("objects"), objects="objects")
    with pytest.raises(focam.RunError, match="PatchesView"):
        focam.audit(dataset.to_patches("objects"))
    assert not [name for name in dataset.get_field_schema() if name in ("cam_spread", "cam_inside", "cam_verdict")]


def test_a_run_that_is_being_computed_is_left_alone(dataset):
    ids = add(dataset, {})
    run = made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    lease.take(run)
    with pytest.raises(focam.RunError, match="is being computed: wait for it"):
        focam.audit(dataset)
    lease.forget(run)  # as if it had been killed: what it left can be worked with
    run.update(process=None)
    assert run.status == "interrupted"
    focam.audit(dataset)
    assert dataset.first()["cam_spread"] is not None


def test_a_field_of_the_user_is_never_taken(dataset):
    ids = add(dataset, {"cam_inside": 7.5, "objects": left_half()})
    made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    with pytest.raises(focam.FieldError, match=r"'cam_inside' exists and was not written by run"):
        focam.audit(dataset, objects="objects")
    assert column(dataset, "inside") == [7.5]
    focam.delete_run(dataset, "cam")
    assert column(dataset, "inside") == [7.5]


# audits and their runs


@pytest.fixture()
def four(dataset):
    """Four samples, a run, and two fields that disagree about where the object is."""
    right_half = boxes((None, (0.5, 0, 0.5, 1)))
    ids = add(dataset, *[{"ground_truth": true("cat"), "left": left_half(), "right": right_half}] * 4)
    made = [Made("cat", LEFT), Made("cat", RIGHT), Made("dog", LEFT), Made("dog", RIGHT)]
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, ground_truth="ground_truth")
    return dataset


def test_a_second_audit_with_other_objects_takes_the_place_of_the_first(four):
    focam.audit(four, objects="left")
    second = focam.audit(four[:2], objects="right")
    assert column(four, "inside") == [0, 1, None, None]  # nothing of the first is left where the second did not look
    assert column(four, "verdict") == ["shortcut", "trusted", None, None]
    [note] = second.record.notes
    assert note.startswith("replaces the audit of other objects of 20")
    third = focam.audit(four[2:], objects="right")  # of the same kind: continued
    assert column(four, "inside") == [0, 1, 0, 1]
    assert third.record.notes == []
    fourth = focam.audit(four)
    assert not four.has_sample_field("cam_inside")
    assert fourth.record.objects == []


def test_an_audit_of_earlier_results_is_stale_and_says_so(four):
    made = focam.audit(four, objects="left")
    assert made.stale is None
    run = catalog.load_run(four, "cam")
    run.update(revision=2)
    found = focam.load_audit(four, "cam")
    assert "computed again since" in found.stale
    assert "audit it again" in str(found)
    again = focam.audit(four[:1], objects="left")
    assert again.stale is None
    assert again.record.notes[0].startswith("replaces the audit of earlier results")
    assert column(four, "inside") == [1, None, None, None]
    four.delete_sample_field("left")
    assert "'left', no longer there" in focam.load_audit(four, "cam").stale


def test_real_recomputation_makes_an_audit_stale(dataset, tmp_path):
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 2)])
    classifier = focam.load_classifier(tiny_gap(), CLASSES, preprocessing=Preprocessing((Resize(size=(64, 64)),)))
    focam.compute_cam(dataset, classifier)
    found = focam.audit(dataset)
    assert focam.load_audit(dataset).stale is None
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 1, seed=1)])
    focam.compute_cam(dataset, classifier)
    assert focam.load_audit(dataset).stale == "run 'cam' has computed again since its audit: audit it again"
    assert found.record.revision == 1


def test_there_is_no_audit_until_one_is_made_or_where_it_was_cut_off(four, monkeypatch):
    with pytest.raises(focam.RunError, match="has not been audited"):
        focam.load_audit(four)
    focam.audit(four, objects="left")

    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        focam.audit(four, objects="left")
    monkeypatch.undo()
    with pytest.raises(focam.RunError, match="has not been audited"):
        focam.load_audit(four)
    assert focam.audit(four, objects="left").verdicts["trusted"] == 1


def test_deleting_the_run_deletes_all_that_the_audit_left(four):
    before = set(four.get_field_schema()), set(four.list_indexes()), {*four.list_saved_views()}
    fields = [name for name in before[0] if not name.startswith("cam_")]
    focam.audit(four, objects="left")
    focam.localize(four)
    assert {"cam_inside", "cam_focus", "cam_verdict", "cam_unjudged"} <= set(four.list_indexes())
    assert "cam_regions.classifications.label" in four.list_indexes()
    assert len(four.list_saved_views()) == 4
    focam.delete_run(four, "cam")
    assert sorted(four.get_field_schema()) == sorted(fields)
    assert not [name for name in four.list_indexes() if name.startswith("cam_")]
    assert not four.list_saved_views()
    document = four._sample_collection.find_one({})
    assert not [name for name in document if name.startswith("cam_")]


def test_a_dataset_without_room_for_indexes_is_audited_all_the_same(four):
    collection = four._sample_collection
    for i in range(64 - len(collection.index_information())):
        collection.create_index(f"other_{i}")
    found = focam.audit(four, objects="left")
    assert sum(found.verdicts.values()) == 4
    assert "cam_verdict" not in four.list_indexes()


def test_many_chunks_are_as_one(zoo, monkeypatch):
    focam.audit(zoo, objects=["boxes", "scene"])
    names = ("inside", "focus", "verdict", "unjudged", "spread")
    whole = [column(zoo, name) for name in names]
    zoo.clear_sample_fields([f"cam_{name}" for name in names])
    monkeypatch.setattr(bulk, "CHUNK", 7)
    focam.audit(zoo, objects=["boxes", "scene"])
    assert [column(zoo, name) for name in names] == whole


def test_a_views_filter_on_objects_is_honoured(four):
    """What the view hides is not there: people drop small or doubtful boxes so."""
    view = four.filter_labels("left", F("bounding_box")[2] > 0.9, only_matches=False)
    found = focam.audit(view, objects="left")
    assert found.unjudged == {"no object": 4}


def test_group_slices_are_audited_like_compute_cam_computes_them(tmp_path):
    dataset = fo.Dataset()
    try:
        dataset.add_group_field("group", default="left")
        paths, samples = write_photos(tmp_path, 4), []
        for i in range(2):
            group = fo.Group()
            samples += [
                fo.Sample(filepath=paths[2 * i + j], group=group.element(side), objects=left_half())
                for j, side in enumerate(("left", "right"))
            ]
        dataset.add_samples(samples)
        classifier = focam.load_classifier(tiny_gap(), CLASSES, preprocessing=Preprocessing((Resize(size=(64, 64)),)))
        focam.compute_cam(dataset, classifier)
        focam.audit(dataset, objects="objects")
        flat = dataset.select_group_slices(["left", "right"])
        done = dict(zip(flat.values("group.name"), flat.values("cam_spread"), strict=True))
        assert done["left"] is not None
        assert done["right"] is None
    finally:
        dataset.delete()


# what it found, in tables: compared with plain Python over the samples


def test_tables_are_what_counting_by_hand_gives(zoo):
    found = focam.audit(zoo, objects=["boxes", "outlines", "scene"])
    samples = list(zoo)
    for row in found.classes:
        mine = [s for s in samples if row.label in (None, s.ground_truth.label)]
        assert row.samples == len(mine)
        assert row.accuracy == pytest.approx(np.mean([s.cam_correct for s in mine]))
        for name in ("inside", "area", "focus"):
            values = [s[f"cam_{name}"] for s in mine if s[f"cam_{name}"] is not None]
            assert getattr(row, name) == pytest.approx(np.mean(values))
        counts = Counter(s.cam_verdict for s in mine)
        assert [getattr(row, word) for word in audit_report.VERDICTS] == [
            counts[word] for word in audit_report.VERDICTS
        ]
        assert row.unjudged == counts[None]
    assert [row.label for row in found.classes][-1] is None
    sizes = [row.samples for row in found.classes[:-1]]
    assert sizes == sorted(sizes, reverse=True)

    for correct in (False, True, None):
        of = [s for s in samples if s.cam_regions and (correct is None or s.cam_correct == correct)]
        rows = audit_report.region_table(zoo, "cam", correct)
        for row in rows:
            mine = [s for s in of if row.label in (None, s.ground_truth.label)]
            parts = [p for s in mine for p in s.cam_regions.classifications if p.label == row.region]
            assert (row.samples, row.present) == (len(mine), len(parts))
            assert row.share == pytest.approx(sum(p.confidence for p in parts) / len(mine))
            assert row.area == pytest.approx(sum(p.area for p in parts) / len(mine))
        by_label = {}
        for row in rows:
            by_label.setdefault(row.label, []).append(row.share)
        assert set(by_label) == {None, *CLASSES}
        for shares in by_label.values():
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(1)


def test_tables_tell_of_the_view_they_are_given(zoo):
    focam.audit(zoo, objects=["boxes", "scene"])
    cats = audit_report.class_view(zoo, "cam", "cat")
    assert set(cats.values("ground_truth.label")) == {"cat"}
    whole = {row.label: row for row in audit_report.class_table(zoo, "cam")}
    [row, total] = audit_report.class_table(cats, "cam")
    assert row == whole["cat"]
    assert total[1:] == row[1:]
    for word in audit_report.VERDICTS:
        assert audit_report.verdict_view(zoo, "cam", word).count() == audit_report.verdict_counts(zoo, "cam")[word]
    assert audit_report.class_table(zoo[:0], "cam") == []
    assert audit_report.region_table(zoo[:0], "cam") == []


def test_a_regions_view_begins_with_those_that_look_there_most(zoo):
    focam.audit(zoo, objects=["boxes", "scene"])
    view = audit_report.region_view(zoo, "cam", "grass")
    shares = [sum(p.confidence for p in s.cam_regions.classifications if p.label == "grass") for s in view]
    wrong = [s for s in zoo if s.cam_correct is False and s.cam_regions]
    looked = [any(p.label == "grass" and p.confidence > 0 for p in s.cam_regions.classifications) for s in wrong]
    assert len(shares) == sum(looked) > 0
    assert shares == sorted(shares, reverse=True)
    assert set(audit_report.region_view(zoo, "cam", "grass", "dog").values("ground_truth.label")) == {"dog"}
    assert set(audit_report.region_view(zoo, "cam", "grass", correct=True).values("cam_correct")) == {True}


def test_points_and_mean_maps_are_drawn_honestly(zoo):
    focam.audit(zoo, objects=["boxes", "scene"])
    with_object = zoo.exists("cam_inside").count()
    points, total = audit_report.scatter(zoo, "cam", limit=10)
    assert (len(points), total) == (10, with_object)
    assert points == audit_report.scatter(zoo, "cam", limit=10)[0]
    everything, _ = audit_report.scatter(zoo, "cam")
    assert len(everything) == total
    for point in points:
        sample = zoo[point.id]
        assert point[1:] == (sample.cam_inside, sample.cam_focus, sample.cam_prediction.confidence, sample.cam_verdict)

    for found in audit_report.mean_heatmaps(zoo, "cam", size=16):
        mine = [s for s in zoo if s.ground_truth.label == found.label]
        wrong = [s for s in mine if s.cam_correct is False]
        assert (found.samples, found.used, found.wrong, found.used_errors) == (len(mine), len(mine), *[len(wrong)] * 2)
        np.testing.assert_allclose(
            found.mean, np.mean([focam.signed_map(s.cam_heatmap, (16, 16)) for s in mine], 0), atol=1e-5
        )
        np.testing.assert_allclose(
            found.errors, np.mean([focam.signed_map(s.cam_heatmap, (16, 16)) for s in wrong], 0), atol=1e-5
        )
    [few] = audit_report.mean_heatmaps(zoo, "cam", ["cat"], limit=3)
    assert (few.used, few.used_errors) == (3, 3)
    assert few.samples > 3


def test_the_summary_says_it_all(zoo, capsys):
    found = focam.audit(zoo, objects=["boxes", "scene"])
    found.summary()
    text = capsys.readouterr().out
    for word in (*audit_report.VERDICTS, *CLASSES, "grass", "sky", "background", "no verdict", "0.6"):
        assert word in text
    json.dumps(to_plain(found.record))  # plain data
    json.dumps([row._asdict() for row in found.classes])


# one sample, class by class


def test_the_strongest_logits_split_into_their_parts(dataset, tmp_path):
    dataset.add_samples(
        [fo.Sample(filepath=p, objects=left_half("cat"), ground_truth=true("cat")) for p in write_photos(tmp_path, 2)]
    )
    classifier = focam.load_classifier(tiny_gap(), CLASSES, preprocessing=Preprocessing((Resize(size=(64, 64)),)))
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth")
    sample_id = dataset.last().id
    parts = focam.split_logits(dataset, sample_id, classifier, top_k=3)
    assert all(part["evidence_in"] is None for part in parts)  # not audited: nobody said where the object is
    focam.audit(dataset, objects="objects")
    parts = focam.split_logits(dataset, sample_id, classifier, top_k=3)
    for part in parts:
        total = part["evidence_in"] + part["evidence_out"] + part["bias"]
        assert total == pytest.approx(part["logit"], rel=1e-5, abs=1e-5)
    logits = [part["logit"] for part in parts]
    assert logits == sorted(logits, reverse=True)
    sample = dataset[sample_id]
    assert parts[0]["label"] == sample.cam_prediction.label
    assert parts[0]["evidence_in"] == pytest.approx(sample.cam_evidence_in, abs=1e-5)
    assert sum(part["confidence"] for part in parts) == pytest.approx(1, abs=1e-5)
    [owl] = focam.split_logits(dataset, sample_id, classifier, labels=["owl"])
    assert owl == pytest.approx(next(part for part in parts if part["label"] == "owl"))


# real photos


@pytest.fixture(scope="module")
def pets(data):
    """Oxford pets with whole-animal outlines; species, in the words of ImageNet's cat and dog classes, as truth."""
    folder = data / "oxford_pets_259"
    content = json.loads((folder / "instances_coco.json").read_text())
    outlines = {entry["image_id"]: entry["segmentation"] for entry in content["annotations"]}
    dataset = fo.Dataset()
    samples = []
    for image in content["images"]:
        size = np.array([image["width"], image["height"]])
        rings = [(np.array(ring).reshape(-1, 2) / size).tolist() for ring in outlines[image["id"]]]
        outline = fo.Polyline(points=rings, closed=True, filled=True)
        samples.append(
            fo.Sample(
                filepath=str(folder / "images" / image["file_name"]),
                ground_truth=true(image["species"]),
                animals=fo.Polylines(polylines=[outline]),
            )
        )
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


@pytest.mark.slow
def test_pets(pets):
    """Measured outside this project, on squashed photos: 55.6% inside, on 30.7% of the area; the peak inside for 82%.

    Here: 56.6% and 83.4%. Most of the difference is where the cells lie. They were measured to look a tenth of a cell
    lower than a plain division of the photo puts them; with the plain division it is 56.2% and 82.6%. As the network is
    meant to be fed, by a centre crop, it is 68.1%, of 45.6% of what is seen: more of that is animal.
    """
    lite = focam.load_classifier("efficientnet_lite0")
    species = {lite.classes[i]: "cat" if i >= 281 else "dog" for i in (*range(151, 269), *range(281, 286))}
    own = lite.network.preprocessing
    squashed = Preprocessing((Resize(size=(224, 224)),), own.mean, own.std, own.interpolation, own.antialias)
    tables = {}
    for key, classifier in (
        ("squashed", focam.load_classifier("efficientnet_lite0", preprocessing=squashed)),
        ("cropped", lite),
    ):
        focam.compute_cam(pets, classifier, key, ground_truth="ground_truth", class_map=species)
        tables[key] = focam.audit(pets, key, objects="animals")
        print(tables[key])

    total = tables["squashed"].classes[-1]
    assert total.inside == pytest.approx(0.556, abs=0.02)
    assert total.area == pytest.approx(0.307, abs=0.005)
    assert np.mean(pets.values("squashed_peak_inside")) == pytest.approx(0.82, abs=0.02)
    assert total.accuracy == pytest.approx(0.92, abs=0.02)
    for key, found in tables.items():
        counts = found.verdicts
        assert sum(counts.values()) + sum(found.unjudged.values()) == 259
        right = counts["trusted"] + counts["shortcut"]
        assert counts["trusted"] >= 0.9 * right, key  # a good network looks at the animal
        for name in ("evidence_in", "evidence_out"):
            assert None not in pets.values(f"{key}_{name}")
        inside, outside, bias, logit = map(
            np.array,
            pets.values([f"{key}_{n}" for n in ("evidence_in", "evidence_out", "heatmap.bias", "heatmap.logit")]),
        )
        np.testing.assert_allclose(inside + outside + bias, logit, rtol=1e-5)
    comparison = focam.compare(pets, "squashed", "cropped")
    print(comparison)
    row = comparison.classes[-1]
    assert row.same + row.fixed + row.broken + row.changed == 259


def test_every_class_has_one_line_in_a_table_whatever_its_name():
    names = [class_name(label) for label in (None, "", "all", "a\nb", "a\tb", "\x1b[31m", "café", "🐈")]
    assert all(name and name.isprintable() for name in names)
    assert len(set(names) - {"all"}) == len(names) - 2
    assert names[-2:] == ["café", "🐈"]
