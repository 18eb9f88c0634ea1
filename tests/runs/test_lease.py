"""The lease on a run: one holder at a time, whichever thread or process; a dead one's is free."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import fiftyone as fo
import psutil
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.runs import catalog, lease
from fiftyone_cam.runs.record import Process
from tests.helpers.annotations import CLASSES, LEFT, add
from tests.helpers.processes import Servant
from tests.helpers.stored_runs import Made, made_run, registered_run


@pytest.fixture()
def other(dataset: fo.Dataset) -> Iterator[Servant]:
    """Another process that has a run ``cam`` in hand."""
    dataset.persistent = True  # while another process has it
    registered_run(dataset)
    servant = Servant(dataset)
    servant("from fiftyone_cam.runs import catalog, lease; run = catalog.load_run(dataset, 'cam')")
    yield servant
    servant.dismiss()


def now(dataset: fo.Dataset) -> focam.CamRun:
    return catalog.load_run(dataset, "cam")


def test_what_another_process_holds_is_refused_and_free_when_it_leaves(dataset: fo.Dataset, other: Servant) -> None:
    other("lease.take(run)")
    held = now(dataset)
    assert held.status == "running"
    assert lease.holder(held.record) == f"process {held.record.process.pid}"
    for refused in (lambda: lease.take(now(dataset)), lambda: now(dataset).delete()):
        with pytest.raises(RunError, match=f"is being computed by process {held.record.process.pid}: wait for it"):
            refused()
    other("lease.leave(run, status='complete')")
    assert (now(dataset).status, now(dataset).record.process) == ("complete", None)
    lease.take(mine := now(dataset))
    assert lease.holder(now(dataset).record) == "this process"
    lease.leave(mine, status="complete")


@pytest.mark.slow
def test_of_two_who_saw_it_free_one_has_it(dataset: fo.Dataset, other: Servant) -> None:
    mine = now(dataset)
    other("lease.take(run)")
    with pytest.raises(RunError, match="was begun by somebody else just now"):
        lease.take(mine)
    assert lease.holder(mine.record) is None  # it does not think that it has it


def test_a_dead_ones_is_taken_over_and_the_dead_cannot_write_any_more(dataset: fo.Dataset, other: Servant) -> None:
    other("lease.take(run)")
    other("lease.forget(run)")  # alive, but its process claims to be another: as after a new start of the machine
    run = now(dataset)
    run.update(process=Process(host=run.record.process.host, pid=run.record.process.pid, started=1.0, token="old"))
    assert now(dataset).status == "interrupted"
    lease.take(mine := now(dataset))
    other(
        "try: lease.keep(run, scale=3.0)\n"
        "except Exception as error: run.update(stopped_by=str(error))\n"
        "else: run.update(stopped_by='nothing')"
    )
    found = now(dataset).record
    assert "was deleted, or taken over, while it was computed: nothing more is written" in found.stopped_by
    assert (found.scale, found.process) == (None, mine.record.process)
    lease.leave(mine, status="complete")


@pytest.mark.parametrize(("seconds", "status"), [(lease.SILENT - 60, "running"), (lease.SILENT + 60, "interrupted")])
def test_one_on_another_machine_lives_as_long_as_it_gives_signs_of_life(
    dataset: fo.Dataset, seconds: float, status: str
) -> None:
    run = registered_run(dataset)
    seen = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    theirs = Process(host="elsewhere", pid=1, started=0.0, token="theirs")
    run.update(status="running", process=theirs, alive_at=seen.isoformat())
    assert now(dataset).status == status


def test_of_threads_of_one_process_one_has_it(dataset: fo.Dataset) -> None:
    registered_run(dataset)
    taken: list[focam.CamRun] = []
    refused: list[str] = []
    ready = threading.Barrier(8)

    def want() -> None:
        run = now(dataset)
        ready.wait()
        try:
            lease.take(run)
        except RunError as error:
            refused.append(str(error))
        else:
            taken.append(run)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)
    with pytest.raises(RunError, match="is being computed by this process"):
        lease.take(now(dataset))
    lease.leave(taken[0], status="complete")
    assert now(dataset).status == "complete"


@pytest.mark.slow
def test_one_whose_run_was_deleted_learns_of_it(dataset: fo.Dataset, other: Servant) -> None:
    lease.take(mine := now(dataset))
    other("dataset.delete_run('cam')")  # by FiftyOne, which knows of no lease
    with pytest.raises(RunError, match="was deleted, or taken over"):
        lease.keep(mine)
    lease.forget(mine)


def test_a_run_that_is_being_computed_is_left_alone(dataset: fo.Dataset) -> None:
    ids = add(dataset, {})
    run = made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    lease.take(run)
    with pytest.raises(RunError, match="is being computed: wait for it"):
        focam.audit(dataset)
    lease.forget(run)  # as if it had been killed: what it left can be worked with
    run.update(process=None)
    assert run.status == "interrupted"
    focam.audit(dataset)
    assert dataset.first()["cam_spread"] is not None


def test_a_running_key_is_refused_and_a_dead_one_taken_over(photos: fo.Dataset, classifier: focam.Classifier) -> None:
    run = focam.compute_cam(photos[:2], classifier)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process(host=socket.gethostname(), pid=child.pid, started=psutil.Process(child.pid).create_time())
    run.update(status="running", process=process)
    with pytest.raises(RunError, match=f"is being computed by process {child.pid}"):
        focam.compute_cam(photos, classifier)
    child.communicate(b"\n")
    assert focam.compute_cam(photos, classifier).counts.computed == 12
