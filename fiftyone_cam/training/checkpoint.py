"""The folder of a training: the best epoch's checkpoint, snapshots, and what an unfinished training goes on from."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fiftyone_cam.classifiers.classifier import Classifier
from fiftyone_cam.core.errors import SourceError, TrainingError
from fiftyone_cam.core.names import CHECKPOINT_JSON, CHECKPOINT_WEIGHTS
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.runs.record import Epoch, to_plain
from fiftyone_cam.runs.training_run import TrainingRun
from fiftyone_cam.training.progress import best_epoch
from fiftyone_cam.training.record import keep_alive, read_checkpoint_json

STATE = "training.safetensors"
"""What an unfinished training goes on from, in its folder."""


class Checkpoint:
    """The folder of a training: the best epoch's checkpoint, snapshots, and the state while it is not finished."""

    def __init__(self, folder: Path, training: Mapping[str, Any], dataset: str) -> None:
        self.folder = folder
        self.training: dict[str, Any] = json.loads(json.dumps(training))  # as it will be read back
        self.dataset = dataset
        self.history: list[Epoch] = []
        self.saved: int | None = None
        self.complete = False
        self._before: Mapping[str, Any] = {}

    def open(self, overwrite: bool) -> None:
        """See what the folder holds.

        Raises:
            SourceError: something else, or another training and ``overwrite`` is not set.
        """
        found = read_checkpoint_json(self.folder)
        if found is None:
            self._probe()
            return
        before = found["training"]
        if overwrite:
            self._before = before
        elif changed := self._changes(before):
            raise SourceError(
                f"{self.folder} holds another training ({'; '.join(changed)}): give another folder, or overwrite=True"
            )
        else:
            self.saved = found["epoch"]
            self.complete = bool(found["complete"])
            self.history = [Epoch(**epoch) for epoch in found["history"]] if self.complete else []
        self._probe()

    def _changes(self, before: Mapping[str, Any]) -> list[str]:
        """In words, what differs from the training that is there."""
        words = {
            "data": "other samples, labels or split",
            "preprocessing": "another size",
            "augment": "other augmentation",
        }
        return [
            words.get(name, f"{name} was {before.get(name)!r}, now {self.training.get(name)!r}")
            for name in {**self.training, **before}
            if self.training.get(name) != before.get(name)
        ]

    def clear(self) -> None:
        """Delete what would be taken for a part of this training: state and snapshots of one that it replaces."""
        if not self._before:
            return
        (self.folder / STATE).unlink(missing_ok=True)
        for epoch in self._before.get("snapshots", ()):
            for name in (CHECKPOINT_WEIGHTS, CHECKPOINT_JSON):
                (self.snapshot(epoch) / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # gone, or not empty
                self.snapshot(epoch).rmdir()

    def _probe(self) -> None:
        """Find out now, not after the first epoch, that nothing can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise SourceError(f"{self.folder} cannot be written: {error.strerror}") from error

    def snapshot(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}"

    def save(self, network: GapNetwork, run: TrainingRun, history: Sequence[Epoch]) -> None:
        """An epoch's weights where they are wanted, then its numbers on the dataset."""
        self.history = list(history)
        number = history[-1].epoch
        classifier = Classifier(network, {"source": "training", "arch": self.training["arch"]})
        if best_epoch(history) is history[-1]:
            self._write(classifier, self.folder, number, complete=False)
            self.saved = number
        if number in self.training["snapshots"]:
            self._write(classifier, self.snapshot(number), number)
        self.note(run)

    def note(self, run: TrainingRun) -> None:
        """What there is, on the dataset."""
        snapshots = {
            str(epoch): str(self.snapshot(epoch)) for epoch in self.training["snapshots"] if epoch <= len(self.history)
        }
        keep_alive(run, history=self.history, epoch=best_epoch(self.history).epoch, snapshots=snapshots)

    def finish(self, classifier: Classifier, run: TrainingRun) -> None:
        """The final JSON, with the metrics; then the state is not needed any more."""
        best = best_epoch(self.history).epoch
        self._write(classifier, self.folder, best, complete=True, metrics=to_plain(run.metrics))
        (self.folder / STATE).unlink(missing_ok=True)

    def _write(self, classifier: Classifier, folder: Path, epoch: int, **details: Any) -> None:
        history = [asdict(entry) for entry in self.history]
        versions = {name: version(name) for name in ("fiftyone", "torch", "torchvision")}
        try:
            classifier.save(
                folder,
                dataset=self.dataset,
                training=self.training,
                epoch=epoch,
                history=history,
                versions=versions,
                **details,
            )
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the checkpoint of epoch {epoch} cannot be saved to {folder}: {error}. "
                "Make room, and the same call goes on"
            ) from error
