"""The lease of a run: one thread of one process computes it. If that one dies, another takes over.

The holder's name is in the run's document in the database. It gets there by an update that succeeds for one of several
who try at once. The holder repeats the update with each chunk of results, as a sign of life. So it also learns that the
run or its dataset was deleted or taken over, and writes nothing more.
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
from fiftyone_cam.runs.record import Process, RunRecord, set_entries


class Leased(Protocol):
    """What only one at a time may compute: a run."""

    dataset: fo.Dataset
    key: str

    @property
    def record(self) -> RunRecord: ...

    def update(self, **entries: Any) -> None: ...


SILENT = 600.0
"""A holder on another machine counts as dead after so many seconds without a sign of life."""

_held: set[str] = set()
"""Tokens of the leases that this process holds. They tell a second thread of this process from the first."""


def holder(record: RunRecord) -> str | None:
    """Who computes a run now, in words; None if nobody does, or the process is gone.

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
        # without an init process, a container lists dead processes as zombies
        alive = owner.create_time() == process.started and owner.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        alive = False
    return f"process {process.pid}" if alive else None


def refuse_second(run: Leased) -> None:
    """Check that nobody computes a run.

    Raises:
        RunError: somebody does.
    """
    if who := holder(run.record):
        raise RunError(f"run {run.key!r} is being computed by {who}: wait for it, stop it, or use another key")


def take(run: Leased, **entries: Any) -> None:
    """Take the lease of a run, and write further entries into its record.

    Raises:
        RunError: somebody else has it, or was quicker.
    """
    refuse_second(run)
    me, token = psutil.Process(), uuid.uuid4().hex
    process = Process(host=socket.gethostname(), pid=me.pid, started=me.create_time(), token=token)
    now = datetime.now(timezone.utc).isoformat()
    seen = run.record.process.token if run.record.process else None
    before = {"config.status": run.record.status, "config.process.token": seen}  # None: there is none
    entries |= {"status": "running", "process": process, "alive_at": now}
    _held.add(token)  # before it can be read: another thread would take this one for dead
    written = False
    try:
        written = _write(run, entries, before)
    finally:
        if not written:
            _held.discard(token)
    if not written:
        raise RunError(f"run {run.key!r} was begun by somebody else just now: wait for it, or use another key")


def keep(run: Leased, **entries: Any) -> None:
    """Keep the lease: give a sign of life, and write further entries into the record.

    Raises:
        RunError: the lease is lost; nothing may be written any more.
    """
    now = datetime.now(timezone.utc).isoformat()
    mine = {"config.process.token": _token(run)}
    mine_still = _write(run, {"alive_at": now, **entries}, mine)
    if mine_still and not database.is_registered(run.dataset, run.key):
        # the dataset was deleted by a process that did not know this run
        database.remove_document(run.dataset, run.key)
        mine_still = False
    if not mine_still:
        raise RunError(f"run {run.key!r} was deleted, or taken over, while it was computed: nothing more is written")


def leave(run: Leased, **entries: Any) -> None:
    """Release the run and store final entries.

    Raises:
        RunError: the lease was lost before; nothing is stored.
    """
    try:
        keep(run)
    finally:
        forget(run)
    run.update(process=None, **entries)


def forget(run: Leased) -> None:
    """Release the run locally when the database is unreachable. Others see it as after a kill of this process."""
    _held.discard(_token(run))


def _write(run: Leased, entries: Mapping[str, Any], only_if: Mapping[str, Any] | None = None) -> bool:
    written = store.write(run.dataset, run.key, entries, only_if)
    if written:
        set_entries(run.record, entries)
    return written


def _token(run: Leased) -> str:
    token = run.record.process and run.record.process.token
    return token or "none"  # which nobody has
