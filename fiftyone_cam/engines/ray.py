"""The Ray engine: actors on many machines decode and compute, one process writes what they send back.

Ray Data hands blocks of images to a pool of actors; each runs the local engine over its block. Actors need this package
and PyTorch, and know neither FiftyOne nor a database.

When an actor dies, alone or with its node, only the block in its hands is lost. Ray starts the actor again, the others
go on, and a further round computes what is missing, in smaller blocks. So an image that kills every actor ends up alone
in a block, and becomes one failure.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fiftyone_cam.core.checks import Check, worst
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.explain import BatchRunner
from fiftyone_cam.core.results import Failure, Item, Outcome
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.engines import cluster, local
from fiftyone_cam.engines.settings import Ray

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

_R = TypeVar("_R", bound=Outcome)

BATCHES_PER_BLOCK = {"cpu": (4, 4), "cuda": (4, 64)}
"""Batches that an actor gets at once, at least and at most: what its death costs, and how often progress is heard of.

More on a GPU, which has nothing to do while the first batch of a block is decoded, and plans each layer anew for it;
but not so many that some actors have nothing to do.
"""

_BLOCKS_PER_ACTOR = 4
"""So that all end at about the same time."""

ATTEMPTS = 3
"""How often an image may be alone with an actor that dies before it is given up."""

# Results that wait for the writer, on all machines together, before actors are given no more to do.
_WAITING_BYTES = 64 * 2**20

# Lost blocks after which a round is ended: actors die of everything, not of single images.
_LOST_BLOCKS = 64


def explain_all(
    items: Iterable[Item],
    explainer: BatchRunner[_R],
    batch_size: int,
    timing: Timing,
    engine: Ray,
    device: str | None = None,
) -> Generator[_R | Failure, None, None]:
    """Results of items, computed by Ray actors. They come in order, except those that an actor lost.

    The results are those of :func:`fiftyone_cam.engines.local.explain_all`, which each actor runs. The number of
    results on their way is bounded: if they are taken slowly, the actors wait.

    Args:
        items: what to explain; every actor must be able to read their paths.
        explainer: sent to the actors once; its network should be on the CPU.
        batch_size: images per forward.
        timing: as for the local engine; waiting and explaining are summed over all actors. ``starting``: seconds until
            the first results.
        engine: how many actors, what each reserves, and where the cluster is.
        device: of the actors' networks; None: a GPU where the cluster has any.

    Raises:
        CamError: there is no such cluster, it has not got what is asked for, or its actors cannot start.

    >>> timing = Timing()
    >>> results = list(explain_all([Item("1", "cat.jpg")], explainer, 32, timing, Ray(num_actors=2)))
    """
    import ray

    started = time.perf_counter()
    pending = {item.id: item for item in items}
    with cluster.connection(engine.address):
        plan = cluster.plan_actors(cluster.live_nodes(), engine, device)
        timing.device = f"{plan.device}, {plan.actors} Ray actor{'s' if plan.actors > 1 else ''}"
        work = _Work(ray.put(explainer), batch_size, plan)
        size = batch_size * batches_per_block(math.ceil(len(pending) / batch_size), plan)
        failures_alone: Counter[str] = Counter()
        any_result, rounds_without_result = False, 0
        while pending:
            todo = list(pending.values())
            blocks = [todo[i : i + size] for i in range(0, len(todo), size)]
            computed = _Round(blocks, work, isolated=size == 1)
            with contextlib.closing(computed.results()) as results:
                for block, spent, check in results:
                    if check is not None:
                        explainer.logits_check = worst(explainer.logits_check, check)
                    timing.starting = timing.starting or time.perf_counter() - started
                    timing.add(spent)
                    for result in block:
                        # a block whose actor died after its results had left comes twice
                        if pending.pop(result.id, None) is not None:
                            yield result
            if not pending:
                break

            progress = len(pending) < len(todo)
            any_result |= progress
            rounds_without_result = 0 if progress else rounds_without_result + 1
            if computed.error is not None and (not any_result or rounds_without_result >= ATTEMPTS):
                raise CamError(
                    f"Ray's actors compute nothing: {cluster.innermost_reason(computed.error)}"
                ) from computed.error
            if computed.error is None:  # otherwise nobody knows what was tried
                if size == 1:
                    failures_alone.update(pending.keys())
                    for id in [id for id in pending if failures_alone[id] >= ATTEMPTS]:
                        del pending[id]
                        yield Failure(id, f"the process that computes it dies, {ATTEMPTS} times of {ATTEMPTS}")
                size = max(1, size // 16)
            if pending:
                logger.warning(
                    "%d images were lost with the actors that had them, and are computed again", len(pending)
                )
                work = _Work(work.explainer, batch_size, cluster.plan_again(plan))


def batches_per_block(batches: int, plan: cluster.Plan) -> int:
    """How many batches an actor gets at once, of so many in all.

    >>> batches_per_block(1000, Plan(actors=4, cpus=4, gpus=1, device="cuda"))
    62
    """
    least, most = BATCHES_PER_BLOCK[plan.device]
    return max(least, min(most, batches // (plan.actors * _BLOCKS_PER_ACTOR)))


# the work


@dataclass(frozen=True)
class _Work:
    """What every actor gets: the explainer, in Ray's object store, and how to run it."""

    explainer: Any
    batch_size: int
    plan: cluster.Plan


