"""Files that change, vanish, hang or may not be read, memory that runs out, threads that die: each costs its sample."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
import torch
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.plugin.map_pictures import picture
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.record import Counts
from tests.helpers.networks import tiny_gap, write_photos
from tests.helpers.processes import NAMES, check, classifier, foreign

SQUARE = Preprocessing((Resize(size=(64, 64)),))


@pytest.fixture(scope="module")
def network() -> focam.Classifier:
    return classifier()


@pytest.fixture()
def folder() -> Iterator[Path]:
    """A folder that every user may enter, in memory where there is such a place: pytest's own are private."""
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="fiftyone_cam_", dir=home))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture()
def photos(dataset: fo.Dataset, folder: Path) -> fo.Dataset:
    """Sixty photos, each a file of its own."""
    dataset.add_samples([fo.Sample(filepath=path, mine=i) for i, path in enumerate(write_photos(folder, 60))])
    return dataset


def compute(dataset: fo.Dataset, network: Any, do: Callable[[], None], **kwargs: Any) -> focam.CamRun:
    """Compute, little at a time; when the first eight are done, do something to the files that are still to come."""
    done: list[bool] = []

    def meanwhile(bar: Any) -> None:
        if bar.iteration >= 8 and not done:
            done.append(True)
            do()

    return focam.compute_cam(
        dataset, network, batch_size=4, engine=focam.Local(num_workers=1), progress=meanwhile, **kwargs
    )


def test_files_that_change_between_listing_and_decoding(photos, network, folder):
    before, paths = foreign(photos), [Path(path) for path in photos.values("filepath")]
    jpeg = folder / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(jpeg)

    def change() -> None:
        paths[30].unlink()
        paths[31].write_bytes(b"")
        paths[32].write_bytes(paths[32].read_bytes()[:100])
        paths[33].write_text("<html>404 not found</html>")
        shutil.copy(jpeg, paths[34])  # another picture, of another kind than its name says
        paths[35].write_bytes(jpeg.read_bytes()[:200])
        paths[36].unlink()
        os.mkfifo(paths[36])
        paths[37].unlink()
        paths[37].mkdir()
        paths[38].unlink()
        paths[38].symlink_to(paths[38])
        paths[39].unlink()
        paths[39].symlink_to("/dev/zero")
        os.replace(paths[41], paths[40])

    run = compute(photos, network, change)
    check(photos, before)
    reasons = dict(zip(photos.values("mine"), photos.values("cam_error"), strict=True))
    failed = {number: reason for number, reason in reasons.items() if reason}
    assert set(failed) == {30, 31, 32, 33, 35, 36, 37, 38, 39, 41}
    assert failed[30] == failed[41] == "file not found"
    assert failed[31] == "empty file"
    assert failed[32].startswith("unreadable PNG")
    assert failed[33].startswith('not an image: begins with "<html>')
    assert failed[36] == failed[39] == "not a regular file"
    assert failed[37] == "not a file: a directory"
    assert failed[38].startswith("cannot open: Too many levels of symbolic links")
    assert "10 failed" in str(run)
    assert run.failures["file not found"] == 2


def test_files_that_may_not_be_read(photos, network):
    focam.compute_cam(photos[:1], network)  # what is loaded when it is first used needs the rights, too
    before, root = foreign(photos), os.geteuid() == 0
    for path in photos.values("filepath")[20:25]:
        Path(path).chmod(0)
    if root:  # root reads everything: be nobody for a while
        os.seteuid(65534)
    try:
        run = focam.compute_cam(photos, network)
    finally:
        if root:
            os.seteuid(0)
    assert run.failures == {"permission denied": 5}
    check(photos, before)
    for path in photos.values("filepath")[20:25]:
        Path(path).chmod(0o644)
    assert focam.compute_cam(photos, network, retry_failed=True).counts.computed == 60
    check(photos, before)


