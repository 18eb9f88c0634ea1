"""Runs in processes of their own, which tests may kill, and what must hold whatever happened to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import tiny_gap

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "dog", "fish"]
PATIENCE = 240
"""Seconds that a process may take for anything: its imports take long on a busy machine."""

_PROLOGUE = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may have it ignored, and so its children
import torch, fiftyone as fo, fiftyone_cam as focam
from tests.helpers.processes import classifier
from fiftyone_cam.runs.record import to_plain
"""

_RUN = """
name, key, pause, kwargs = json.loads(sys.argv[1])
dataset, network = fo.load_dataset(name), classifier()
def said(bar):
    print(bar.iteration, flush=True)
    time.sleep(pause)
print("ready", flush=True)
sys.stdin.readline()
run = focam.compute_cam(dataset, network, key, progress=said, **{"batch_size": 16, **kwargs})
print(json.dumps({"counts": to_plain(run.counts), "status": run.status}), flush=True)
"""

_TRAIN = """
name, out_dir, pause, hold, kwargs = json.loads(sys.argv[1])
from fiftyone_cam.training.progress import Clock
Clock.due = property(lambda self: True)  # so that it says each step
torch.set_num_threads(1)
dataset = fo.load_dataset(name)
def said(progress):
    if progress.epoch:
        print(progress.epoch, flush=True)
        time.sleep(pause)
        if progress.epoch == hold:
            sys.stdin.readline()
print("ready", flush=True)
sys.stdin.readline()
kwargs["recipe"] = focam.Recipe(**kwargs["recipe"])
focam.train_classifier(dataset, "ground_truth", out_dir, progress=said, **kwargs)
print(json.dumps({"done": True}), flush=True)
"""

_SERVANT = """
for line in sys.stdin:
    exec(json.loads(line))
    print("done", flush=True)
"""


def classifier() -> focam.Classifier:
    """The same in every process."""
    torch.set_num_threads(1)
    return focam.load_classifier(tiny_gap(), NAMES, preprocessing=Preprocessing((Resize(size=(64, 64)),)))


class Child:
    """``compute_cam`` in another process: it loads everything, says ``ready``, and begins with :meth:`go`."""

    def __init__(self, dataset: fo.Dataset, key: str = "cam", *, pause: float = 0.0, **kwargs: Any) -> None:
        self._start(_RUN, dataset.name, key, pause, kwargs)

    def _start(self, code: str, *arguments: Any) -> None:
        self.process = _python(_PROLOGUE + code, json.dumps(arguments))

    def go(self) -> Child:
        self._line("ready")
        return self.ask("")

    def ask(self, line: str) -> Child:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self

    def until(self, done: int) -> int:
        """Wait until so many samples are computed, or that epoch is reached; the number that it said."""
        for line in self._lines():
            if line.isdigit() and int(line) >= done:
                return int(line)
        raise AssertionError(f"it ended before: {self.process.stderr and self.process.stderr.read()[-2000:]}")

    def end(self) -> tuple[int, dict[str, Any], str]:
        """Exit status, what it said at last, and what it complained of."""
        said, complaint = self.process.communicate(timeout=PATIENCE)
        last = [line for line in said.splitlines() if line.startswith("{")]
        return self.process.returncode, json.loads(last[-1]) if last else {}, complaint

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def _line(self, expected: str) -> None:
        assert any(line == expected for line in self._lines()), self.process.communicate()[1][-2000:]

    def _lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        return (line.strip() for line in iter(self.process.stdout.readline, ""))


class TrainingChild(Child):
    """``train_classifier`` in another process, as :class:`Child`; it stays in the epoch ``hold`` until it is ended."""

    def __init__(
        self, dataset: fo.Dataset, out_dir: Path, *, pause: float = 0.0, hold: int | None = None, **kwargs: Any
    ) -> None:
        given = {**kwargs, "recipe": asdict(kwargs["recipe"])}
        self._start(_TRAIN, dataset.name, str(out_dir), pause, hold, given)


class Servant:
    """Somebody else, in another process, who does things to a dataset: ``servant("dataset.add_samples(…)")``."""

    def __init__(self, dataset: fo.Dataset) -> None:
        self._process = _python(_PROLOGUE + f"dataset = fo.load_dataset({dataset.name!r})\n" + _SERVANT)

    def __call__(self, code: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        if not any(line.strip() == "done" for line in iter(self._process.stdout.readline, "")):
            raise AssertionError(self._process.communicate()[1][-2000:])

    def dismiss(self) -> None:
        self._process.communicate(timeout=PATIENCE)


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1,
    )  # fmt: skip


def foreign(dataset: fo.Dataset, keys: tuple[str, ...] = ("cam",)) -> dict[Any, dict[str, Any]]:
    """What is in the database of each sample, apart from the runs' own fields."""
    return {
        document["_id"]: {
            name: value
            for name, value in document.items()
            if name != "last_modified_at" and not name.startswith(tuple(f"{key}_" for key in keys))
        }
        for document in dataset._sample_collection.find()
    }


def check(dataset: fo.Dataset, before: dict[Any, dict[str, Any]], *keys: str) -> None:
    """No sample lost, none doubled, no foreign field touched, and the record of each run says what is there."""
    dataset.reload()
    keys = keys or ("cam",)
    assert foreign(dataset, keys) == before
    for key in keys:
        run = focam.load_run(dataset, key)
        heatmaps, errors = dataset.values([f"{key}_heatmap.id", f"{key}_error"])
        found = [identity for identity in heatmaps if identity is not None]
        assert len(set(found)) == len(found), "a label was stored twice"
        assert all((heat is None) != (error is None) for heat, error in zip(heatmaps, errors, strict=True))
        assert run.complete
        assert run.status == "complete"
        assert run.record.process is None
        assert run.counts.samples == len(dataset)
        assert run.counts.computed == len(found)
        assert run.counts.failed == len(errors) - errors.count(None) == sum(run.failures.values())
        assert dataset.count(f"{key}_prediction") == len(found)
        assert 0 < run.certificate <= 1e-5
    registered = foo.get_db_conn()["runs"].count_documents({"_dataset_id": dataset._doc.id})
    known = [*dataset.list_runs(), *dataset.list_evaluations(), *dataset.list_brain_runs()]
    assert registered == len(known), "a run is registered that the dataset does not know"


def wait_for(condition: Any, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