class _Actor:
    """Runs the local engine over one block at a time, in a process that Ray starts on any node."""

    def __init__(self, work: _Work) -> None:
        import ray

        self._work = work
        torch.set_num_threads(work.plan.cpus)  # by itself each actor would take all cores of its machine
        self._explainer: BatchRunner[Any] = ray.get(work.explainer)
        self._explainer.network.to(work.plan.device)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        [packed] = batch["items"]
        spent = Timing()
        work = self._work
        try:
            items = pickle.loads(packed)
            results = list(local.explain_all(items, self._explainer, work.batch_size, work.plan.cpus, spent))
            return {"results": [pickle.dumps((results, spent, self._explainer.logits_check))]}
        except torch.AcceleratorError:
            # A lost device does not come back within this process, which would go on to fail block after block.
            logger.exception("the device is lost: this actor ends, and Ray starts another")
            os._exit(1)
        except Exception as error:  # not of one image: the driver raises it, as the local engine would
            return {"results": [_dump(error)]}


class _Round:
    """One pass of blocks through the actors; blocks whose actor dies are left out."""

    def __init__(self, blocks: Sequence[Sequence[Item]], work: _Work, *, isolated: bool) -> None:
        self._blocks = blocks
        self._work = work
        self._isolated = isolated
        self.error: Exception | None = None
        """What ended the round early, if something did."""

    def results(self) -> Generator[tuple[list[Any], Timing, Check | None], None, None]:
        """Results, timing and the actor's check of its logits, block by block, in order."""
        batches: Any = iter(self._dataset().iter_batches(batch_size=None, prefetch_batches=0))  # a generator: it closes
        with _quiet(), contextlib.closing(batches) as rows:
            while True:
                try:
                    row = next(rows)
                except StopIteration:
                    return
                except Exception as error:  # of Ray, in many classes: lost objects, actors that cannot start, a stall
                    self.error = error
                    return
                for packed in row["results"]:
                    content = pickle.loads(packed)
                    if isinstance(content, Exception):
                        raise content
                    yield content

    def _dataset(self) -> ray.data.Dataset:
        import ray.data

        plan = self._work.plan
        rows = [{"items": pickle.dumps(list(block))} for block in self._blocks]
        with warnings.catch_warnings():
            # of arguments that Ray 2.64 is to drop; it names no others for them, so the extra stops short of it
            warnings.simplefilter("ignore")
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Actor,
                fn_constructor_args=(self._work,),
                batch_size=1,
                num_cpus=plan.cpus,
                num_gpus=plan.gpus,
                compute=ray.data.ActorPoolStrategy(
                    size=min(plan.actors, len(rows)),
                    # alone where images are suspected of killing actors: nothing else may die with them
                    max_tasks_in_flight_per_actor=1 if self._isolated else 2,
                ),
                # A task that waited for its actor to start again would wait for ever where its node is gone. So it
                # fails at once, and the next round has it.
                max_restarts=-1,
                max_task_retries=0,
            )
        context = dataset.context
        context.enable_progress_bars = False
        context.max_errored_blocks = -1 if self._isolated else max(_LOST_BLOCKS, 4 * plan.actors)
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
            object_store_memory=_WAITING_BYTES
        )
        return dataset


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's plans, and its traceback for every lost block, off the terminal. They are in its log file."""
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _dump(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:  # an exception can hold anything
        return pickle.dumps(CamError(f"{type(error).__name__}: {error}"))
