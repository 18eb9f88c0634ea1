"""Where the progress of a training is told: a function of the caller's, or the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable

import fiftyone as fo

from fiftyone_cam.runs.record import Epoch
from fiftyone_cam.runs.training_run import TrainingRun
from fiftyone_cam.training.progress import Progress, Report
from fiftyone_cam.training.record import Beat


class Console:
    """Where progress goes: the caller's function, or lines that a person reads."""

    def __init__(self, progress: bool | Callable[[Progress], None] | None, run: TrainingRun) -> None:
        self._prints = bool(fo.config.show_progress_bars) if progress is None else progress is True
        self.report: Report = Beat(run, progress if callable(progress) else self._live if self._prints else None)

    def _live(self, progress: Progress) -> None:
        if os.isatty(1):
            print(f"\r{progress}\x1b[K", end="" if progress.done < 1 else "\n", flush=True)

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        self.line(
            f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  accuracy {epoch.accuracy:.1%}  "
            f"validation: loss {epoch.validation_loss:.3f}  accuracy {epoch.validation_accuracy:.1%}  "
            f"({epoch.seconds:.0f} s, learning rate {epoch.learning_rate:.1e})"
        )

    def line(self, text: str) -> None:
        if self._prints:
            print(f"\r\x1b[K{text}" if os.isatty(1) else text, flush=True)
