"""Where a run's record lies in the database: FiftyOne keeps it on the dataset, under the run's key."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from mongoengine.errors import DoesNotExist

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset import database

CAM = "fiftyone_cam"
TRAINING = f"{CAM}/train"
"""How FiftyOne tells the runs of this project from others: its ``method`` of a run."""


def keys(dataset: fo.Dataset, method: str) -> list[str]:
    """The keys of this project's runs of one kind.

    >>> keys(dataset, CAM)
    ['cam']
    """
    return [str(key) for key in dataset.list_runs(method=method)]


def read(dataset: fo.Dataset, key: str) -> dict[str, Any]:
    """The record as it is in the database now: another process may be computing the run.

    Raises:
        RunError: the run was deleted meanwhile.
    """
    try:
        dataset._doc.runs[key].reload()
    except DoesNotExist:
        database.refresh(dataset)
        raise RunError(f"run {key!r} was deleted meanwhile") from None
    record = dataset.get_run_info(key).config.serialize()
    return {name: value for name, value in record.items() if name not in ("cls", "type", "method")}
