"""Runs whose maps a test chooses itself, stored exactly as ``compute_cam`` stores them: no network needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    record = CamRecord(
        classifier=ClassifierRecord(classes=list(classes), model="made", source="test", sha256="0" * 64),
        settings=Settings(ground_truth=ground_truth, class_map=dict(class_map) if class_map else None, top_k=top_k),
        counts=Counts(samples=len(made), computed=sum(m is not None for m in made.values())),
        revision=1,
        status="complete",
    )
    run = catalog.register(dataset, key, record)
    for name, kwargs in field_schema(top_k, contrast=False).items():
        run.claim_field(name, **kwargs)
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


def snapshot(dataset: fo.Dataset, field: str) -> dict[str, object]:
    """The stored bytes and numbers of a field, by sample."""
    documents = dataset._sample_collection.find({}, {field: True})
    return {str(d["_id"]): {k: v for k, v in (d.get(field) or {}).items() if k != "_id"} for d in documents}
