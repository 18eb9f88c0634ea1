"""What trainings leave on a dataset: a run each, of its own kind, free of PyTorch, so that a form may list them."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fiftyone as fo
from pymongo.errors import PyMongoError

from fiftyone_cam.classifiers import checkpoint
from fiftyone_cam.core.errors import RunError, SourceError
from fiftyone_cam.core.names import CHECKPOINT_JSON
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs import catalog, lease, store
from fiftyone_cam.runs.interruption import is_database_gone
from fiftyone_cam.runs.record import TrainingRecord
from fiftyone_cam.runs.training_run import TrainingRun
from fiftyone_cam.training.progress import Progress, Report

logger = logging.getLogger(__name__)


def checkpoints(samples: Collection) -> dict[str, Path]:
    """What was trained on a dataset and can be loaded now, newest first, snapshots included: a name, and the folder.

    >>> checkpoints(dataset)
    {'cats_dogs': PosixPath('/…/runs/cats_dogs'), 'cats_dogs, epoch 5': PosixPath('/…/runs/cats_dogs/epoch_5')}
    """
    found = {}
    trainings, _ = catalog.load_trainings(samples)
    for training in sorted(trainings.values(), key=lambda training: training.record.created_at, reverse=True):
        key = training.key
        found[key] = training.checkpoint
        found |= {f"{key}, epoch {epoch}": path for epoch, path in training.snapshots.items()}
    return {name: path for name, path in found.items() if (path / CHECKPOINT_JSON).is_file()}


def read_checkpoint_json(folder: Path) -> dict[str, Any] | None:
    """What a training left in its folder, as ``classifier.json`` has it; None if the folder is new or empty.

    Raises:
        SourceError: the folder holds something else.

    >>> read_checkpoint_json(Path("runs/cats_dogs"))["complete"]
    True
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file: give a folder that is new or empty")
    path = folder / CHECKPOINT_JSON
    if not path.exists():
        if any(folder.iterdir()):
            raise SourceError(f"{folder} holds something else: give a folder that is new or empty")
        return None
    found = checkpoint.read_json(folder)
    if "training" not in found:
        raise SourceError(f"{folder} holds a checkpoint that was not trained here: give another folder")
    return found


def key_of(folder: Path) -> str:
    """The key of a training in a folder, where none is given: the folder's name, as a field can have it.

    >>> key_of(Path("runs/cats and dogs"))
    'cats_and_dogs'
    """
    key = re.sub(r"\W", "_", folder.name, flags=re.ASCII)
    return key if key.isidentifier() and not key.startswith("_") else f"train_{key.strip('_')}"


def check_key(dataset: fo.Dataset, key: str) -> None:
    """Whether a training may be recorded under this key.

    Raises:
        RunError: with what is wrong.
    """
    if key in catalog.list_trainings(dataset):
        return
    if key in catalog.list_runs(dataset):
        raise RunError(f"the key {key!r} belongs to a run of class activation maps: pass another key=")
    catalog.check_key(dataset, key)


BEAT = 30.0
"""Seconds between two signs of life."""


class Beat:
    """Says with the progress of a training that it is alive: see :mod:`fiftyone_cam.runs.lease`.

    Args:
        run: the training.
        report: who else hears of the progress.

    >>> report = Beat(run, print)
    """

    def __init__(self, run: TrainingRun, report: Report | None) -> None:
        self._run, self._report = run, report
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._last >= BEAT:
            self._last = time.monotonic()
            keep_alive(self._run)
        if self._report is not None:
            self._report(progress)


def keep_alive(run: TrainingRun, **entries: Any) -> None:
    """Say that a training is alive, with further entries for its record.

    Where the database is away the training goes on: an hour of it is worth more than a line of its history.

    Raises:
        RunError: it was deleted or taken over meanwhile.

    >>> keep_alive(run, epoch=3)
    """
    try:
        lease.keep(run, **entries)
    except (RunError, PyMongoError) as error:
        if not is_database_gone(error):
            raise
        logger.warning("training %r cannot be noted on the dataset, it goes on: %s", run.key, error)


def register(dataset: fo.Dataset, key: str, record: TrainingRecord) -> TrainingRun:
    """Record a new training.

    Raises:
        RunError: the key cannot be used, or somebody else was quicker.
    """
    check_key(dataset, key)
    record = replace(record, created_at=datetime.now(timezone.utc).isoformat())
    store.register(dataset, key, store.TRAINING, record)
    return TrainingRun(dataset, key, record)
