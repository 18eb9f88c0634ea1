"""What an audit found, in tables: compared with plain Python over the samples."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.analysis import audit_report
from fiftyone_cam.runs.record import to_plain
from tests.helpers.annotations import CLASSES


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
        rows = focam.load_audit(zoo, "cam").region_table(correct)
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
    cats = focam.load_audit(zoo, "cam").class_view("cat")
    assert set(cats.values("ground_truth.label")) == {"cat"}
    whole = {row.label: row for row in focam.load_audit(zoo, "cam").classes}
    [row, total] = focam.load_audit(cats, "cam").classes
    assert row == whole["cat"]
    assert total[1:] == row[1:]
    for word in audit_report.VERDICTS:
        assert focam.load_audit(zoo, "cam").verdict_view(word).count() == focam.load_audit(zoo, "cam").verdicts[word]
    assert focam.load_audit(zoo[:0], "cam").classes == []
    assert focam.load_audit(zoo[:0], "cam").region_table(correct=False) == []


def test_a_regions_view_begins_with_those_that_look_there_most(zoo):
    found = focam.audit(zoo, objects=["boxes", "scene"])
    view = found.region_view("grass", correct=False)
    shares = [sum(p.confidence for p in s.cam_regions.classifications if p.label == "grass") for s in view]
    wrong = [s for s in zoo if s.cam_correct is False and s.cam_regions]
    looked = [any(p.label == "grass" and p.confidence > 0 for p in s.cam_regions.classifications) for s in wrong]
    assert len(shares) == sum(looked) > 0
    assert shares == sorted(shares, reverse=True)
    assert set(found.region_view("grass", "dog", correct=False).values("ground_truth.label")) == {"dog"}
    assert set(found.region_view("grass", correct=True).values("cam_correct")) == {True}


def test_points_and_mean_maps_are_drawn_honestly(zoo):
    focam.audit(zoo, objects=["boxes", "scene"])
    with_object = zoo.exists("cam_inside").count()
    points, total = focam.load_audit(zoo, "cam").points(limit=10)
    assert (len(points), total) == (10, with_object)
    assert points == focam.load_audit(zoo, "cam").points(limit=10)[0]
    everything, _ = focam.load_audit(zoo, "cam").points()
    assert len(everything) == total
    for point in points:
        sample = zoo[point.id]
        assert point[1:] == (sample.cam_inside, sample.cam_focus, sample.cam_prediction.confidence, sample.cam_verdict)

    for found in focam.load_audit(zoo, "cam").mean_maps(size=16):
        mine = [s for s in zoo if s.ground_truth.label == found.label]
        wrong = [s for s in mine if s.cam_correct is False]
        assert (found.samples, found.used, found.wrong, found.used_errors) == (len(mine), len(mine), *[len(wrong)] * 2)
        np.testing.assert_allclose(
            found.mean, np.mean([focam.signed_map(s.cam_heatmap, (16, 16)) for s in mine], 0), atol=1e-5
        )
        np.testing.assert_allclose(
            found.errors, np.mean([focam.signed_map(s.cam_heatmap, (16, 16)) for s in wrong], 0), atol=1e-5
        )
    [few] = focam.load_audit(zoo, "cam").mean_maps(["cat"], limit=3)
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
