"""Reading what other processes have changed in a dataset."""

from __future__ import annotations

from datetime import datetime

import fiftyone as fo

from fiftyone_cam.dataset import database, internals


def test_a_change_elsewhere_is_seen_and_unsaved_work_on_loaded_samples_stays(dataset):
    dataset.add_sample(fo.Sample(filepath="/nowhere/cat.jpg", number=1))
    sample = dataset.first()
    sample["number"] = 8
    change = {"$set": {"info": {"mine": 1}, "last_modified_at": datetime(2030, 1, 1)}}
    internals.datasets().update_one({"_id": internals.dataset_id(dataset)}, change)
    database.refresh(dataset)
    assert dataset.info == {"mine": 1}
    assert sample.number == 8
    sample.save()
    assert dataset.values("number") == [8]
