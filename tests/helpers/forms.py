"""Operators' forms as the App would draw them and the server would check them."""

from __future__ import annotations

import json
from typing import Any

import fiftyone as fo
from fiftyone.operators import types
from fiftyone.operators.executor import ExecutionContext, ValidationContext

from fiftyone_cam.core.names import PLUGIN


def form(operator: type[Any], dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """The fields of an operator's form by name, each with its error or None."""
    return _resolved(operator, dataset, params)[0]


def begins_with(operator: type[Any], dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """What the App fills into the fields of a form that nobody has touched."""
    defaults = {name: prop.default for name, prop in _drawn(operator, dataset, params).type.properties.items()}
    return {name: value for name, value in defaults.items() if value is not None}


def required(operator: type[Any], dataset: fo.Dataset) -> list[str]:
    """The fields that the App shows in red while they have no value: also until the form's defaults reach it."""
    return [name for name, prop in _drawn(operator, dataset, {}).type.properties.items() if prop.required]


def notices(operator: type[Any], dataset: fo.Dataset, **params: Any) -> dict[str, str]:
    """The lines of information in a form."""
    drawn = _drawn(operator, dataset, params).type.properties
    return {name: prop.view.label for name, prop in drawn.items() if isinstance(prop.view, types.AlertView)}


def valid(operator: type[Any], dataset: fo.Dataset, **params: Any) -> bool:
    """Whether the server would execute it."""
    return not _resolved(operator, dataset, params)[1].invalid


def _resolved(
    operator: type[Any], dataset: fo.Dataset, params: dict[str, Any]
) -> tuple[dict[str, Any], ValidationContext]:
    resolved = _drawn(operator, dataset, params)
    json.dumps(resolved.to_json())  # what the server sends
    found = {name: prop.error_message if prop.invalid else None for name, prop in resolved.type.properties.items()}
    instance, context = _asked(operator, dataset, params)
    return found, ValidationContext(context, resolved, instance)


def _drawn(operator: type[Any], dataset: fo.Dataset, params: dict[str, Any]) -> types.Property:
    instance, context = _asked(operator, dataset, params)
    return instance.resolve_type(context, "inputs")


def _asked(operator: type[Any], dataset: fo.Dataset, params: dict[str, Any]) -> tuple[Any, ExecutionContext]:
    instance = operator()
    instance.plugin_name = PLUGIN
    request = {"dataset_name": dataset.name, "params": params, "extended_selection": None}  # as the App sends it
    return instance, ExecutionContext(request, operator_uri=instance.uri)
