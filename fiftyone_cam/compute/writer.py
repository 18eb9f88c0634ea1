"""Results into the database: in chunks, beside the computation, all fields of a sample in one update."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from fiftyone_cam.core.names import ERROR, FIRST_CHUNK
from fiftyone_cam.core.results import Failure, Result
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.core.workers import Task, Workers, default_count
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs import lease
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import sample_documents

logger = logging.getLogger(__name__)

CHUNK = 128
"""Results per write: what a kill can cost at most."""

_DRAWN_AT_ONCE = 16
"""Results of a chunk that one thread draws and packs: a few, so that all cores have some."""

_FLUSH_SECONDS = 2.0

_BLACK, _UNIFORM = 10, 3
"""Grey levels of 255: the mean below which a picture is nearly black, the deviation below which it is of one colour."""


class Writer:
    """Results to the database, in chunks, beside the computation; at most two chunks wait.

    One thread writes. What a chunk holds is drawn and packed by as many threads as there are cores: both leave the
    interpreter to others while they work.

    ``timing`` gets the seconds of ``writing``, and of ``waiting_for_writes``.
    """

    def __init__(self, run: CamRun, samples: Collection, names: Sequence[str], timing: Timing) -> None:
        self._run = run
        self._samples = samples
        self._names = names
        self._fields = {name: run.field(name) for name in names}
        self._timing = timing
        self._results: list[Result] = []
        self._maps = 0
        self._workers = Workers(1, name="cam-write")
        self._drawers = Workers(default_count(), name="cam-draw")
        self._pending: deque[Task[None]] = deque()
        self._flushed = time.monotonic()
        self._certificate = run.certificate
        self._seen = self._dark = self._uniform = 0

    def __enter__(self) -> Writer:
        return self

    def notes(self) -> list[str]:
        """What a person should know of the pictures: that most of them were nearly black, or of one colour."""
        told = []
        for count, word, advice in (
            (self._dark, "nearly black", "is their range right? Preprocessing(full=4095) for 12 bits in a file of 16"),
            (self._uniform, "nearly of one colour", "are these the right files?"),
        ):
            if 2 * count > self._seen:
                told.append(f"{count:,} of {self._seen:,} are {word}: {advice}")
        return told[:1]

    def add(self, result: Result) -> None:
        self._results.append(result)
        if not isinstance(result, Failure) and result.light is not None:
            self._seen += 1
            self._dark += result.light[0] < _BLACK
            self._uniform += result.light[1] < _UNIFORM
        if self._run.record.scale is None:
            # However late it is: the scale must come of the same maps on a slow machine, and with another engine, where
            # failures come earlier or later.
            self._maps += not isinstance(result, Failure)
            due = self._maps >= FIRST_CHUNK
        else:
            due = time.monotonic() - self._flushed > _FLUSH_SECONDS
        if due or len(self._results) >= CHUNK:
            self._flush()

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Write what was computed, also when the computation was interrupted."""
        try:
            self._flush()
            self._wait(0)
        except Exception:
            if kind is None:
                raise
            logger.warning("what was computed last could not be written", exc_info=True)
        finally:
            self._workers.close()
            self._drawers.close()

    def _flush(self) -> None:
        results, self._results, self._maps = self._results, [], 0
        self._flushed = time.monotonic()
        if results:
            self._pending.append(self._workers.submit(self._write, results))
        self._wait(2)

    def _wait(self, most: int) -> None:
        """Until at most so many chunks are not written."""
        began = time.perf_counter()
        while len(self._pending) > most:
            task = self._pending.popleft()
            self._workers.result(task)
            self._timing.writing += task.seconds
        self._timing.waiting_for_writes += time.perf_counter() - began

    def _write(self, results: Sequence[Result]) -> None:
        explained = [result for result in results if not isinstance(result, Failure)]
        if self._run.record.scale is None and explained:
            self._run.update(scale=_display_scale([result.maps[0].grid for result in explained]))
        contrasts = [result.contrast.grid for result in explained if result.contrast is not None]
        if self._run.record.contrast_scale is None and contrasts:
            self._run.update(contrast_scale=_contrast_scale(contrasts))
        scale, contrast_scale = self._run.record.scale, self._run.record.contrast_scale
        parts = [results[start : start + _DRAWN_AT_ONCE] for start in range(0, len(results), _DRAWN_AT_ONCE)]
        tasks = [self._drawers.submit(self._documents, part, scale, contrast_scale) for part in parts]
        documents: dict[str, dict[str, Any]] = {}
        for task in tasks:
            drawn = self._drawers.result(task)
            documents.update(drawn)
        self._certificate = max([self._certificate, *(result.error for result in explained)])
        lease.keep(self._run, certificate=self._certificate)  # before, so that also what a kill leaves is covered
        bulk.write(self._samples, documents)

    def _documents(
        self, results: Sequence[Result], scale: float | None, contrast_scale: float | None
    ) -> dict[str, dict[str, Any]]:
        """Of each sample, by its id, the values of all fields."""
        documents: dict[str, dict[str, Any]] = {}
        for result in results:
            values: dict[str, Any] = dict.fromkeys(self._names)  # of an earlier computation nothing may stay
            if isinstance(result, Failure):
                values[ERROR] = result.reason
            else:
                values |= sample_documents(result, scale, contrast_scale, self._run.record.threshold)
            documents[result.id] = {self._fields[name]: value for name, value in values.items()}
        return documents


def _display_scale(grids: Sequence[np.ndarray]) -> float:
    """Evidence that is drawn in full colour: what the strongest tenth of the first images reaches."""
    return max(float(np.percentile([grid.max() for grid in grids], 90)), float(np.finfo(np.float32).tiny))


def _contrast_scale(grids: Sequence[np.ndarray]) -> float:
    """The same for contrastive maps, which between two like classes are far weaker: what half of them reach."""
    return max(float(np.median([np.abs(grid).max() for grid in grids])), float(np.finfo(np.float32).tiny))
