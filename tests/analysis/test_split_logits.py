"""One sample, class by class."""

from __future__ import annotations

import fiftyone as fo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.annotations import CLASSES, left_half, true
from tests.helpers.networks import tiny_gap, write_photos


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
