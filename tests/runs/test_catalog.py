"""Runs listed, loaded and deleted."""

from __future__ import annotations

import pytest

import fiftyone_cam as focam


def test_deleting_a_run_takes_all_that_it_owns_and_nothing_else(photos, classifier):
    before = set(photos.get_field_schema()), set(photos.list_indexes())
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    focam.compute_cam(photos, classifier, "cam_b")
    run.save_view("wrong", photos.exists("cam_contrast"))
    photos.save_view("cam mine", photos[:2])
    focam.delete_run(photos, "cam")
    assert focam.list_runs(photos) == ["cam_b"]
    assert photos.list_saved_views() == ["cam mine"]
    assert '"cam_heatmap"' not in photos.app_config.to_json(), "the App's settings still speak of deleted fields"
    assert photos.count("cam_b_heatmap") == 12
    focam.delete_run(photos, "cam_b")
    assert (set(photos.get_field_schema()), set(photos.list_indexes())) == before
    assert not photos._sample_collection.find_one({"cam_heatmap": {"$exists": True}})
    with pytest.raises(focam.RunError, match=r"has no CAM run 'cam'.*compute_cam"):
        focam.delete_run(photos, "cam")
