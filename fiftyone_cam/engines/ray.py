"""The Ray engine: actors on many machines decode and compute, one process writes what they send back.

Ray Data hands blocks of images to a pool of actors; each runs the local engine over its block. Actors need this package
and PyTorch, and know neither FiftyOne nor a database.

What an actor had in hand when it died, alone or with its node, is lost and nothing else: Ray starts the actor again,
the others go on, and a further round computes what is missing, in ever smaller blocks, so that an image which kills
whatever touches it ends up alone, and is given up as one failure.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import signal
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.explain import Explainer
from fiftyone_cam.core.results import Failure, Item, Result
from fiftyone_cam.engines import local

if TYPE_CHECKING:
    import ray.data

logger = logging.getLogger(__name__)

BATCHES_PER_BLOCK = {"cpu": 4, "cuda": 64}
"""Batches that an actor gets at once: what its death costs, and how often progress is heard of.

More on a GPU, which has nothing to do while the first batch of a block is decoded, and plans each layer anew for it.
"""

ATTEMPTS = 3
"""How often an image may be alone with an actor that dies before it is given up."""

# Results that wait for the writer, on all machines together, before actors are given no more to do.
_WAITING_BYTES = 64 * 2**20

# Lost blocks after which a round is ended: actors die of everything, not of single images.
_LOST_BLOCKS = 64


def check_settings(device: str | None, num_actors: int | None, gpus_per_actor: float, address: str | None) -> None:
    """Check what can be known to be wrong before Ray is started.

    Raises:
        CamError: Ray is not installed, or a setting makes no sense.

    >>> check_settings(None, num_actors=2, gpus_per_actor=1, address="auto")
    """
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise CamError("engine='ray' needs Ray Data, which is not installed: pip install 'fiftyone_cam[ray]'")
    if device not in (None, "cpu", "cuda"):
        raise CamError(f"device is {device!r}, expected 'cuda', 'cpu' or None: Ray chooses the GPU of each actor")
    if num_actors is not None and num_actors < 1:
        raise CamError(f"num_actors is {num_actors}, expected at least 1")
    if not gpus_per_actor >= 0 or math.isinf(gpus_per_actor):
        raise CamError(f"gpus_per_actor is {gpus_per_actor}, expected 0 (no GPU), a part of one (0.5) or more")
    if address is not None and not address.strip():
        raise CamError("address is empty, expected 'auto' or an address such as '10.0.0.1:6379'; None for no cluster")


def explain_all(
    items: Iterable[Item],
    explainer: Explainer,
    batch_size: int,
    num_workers: int | None,
    clock: dict[str, Any],
    *,
    device: str | None = None,
    num_actors: int | None = None,
    gpus_per_actor: float = 1,
    address: str | None = None,
) -> Generator[Result, None, None]:
    """Results of items, computed by Ray actors; in order, but for what was lost with an actor and computed again.

    The same as :func:`fiftyone_cam.engines.local.explain_all`, and it is what each actor runs. Where results are taken
    slowly, actors wait: no more than a bounded number of results is ever on its way.

    Args:
        items: what to explain; every actor must be able to read their paths.
        explainer: sent to the actors once; its network should be on the CPU.
        batch_size: images per forward.
        num_workers: CPUs that each actor reserves, for decoding and computing; None: an even share of the cluster.
        clock: as for the local engine; waiting and explaining are summed over all actors. ``starting``: seconds until
            the first results.
        device: of the actors' networks; None: a GPU where the cluster has any.
        num_actors: None: one for each ``gpus_per_actor`` GPUs, or for each node of a cluster without.
        gpus_per_actor: 0.5 lets two actors share a GPU.
        address: ``"auto"`` or the address of a cluster. None: the cluster that this process is connected to, or that
            the environment variable ``RAY_ADDRESS`` names, or else one on this machine, for as long as this takes.

    Raises:
        CamError: there is no such cluster, it has not got what is asked for, or its actors cannot start.

    >>> clock = defaultdict(float)
    >>> results = list(explain_all([Item("1", "cat.jpg")], explainer, 32, None, clock, num_actors=2))
    """
    import ray

    started = time.perf_counter()
    pending = {item.id: item for item in items}
    with _cluster(address):
        plan = _plan(_nodes(), num_actors, gpus_per_actor, num_workers, device)
        clock["device"] = f"{plan.device}, {plan.actors} Ray actor{'s' if plan.actors > 1 else ''}"
        work = _Work(ray.put(explainer), batch_size, plan)
        size = batch_size * BATCHES_PER_BLOCK[plan.device]
        alone: Counter[str] = Counter()
        anything, fruitless = False, 0
        while pending:
            todo = list(pending.values())
            blocks = [todo[i : i + size] for i in range(0, len(todo), size)]
            computed = _Round(blocks, work, isolated=size == 1)
            with contextlib.closing(computed.results()) as results:
                for block, timing in results:
                    clock.setdefault("starting", time.perf_counter() - started)
                    for entry in timing:
                        clock[entry] += timing[entry]
                    for result in block:
                        # a block whose actor died after its results had left comes twice
                        if pending.pop(result.id, None) is not None:
                            yield result
            if not pending:
                break

            progress = len(pending) < len(todo)
            anything |= progress
            fruitless = 0 if progress else fruitless + 1
            if computed.error is not None and (not anything or fruitless >= ATTEMPTS):
                raise CamError(f"Ray's actors compute nothing: {_reason(computed.error)}") from computed.error
            if computed.error is None:  # otherwise nobody knows what was tried
                if size == 1:
                    alone.update(pending.keys())
                    for id in [id for id in pending if alone[id] >= ATTEMPTS]:
                        del pending[id]
                        yield Failure(id, f"the process that computes it dies, {ATTEMPTS} times of {ATTEMPTS}")
                size = max(1, size // 16)
            if pending:
                logger.warning(
                    "%d images were lost with the actors that had them, and are computed again", len(pending)
                )
                work = _Work(work.explainer, batch_size, _replanned(plan))


# the cluster


@dataclass(frozen=True)
class Plan:
    """How many actors, and what each of them reserves."""

    actors: int
    cpus: int
    gpus: float
    device: str


Node = Mapping[str, float]
"""What a node has: ``{"CPU": 8.0, "GPU": 1.0, …}``."""


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connected to a cluster; what was connected or started here is disconnected or stopped at the end."""
    import ray

    if ray.is_initialized():
        connected = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", connected):
            raise CamError(
                f"this process is connected to the Ray cluster {connected} already, not to {address}: "
                "leave out address, or call ray.shutdown() first"
            )
        yield
        return

    existing = address or os.environ.get("RAY_ADDRESS")
    # A cluster of our own listens on this machine only, and tells nobody that it was used.
    own: dict[str, Any] = {} if existing else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if own:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _keep_signals():
            ray.init(existing or "local", log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        where = f"no Ray cluster can be reached at {existing!r}" if existing else "Ray cannot be started here"
        raise CamError(
            f"{where} ({_reason(error)}): start one with `ray start --head`, or leave out address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _keep_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; whoever had a handler keeps it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, before)


def _nodes() -> list[Node]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _plan(
    nodes: Sequence[Node], num_actors: int | None, gpus_per_actor: float, num_workers: int | None, device: str | None
) -> Plan:
    """Actors for a cluster: as many as asked, or as there are GPUs or nodes; the CPUs shared evenly among them.

    Raises:
        CamError: the cluster has not got what is asked for.

    >>> _plan([{"CPU": 16.0, "GPU": 4.0}], None, 1, None, None)
    Plan(actors=4, cpus=4, gpus=1, device='cuda')
    """
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    wants_gpu = has_gpus if device is None else device == "cuda"
    gpus = gpus_per_actor if wants_gpu else 0.0
    if wants_gpu and gpus == 0:
        if device is not None:
            raise CamError(f"device is {device!r} and gpus_per_actor 0: Ray shows an actor only GPUs that it reserves")
        wants_gpu = False

    def fitting(cpus: int) -> int:
        return sum(
            min(int(node.get("CPU", 0) // cpus), int(node.get("GPU", 0) / gpus + 1e-6) if gpus else 2**31)
            for node in nodes
        )

    cpus = num_workers or 1
    possible = fitting(cpus)
    if gpus:
        wanted = num_actors or possible
    else:
        wanted = num_actors or sum(node.get("CPU", 0) >= cpus for node in nodes)
    if wanted > possible or possible == 0:
        has = " + ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes[:8])
        raise CamError(
            f"{wanted or 1} actors of {cpus} CPU and {gpus:g} GPU do not fit into the Ray cluster, "
            f"which has {len(nodes)} nodes ({has or 'none'}{', …' if len(nodes) > 8 else ''}): at most {possible} do; "
            "lower num_actors, gpus_per_actor or num_workers, or add nodes"
        )
    while num_workers is None and fitting(cpus + 1) >= wanted:
        cpus += 1
    return Plan(wanted, cpus, gpus, device or ("cuda" if wants_gpu else "cpu"))


def _replanned(plan: Plan) -> Plan:
    """The same actors, or as many of them as the nodes that are left can hold."""
    nodes = _nodes()
    for actors in range(plan.actors, 0, -1):
        with contextlib.suppress(CamError):
            return _plan(nodes, actors, plan.gpus, min(plan.cpus, _largest(nodes)), plan.device)
    raise CamError(
        f"no node is left in the Ray cluster that has {plan.gpus:g} GPU and a CPU for an actor: "
        "what was computed is kept, the next call goes on from there"
    )


def _largest(nodes: Sequence[Node]) -> int:
    return max(1, int(max((node.get("CPU", 0) for node in nodes), default=1)))


# the work


@dataclass(frozen=True)
class _Work:
    """What every actor is told: the explainer in Ray's object store, and how to run it."""

    explainer: Any
    batch_size: int
    plan: Plan


class _Actor:
    """In a process of its own, wherever Ray puts it: the local engine over one block at a time."""

    def __init__(self, work: _Work) -> None:
        import ray

        self._work = work
        torch.set_num_threads(work.plan.cpus)  # by itself each actor would take all cores of its machine
        self._explainer: Explainer = ray.get(work.explainer)
        self._explainer.network.to(work.plan.device)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        [packed] = batch["items"]
        clock: dict[str, Any] = defaultdict(float)
        work = self._work
        try:
            items = pickle.loads(packed)
            results = list(local.explain_all(items, self._explainer, work.batch_size, work.plan.cpus, clock))
            return {"results": [pickle.dumps((results, clock))]}
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

    def results(self) -> Generator[tuple[list[Result], dict[str, Any]], None, None]:
        """Results and timing, block by block, in order."""
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
    """Ray Data prints plans, and a traceback for every lost block. Its log file keeps them; the terminal need not."""
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


def _reason(error: BaseException) -> str:
    """What went wrong first, in one line: of errors around errors, the innermost's."""
    while (cause := getattr(error, "cause", None) or error.__cause__) and str(cause):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
