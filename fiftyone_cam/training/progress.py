"""How a training goes, in numbers: the epochs that are done, and how far it is now. Free of PyTorch, for forms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.runs.record import Epoch


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch that validated best, the first of equals.

    >>> best_epoch(history).epoch
    4
    """
    best = best_so_far(history)
    if best is None:
        raise TrainingError("no epoch was completed")
    return best


def best_so_far(history: Sequence[Epoch]) -> Epoch | None:
    """:func:`best_epoch`, or None before there is any."""
    best = None
    for epoch in history:
        best = epoch if epoch.better(best) else best
    return best


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: what the ``progress`` function of :func:`train_classifier` gets. Printed, it is one line.

    Attributes:
        stage: what is being done: ``"training"``, ``"evaluating"``, or ``"features of training"`` and ``"features of
            validation"`` where the backbone is frozen.
        done: the share of the stage that is done, 0 to 1.
        seconds_left: until the stage ends; None until that is known.
        epoch, epochs: the epoch that runs, counted from 1, and how many there are; None outside ``"training"``.
        loss: the mean of this epoch up to now.
        accuracy: of the last validation, 0 to 1; None before the first.

    >>> print(focam.Progress("training", 0.5, 70, epoch=3, epochs=5, loss=0.4, accuracy=0.91))
    training, epoch 3/5, loss 0.400, validation 91.0%, 1:10 left
    """

    stage: str
    done: float
    seconds_left: float | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        """
        >>> print(Progress("training", 0.5, 70, epoch=3, epochs=5, loss=0.4, accuracy=0.91))
        training, epoch 3/5, loss 0.400, validation 91.0%, 1 min 10 s left
        """
        parts = [self.stage]
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch}/{self.epochs}")
        else:
            parts.append(f"{self.done:.0%}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.accuracy is not None:
            parts.append(f"validation {self.accuracy:.1%}")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time in words, by its two largest units.

    >>> duration(47), duration(200), duration(8000)
    ('47 s', '3 min 20 s', '2 h 13 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


Report = Callable[[Progress], None]


class Clock:
    """Reports a stage's progress at most twice a second, and how long it will still take.

    >>> clock = Clock("computing features", print)
    >>> clock(0.5)
    computing features, 50%, 2 s left
    """

    def __init__(self, stage: str, report: Report | None, start: float = 0.0) -> None:
        self._stage, self._report, self._start = stage, report, start
        self._began = time.monotonic()
        self._last = -math.inf

    @property
    def due(self) -> bool:
        return self._report is not None and time.monotonic() - self._last >= 0.5

    def __call__(self, done: float, **details: Any) -> None:
        if self._report is not None and (self.due or done >= 1):
            self._last = time.monotonic()
            elapsed, share = self._last - self._began, done - self._start
            left = elapsed / share * (1 - done) if share > 0 else None
            self._report(Progress(self._stage, done, left, **details))
