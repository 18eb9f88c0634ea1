"""The App's server is killed and started again while it has delegated a run: the run is another process's, and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import fiftyone.core.odm as foo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.geometry import Preprocessing, Resize
from fiftyone_cam.models import build
from tests.faults.running import NAMES, ROOT, check, foreign, wait_for
from tests.toys import write_photos

pytestmark = pytest.mark.slow

SERVER = """
import sys
import fiftyone as fo
session = fo.launch_app(port=int(sys.argv[1]), address="127.0.0.1", remote=True)
sys.stdin.read()
"""
DELEGATED = "import sys; from fiftyone.core.cli import main; sys.argv = ['fiftyone', 'delegated', 'launch']; main()"


@pytest.fixture()
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Each with its own children, which it is ended with."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        kill(process)


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_delegated_run_outlives_the_server(dataset, tmp_path, processes):
    link = Path(fo.config.plugins_dir) / "fiftyone_cam"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    paths = write_photos(tmp_path, 40, (32, 48))
    dataset.persistent = True
    dataset.add_samples([fo.Sample(filepath=paths[i % 40], mine=i) for i in range(10_000)], progress=False)
    small = Preprocessing((Resize(size=(32, 32)),))
    network = focam.load_classifier(build("small_gap_net", 3), NAMES, preprocessing=small)
    network.origin["arch"] = "small_gap_net"
    checkpoint = network.save(tmp_path / "checkpoint")
    before = foreign(dataset)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ask(path: str, data: dict[str, object] | None = None) -> bytes | None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            data=None if data is None else json.dumps(data).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    processes.append(start(SERVER, str(port)))
    wait_for(lambda: ask("/fiftyone"), "the server's answer")
    asked = {
        "operator_uri": "fiftyone_cam/compute_cam",
        "dataset_name": dataset.name,
        "view": [],
        "params": {"source": "checkpoint", "checkpoint": str(checkpoint), "key": "cam", "advanced": False},
        "request_delegation": True,
    }
    answer = ask("/operators/execute", asked)
    assert answer is not None
    assert b"delegated" in answer, answer[:500]
    operations = foo.get_db_conn()["delegated_ops"]

    def state() -> str:
        return str(operations.find_one({"operator": "fiftyone_cam/compute_cam"})["run_state"])

    assert state() == "queued"
    processes.append(start(DELEGATED))

    def some_are_done() -> bool:
        dataset.reload()
        return dataset.has_sample_field("cam_heatmap") and dataset.count("cam_heatmap") > 0

    wait_for(some_are_done, "the first results")
    assert state() == "running"
    kill(processes[0])
    wait_for(lambda: ask("/fiftyone") is None, "the server's end")  # FiftyOne ends it when its parent is gone
    processes.append(start(SERVER, str(port)))
    wait_for(lambda: state() != "running", "the end of the run")
    assert state() == "completed"
    check(dataset, before)
    assert focam.load_run(dataset, "cam").counts["new"] == 10_000
    wait_for(lambda: ask("/fiftyone"), "the new server's answer")
