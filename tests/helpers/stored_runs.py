"""Runs whose maps a test chooses itself, stored exactly as ``compute_cam`` stores them: no network needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np

from fiftyone_cam.core.boxes import WHOLE, Box
from fiftyone_cam.core.results import ClassMap, Explanation
from fiftyone_cam.dataset import bulk
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import ERROR, field_schema, sample_documents
from fiftyone_cam.runs.record import CamRecord, ClassifierRecord, Counts, Settings


class Made(NamedTuple):
    """What a network said of one sample."""

    label: str
    grid: np.ndarray
    bias: float = 0.25
    confidence: float = 0.75
    box: Box = WHOLE
    seen: Box = WHOLE
    runner_up: tuple[str, float] | None = None


def registered_run(
    dataset: fo.Dataset,
    key: str = "cam",
    classes: Sequence[str] = ("cat", "dog"),
    counts: Counts | None = None,
    *,
    contrast: bool = False,
    **settings: Any,
) -> CamRun:
    """A run as the SDK registers it, with its fields declared and nothing in them; complete by its record."""
    record = CamRecord(
        classifier=ClassifierRecord(source="lite", model="efficientnet_lite0", classes=list(classes), sha256="0" * 64),
        settings=Settings(**settings),
        counts=counts or Counts(samples=2, computed=2, new=2),
        revision=1,
        status="complete",
    )
    run = catalog.register(dataset, key, record)
    run.claim_fields(field_schema(record.settings.top_k, contrast=contrast))
    return run


def made_run(
    dataset: fo.Dataset,
    made: Mapping[str, Made | None],
    classes: Sequence[str],
    key: str = "cam",
    ground_truth: str | None = None,
    class_map: Mapping[str, str] | None = None,
    top_k: int = 1,
) -> CamRun:
    """A complete run with a map for each sample id; None for a sample whose image could not be read."""
    counts = Counts(samples=len(made), computed=sum(m is not None for m in made.values()))
    words = dict(class_map) if class_map else None
    run = registered_run(dataset, key, classes, counts, ground_truth=ground_truth, class_map=words, top_k=top_k)
    written: dict[str, dict[str, object]] = {}
    for sample_id, entry in made.items():
        values: dict[str, object] = {ERROR: "cannot be read"}
        if entry is not None:
            grid = np.asarray(entry.grid, np.float32)
            logit = float(grid.astype(np.float64).mean() + entry.bias)
            maps = [ClassMap(entry.label, logit, entry.bias, grid, entry.confidence)]
            if entry.runner_up:
                label, second = entry.runner_up
                maps.append(ClassMap(label, second, entry.bias, grid - np.float32(logit - second), 0.1))
            explanation = Explanation(sample_id, tuple(maps), None, entry.box, entry.seen, (48, 64), 0.0)
            values = dict(sample_documents(explanation, 1.0))
        names = field_schema(top_k, contrast=False)
        written[sample_id] = {run.field(name): values.get(name) for name in names}
    bulk.write(dataset, written)
    return run


def as_version_1(run: CamRun) -> None:
    """Store a run's heatmaps as the first versions did: the map's own numbers beside its words, drawn in 256 levels."""
    documents = run.dataset._sample_collection
    for field in (path for path, name in run.fields.items() if "heatmap" in name):
        for found in list(documents.find({f"{field}.cam": {"$exists": True}})):
            heat = found[field]
            cam = {name: value for name, value in heat.pop("cam").items() if name != "_cls"}
            small = bulk.pack(np.full((72, 96), 200, np.uint8))
            documents.update_one(
                {"_id": found["_id"]}, {"$set": {field: {**heat, **cam, "map": small, "range": [0, 255]}}}
            )
    run.update(schema_version=1)
    run.dataset.reload()


def snapshot(dataset: fo.Dataset, field: str) -> dict[str, object]:
    """The stored bytes and numbers of a field, by sample."""
    documents = dataset._sample_collection.find({}, {field: True})
    return {str(d["_id"]): {k: v for k, v in (d.get(field) or {}).items() if k != "_id"} for d in documents}
