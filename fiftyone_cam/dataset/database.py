"""Updates of a dataset that several processes may make at once, and reading what another process has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from pymongo.errors import PyMongoError

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset import internals
from fiftyone_cam.dataset.collection import FRAMES


def register_run(dataset: fo.Dataset, key: str, config: fo.RunConfig) -> None:
    """Register a run as ``dataset.register_run`` does. If several processes do it at once, one of them succeeds.

    Raises:
        RunError: another process was quicker.
    """
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    document = internals.add_run_document(dataset, key, config, now)
    unused = {"_id": internals.dataset_id(dataset), f"runs.{key}": {"$exists": False}}
    entry = {"$set": {f"runs.{key}": document, "last_modified_at": now}}
    if not internals.datasets().update_one(unused, entry).matched_count:
        internals.runs().delete_one({"_id": document})
        raise RunError(f"run {key!r} was begun by somebody else just now: wait for it, or use another key")
    internals.reload_document(dataset)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn errors of writes in the block into one that says what to do.

    Raises:
        RunError: the database cannot be written.
    """
    try:
        yield
    except PyMongoError as error:
        raise RunError(
            f"the database cannot be written ({type(error).__name__}: {error}): is it running, is its disk full? "
            "What was written before is safe; do the same again"
        ) from error


def write_record(
    dataset: fo.Dataset, key: str, entries: Mapping[str, Any], only_if: Mapping[str, Any] | None = None
) -> bool:
    """Change these entries of a run's record in the database. Others stay as they are: another process may change them.

    Args:
        dataset: the dataset.
        key: of the run.
        entries: names and values.
        only_if: entries that the document must have; else nothing is changed.

    Returns:
        Whether there is such a document.
    """
    change = {"$set": {f"config.{name}": value for name, value in entries.items()}}
    with writing():
        found = internals.runs().update_one({"_id": internals.run_id(dataset, key), **(only_if or {})}, change)
    return bool(found.matched_count)


def is_registered(dataset: fo.Dataset, key: str) -> bool:
    """Whether the dataset in the database still has this run: another process may have deleted either.

    If two processes register the same key at once, only the later run is registered.
    """
    found = internals.datasets().find_one({"_id": internals.dataset_id(dataset)}, {f"runs.{key}": True})
    return ((found or {}).get("runs") or {}).get(key) == internals.run_id(dataset, key)


def others_have(dataset: fo.Dataset, key: str, entry: str, value: Any) -> bool:
    """Whether a run of another dataset, or another run of this one, has this value of an entry: clones share values.

    >>> others_have(dataset, "cam", "concepts.folder", run.record.concepts.folder)
    False
    """
    other = {"_id": {"$ne": internals.run_id(dataset, key)}, f"config.{entry}": value}
    return internals.runs().find_one(other, {"_id": True}) is not None


def remove_document(dataset: fo.Dataset, key: str) -> None:
    """Delete a run's document that no dataset refers to any more."""
    internals.runs().delete_one({"_id": internals.run_id(dataset, key)})


def declare_fields(dataset: fo.Dataset, schema: Mapping[str, Mapping[str, Any]]) -> None:
    """Add fields as ``dataset.add_sample_field`` does, or to the frames of videos where a path begins with
    ``frames.``. If several processes do it at once, all succeed.

    FiftyOne's own writes the list of all fields that this process knows. A field that another process added just before
    would be lost.

    Args:
        dataset: the dataset.
        schema: names, which must not be those of embedded fields, and types, as ``dataset.add_sample_field`` takes
            them.

    >>> declare_fields(dataset, {"cam_error": {"ftype": fo.StringField}})
    """
    for path, kwargs in schema.items():
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        name, fields = path.removeprefix(FRAMES), "frame_fields" if path.startswith(FRAMES) else "sample_fields"
        field, entry = internals.make_field(name, now, **kwargs)
        unused = {"_id": internals.dataset_id(dataset), f"{fields}.name": {"$ne": name}}
        change = {"$push": {fields: entry}, "$set": {"last_modified_at": now}}
        with writing():
            declared = internals.datasets().update_one(unused, change)
        if declared.modified_count:
            internals.declare_on_loaded(dataset, path, field)
    if schema:
        refresh(dataset)


def refresh(dataset: fo.Dataset) -> None:
    """Read what other processes have changed in a dataset: its name, runs, fields and settings.

    FiftyOne writes the list of fields and the App's settings as a whole. Without this, the next write from here would
    undo what others added.

    Raises:
        RunError: it has been deleted.

    >>> refresh(dataset)
    """
    found = internals.datasets().find_one({"_id": internals.dataset_id(dataset)}, {"last_modified_at": True})
    if found is None:
        raise RunError(f"the dataset {dataset.name!r} was deleted meanwhile")
    if _milliseconds(found["last_modified_at"]) == _milliseconds(dataset.last_modified_at):
        return
    internals.reload_document(dataset)
    if (internals.known_fields(dataset) ^ internals.loaded_fields(dataset)) - internals.MEDIA_FIELDS:
        dataset.reload()


def _milliseconds(moment: datetime | None) -> Any:
    """The time as MongoDB keeps it."""
    return moment and (moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=None))
