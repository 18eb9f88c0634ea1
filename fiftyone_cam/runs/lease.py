"""Who computes a run: one at a time, in whichever thread, process or machine. What a dead one left is taken over.

The holder is written into the run's document in the database, by an update that succeeds for one of several who try at
once, and which the holder repeats with each chunk of results as a sign of life. So it also learns that the run, or its
dataset, has been deleted or taken over meanwhile, and writes nothing more.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

import fiftyone as fo
import psutil

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset import database
from fiftyone_cam.runs import store
from fiftyone_cam.runs.record import Process, RunRecord, set_entries, to_plain


class Leased(Protocol):
    """What is computed by one at a time: a run."""

    dataset: fo.Dataset
    key: str

    @property
    def record(self) -> RunRecord: ...

    def update(self, **entries: Any) -> None: ...


SILENT = 600.0
"""Seconds without a sign of life after which a run on another machine counts as dead."""

_held: set[str] = set()
"""The tokens of the runs that this process computes: of two threads, one is the second."""


def holder(record: RunRecord) -> str | None:
    """Who computes a run now, in words; None where nobody does, or its process is gone.

    >>> holder(run.record)
    'process 4711'
    """
    process = record.process
    if record.status != "running" or process is None:
        return None
    if process.host != socket.gethostname():
        seen = record.alive_at
        silent = (datetime.now(timezone.utc) - datetime.fromisoformat(seen)).total_seconds() if seen else SILENT
        return f"process {process.pid} on {process.host}" if silent < SILENT else None
    if process.pid == os.getpid():
        return "this process" if process.token in _held else None
    try:
        owner = psutil.Process(process.pid)
        # a container without an init process keeps the dead in its list
        alive = owner.create_time() == process.started and owner.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        alive = False
    return f"process {process.pid}" if alive else None


def refuse_second(run: Leased) -> None:
    """See that nobody computes a run.

    Raises:
        RunError: somebody does.
    """
    if who := holder(run.record):
        raise RunError(f"run {run.key!r} is being computed by {who}: wait for it, stop it, or use another key")


def take(run: Leased, **entries: Any) -> None:
    """Become the one who computes a run, with further entries for its record.

    Raises:
        RunError: somebody else is, or was quicker.
    """
    refuse_second(run)
    me = psutil.Process()
    process = Process(host=socket.gethostname(), pid=me.pid, started=me.create_time(), token=uuid.uuid4().hex)
    now = datetime.now(timezone.utc).isoformat()
    before = {"config.status": run.record.status, "config.process": to_plain(run.record.process)}
    entries |= {"status": "running", "process": process, "alive_at": now}
    if not _write(run, entries, before):
        raise RunError(f"run {run.key!r} was begun by somebody else just now: wait for it, or use another key")
    _held.add(process.token)


def keep(run: Leased, **entries: Any) -> None:
    """Say that the run is still being computed, with further entries for its record.

    Raises:
        RunError: it is not this one's any more; nothing may be written.
    """
    now = datetime.now(timezone.utc).isoformat()
    mine = {"config.process.token": _token(run)}
    mine_still = _write(run, {"alive_at": now, **entries}, mine)
    if mine_still and not database.is_registered(run.dataset, run.key):
        database.remove_document(run.dataset, run.key)  # the dataset was deleted by one who did not know of the run
        mine_still = False
    if not mine_still:
        raise RunError(f"run {run.key!r} was deleted, or taken over, while it was computed: nothing more is written")


def leave(run: Leased, **entries: Any) -> None:
    """Compute no more; write what there is to say of it into the record, if the run is still this one's.

    Raises:
        RunError: it is not.
    """
    try:
        keep(run)
    finally:
        forget(run)
    run.update(process=None, **entries)


def forget(run: Leased) -> None:
    """Compute no more, where nothing can be written: as if the process had been killed."""
    _held.discard(_token(run))


def _write(run: Leased, entries: Mapping[str, Any], only_if: Mapping[str, Any] | None = None) -> bool:
    written = store.write(run.dataset, run.key, entries, only_if)
    if written:
        set_entries(run.record, entries)
    return written


def _token(run: Leased) -> str:
    return run.record.process.token if run.record.process else ""
