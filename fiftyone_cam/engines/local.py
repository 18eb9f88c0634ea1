"""The local engine: threads decode ahead, several batches are computed at once; bounded, in order."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from threadpoolctl import ThreadpoolController

from fiftyone_cam.core.explain import BatchRunner, Prepared, prepare, wait_for_prepared
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.names import COMPILING_PAYS, LOADING_PAYS
from fiftyone_cam.core.results import Failure, Item, Outcome
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.core.workers import Task, Workers, default_count

_BATCHES_BEFORE = 3
"""Batches to compute before the network's speed is judged."""

_MOST_STREAMS = 4

_CUDA_STREAMS = 2

_R = TypeVar("_R", bound=Outcome)


def explain_all(
    items: Sequence[Item], explainer: BatchRunner[_R], batch_size: int, num_workers: int | None, timing: Timing
) -> Generator[_R | Failure, None, None]:
    """Results of items, in order. Meanwhile ``timing`` counts where the time goes.

    Args:
        items: what to explain.
        explainer: the batches' consumer.
        batch_size: images per forward.
        num_workers: decoding threads; None: one for each core, at most 16.
        timing: brought up to date with each batch: ``images``, and seconds of ``decoding``
            (all threads together), ``waiting_for_decode``, ``forward``, ``maps``, and ``compiling`` where that pays.

    >>> timing = Timing()
    >>> results = list(explain_all([Item("1", "cat.jpg")], explainer, 32, None, timing))
    """
    num_workers = num_workers or default_count()
    preprocessing = explainer.network.preprocessing
    streams = _Streams(explainer, len(items))
    # eval mode around all of it: if each stream set and restored the training flags, others would see them change
    with (
        explainer.network.evaluating(),
        Workers(num_workers, seconds=limits().seconds, name="cam-decode") as workers,
        streams,
    ):
        ahead = 2 * batch_size + num_workers
        tasks = workers.imap(lambda item: prepare(item, preprocessing), items, ahead=ahead)

        def next_results() -> list[_R | Failure]:
            results = streams.result(timing)
            timing.images += len(results)
            return results

        finished = taken = 0
        while taken < len(items) or streams.busy:
            if taken < len(items) and not streams.full:
                began = time.monotonic()
                batch: list[Prepared] = []
                size = batch_size
                while taken < len(items) and len(batch) < size:
                    item, task = next(tasks)
                    prepared = wait_for_prepared(workers, task, item)
                    timing.decoding += task.seconds
                    if not isinstance(prepared, Prepared):
                        yield prepared
                    else:
                        if not batch:
                            size = min(batch_size, streams.share(len(items) - taken, prepared.pixels.shape))
                        batch.append(prepared)
                    taken += 1
                timing.waiting_for_decode += streams.idle_since(began)
                if batch:
                    streams.submit(batch)
                continue
            yield from next_results()
            finished += 1
            left = timing.forward / timing.images * (len(items) - timing.images)
            if not streams.on_cpu or explainer.network.compiled:
                continue
            if finished == 1 and left > LOADING_PAYS:
                streams.compile(batch, trace=False)
            elif finished == _BATCHES_BEFORE and left > COMPILING_PAYS:
                while streams.busy:  # nothing else may run meanwhile
                    yield from next_results()
                compiling = time.perf_counter()
                streams.compile(batch)
                timing.compiling += time.perf_counter() - compiling


@cache
def _cuda_stream(device: torch.device, number: int) -> torch.cuda.Stream:
    """Each is made once, because PyTorch keeps the memory that a stream has used for that stream."""
    return torch.cuda.Stream(device)


class _Streams(Generic[_R]):
    """Batches computed at once; results in the order of submission.

    On a CPU each stream has its share of the cores. Two forwards with one core each finish sooner than one forward with
    two: no core waits for another after each layer, or for the cores that decode and write. On a GPU each has its own
    CUDA stream: while one batch is copied, or its maps are taken out, the GPU computes the other.
    """

    def __init__(self, explainer: BatchRunner[_R], images: int) -> None:
        self._explainer = explainer
        cores, device = torch.get_num_threads(), explainer.network.device
        self.on_cpu = device.type == "cpu"
        most = min(_MOST_STREAMS, cores) if self.on_cpu else _CUDA_STREAMS if device.type == "cuda" else 1
        self._count = min(most, max(1, images))
        self._submitted = 0
        self._threads = max(1, cores // self._count)
        self._before = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._thread = threading.local()
        self._numbers = itertools.count()
        self._tasks: deque[Task[tuple[list[_R | Failure], Timing]]] = deque()
        self._last = time.monotonic()

    def __enter__(self) -> _Streams[_R]:
        self._workers = Workers(self._count, name="cam-compute")
        return self

    def __exit__(self, *_: Any) -> None:
        self._workers.close(patience=2.0)

    @property
    def busy(self) -> bool:
        return bool(self._tasks)

    @property
    def full(self) -> bool:
        return len(self._tasks) > self._count  # one batch more than there are streams, so that no stream idles

    def share(self, left: int, shape: Sequence[int]) -> int:
        """How many of the images left the next batch should have. Few at first, so that no stream waits for long, and
        few at last, so that all streams end together.
        """
        if self._count == 1 or not self.on_cpu:
            return left
        piece = self._explainer.network.slice_size(shape, self._threads)
        return min(piece * math.ceil(left / self._count / piece), piece << min(self._submitted, 16))

    def submit(self, batch: Sequence[Prepared]) -> None:
        self._submitted += 1
        self._tasks.append(self._workers.submit(self._explain, batch))

    def result(self, timing: Timing) -> list[_R | Failure]:
        task = self._tasks.popleft()
        results, spent = self._workers.result(task)
        self._last = max(self._last, task.since + task.seconds)
        timing.add(spent, beside=self._count)
        return results

    def idle_since(self, began: float) -> float:
        """Seconds since then in which nothing was computed, up to now."""
        if any(not task.future.done() for task in self._tasks):
            return 0.0
        ends = [task.since + task.seconds for task in self._tasks]
        return max(0.0, time.monotonic() - max(began, self._last, *ends))

    def compile(self, batch: Sequence[Prepared], *, trace: bool = True) -> None:
        with self._limit():  # the number of threads is compiled in
            self._explainer.compile(batch, trace=trace)

    def _limit(self) -> Any:
        """A stream's threads for the calling thread, until the context is left."""
        return ThreadpoolController().limit(limits=self._threads, user_api="openmp")

    def _cuda_stream(self) -> torch.cuda.Stream:
        """A CUDA stream for the calling thread, which sees all that was put on the device before."""
        stream = _cuda_stream(self._explainer.network.device, next(self._numbers) % self._count)
        if self._before is not None:
            stream.wait_stream(self._before)
        torch.cuda.set_stream(stream)
        return stream

    def _explain(self, batch: Sequence[Prepared]) -> tuple[list[_R | Failure], Timing]:
        if self._count > 1 and not hasattr(self._thread, "has"):
            self._thread.has = self._limit() if self.on_cpu else self._cuda_stream()
        spent = Timing()
        return self._explainer(batch, spent), spent
