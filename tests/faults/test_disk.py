"""A disk that is full, really: a small file system in memory. What was written is whole; with room, it goes on."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

import fiftyone_cam as focam
from fiftyone_cam.analysis.export_overlays import export_overlays
from fiftyone_cam.training.loop import TrainingError
from tests.helpers.networks import write_photos
from tests.helpers.processes import NAMES, check, classifier, foreign

pytestmark = pytest.mark.slow


class SmallDisk:
    """A file system of so many KiB."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")

    def fill(self) -> None:
        """Leave no room, as somebody else's file does."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def remove(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture()
def disk(tmp_path: Path) -> Iterator[Any]:
    """A maker of small disks."""
    disks: list[SmallDisk] = []

    def make(size: int) -> SmallDisk:
        disks.append(SmallDisk(tmp_path / f"disk{len(disks)}", size))
        return disks[-1]

    yield make
    for small in disks:
        small.remove()


def test_the_disk_is_really_full(disk):
    small = disk(64)
    small.fill()
    with pytest.raises(OSError) as error:
        (small.folder / "more").write_bytes(bytes(4096))
    assert error.value.errno == errno.ENOSPC


def test_overlays_on_a_full_disk(dataset, tmp_path, disk):
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    dataset.add_samples([fo.Sample(filepath=str(tmp_path / f"{number}.png")) for number in range(12)])
    focam.compute_cam(dataset, classifier())
    before = foreign(dataset)
    small = disk(600)  # of 12 pictures of about 120 kB
    (small.folder / "holiday.txt").write_text("dear")
    with pytest.raises(
        focam.CamError, match=r"cannot be written to .*No space left on device.*What was written before"
    ):
        export_overlays(dataset, "cam", small.folder, progress=False)
    names = {path.name for path in small.folder.iterdir()}
    assert not [name for name in names if name.endswith(".partial")], "half a picture was left"
    written = list(small.folder.glob("*.png"))
    assert 1 <= len(written) < 12
    assert all(cv2.imread(str(path)) is not None for path in written)
    assert (small.folder / "holiday.txt").read_text() == "dear"
    subprocess.run(["mount", "-o", "remount,size=32m", small.folder], check=True)
    assert export_overlays(dataset, "cam", small.folder, progress=False).written == 12
    assert (small.folder / "holiday.txt").read_text() == "dear"
    check(dataset, before)


def test_a_checkpoint_on_a_full_disk(disk):
    small = disk(8 << 10)
    first, second = (focam.load_classifier("squeezenet1_1", weights=None) for _ in range(2))  # 5 MB each
    folder = first.save(small.folder / "checkpoint")
    small.fill()
    with pytest.raises((OSError, SafetensorError), match="No space left on device"):
        second.save(folder)
    assert sorted(path.name for path in small.folder.iterdir()) == ["checkpoint", "filler"], "half of it was left"
    assert focam.load_classifier(folder).fingerprint == first.fingerprint
    small.empty()
    subprocess.run(["mount", "-o", "remount,size=32m", small.folder], check=True)
    assert focam.load_classifier(second.save(folder)).fingerprint == second.fingerprint


def test_a_training_on_a_full_disk(dataset, tmp_path, disk):
    dataset.add_samples(
        [
            fo.Sample(filepath=path, ground_truth=fo.Classification(label=NAMES[i % 2]))
            for i, path in enumerate(write_photos(tmp_path, 24, (32, 32)))
        ]
    )
    small = disk(64 << 10)
    out = small.folder / "training"

    def fill(progress: Any) -> None:
        if (out / "classifier.json").exists() and not (small.folder / "filler").exists():  # the first epoch is saved
            small.fill()

    training = {"arch": "small_gap_net", "recipe": focam.Recipe(epochs=3, seed=1, patience=None), "key": "training"}
    with pytest.raises(TrainingError, match=r"cannot be saved.*The last good checkpoint, of epoch [12]"):
        focam.train_classifier(dataset, "ground_truth", out, progress=fill, **training)
    assert focam.load_classifier(out).classes == ("cat", "dog")
    assert not list(small.folder.rglob(".*")), "half a file was left"
    small.empty()
    went_on = focam.train_classifier(dataset, "ground_truth", out, progress=False, **training)
    unbroken = focam.train_classifier(
        dataset, "ground_truth", tmp_path / "unbroken", progress=False, **training | {"key": "unbroken"}
    )
    assert went_on.fingerprint == unbroken.fingerprint
