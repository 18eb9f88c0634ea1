"""Who computes a run: one at a time, in whichever thread, process or machine. What a dead one left is taken over.

The holder is written into the run's document in the database, by an update that succeeds for one of several who try at
once, and which the holder repeats with each chunk of results as a sign of life. So it also learns that the run, or its
dataset, has been deleted or taken over meanwhile, and writes nothing more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.core.odm as foo
import psutil
from bson import ObjectId
from pymongo.errors import PyMongoError

from fiftyone_cam.core.errors import RunError

if TYPE_CHECKING:
    from fiftyone_cam.runs import CamRun

SILENT = 600.0
"""Seconds without a sign of life after which a run on another machine counts as dead."""

_held: set[str] = set()
"""The tokens of the runs that this process computes: of two threads, one is the second."""


def holder(record: Mapping[str, Any]) -> str | None:
    """Who computes a run now, in words; None where nobody does, or its process is gone.

    >>> holder(run.record)
    'process 4711'
    """
    process = record.get("process")
    if record["status"] != "running" or not process:
        return None
    if process["host"] != socket.gethostname():
        seen = record.get("alive_at")
        silent = (datetime.now(timezone.utc) - datetime.fromisoformat(seen)).total_seconds() if seen else SILENT
        return f"process {process['pid']} on {process['host']}" if silent < SILENT else None
    if process["pid"] == os.getpid():
        return "this process" if process.get("token") in _held else None
    try:
        owner = psutil.Process(process["pid"])
        # a container without an init process keeps the dead in its list
        alive = owner.create_time() == process["started"] and owner.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        alive = False
    return f"process {process['pid']}" if alive else None


def register(dataset: fo.Dataset, key: str, config: fo.RunConfig) -> None:
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


def refuse_second(run: CamRun) -> None:
    """See that nobody computes a run.

    Raises:
        RunError: somebody does.
    """
    if who := holder(run.record):
        raise RunError(f"run {run.key!r} is being computed by {who}: wait for it, stop it, or use another key")


def take(run: CamRun, **entries: Any) -> None:
    """Become the one who computes a run, with further entries for its record.

    Raises:
        RunError: somebody else is, or was quicker.
    """
    refuse_second(run)
    me = psutil.Process()
    process = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "token": uuid.uuid4().hex}
    now = datetime.now(timezone.utc).isoformat()
    before = {"config.status": run.record["status"], "config.process": run.record.get("process")}
    entries |= {"status": "running", "process": process, "alive_at": now}
    if not write(run, entries, before):
        raise RunError(f"run {run.key!r} was begun by somebody else just now: wait for it, or use another key")
    _held.add(str(process["token"]))


def keep(run: CamRun, **entries: Any) -> None:
    """Say that the run is still being computed, with further entries for its record.

    Raises:
        RunError: it is not this one's any more; nothing may be written.
    """
    now = datetime.now(timezone.utc).isoformat()
    mine = {"config.process.token": run.record["process"]["token"]}
    mine_still = write(run, {"alive_at": now, **entries}, mine)
    if mine_still and _registered(run) != _id(run):  # its dataset was deleted by one who did not know of the run
        foo.get_db_conn()["runs"].delete_one({"_id": _id(run)})
        mine_still = False
    if not mine_still:
        raise RunError(f"run {run.key!r} was deleted, or taken over, while it was computed: nothing more is written")


def leave(run: CamRun, **entries: Any) -> None:
    """Compute no more; write what there is to say of it into the record, if the run is still this one's.

    Raises:
        RunError: it is not.
    """
    try:
        keep(run)
    finally:
        forget(run)
    run.update(process=None, **entries)


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


def forget(run: CamRun) -> None:
    """Compute no more, where nothing can be written: as if the process had been killed."""
    _held.discard((run.record.get("process") or {}).get("token", ""))


def write(run: CamRun, entries: Mapping[str, Any], only_if: Mapping[str, Any] | None = None) -> bool:
    """Change these entries of a run's record, here and in the database, and no others, which another may change.

    Args:
        run: the run.
        entries: names and values.
        only_if: what its document must still hold.

    Returns:
        False if there is no such document.
    """
    change = {"$set": {f"config.{name}": value for name, value in entries.items()}}
    with writing():
        found = foo.get_db_conn()["runs"].update_one({"_id": _id(run), **(only_if or {})}, change)
    if found.matched_count:
        run.record.update(entries)
    return bool(found.matched_count)


def _id(run: CamRun) -> ObjectId:
    return ObjectId(run.dataset._doc.runs[run.key].id)


def _registered(run: CamRun) -> ObjectId | None:
    """The document that the dataset has under the key: where two register at once, the later one's."""
    found = foo.get_db_conn()["datasets"].find_one({"_id": run.dataset._doc.id}, {f"runs.{run.key}": True})
    return ((found or {}).get("runs") or {}).get(run.key)


def declare(dataset: fo.Dataset, path: str, **kwargs: Any) -> None:
    """FiftyOne's ``dataset.add_sample_field``, of which several at once all succeed.

    That one writes the list of all fields as this process knows it, and so takes off it what another added just then.

    Args:
        dataset: the dataset.
        path: the field's name, which must not be one of an embedded field.
        kwargs: the type, as ``dataset.add_sample_field`` takes it.

    >>> declare(dataset, "cam_error", ftype=fo.StringField)
    """
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    field = foo.create_field(path, **kwargs)
    field._set_created_at(now)
    entry = foo.SampleFieldDocument.from_field(field).to_mongo()
    unused = {"_id": dataset._doc.id, "sample_fields.name": {"$ne": path}}
    change = {"$push": {"sample_fields": entry}, "$set": {"last_modified_at": now}}
    with writing():
        declared = foo.get_db_conn()["datasets"].update_one(unused, change)
    if declared.modified_count:  # what samples that somebody holds are made of; reloading it would make them another's
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
