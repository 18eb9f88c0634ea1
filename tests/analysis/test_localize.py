"""Boxes from evidence: the paper's rule, held against scikit-image's components and FiftyOne's own evaluation."""

from __future__ import annotations

import csv

import fiftyone as fo
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as components
from skimage.measure import regionprops

import fiftyone_cam as focam
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.evidence import evidence_box
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.annotations import overlap
from tests.helpers.stored_runs import Made, made_run

CLASSES = ["cat", "dog", "owl"]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), threshold=st.floats(0.05, 1), rows=st.integers(2, 9), columns=st.integers(2, 9))
def test_the_box_is_around_the_largest_connected_part(seed, threshold, rows, columns):
    rng = np.random.default_rng(seed)
    grid = rng.normal(size=(rows, columns)).astype(np.float32)
    box, seen = (0.03, -0.02, 0.9, 1.0), (0.05, 0.0, 0.9, 1.0)
    found = evidence_box(grid, box, seen, threshold, pixels=100)
    laid = lay_out(grid, box, seen, 100, 100)
    if laid.max() <= 0:
        assert found is None
        return
    parts = regionprops(components(laid >= threshold * laid.max(), connectivity=2))
    largest = max(part.area for part in parts)
    boxes = [part.bbox for part in parts if part.area == largest]
    x, y, w, h = (round(100 * v) for v in found)
    assert (y, x, y + h, x + w) in boxes


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), factor=st.floats(0.01, 100))
def test_the_box_depends_on_the_shape_of_the_map_alone(seed, factor):
    grid = np.random.default_rng(seed).normal(0.5, size=(7, 7)).astype(np.float32)
    if grid.max() <= 0:
        return
    found = evidence_box(grid, WHOLE, WHOLE)
    assert evidence_box(grid * np.float32(factor), WHOLE, WHOLE) == pytest.approx(found, abs=2 / 224)
    mirrored = evidence_box(grid[::-1], WHOLE, WHOLE)
    assert mirrored[3] == pytest.approx(found[3], abs=2 / 224)


def test_a_lower_threshold_never_makes_a_smaller_box_of_one_bump():
    y, x = np.indices((7, 7)) - 3.0
    bump = np.exp(-(x**2 + y**2) / 4).astype(np.float32)
    areas = [np.prod(evidence_box(bump, WHOLE, WHOLE, t)[2:]) for t in (0.1, 0.2, 0.5, 0.9)]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 2 * areas[-1]


def test_boxes_are_ready_for_fiftyones_own_evaluation(dataset):
    """One bump in each quarter: the box must hit the true one, in the words of the ground truth."""
    ids, made = [], []
    for i in range(4):
        grid = np.full((8, 8), -1.0)
        top, left = 4 * (i // 2), 4 * (i % 2)
        grid[top : top + 4, left : left + 4] = 3
        box = [left / 8, top / 8, 0.5, 0.5]
        truth = fo.Detections(detections=[fo.Detection(label="pet", bounding_box=box)])
        ids += dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg", objects=truth)])
        made.append(Made("cat", grid, confidence=0.5 + i / 10))
    ids += dataset.add_samples([fo.Sample(filepath="/none/4.jpg"), fo.Sample(filepath="/none/5.jpg")])
    made += [Made("owl", -np.ones((2, 2))), None]
    run = made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, class_map={"cat": "pet"})
    field = focam.localize(dataset, "cam")
    assert field == "cam_boxes"
    assert dataset.values("cam_boxes.detections.confidence")[:4] == [[0.5], [0.6], [0.7], [0.8]]
    assert dataset[ids[4]].cam_boxes.detections == []  # nothing speaks for it: no box
    assert dataset[ids[5]].cam_boxes is None  # no map
    results = dataset.exists("objects").evaluate_detections(field, gt_field="objects", eval_key="loc", iou=0.5)
    assert results.metrics()["fscore"] == 1
    assert len(dataset.to_patches(field)) == 4
    dataset.delete_evaluation("loc")
    focam.localize(dataset, "cam", threshold=0.9)  # again: replaced, not added
    assert dataset.count("cam_boxes.detections") == 4
    assert focam.load_run(dataset, "cam").record.localization.threshold == 0.9
    focam.delete_run(dataset, run.key)
    assert not dataset.has_sample_field("cam_boxes")


def test_what_cannot_be_localized_is_refused(dataset):
    ids = dataset.add_samples([fo.Sample(filepath="/none/0.jpg")])
    made_run(dataset, {ids[0]: Made("cat", np.ones((2, 2)))}, CLASSES)
    for threshold in (0, -0.2, 1.5, "x", None):
        with pytest.raises(focam.CamError, match="expected a share of the maximum"):
            focam.localize(dataset, threshold=threshold)
    with pytest.raises(focam.RunError, match="no CAM run 'other'"):
        focam.localize(dataset, "other")
    with pytest.raises(focam.FieldError, match="leaves out"):
        focam.localize(dataset.select_fields())
    assert not dataset.has_sample_field("cam_boxes")
    focam.localize(dataset, threshold=np.float32(0.5))  # a number of NumPy is one, and can be kept
    assert focam.load_run(dataset, "cam").record.localization.threshold == 0.5


@pytest.mark.slow
def test_real_photos_are_localized_better_than_by_the_whole_image(data):
    """ILSVRC validation photos, whole-object boxes. Baseline, known of this data: the whole image hits 47.6%."""
    folder = data / "ilsvrc_val_800"
    truth: dict[str, list[list[float]]] = {}
    with (folder / "boxes.csv").open() as file:
        for row in csv.DictReader(file):
            x0, y0, x1, y1 = (float(row[name]) for name in ("xmin_rel", "ymin_rel", "xmax_rel", "ymax_rel"))
            truth.setdefault(row["file"], []).append([x0, y0, x1 - x0, y1 - y0])
    files = sorted(path.name for path in (folder / "images").iterdir() if path.name in truth)[:300]
    dataset = fo.Dataset()
    try:
        dataset.add_samples([fo.Sample(filepath=str(folder / "images" / name)) for name in files])
        lite = focam.load_classifier("efficientnet_lite0")
        own = lite.network.preprocessing
        squashed = Preprocessing((Resize(size=(224, 224)),), own.mean, own.std, own.interpolation, own.antialias)
        focam.compute_cam(dataset, focam.load_classifier("efficientnet_lite0", preprocessing=squashed))
        field = focam.localize(dataset)
        hits = {"evidence": 0, "whole image": 0}
        for path, detections in zip(dataset.values("filepath"), dataset.values(f"{field}.detections"), strict=True):
            boxes = truth[path.rpartition("/")[2]]
            found = detections[0].bounding_box if detections else [0, 0, 0, 0]
            hits["evidence"] += max(overlap(found, box) for box in boxes) >= 0.5
            hits["whole image"] += max(overlap([0, 0, 1, 1], box) for box in boxes) >= 0.5
        print({name: f"{count / len(files):.1%}" for name, count in hits.items()}, "of", len(files))
        assert hits["evidence"] > hits["whole image"]
    finally:
        dataset.delete()
