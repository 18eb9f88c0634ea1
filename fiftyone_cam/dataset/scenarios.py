"""Scenarios of FiftyOne's Model Evaluation panel: an evaluation by the values of a field, one beside the other.

The panel keeps them in a store of the dataset's, and FiftyOne has no function to make one. They are written here as the
panel of FiftyOne 1.22.1 writes and reads them; where another version reads them otherwise, it shows none of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo
from bson import ObjectId
from fiftyone.operators.cache.ephemeral import clear_all_ephemeral_caches
from fiftyone.operators.store import ExecutionStore

from fiftyone_cam.dataset import internals

_STORE, _KEY = "model_evaluation_panel_builtin", "scenarios"


def read(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """All scenarios of a dataset, by id.

    >>> [scenario["name"] for scenario in read(dataset).values()]
    ['cam verdicts']
    """
    return dict(_store(dataset).get(_KEY) or {})


def save(dataset: fo.Dataset, name: str, path: str, values: Sequence[str], id: str | None = None) -> str:
    """Save a scenario with a subset of the samples for each value of a field.

    Args:
        dataset: the dataset.
        name: what the panel calls it.
        path: a field of samples.
        values: those of the field that are shown.
        id: of the scenario to replace; by default it is a new one.

    Returns:
        its id.

    >>> save(dataset, "cam verdicts", "cam_verdict", ["trusted", "distracted"])
    '6748…'
    """
    id = id or str(ObjectId())
    scenario = {"id": id, "name": name, "type": "sample_field", "field": path, "subsets": list(values)}
    _store(dataset).set(_KEY, {**read(dataset), id: scenario})
    _forget_counts(dataset)
    return id


def delete(dataset: fo.Dataset, ids: Sequence[str]) -> None:
    """Delete scenarios, those that are there.

    >>> delete(dataset, [id])
    """
    found = read(dataset)
    if any(id in found for id in ids):
        _store(dataset).set(_KEY, {id: scenario for id, scenario in found.items() if id not in ids})


def _forget_counts(dataset: fo.Dataset) -> None:
    """The panel keeps its counts by the names of evaluation, field and values alone, in this process as well."""
    _store(dataset).clear_cache()
    clear_all_ephemeral_caches()


def _store(dataset: fo.Dataset) -> ExecutionStore:
    return ExecutionStore.create(_STORE, internals.dataset_id(dataset))
