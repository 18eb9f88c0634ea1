"""One sample, any class."""

from __future__ import annotations

import numpy as np
import pytest

import fiftyone_cam as focam
from tests.helpers.networks import NAMES, SQUARE, tiny_gap


@pytest.mark.parametrize("wrong", ["sample", "abc", "0" * 24, None])
def test_a_sample_that_is_none_is_named_shortly(photos, classifier, wrong):
    focam.compute_cam(photos.limit(1), classifier)
    with pytest.raises(focam.CamError, match=r"expected a sample's id, found|has no sample of id") as found:
        focam.explain_sample(photos, photos.first() if wrong == "sample" else wrong, classifier)
    assert len(str(found.value)) < 200


def test_explain_any_class_of_one_sample(photos, classifier):
    with pytest.raises(focam.RunError, match="no CAM run"):
        focam.explain_sample(photos, photos.first().id, classifier)
    focam.compute_cam(photos, classifier)
    sample = photos.skip(3).first()
    for label in NAMES:
        heat = focam.explain_sample(photos, sample.id, classifier, label)
        sample.reload()
        assert sample.cam_explained.label == label == heat.label
        if label == sample.cam_heatmap.label:
            np.testing.assert_allclose(sample.cam_explained.cam.grid, sample.cam_heatmap.cam.grid, rtol=1e-4, atol=1e-6)
    with pytest.raises(focam.SourceError, match=r"'catt' is none of the 3 classes \(did you mean cat"):
        focam.explain_sample(photos, sample.id, classifier, "catt")
    focam.delete_run(photos, "cam")
    assert not photos.has_sample_field("cam_explained")


def test_another_classifier_is_refused_and_nothing_is_written(photos, classifier):
    """Its maps would have another scale, and be stored as if they were the run's."""
    focam.compute_cam(photos, classifier)
    sample_id = photos.first().id
    other = focam.load_classifier(tiny_gap(seed=9), NAMES, preprocessing=SQUARE)
    for explain in (focam.explain_sample, focam.split_logits):
        with pytest.raises(focam.RunError, match="other weights than that of run 'cam'"):
            explain(photos, sample_id, other)
    assert not photos.has_field("cam_explained")
    copy = focam.load_classifier(classifier.network.module, NAMES, preprocessing=SQUARE)
    assert focam.explain_sample(photos, sample_id, copy, NAMES[-1]).label == NAMES[-1]
