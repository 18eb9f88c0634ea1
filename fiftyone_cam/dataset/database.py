"""Updates of a dataset that two processes may make at once, and looking at what another has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
from bson import ObjectId
from pymongo.errors import PyMongoError

from fiftyone_cam.core.errors import RunError


def register_run(dataset: fo.Dataset, key: str, config: fo.RunConfig) -> None:
    """FiftyOne's ``dataset.register_run``, of which one of several who do it at once succeeds.

    Raises:
        RunError: somebody else was quicker.
    """
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    document = foo.RunDocument(
        dataset_id=dataset._doc.id, key=key, version=fo.__version__, timestamp=now, config=config.serialize()
    )
    document.save()
    unused = {"_id": dataset._doc.id, f"runs.{key}": {"$exists": False}}
    entry = {"$set": {f"runs.{key}": document.id, "last_modified_at": now}}
    if not foo.get_db_conn()["datasets"].update_one(unused, entry).matched_count:
        document.delete()
        raise RunError(f"run {key!r} was begun by somebody else just now: wait for it, or use another key")
    dataset._doc.reload()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say what to do where the database cannot be written.

    Raises:
        RunError: it cannot.
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
    """Change these entries of a run's record in the database, and no others: another process may change those.

    Args:
        dataset: the dataset.
        key: of the run.
        entries: names and values.
        only_if: what its document must still hold.

    Returns:
        False if there is no such document.
    """
    change = {"$set": {f"config.{name}": value for name, value in entries.items()}}
    with writing():
        found = foo.get_db_conn()["runs"].update_one({"_id": document_of(dataset, key), **(only_if or {})}, change)
    return bool(found.matched_count)


def document_of(dataset: fo.Dataset, key: str) -> ObjectId:
    """The id of a run's document, as this process knows it."""
    return ObjectId(dataset._doc.runs[key].id)


def is_registered(dataset: fo.Dataset, key: str) -> bool:
    """Whether the dataset in the database still has this run: another process may have deleted either.

    Where two register the same key at once, only the later one is.
    """
    found = foo.get_db_conn()["datasets"].find_one({"_id": dataset._doc.id}, {f"runs.{key}": True})
    return ((found or {}).get("runs") or {}).get(key) == document_of(dataset, key)


def remove_document(dataset: fo.Dataset, key: str) -> None:
    """Delete a run's document that no dataset refers to any more."""
    foo.get_db_conn()["runs"].delete_one({"_id": document_of(dataset, key)})


def declare_field(dataset: fo.Dataset, path: str, **kwargs: Any) -> None:
    """FiftyOne's ``dataset.add_sample_field``, of which several at once all succeed.

    That one writes the list of all fields as this process knows it, and so takes off it what another added just then.

    Args:
        dataset: the dataset.
        path: the field's name, which must not be one of an embedded field.
        kwargs: the type, as ``dataset.add_sample_field`` takes it.

    >>> declare_field(dataset, "cam_error", ftype=fo.StringField)
    """
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    field = foo.create_field(path, **kwargs)
    field._set_created_at(now)
    entry = foo.SampleFieldDocument.from_field(field).to_mongo()
    unused = {"_id": dataset._doc.id, "sample_fields.name": {"$ne": path}}
    change = {"$push": {"sample_fields": entry}, "$set": {"last_modified_at": now}}
    with writing():
        declared = foo.get_db_conn()["datasets"].update_one(unused, change)
    if declared.modified_count:  # for samples that are loaded: dataset.reload() would replace their class
        dataset._sample_doc_cls._declare_field(dataset, path, field)
    refresh(dataset)


def refresh(dataset: fo.Dataset) -> None:
    """See what others have done to a dataset since this process looked: its name, runs, fields and settings.

    FiftyOne writes lists of fields and the App's settings as a whole, so what others added would be lost with the next
    change from here.

    Raises:
        RunError: it has been deleted.

    >>> refresh(dataset)
    """
    document = dataset._doc
    found = foo.get_db_conn()["datasets"].find_one({"_id": document.id}, {"last_modified_at": True})
    if found is None:
        raise RunError(f"the dataset {document.name!r} was deleted meanwhile")
    if _milliseconds(found["last_modified_at"]) == _milliseconds(document.last_modified_at):
        return
    document.reload()
    if {field.name for field in document.sample_fields} != set(dataset.get_field_schema(include_private=True)):
        dataset.reload()


def _milliseconds(moment: datetime | None) -> Any:
    """As MongoDB keeps time."""
    return moment and (moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=None))
