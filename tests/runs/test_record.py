"""The record of a run: what is written is what is read; what cannot be read is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import fiftyone as fo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset import internals
from fiftyone_cam.plugin.operators.localize_from_cam import LocalizeFromCam
from fiftyone_cam.runs import catalog, store
from fiftyone_cam.runs.record import (
    SCHEMA_VERSION,
    AuditRecord,
    CamRecord,
    ClassifierRecord,
    ComparisonRecord,
    Counts,
    Epoch,
    LocalizationRecord,
    Metrics,
    Process,
    Settings,
    TrainingCounts,
    TrainingRecord,
    read_record,
    to_plain,
)
from tests.helpers.forms import form, valid
from tests.helpers.stored_runs import registered_run

CAM = CamRecord(
    status="interrupted",
    fields={"cam_heatmap": "heatmap"},
    views=["cam trusted"],
    failures={"truncated file": 2},
    stopped_by="KeyboardInterrupt",
    process=Process(host="here", pid=17, started=12.5, token="t"),
    alive_at="2026-01-01T00:00:00+00:00",
    classifier=ClassifierRecord(
        source="torchvision",
        model="resnet18",
        sha256="00",
        classes=["cat", "St. Bernard", "$set"],
        activation="sigmoid",
        preprocessing={"steps": [{"step": "resize", "size": [64, 64]}], "mean": [0.5, 0.5, 0.5]},
        head={"features": 16},
        grid_frame=[0.0, 0.0, 1.0, 1.0],
        weights="DEFAULT",
        details={"pretrained": True},
    ),
    settings=Settings(ground_truth="truth", class_map={"a.b": "$inc"}, precision="bfloat16", top_k=3),
    counts=Counts(samples=9, computed=7, failed=2, new=9),
    versions={"torch": "2.0"},
    revision=4,
    certificate=1e-7,
    scale=3.5,
    contrast_scale=0.5,
    timing=Timing(device="cpu", images=9, seconds=1.5, forward=1.0),
    accuracy=0.75,
    unknown_labels=1,
    audit=AuditRecord(
        ground_truth="truth",
        objects=["boxes"],
        object_labels=[["cat", ["head", "tail"]]],
        object_labels_of_all=["animal"],
        class_map=[["tabby", "cat"]],
        threshold=0.6,
        verdict=True,
        revision=4,
        notes=["one"],
    ),
    comparisons={"before": ComparisonRecord(ground_truth=None, revisions=[1, 4]), "unfinished": None},
    localization=LocalizationRecord(threshold=0.2, revision=4),
    loaded_from=["resnet18", {"classes": ["cat"]}],
)
TRAINING = TrainingRecord(
    training={"arch": "small_gap_net", "epochs": 3, "split": 0.2},
    out_dir="/somewhere",
    classes=["cat", "dog"],
    counts=TrainingCounts(samples=9, train=6, validation=3),
    untested=["dog"],
    history=[Epoch(1, 1e-3, 0.7, 0.5, 0.6, 0.55, 0.5, 12.0)],
    epoch=1,
    snapshots={"1": "/somewhere/epoch_1"},
    metrics=Metrics(accuracy=0.5, balanced_accuracy=0.5, precision=0.25, fscore=0.3),
    evaluated=True,
)


def in_database(dataset: fo.Dataset, key: str = "cam") -> dict[str, Any]:
    """The run's document as it lies in MongoDB."""
    return dict(internals.runs().find_one({"_id": internals.run_id(dataset, key)})["config"])


def damage(dataset: fo.Dataset, entries: dict[str, Any], key: str = "cam") -> None:
    """Change a run's document behind its back; None deletes an entry."""
    change: dict[str, Any] = {}
    for name, value in entries.items():
        change.setdefault("$unset" if value is None else "$set", {})[f"config.{name}"] = value
    internals.runs().update_one({"_id": internals.run_id(dataset, key)}, change)


@pytest.mark.parametrize(("method", "record"), [(store.CAM, CAM), (store.TRAINING, TRAINING)], ids=["cam", "training"])
def test_what_is_written_is_what_is_read(dataset: fo.Dataset, method: str, record: CamRecord | TrainingRecord) -> None:
    store.register(dataset, "cam", method, record)
    dataset.reload()
    assert store.read(dataset, "cam", type(record)) == record
    assert read_record(type(record), json.loads(json.dumps(to_plain(record))), "cam") == record
    assert in_database(dataset)["schema_version"] == SCHEMA_VERSION


