"""The database is killed, or its disk is full, in the middle of a run: what was written is there, the rest follows."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiftyone_cam._mongod import _mongod
from tests.faults.test_disk import SmallDisk
from tests.helpers.networks import write_photos

ROOT = Path(__file__).parents[2]

RUN = """
import json, sys, time
import fiftyone as fo, fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import tiny_gap
dataset = fo.load_dataset("faults") if fo.dataset_exists("faults") else fo.Dataset("faults", persistent=True)
if not dataset.count("id"):  # not len: after a crash MongoDB's own estimate may be 0
    paths = json.load(open(sys.argv[1]))
    dataset.add_samples([fo.Sample(filepath=paths[i % len(paths)]) for i in range(2000)])
classifier = focam.load_classifier(tiny_gap(), ["a", "b", "c"], preprocessing=Preprocessing((Resize(size=(64, 64)),)))
def slowly(bar):
    print(bar.iteration, flush=True)
    time.sleep(0.005)
run = focam.compute_cam(dataset, classifier, batch_size=16, progress=slowly)
print(json.dumps([vars(run.counts), len(set(dataset.values("cam_heatmap.id"))), run.complete]), flush=True)
"""


class Database:
    """A mongod of this test's own, which it may kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        arguments = [_mongod(), "--dbpath", self.folder, "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        self.process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError("mongod does not listen")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture()
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Room for a database, and not for much more."""
    small = SmallDisk(tmp_path / "db", 700 << 10)
    yield small
    small.remove()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "disk full"])
def test_a_database_that_is_gone_stops_the_run_with_what_to_do_and_the_next_call_finishes(tmp_path, fault, request):
    if not _mongod().is_file():
        pytest.skip("FiftyOne came without a mongod")
    if fault == "killed":
        (tmp_path / "db").mkdir()
    small: SmallDisk | None = None if fault == "killed" else request.getfixturevalue("disk")
    photos = tmp_path / "paths.json"
    photos.write_text(json.dumps(write_photos(tmp_path, 8)))
    database = Database(tmp_path / "db")
    # a server that is gone is noticed soon; FiftyOne's own default is half a minute
    uri = f"mongodb://127.0.0.1:{database.port}/?serverSelectionTimeoutMS=3000"
    environment = {**os.environ, "FIFTYONE_DATABASE_URI": uri, "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RUN, str(photos)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    try:
        run = start()
        assert run.stdout is not None
        for line in run.stdout:
            if line.strip().isdigit() and int(line) >= 600:
                if small is None:
                    database.kill()
                else:
                    small.fill()
                break
        _, complaint = run.communicate(timeout=240)
        assert run.returncode != 0
        assert "RunError: the database cannot be" in complaint, complaint[-2000:]
        assert "What was written before is safe" in complaint

        if small is not None:
            database.kill()  # if it has not ended itself
            small.empty()
        database.start()
        said, complaint = start().communicate(timeout=240)
        counts, distinct, complete = json.loads(said.splitlines()[-1])
        assert complete
        assert counts["samples"] == counts["computed"] == distinct == 2000, complaint[-2000:]
        assert 0 < counts["new"] <= 2000 - 256  # of the 600 that were computed, all but what was on its way was kept
    finally:
        database.kill()
