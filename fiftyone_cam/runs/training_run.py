"""A training on a dataset: :func:`fiftyone_cam.train_classifier` makes one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fiftyone_cam.core import names
from fiftyone_cam.core.tables import Summary
from fiftyone_cam.runs.record import Epoch, Metrics, TrainingCounts, TrainingRecord
from fiftyone_cam.runs.run import Run

SPLIT, PREDICTION, ERROR, EVALUATION = "split", names.PREDICTION, names.ERROR, names.EVALUATION
TRAIN, VALIDATION = "train", "validation"


class TrainingRun(Run[TrainingRecord]):
    """A training on a dataset: its record, and the fields and the evaluation that it owns.

    Deleting it leaves the checkpoints. ``print(training)`` gives the summary.

    >>> training = load_training(dataset, "cats_dogs")
    >>> training.history[-1].validation_accuracy, training.metrics.accuracy
    (0.93, 0.935)
    """

    @property
    def classes(self) -> list[str]:
        return list(self.record.classes)

    @property
    def counts(self) -> TrainingCounts:
        """How many samples there were, in which part, and why others are in none."""
        return replace(self.record.counts)

    @property
    def checkpoint(self) -> Path:
        """The folder that :func:`load_classifier` takes."""
        return Path(self.record.out_dir)

    @property
    def snapshots(self) -> dict[int, Path]:
        """The checkpoints of single epochs."""
        return {int(epoch): Path(path) for epoch, path in self.record.snapshots.items()}

    @property
    def history(self) -> list[Epoch]:
        """The epochs that are done: loss, accuracy, learning rate, … of each."""
        return list(self.record.history)

    @property
    def metrics(self) -> Metrics | None:
        """Of the best epoch on the validation samples, by FiftyOne's ``evaluate_classifications``; None before it."""
        return self.record.metrics

    def describe(self) -> Summary:
        """The training in words: the network, which samples it learned from, and how good it is.

        >>> training.describe().rows[-1]
        ('best', "epoch 4: accuracy 93.5%, mean of the classes 93.1% (evaluation 'cats_dogs_eval')")
        """
        record, counts = self.record, self.counts
        left_out = {
            "without a label": counts.unlabelled,
            "in neither part": counts.outside,
            "of classes without training samples": counts.unknown,
            "unreadable": counts.failed,
        }
        rows = [
            ("network", f"{record.training['arch']}, {len(self.classes):,} classes, in {record.out_dir}"),
            ("samples", f"{counts.train:,} to train, {counts.validation:,} to validate"),
            *(("left out", f"{count:,} {what}") for what, count in left_out.items() if count),
            *(("", f"{count:,} x {reason}") for reason, count in list(self.failures.items())[:10]),
        ]
        if record.untested:
            some = ", ".join(record.untested[:5]) + (", …" if len(record.untested) > 5 else "")
            rows.append(("not validated", f"{len(record.untested)} classes, which have no validation samples: {some}"))
        if self.history:
            last = self.history[-1]
            losses = f"last loss {last.loss:.3f}, validation {last.validation_accuracy:.1%}"
            rows.append(("epochs", f"{last.epoch} of {record.training['epochs']}; {losses}"))
        if self.metrics:
            balanced = f"mean of the classes {self.metrics.balanced_accuracy:.1%} (evaluation {self.evaluation!r})"
            rows.append(("best", f"epoch {record.epoch}: accuracy {self.metrics.accuracy:.1%}, {balanced}"))
        rows += [("snapshot", f"epoch {epoch}, in {path}") for epoch, path in self.snapshots.items()]
        if record.stopped_by:
            rows.append(("stopped by", record.stopped_by))
        return Summary(f"Training {self.key!r} on {self.dataset.name!r}: {self.status}", rows)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__
