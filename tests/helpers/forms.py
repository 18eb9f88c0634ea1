"""Operators' forms as the App would draw them and the server would check them, and a run to draw them for."""

from __future__ import annotations

import json
from typing import Any

import fiftyone as fo
from fiftyone.operators.executor import ExecutionContext, ValidationContext

from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import field_schema
from fiftyone_cam.runs.record import CamRecord, ClassifierRecord, Counts, Settings


def form(operator: type[Any], dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """The fields of an operator's form by name, each with its error or None."""
    return _resolved(operator, dataset, params)[0]


def valid(operator: type[Any], dataset: fo.Dataset, **params: Any) -> bool:
    """Whether the server would execute it."""
    return not _resolved(operator, dataset, params)[1].invalid


def _resolved(
    operator: type[Any], dataset: fo.Dataset, params: dict[str, Any]
) -> tuple[dict[str, Any], ValidationContext]:
    instance = operator()
    instance.plugin_name = "fiftyone_cam"
    context = ExecutionContext({"dataset_name": dataset.name, "params": params}, operator_uri=instance.uri)
    resolved = instance.resolve_type(context, "inputs")
    json.dumps(resolved.to_json())  # what the server sends
    found = {name: prop.error_message if prop.invalid else None for name, prop in resolved.type.properties.items()}
    return found, ValidationContext(context, resolved, instance)


def a_run(dataset: fo.Dataset, key: str = "cam", contrast: bool = False, **settings: Any) -> CamRun:
    """A run as the SDK registers it, without computing anything."""
    record = CamRecord(
        classifier=ClassifierRecord(source="lite", model="efficientnet_lite0", classes=["cat", "dog"], sha256="0"),
        settings=Settings(**settings),
        counts=Counts(samples=2, computed=2, new=2),
        status="complete",
    )
    run = catalog.register(dataset, key, record)
    for name, kwargs in field_schema(1, contrast=contrast).items():
        run.claim_field(name, **kwargs)
    return run
