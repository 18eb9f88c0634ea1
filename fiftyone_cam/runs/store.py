"""Where a run's record lies in the database: FiftyOne keeps it on the dataset, under the run's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fiftyone as fo

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset import database, internals
from fiftyone_cam.runs.record import Record, RunRecord, read_record, to_plain

CAM = "fiftyone_cam"
TRAINING = f"{CAM}/train"
"""How FiftyOne tells the runs of this project from others: its ``method`` of a run."""


def keys(dataset: fo.Dataset, method: str) -> list[str]:
    """The keys of this project's runs of one kind.

    >>> keys(dataset, CAM)
    ['cam']
    """
    return [str(key) for key in dataset.list_runs(method=method)]


def read(dataset: fo.Dataset, key: str, kind: type[Record]) -> Record:
    """The record as it is in the database now: another process may be computing the run.

    Raises:
        RunError: the run was deleted meanwhile, or its record cannot be read.

    >>> read(dataset, "cam", CamRecord).status
    'complete'
    """
    return read_record(kind, read_entries(dataset, key), key)


def read_entries(dataset: fo.Dataset, key: str) -> dict[str, Any]:
    """The record's entries as they are in the database now, whatever they are.

    Raises:
        RunError: the run was deleted meanwhile.

    >>> read_entries(dataset, "cam")["schema_version"]
    1
    """
    if not internals.reload_run(dataset, key):
        database.refresh(dataset)
        raise RunError(f"run {key!r} was deleted meanwhile")
    entries = dataset.get_run_info(key).config.serialize()
    return {name: value for name, value in entries.items() if name not in ("cls", "type", "method")}


def written_fields(dataset: fo.Dataset, key: str) -> list[str]:
    """The dataset's fields that a run wrote, also where nothing else of its record can be read.

    >>> written_fields(dataset, "cam")
    ['cam_prediction', 'cam_heatmap', 'cam_error']
    """
    return list(read_entries(dataset, key).get("fields") or ())


def register(dataset: fo.Dataset, key: str, method: str, record: RunRecord) -> None:
    """Put a new record into the database.

    Raises:
        RunError: somebody else was quicker.

    >>> register(dataset, "cam", CAM, record)
    """
    database.register_run(dataset, key, dataset.init_run(method=method, **to_plain(record)))


def write(dataset: fo.Dataset, key: str, entries: Mapping[str, Any], only_if: Mapping[str, Any] | None = None) -> bool:
    """Change these entries of a record in the database, and no others: another process may change those.

    Args:
        dataset: the dataset.
        key: of the run.
        entries: names and values, records among them.
        only_if: what its document must still hold.

    Returns:
        False if there is no such document.

    >>> write(dataset, "cam", {"status": "complete"})
    True
    """
    return database.write_record(dataset, key, to_plain(entries), only_if)
