"""The App's server computes, and is killed: a delegated run is another process's, and ends; an immediate one goes on
from where it was, when it is asked for again."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import psutil
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.networks import build
from tests.helpers.networks import write_photos
from tests.helpers.processes import NAMES, PATIENCE, ROOT, check, foreign, wait_for

pytestmark = pytest.mark.slow

SERVER = """
import sys
import fiftyone as fo
session = fo.launch_app(port=int(sys.argv[1]), address="127.0.0.1", remote=True)
sys.stdin.read()
"""
DELEGATED = "import sys; from fiftyone.core.cli import main; sys.argv = ['fiftyone', 'delegated', 'launch']; main()"


class Server:
    """The App's server, in a process of its own, without a browser."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.process = start(SERVER, str(self.port))
        wait_for(lambda: self.ask("/fiftyone"), "the server's answer")

    def kill(self) -> None:
        kill(self.process)
        wait_for(lambda: self.ask("/fiftyone") is None, "the server's end")

    def ask(self, path: str, data: dict[str, object] | None = None) -> bytes | None:
        """What it answers in full; None if it is not there, or dies meanwhile."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if data is None else json.dumps(data).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return bytes(answer.read())
        except (http.client.HTTPException, OSError):
            return None


@pytest.fixture()
def server() -> Iterator[Server]:
    link = Path(fo.config.plugins_dir) / "fiftyone_cam"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    started = Server()
    yield started
    started.kill()


@pytest.fixture()
def asked(dataset: fo.Dataset, tmp_path: Path) -> dict[str, Any]:
    """10,000 small images and a classifier for them: what the App's form sends for them."""
    paths = write_photos(tmp_path, 40, (32, 48))
    dataset.persistent = True
    dataset.add_samples([fo.Sample(filepath=paths[i % 40], mine=i) for i in range(10_000)], progress=False)
    small = Preprocessing((Resize(size=(32, 32)),))
    network = focam.load_classifier(build("small_gap_net", 3), NAMES, preprocessing=small)
    network.origin["arch"] = "small_gap_net"
    checkpoint = network.save(tmp_path / "checkpoint")
    return {
        "operator_uri": "@fiftyone-cam/cam/compute_cam",
        "dataset_name": dataset.name,
        "view": [],
        "extended_selection": None,
        "params": {
            "source": "checkpoint",
            "checkpoint": str(checkpoint),
            "key": "cam",
            "advanced": False,
            "alone": True,
        },
    }


def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` of it and its children: FiftyOne's server, in a group of its own, would live on a while."""
    if process.poll() is None:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()


def computed(dataset: fo.Dataset) -> int:
    dataset.reload()
    return dataset.count("cam_heatmap") if dataset.has_sample_field("cam_heatmap") else 0


def test_a_delegated_run_outlives_the_server(dataset, server, asked):
    before = foreign(dataset)
    answer = server.ask("/operators/execute", {**asked, "request_delegation": True})
    assert answer is not None
    assert b"delegated" in answer, answer[:500]
    operations = foo.get_db_conn()["delegated_ops"]

    def state() -> str:
        return str(operations.find_one({"operator": "@fiftyone-cam/cam/compute_cam"})["run_state"])

    assert state() == "queued"
    delegated = start(DELEGATED)
    try:
        wait_for(lambda: computed(dataset), "the first results")
        assert state() == "running"
        server.kill()
        server.start()
        wait_for(lambda: state() != "running", "the end of the run")
    finally:
        kill(delegated)
    assert state() == "completed"
    check(dataset, before)
    assert focam.load_run(dataset, "cam").counts.new == 10_000


def test_an_immediate_run_dies_with_the_server_and_goes_on_when_asked_again(dataset, server, asked):
    before = foreign(dataset)
    answers: list[bytes | None] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("/operators/execute/generator", asked)))
    asking.start()
    wait_for(lambda: computed(dataset), "the first results")
    server.kill()
    asking.join(PATIENCE)
    assert answers == [None]

    wait_for(lambda: focam.load_run(dataset, "cam").status == "interrupted", "the end of the run")
    done = computed(dataset)
    assert 0 < done < 10_000, "it was to be killed in the middle"
    assert foreign(dataset) == before
    assert focam.load_run(dataset, "cam").counts.computed == done
    kept = dict(zip(*dataset.exists("cam_heatmap").values(["id", "cam_heatmap.id"]), strict=True))

    server.start()
    answer = server.ask("/operators/execute/generator", asked)
    assert answer is not None
    assert f"10,000 with a map, 0 failed, of 10,000; {10_000 - done:,} new".encode() in answer, answer[-2000:]
    check(dataset, before)
    after = dict(zip(*dataset.values(["id", "cam_heatmap.id"]), strict=True))
    assert kept.items() <= after.items(), "what was there was computed again"


def test_the_server_computes_in_ray(dataset, server, asked):
    pytest.importorskip("ray")
    before = foreign(dataset)
    asked["params"] |= {"advanced": True, "engine": "ray", "num_actors": 1, "gpus_per_actor": 0}
    answer = server.ask("/operators/execute/generator", asked)
    assert answer is not None
    check(dataset, before)
    assert focam.load_run(dataset, "cam").record.timing.device == "cpu, 1 Ray actor"
