"""The audit on real datasets: its sums, its invariances, its words, and what it leaves behind."""

from __future__ import annotations

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.analysis import audit_report
from fiftyone_cam.core.evidence import focus
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.dataset import bulk
from fiftyone_cam.runs import catalog
from tests.helpers.annotations import CLASSES, LEFT, RIGHT, add, boxes, column, left_half, mirror, true
from tests.helpers.networks import Brightness, tiny_gap, write_photos
from tests.helpers.stored_runs import Made, made_run

# sums, on everything at once


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
            total = sample.cam_evidence_in + sample.cam_evidence_out + heat.cam["bias"]
            assert total == pytest.approx(heat["logit"], rel=1e-9, abs=1e-9)
        if sample.cam_regions is None:
            assert heat.cam["grid"].max() <= 0 or sample.cam_unjudged == "no object"
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
        places = mirror(heat.cam["box"]), mirror(heat.cam["seen"])
        made.append(
            Made(heat.label, heat.cam["grid"][:, ::-1], heat.cam["bias"], sample.cam_prediction.confidence, *places)
        )
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
    with pytest.raises(focam.CamError, match=r"threshold is '0\.5', expected"):
        focam.audit(dataset, threshold="0.5")
    with pytest.raises(focam.FieldError, match="objects is 7, expected names of fields"):
        focam.audit(dataset, objects=7)
    with pytest.raises(focam.FieldError, match="object_labels is 7, expected"):
        focam.audit(dataset, objects="objects", object_labels=7)
    with pytest.raises(focam.RunError, match="no CAM run 'other'"):
        focam.audit(dataset, "other")
    with pytest.raises(focam.FieldError, match="leaves out the field 'cam_heatmap'"):
        focam.audit(dataset.select_fields("objects"), objects="objects")
    with pytest.raises(focam.RunError, match="PatchesView"):
        focam.audit(dataset.to_patches("objects"))
    assert not [name for name in dataset.get_field_schema() if name in ("cam_spread", "cam_inside", "cam_verdict")]


def test_a_field_of_the_user_is_never_taken(dataset):
    ids = add(dataset, {"cam_inside": 7.5, "objects": left_half()})
    made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    with pytest.raises(focam.FieldError, match=r"'cam_inside' exists and was not written by run"):
        focam.audit(dataset, objects="objects")
    assert column(dataset, "inside") == [7.5]
    focam.delete_run(dataset, "cam")
    assert column(dataset, "inside") == [7.5]


# audits and their runs


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

    monkeypatch.setattr("fiftyone_cam.analysis.audit._Auditor.values", broken)
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
        assert {side: spread is None for side, spread in done.items()} == {"left": False, "right": True}
    finally:
        dataset.delete()
