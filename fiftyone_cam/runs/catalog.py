"""The runs of this project on a dataset: list, load, register, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from typing import TypeVar

import fiftyone as fo

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.dataset.internals import home_of
from fiftyone_cam.runs import store
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.record import CamRecord, TrainingRecord
from fiftyone_cam.runs.training_run import TrainingRun

Kind = TypeVar("Kind", bound=CamRun | TrainingRun)


def list_trainings(samples: Collection) -> list[str]:
    """The keys of the trainings on a dataset.

    >>> list_trainings(dataset)
    ['cats_dogs']
    """
    return store.keys(home_of(samples), store.TRAINING)


def load_training(samples: Collection, key: str) -> TrainingRun:
    """A training by its key.

    Raises:
        RunError: there is none, or its record cannot be read.

    >>> print(load_training(dataset, "cats_dogs"))
    """
    dataset = home_of(samples)
    known = list_trainings(dataset)
    if key not in known:
        raise RunError(
            f"dataset {dataset.name!r} has no training {key!r}, "
            + (f"only {', '.join(map(repr, known))}" if known else "nor any other: make one with train_classifier")
        )
    return TrainingRun(dataset, key, store.read(dataset, key, TrainingRecord))


def list_runs(samples: Collection) -> list[str]:
    """The keys of this project's runs on a dataset.

    >>> focam.list_runs(dataset)
    ['cam']
    """
    return store.keys(home_of(samples), store.CAM)


def load_runs(samples: Collection) -> tuple[dict[str, CamRun], dict[str, str]]:
    """All runs by their keys, the newest last; of those whose record cannot be read, why.

    >>> runs, unreadable = load_runs(dataset)
    >>> list(runs), unreadable
    (['cam'], {})
    """
    return _load_all(list_runs(samples), lambda key: load_run(samples, key))


def load_trainings(samples: Collection) -> tuple[dict[str, TrainingRun], dict[str, str]]:
    """All trainings by their keys; of those whose record cannot be read, why.

    >>> trainings, unreadable = load_trainings(dataset)
    """
    return _load_all(list_trainings(samples), lambda key: load_training(samples, key))


def _load_all(keys: Iterable[str], load: Callable[[str], Kind]) -> tuple[dict[str, Kind], dict[str, str]]:
    found, unreadable = {}, {}
    for key in keys:
        try:
            found[key] = load(key)
        except RunError as error:
            unreadable[key] = str(error)
    return dict(sorted(found.items(), key=lambda entry: entry[1].record.created_at)), unreadable


def load_run(samples: Collection, key: str) -> CamRun:
    """A run by its key.

    Raises:
        RunError: there is no such run of this project, or its record cannot be read.

    >>> print(focam.load_run(dataset, "cam"))
    """
    dataset = home_of(samples)
    if key not in list_runs(dataset):
        known = list_runs(dataset)
        raise RunError(
            f"dataset {dataset.name!r} has no CAM run {key!r}, "
            + (f"only {', '.join(map(repr, known))}" if known else "nor any other: make one with compute_cam")
        )
    return CamRun(dataset, key, store.read(dataset, key, CamRecord))


def finished_run(samples: Collection, key: str) -> tuple[Collection, CamRun]:
    """The images of a collection, and a run on them that nobody is computing now.

    Raises:
        RunError: there is no such run, or it is being computed, or the collection holds no images.

    >>> collection, run = finished_run(dataset, "cam")
    """
    collection = require_images(samples)
    run = load_run(collection, key)
    if run.status == "running":
        raise RunError(f"run {key!r} is being computed: wait for it, or stop it")
    return collection, run


def delete_run(samples: Collection, key: str) -> None:
    """Delete a run with its fields, indexes and saved views; or a training, with its fields and its evaluation.

    The checkpoints of a training stay.

    Raises:
        RunError: there is no such run of this project, or it is being computed.

    >>> focam.delete_run(dataset, "cam")
    """
    load = load_training if key in list_trainings(samples) else load_run
    load(samples, key).delete()


def register(dataset: fo.Dataset, key: str, record: CamRecord) -> CamRun:
    """Register a new run.

    Raises:
        RunError: the key is not a name that a field can have, or another project's run has it.
    """
    check_key(dataset, key)
    record = replace(record, created_at=datetime.now(timezone.utc).isoformat())
    store.register(dataset, key, store.CAM, record)
    return CamRun(dataset, key, record)


def check_key(dataset: fo.Dataset, key: str) -> None:
    """Check that a run may be made, or continued, under this key.

    Raises:
        RunError: it may not, and why.
    """
    if not isinstance(key, str) or not key.isidentifier() or key.startswith("_") or not key.isascii():
        raise RunError(f"{key!r} is not a valid key: expected a letter, then letters, digits and _, such as 'cam'")
    if dataset.has_run(key) and key not in list_runs(dataset):
        raise RunError(f"the key {key!r} belongs to a run that this project did not make: use another key")
