"""The local engine: threads decode ahead, one thread computes; bounded, in order."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from fiftyone_cam.core.explain import Explainer, Failure, Item, Prepared, Result, prepare
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.workers import NotDoneError, Task, Workers

COMPILING_PAYS = 120.0
"""Seconds of forwards still to come from which on compiling pays: it takes 10 to 20 and gains 10 to 50%."""

_BATCHES_BEFORE = 3
"""Batches after which it is known how fast the network runs."""


def explained(
    items: Sequence[Item], explainer: Explainer, batch_size: int, num_workers: int | None, clock: dict[str, Any]
) -> Generator[Result, None, None]:
    """Results of items, in order; ``clock`` says meanwhile where the time went.

    Args:
        items: what to explain.
        explainer: the batches' consumer.
        batch_size: images per forward.
        num_workers: decoding threads; None: one for each core, at most 16.
        clock: a ``defaultdict(float)``, brought up to date with each batch: ``images``, and seconds of ``decoding``
            (all threads together), ``waiting_for_decode``, ``forward``, ``maps``, and ``compiling`` where that pays.

    >>> clock = defaultdict(float)
    >>> results = list(explained([Item("1", "cat.jpg")], explainer, 32, None, clock))
    """
    num_workers = num_workers or min(16, os.cpu_count() or 1)
    preprocessing = explainer.network.preprocessing
    with Workers(num_workers, seconds=limits().seconds, name="cam-decode") as workers:
        ahead: deque[tuple[Item, Task[Prepared | Failure]]] = deque()
        source = iter(items)

        def decode_more() -> None:
            for item in itertools.islice(source, 2 * batch_size + num_workers - len(ahead)):
                ahead.append((item, workers.submit(prepare, item, preprocessing)))

        def decoded() -> Prepared | Failure:
            item, task = ahead.popleft()
            try:
                prepared = workers.result(task)
                clock["decoding"] += task.seconds
                return prepared
            except NotDoneError as error:
                return Failure(item.id, f"cannot be read: {error}")

        decode_more()
        batches = 0
        while ahead:
            waiting = time.perf_counter()
            batch: list[Prepared] = []
            while ahead and len(batch) < batch_size:
                prepared = decoded()
                if isinstance(prepared, Prepared):
                    batch.append(prepared)
                else:
                    yield prepared
            decode_more()  # before the forward, so that decoding goes on during it
            clock["waiting_for_decode"] += time.perf_counter() - waiting
            results = explainer(batch, clock) if batch else []
            clock["images"] += len(batch)
            yield from results
            batches += 1
            left = clock["forward"] / max(1, clock["images"]) * (len(items) - clock["images"])
            if batches == _BATCHES_BEFORE and left > COMPILING_PAYS:
                compiling = time.perf_counter()
                explainer.compile(batch)
                clock["compiling"] += time.perf_counter() - compiling
