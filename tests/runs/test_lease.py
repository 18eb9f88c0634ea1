"""A run is computed by one process at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fiftyone_cam as focam
from fiftyone_cam.runs import lease
from fiftyone_cam.runs.record import Process
from tests.helpers.annotations import CLASSES, LEFT, add
from tests.helpers.stored_runs import Made, made_run


def test_a_run_that_is_being_computed_is_left_alone(dataset):
    ids = add(dataset, {})
    run = made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES)
    lease.take(run)
    with pytest.raises(focam.RunError, match="is being computed: wait for it"):
        focam.audit(dataset)
    lease.forget(run)  # as if it had been killed: what it left can be worked with
    run.update(process=None)
    assert run.status == "interrupted"
    focam.audit(dataset)
    assert dataset.first()["cam_spread"] is not None


def test_a_running_key_is_refused_and_a_dead_one_taken_over(photos, classifier):
    run = focam.compute_cam(photos[:2], classifier)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    import socket

    import psutil

    process = Process(host=socket.gethostname(), pid=child.pid, started=psutil.Process(child.pid).create_time())
    run.update(status="running", process=process)
    with pytest.raises(focam.RunError, match=f"is being computed by process {child.pid}"):
        focam.compute_cam(photos, classifier)
    child.communicate(b"\n")
    assert focam.compute_cam(photos, classifier).counts.computed == 12
