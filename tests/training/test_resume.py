"""Trainings that end too early go on as if unbroken."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.networks.small_gap_net import SmallGapNet
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.progress import Clock, Progress
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import QUICK, details, quick, same, weights


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_it_ends_as_if_unbroken(stripes, tmp_path):
    script = f"""
import os, signal
import fiftyone as fo
import torch
from fiftyone_cam.training.progress import Clock
from fiftyone_cam.training.recipe import Recipe
from fiftyone_cam.training.train_classifier import train_classifier

def die(progress):
    if progress.stage == "training" and progress.epoch == 2 and progress.done > 1.5 / 3:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
Clock.due = property(lambda self: True)
train_classifier(
    fo.load_dataset({stripes.name!r}), "ground_truth", {str(tmp_path / "killed")!r}, progress=die, **{QUICK!r}
)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stripes.reload()
    run = catalog.load_training(stripes, "killed")
    assert (run.record.status, len(run.history)) == ("running", 1)
    assert not details(tmp_path / "killed")["complete"]
    focam.load_classifier(tmp_path / "killed")  # usable already

    train_classifier(stripes, "ground_truth", tmp_path / "killed", **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    killed_history, whole_history = (
        [replace(epoch, seconds=0) for epoch in catalog.load_training(stripes, key).history]
        for key in ("killed", "whole")
    )
    assert killed_history == whole_history
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"model.safetensors", "classifier.json"}


def test_what_the_progress_callback_raises_stops_it_and_it_can_go_on(stripes, tmp_path, monkeypatch):
    """That is how an operator that is cancelled ends a training."""
    monkeypatch.setattr(Clock, "due", True)

    def cancel(progress: Progress) -> None:
        if progress.epoch == 2:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        train_classifier(stripes, "ground_truth", tmp_path / "out", progress=cancel, **QUICK)
    run = catalog.load_training(stripes, "out")
    assert (run.record.status, run.record.stopped_by) == ("interrupted", "InterruptedError: cancelled")
    seen: list[Progress] = []
    train_classifier(stripes, "ground_truth", tmp_path / "out", progress=seen.append, **QUICK)
    assert min(progress.epoch for progress in seen if progress.epoch) == 2
    assert [progress.stage for progress in seen][-1] == "evaluating"
    assert all(0 <= progress.done <= 1 for progress in seen)
    run = catalog.load_training(stripes, "out")
    assert (run.record.status, run.record.stopped_by) == ("complete", None)


def test_full_disk_keeps_what_was_saved_and_goes_on(stripes, tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(Clock, "due", True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.epoch == 2:  # writing fails beyond so many bytes, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    out = tmp_path / "out"
    try:
        with pytest.raises(TrainingError, match=r"epoch 2 cannot be saved.* of epoch 1, is in .*out"):
            train_classifier(stripes, "ground_truth", out, progress=fill, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert details(out)["epoch"] == 1
    focam.load_classifier(out)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "classifier.json", "training.safetensors"}
    train_classifier(stripes, "ground_truth", out, **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(out), weights(tmp_path / "whole"))


def test_a_loss_that_is_no_number_is_told_on_the_run(stripes, tmp_path):
    with pytest.raises(TrainingError, match="lower learning rate than 1e"):
        train_classifier(stripes, "ground_truth", tmp_path / "out", **quick(learning_rate=1e30))
    run = catalog.load_training(stripes, "out")
    assert run.record.status == "interrupted"
    assert "the loss became" in run.record.stopped_by
    assert "stopped by" in str(run)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "due", True)

    def poison(progress: Progress) -> None:
        if progress.epoch == 2:
            for module in [found for found in gc.get_objects() if type(found) is SmallGapNet]:
                next(module.parameters()).data.fill_(torch.nan)

    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 2 of 3.* of epoch 1, is in .*out"):
        train_classifier(stripes, "ground_truth", out, progress=poison, **QUICK)
    assert details(out)["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(out).values())
    train_classifier(stripes, "ground_truth", out, **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(out), weights(tmp_path / "whole"))
