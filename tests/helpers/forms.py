"""Operators' forms as the App would draw them and the server would check them."""

from __future__ import annotations

import json
from typing import Any

import fiftyone as fo
from fiftyone.operators.executor import ExecutionContext, ValidationContext

from fiftyone_cam.core.names import PLUGIN


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
    instance.plugin_name = PLUGIN
    request = {"dataset_name": dataset.name, "params": params, "extended_selection": None}  # as the App sends it
    context = ExecutionContext(request, operator_uri=instance.uri)
    resolved = instance.resolve_type(context, "inputs")
    json.dumps(resolved.to_json())  # what the server sends
    found = {name: prop.error_message if prop.invalid else None for name, prop in resolved.type.properties.items()}
    return found, ValidationContext(context, resolved, instance)