LEASE = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)  # by which the system asks to give the lease back
files = [open(path, "r+b") for path in sys.argv[1:]]
for file in files:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def hanging(paths: list[str]) -> Iterator[None]:
    """Regular files of which ``open`` does not return: who holds a lease on them lets others wait, for 45 s.

    That is how a network storage behaves that does not answer.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("leases are Linux's")
    holder = subprocess.Popen(
        [sys.executable, "-c", LEASE, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if holder.stdout is None or holder.stdout.readline() != "held\n":
            pytest.skip("this file system knows no leases")
        yield
    finally:
        holder.communicate()


def test_files_that_hang_cost_their_samples_after_the_time_limit(photos, network, monkeypatch):
    monkeypatch.setenv("FIFTYONE_CAM_FILE_SECONDS", "2")
    before, paths = foreign(photos), photos.values("filepath")
    with hanging([paths[number] for number in (20, 21, 22, 50)]):
        began = time.monotonic()
        run = focam.compute_cam(photos, network, batch_size=4, engine=focam.Local(num_workers=2))
        took = time.monotonic() - began
    assert run.failures == {"cannot be read: not done within 2 s": 4}
    assert took < 40, f"the hanging files were waited for: {took:.0f} s"
    check(photos, before)
    monkeypatch.undo()
    for _ in range(100):  # the lease is broken, the threads that were left behind go
        if not [thread for thread in threading.enumerate() if thread.name == "cam-decode"]:
            break
        time.sleep(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name == "cam-decode"]
    assert focam.compute_cam(photos, network, retry_failed=True).counts.computed == 60


def test_a_file_that_hangs_costs_overlays_trainings_and_answers_only_itself(photos, network, monkeypatch, tmp_path):
    photos.set_values("truth", [fo.Classification(label="light" if i % 2 else "dark") for i in range(60)])
    run = focam.compute_cam(photos, network)
    monkeypatch.setenv("FIFTYONE_CAM_FILE_SECONDS", "2")
    sample = photos.skip(20).first()
    bad = sample.filepath
    reason = "cannot be read: not done within 2 s"
    began = time.monotonic()
    with hanging([bad]):
        assert network.explain(bad).reason == reason
        with pytest.raises(focam.CamError, match=reason):
            picture(run, sample.cam_heatmap, bad)
        overlays = focam.export_overlays(photos, "cam", tmp_path / "overlays")
        focam.train_classifier(
            photos,
            "truth",
            tmp_path / "trained",
            arch="small_gap_net",
            recipe=focam.Recipe(epochs=1),
            size=32,
            key="mine",
        )
        took = time.monotonic() - began
    assert (overlays.written, overlays.skipped) == (59, {reason: 1})
    assert catalog.load_training(photos, "mine").failures == {reason: 1}
    assert took < 40, f"the hanging file was waited for: {took:.0f} s"


def test_out_of_memory_in_the_forward_halves_batches_and_costs_at_most_the_image_that_is_too_large(photos):
    class Hungry(torch.nn.Module):
        """Really asks for more memory than there is: for more than two images, and for any that is white."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.hungry = tiny_gap(), False

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if self.hungry and (len(input) > 2 or (input.amin((1, 2, 3)) > 2).any()):
                torch.empty(1 << 60, dtype=torch.uint8)
            return self.body(input)

    Image.new("RGB", (64, 64), "white").save(photos.values("filepath")[30])
    before = foreign(photos)
    hungry = focam.load_classifier(Hungry(), NAMES, preprocessing=SQUARE)
    hungry.network.module.hungry = True
    run = focam.compute_cam(photos, hungry, batch_size=16)
    assert run.counts == Counts(samples=60, computed=59, failed=1, new=60)
    [reason] = run.failures
    assert "the network fails on it" in reason
    assert "memory" in reason
    check(photos, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["cam-decode", "cam-draw", "cam-write"])
def test_threads_that_die_are_replaced(photos, network, name):
    """Ended from outside, as often as a batch is done, wherever they are."""
    before = foreign(photos)
    killed: set[int] = set()

    def kill(bar: Any) -> None:
        for thread in threading.enumerate():
            if thread.name == name and bar.iteration % 4 == 0 and bar.iteration < 40:
                killed.add(thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

    run = focam.compute_cam(photos, network, batch_size=4, engine=focam.Local(num_workers=2), progress=kill)
    assert killed
    assert run.counts.computed + run.counts.failed == 60
    assert run.counts.failed <= 2, run.failures  # one that was at work when its thread died, twice
    check(photos, before)


def test_a_sick_network_stores_nothing_of_what_it_says(photos):
    class Sick(torch.nn.Module):
        """NaN, infinity and the largest of floats, by the brightness of the corner."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.sick = tiny_gap(), False

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            logits = self.body(input)
            if self.sick:
                kind = (input[:, 0, 0, 0] * 10).round().long() % 4
                bad = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf], device=input.device)[kind]
                logits = logits + bad[:, None]
            return logits

    before = foreign(photos)
    sick = focam.load_classifier(Sick(), NAMES, preprocessing=SQUARE)
    sick.network.module.sick = True
    run = focam.compute_cam(photos, sick, batch_size=8)
    assert 0 < run.counts.failed < 60
    assert set(run.failures) == {"the network returned NaN or infinity"}
    check(photos, before)
    for heat in photos.exists("cam_heatmap").values("cam_heatmap"):
        assert np.isfinite(heat.cam.grid).all()
        assert np.isfinite([heat.logit, heat.cam.bias, *heat.range]).all()
