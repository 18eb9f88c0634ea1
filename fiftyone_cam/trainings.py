"""What trainings leave on a dataset: a run each, of its own kind, free of PyTorch, so that a form may list them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fiftyone as fo

from fiftyone_cam import runs
from fiftyone_cam.core.errors import RunError, SourceError

METHOD = f"{runs.METHOD}/train"

SPLIT, PREDICTION, ERROR, EVALUATION = "split", "prediction", "error", "eval"
TRAIN, VALIDATION = "train", "validation"

CHECKPOINT = "classifier.json"
"""What makes a folder a checkpoint."""


class TrainingRun(runs.CamRun):
    """A training on a dataset: its record, and the fields and the evaluation that it owns.

    ``print(training)`` gives the summary.

    >>> training = load_training(dataset, "cats_dogs")
    >>> training.history[-1]["validation_accuracy"], training.metrics["accuracy"]
    (0.93, 0.935)
    """

    @property
    def classes(self) -> list[str]:
        return list(self.record["classes"])

    @property
    def checkpoint(self) -> Path:
        """The folder that :func:`load_classifier` takes."""
        return Path(self.record["out"])

    @property
    def snapshots(self) -> dict[int, Path]:
        """The checkpoints of single epochs."""
        return {int(epoch): Path(path) for epoch, path in self.record["snapshots"].items()}

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dictionary for each epoch: loss, accuracy, learning rate, …: :class:`core.progress.Epoch`."""
        return list(self.record["history"])

    @property
    def metrics(self) -> dict[str, float]:
        """Of the best epoch on the validation samples, by FiftyOne's ``evaluate_classifications``."""
        return dict(self.record["metrics"])

    @property
    def evaluation(self) -> str:
        """The key of FiftyOne's evaluation, for its Model Evaluation panel and ``load_evaluation_results``."""
        return self.field(EVALUATION)

    def clear_evaluation(self) -> None:
        """Delete the evaluation with its field, if it is there."""
        if self.record["evaluated"] and self.dataset.has_evaluation(self.evaluation):
            self.dataset.delete_evaluation(self.evaluation)
        self.update(evaluated=False)

    def delete(self) -> None:
        """Delete the run with its fields and its evaluation. The checkpoints stay."""
        self.clear_evaluation()
        super().delete()

    def __str__(self) -> str:
        record, counts = self.record, self.counts
        lines = [
            f"Training {self.key!r} on {self.dataset.name!r}: {record['status']}",
            f"  network      {record['training']['arch']}, {len(self.classes)} classes, in {record['out']}",
            f"  samples      {counts['train']:,} to train, {counts['validation']:,} to validate; left out: "
            f"{counts['unlabelled']:,} without a label, {counts['outside']:,} in neither part, "
            f"{counts['unknown']:,} of classes without training samples, {counts['failed']:,} unreadable",
        ]
        lines += [f"               {count:,} x {reason}" for reason, count in list(self.failures.items())[:10]]
        if record["untested"]:
            names = ", ".join(record["untested"][:5]) + (", …" if len(record["untested"]) > 5 else "")
            lines.append(f"               no validation samples for {len(record['untested'])} classes: {names}")
        if self.history:
            last = self.history[-1]
            lines.append(
                f"  epochs       {last['epoch']} of {record['training']['epochs']}; last loss {last['loss']:.3f}, "
                f"validation {last['validation_accuracy']:.1%}"
            )
        if self.metrics:
            lines.append(
                f"  best         epoch {record['epoch']}: accuracy {self.metrics['accuracy']:.1%}, "
                f"mean of the classes {self.metrics['balanced_accuracy']:.1%} (evaluation {self.evaluation!r})"
            )
        if record.get("stopped_by"):
            lines.append(f"  stopped by   {record['stopped_by']}")
        return "\n".join(lines)

    __repr__ = __str__


def list_trainings(samples: runs.Collection) -> list[str]:
    """The keys of the trainings on a dataset.

    >>> list_trainings(dataset)
    ['cats_dogs']
    """
    return [str(key) for key in samples._dataset.list_runs(method=METHOD)]


def load_training(samples: runs.Collection, key: str) -> TrainingRun:
    """A training by its key.

    Raises:
        RunError: there is none.

    >>> print(load_training(dataset, "cats_dogs"))
    """
    dataset = samples._dataset
    known = list_trainings(dataset)
    if key not in known:
        raise RunError(
            f"dataset {dataset.name!r} has no training {key!r}, "
            + (f"only {', '.join(map(repr, known))}" if known else "nor any other: make one with train_classifier")
        )
    record = dataset.get_run_info(key).config.serialize()
    return TrainingRun(dataset, key, {k: v for k, v in record.items() if k not in ("cls", "type", "method")})


def checkpoints(samples: runs.Collection) -> dict[str, Path]:
    """What was trained on a dataset and can be loaded now, newest first, snapshots included: a name, and the folder.

    >>> checkpoints(dataset)
    {'cats_dogs': PosixPath('/…/runs/cats_dogs'), 'cats_dogs, epoch 5': PosixPath('/…/runs/cats_dogs/epoch_5')}
    """
    found = {}
    all_trainings = [load_training(samples, key) for key in list_trainings(samples)]
    for training in sorted(all_trainings, key=lambda training: str(training.record["created_at"]), reverse=True):
        key = training.key
        found[key] = training.checkpoint
        found |= {f"{key}, epoch {epoch}": path for epoch, path in training.snapshots.items()}
    return {name: path for name, path in found.items() if (path / CHECKPOINT).is_file()}


def saved(folder: Path) -> dict[str, Any] | None:
    """What a training left in its folder, as ``classifier.json`` has it; None if the folder is new or empty.

    Raises:
        SourceError: the folder holds something else.

    >>> saved(Path("runs/cats_dogs"))["complete"]
    True
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file: give a folder that is new or empty")
    path = folder / CHECKPOINT
    if not path.exists():
        if any(folder.iterdir()):
            raise SourceError(f"{folder} holds something else: give a folder that is new or empty")
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error!r}") from error
    if "training" not in found:
        raise SourceError(f"{folder} holds a checkpoint that was not trained here: give another folder")
    return dict(found)


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
    if key in list_trainings(dataset):
        return
    if key in runs.list_runs(dataset):
        raise RunError(f"the key {key!r} belongs to a run of class activation maps: pass another key=")
    runs.check_key(dataset, key)


def register(dataset: fo.Dataset, key: str, record: Mapping[str, Any]) -> TrainingRun:
    """Record a new training."""
    check_key(dataset, key)
    empty: dict[str, Any] = {"fields": {}, "views": [], "failures": {}}
    empty |= {"history": [], "epoch": None, "snapshots": {}, "metrics": {}, "evaluated": False}
    complete = {**empty, "created_at": datetime.now(timezone.utc).isoformat(), **record}
    dataset.register_run(key, dataset.init_run(method=METHOD, **complete))
    return TrainingRun(dataset, key, complete)
