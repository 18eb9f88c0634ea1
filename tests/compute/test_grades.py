"""Heads of the other grades go the whole road of the exact one: the same fields, the same identity, and say so."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.names import GRADES
from fiftyone_cam.plugin import queries
from tests.helpers.grades import KINDS, classifier
from tests.helpers.networks import NAMES
from tests.helpers.planted import SIDE


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_any_grade_adds_up_resumes_and_says_its_grade(photos, kind):
    model = classifier(kind)
    focam.compute_cam(photos.limit(5), model, ground_truth="ground_truth", top_k=2)
    run = focam.compute_cam(photos, model, ground_truth="ground_truth", top_k=2)  # goes on
    assert (run.counts.computed, run.counts.new) == (12, 7)
    assert run.certificate <= 1e-5
    for sample in photos:
        heats = [sample.cam_heatmap, sample.cam_heatmap_2]
        wrong = sample.cam_prediction.label != sample.ground_truth.label
        assert (sample.cam_contrast is not None) == wrong
        for heat in [*heats, sample.cam_contrast] if wrong else heats:
            assert heat.cam.grid.mean(dtype=float) + heat.cam.bias == pytest.approx(heat.logit, rel=1e-4, abs=1e-5)
        if kind == "class token":
            first, second = heats
            held = (first.cam.grid.mean() - second.cam.grid.mean()) / (first.logit - second.logit)
            assert first.gap_remainder_share == pytest.approx(1 - held, rel=1e-3, abs=1e-3)
            assert first.remainder_share == pytest.approx(first.cam.bias / first.logit, rel=1e-4)
        else:
            assert "remainder_share" not in heats[0].to_dict()

    grade = KINDS[kind][1]
    assert run.grade == focam.load_run(photos, "cam").grade == grade
    assert f"{grade} (" in str(run)
    assert GRADES[grade] in str(run)
    summary = queries.sample_summary(photos, photos.first().id, "cam")
    if kind == "class token":
        share = np.median(photos.values("cam_heatmap.gap_remainder_share"))
        assert f"no place holds {share:.0%} of the gap to the runner-up" in str(run)
        assert summary["unplaced"] == photos.first().cam_heatmap.gap_remainder_share
    else:
        assert "no place holds" not in str(run)
        assert summary["unplaced"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_any_grade_are_compared_audited_and_explained(photos, kind):
    model, other = classifier(kind), classifier(kind, seed=1)
    for key, each in {"a": model, "again": model, "b": other}.items():
        focam.compute_cam(photos, each, key=key, ground_truth="ground_truth")
    focam.compare(photos, "a", "again")
    correlations = photos.values("again_vs_a_correlation")
    assert np.allclose([each for each in correlations if each is not None], 1.0, atol=1e-5)
    focam.compare(photos, "a", "b")
    focam.audit(photos, "a", ground_truth="ground_truth")
    assert None not in photos.values("a_spread")
    sample = photos.first()
    focam.explain_sample(photos, sample.id, model, NAMES[2], "a")
    sample.reload()
    found = sample.a_explained
    assert found.label == NAMES[2]
    assert found.cam.grid.mean(dtype=float) + found.cam.bias == pytest.approx(found.logit, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_any_grade_survives_being_pickled(kind):
    network = classifier(kind).network
    batch = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    again = pickle.loads(pickle.dumps(network))
    with network.evaluating(), again.evaluating():
        first, second = network.read(batch), again.read(batch)
        chosen = first.logits.topk(2).indices
        for one, other in zip(first.maps(chosen), second.maps(chosen), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
