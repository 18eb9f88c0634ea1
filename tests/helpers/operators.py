"""Operators executed as the App would have them executed."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from fiftyone.operators.executor import ExecutionContext, Executor

from fiftyone_cam.plugin.operators.base import ALONE


def execute(operator: Any, dataset: fo.Dataset, params: dict[str, Any], **request: Any) -> list[Any]:
    """All that an operator sends the App, once its form is closed."""
    return list(operator.execute(context_of(dataset, {**params, ALONE: True}, **request)))


def context_of(dataset: fo.Dataset, params: dict[str, Any], **request: Any) -> ExecutionContext:
    asked = {"dataset_name": dataset.name, "params": params, "extended_selection": None, **request}
    return ExecutionContext(asked, executor=Executor())