def test_each_entry_is_written_alone_and_what_is_not_known_stays(dataset: fo.Dataset) -> None:
    """Of a later version that added something: this one reads the record, changes it, and loses nothing of it."""
    registered_run(dataset)
    damage(dataset, {"lighting": {"sun": 3}})
    one, other = (catalog.load_run(dataset, "cam") for _ in range(2))
    one.update(accuracy=0.5)
    other.update(scale=2.0, counts=Counts(samples=5))
    found = in_database(dataset)
    assert found["lighting"] == {"sun": 3}
    assert (found["accuracy"], found["scale"]) == (0.5, 2.0)
    assert found["counts"] == {"samples": 5, "computed": 0, "failed": 0, "new": 0}
    assert other.record.accuracy is None  # each sees its own changes
    assert catalog.load_run(dataset, "cam").record.accuracy == 0.5


def test_comparisons_that_two_make_at_once_are_both_kept(dataset: fo.Dataset) -> None:
    registered_run(dataset)
    one, other = (catalog.load_run(dataset, "cam") for _ in range(2))
    record = ComparisonRecord(ground_truth="truth", revisions=[1, 2])
    one.update_comparison("a", record)
    other.update_comparison("b", None)
    assert catalog.load_run(dataset, "cam").record.comparisons == {"a": record, "b": None}


def test_entries_that_no_record_has_are_refused_before_anything_is_written(dataset: fo.Dataset) -> None:
    run = registered_run(dataset)
    before = in_database(dataset)
    with pytest.raises(AttributeError, match="a CamRecord has no entry acuracy"):
        run.update(scale=1.0, acuracy=0.5)
    assert in_database(dataset) == before
    assert run.record.scale is None


@pytest.mark.parametrize("version", [0, 3, "1", 99])
def test_a_record_of_another_version_is_refused(dataset: fo.Dataset, version: Any) -> None:
    registered_run(dataset)
    damage(dataset, {"schema_version": version})
    with pytest.raises(
        RunError, match=f"run 'cam' is of version {version!r}, expected 2 or earlier.*version of fiftyone_cam"
    ):
        focam.load_run(dataset, "cam")


def test_a_record_from_before_versions_is_read(dataset: fo.Dataset) -> None:
    """As the first ones were written: without what came later, a whole number for a share, other words for a status."""
    run = registered_run(dataset)
    damage(dataset, dict.fromkeys(("schema_version", "timing", "comparisons", "unknown_labels", "contrast_scale")))
    damage(dataset, {"accuracy": 1})
    found = focam.load_run(dataset, "cam").record
    assert found == replace(run.record, accuracy=1.0, schema_version=1)
    assert isinstance(found.accuracy, float)
    store.register(dataset, "old", store.TRAINING, TRAINING)
    damage(dataset, {"schema_version": None, "status": "stopped", "stopped_by": "TrainingError: no"}, "old")
    training = catalog.load_training(dataset, "old")
    assert (training.status, training.record.stopped_by) == ("interrupted", "TrainingError: no")


@pytest.mark.parametrize(
    "entries",
    [
        {"classifier": None},
        {"classifier": {}},
        {"settings": "none"},
        {"counts": {"samples": "many"}},
        {"audit": {"objects": ["boxes"]}},
        {"fields": ["cam_heatmap"]},
        {"status": "asleep"},
        {"timing": {"seconds": "long"}},
        {"process": {"pid": 1}},
        {"certificate": "small"},
        {"comparisons": {"b": 3}},
    ],
    ids=str,
)
def test_a_damaged_or_foreign_record_is_refused_in_words(dataset: fo.Dataset, entries: dict[str, Any]) -> None:
    registered_run(dataset)
    damage(dataset, entries)
    with pytest.raises(RunError, match=r"the record of run 'cam' cannot be read .*dataset\.delete_run\('cam'\)"):
        focam.load_run(dataset, "cam")


def test_one_run_that_cannot_be_read_does_not_stop_another(dataset: fo.Dataset) -> None:
    dataset.add_sample(fo.Sample(filepath="/nowhere/cat.jpg"))
    registered_run(dataset)
    damage(dataset, {"schema_version": 99, "fields": None})
    other = registered_run(dataset, "other")
    other.show()
    assert focam.list_runs(dataset) == ["cam", "other"]
    assert focam.load_run(dataset, "other").record == other.record
    runs, unreadable = catalog.load_runs(dataset)
    assert (list(runs), list(unreadable)) == (["other"], ["cam"])
    assert "is of version 99" in unreadable["cam"]
    assert {"key", "unreadable_cam"} <= form(LocalizeFromCam, dataset).keys()
    assert valid(LocalizeFromCam, dataset, key="other")
