"""Ray's cluster: how to reach one, and how many actors fit into it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.engines.settings import Ray


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
def connection(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one. At the end, undo what was done here: disconnect, or stop it."""
    import ray

    if ray.is_initialized():
        current = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", current):
            raise CamError(
                f"this process is connected to the Ray cluster {current} already, not to {address}: "
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
            f"{where} ({innermost_reason(error)}): start one with `ray start --head`, or leave out address"
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


def live_nodes() -> list[Node]:
    """The resources of the nodes that are alive."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def plan_actors(nodes: Sequence[Node], engine: Ray, device: str | None = None) -> Plan:
    """Actors for a cluster: as many as asked, or as there are GPUs or nodes; the CPUs shared evenly among them.

    Args:
        nodes: what each node has.
        engine: what is asked for.
        device: ``"cuda"``, ``"cpu"``, or None: a GPU for each actor where the cluster has any.

    Raises:
        CamError: the cluster has not got what is asked for.

    >>> plan_actors([{"CPU": 16.0, "GPU": 4.0}], Ray())
    Plan(actors=4, cpus=4, gpus=1, device='cuda')
    """
    if device == "cuda" and engine.gpus_per_actor == 0:
        raise CamError(f"device is {device!r} and gpus_per_actor 0: Ray shows an actor only GPUs that it reserves")
    has_gpus = any(node.get("GPU", 0) > 0 for node in nodes)
    device = device or ("cuda" if has_gpus and engine.gpus_per_actor > 0 else "cpu")
    gpus = engine.gpus_per_actor if device == "cuda" else 0
    cpus = engine.cpus_per_actor or 1
    possible = _room(nodes, cpus, gpus)
    one_a_node = sum(node.get("CPU", 0) >= cpus for node in nodes)
    wanted = engine.num_actors or (possible if gpus else one_a_node)
    if wanted > possible or possible == 0:
        has = " + ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes[:8])
        raise CamError(
            f"{wanted or 1} actors of {cpus} CPU and {gpus:g} GPU do not fit into the Ray cluster, "
            f"which has {len(nodes)} nodes ({has or 'none'}{', …' if len(nodes) > 8 else ''}): at most {possible} do; "
            "lower num_actors, gpus_per_actor or cpus_per_actor, or add nodes"
        )
    while engine.cpus_per_actor is None and _room(nodes, cpus + 1, gpus) >= wanted:
        cpus += 1
    return Plan(wanted, cpus, gpus, device)


def _room(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
    """How many actors of this size the nodes can hold."""
    by_cpu = [int(node.get("CPU", 0) // cpus) for node in nodes]
    if not gpus:
        return sum(by_cpu)
    return sum(min(n, int(node.get("GPU", 0) / gpus + 1e-6)) for n, node in zip(by_cpu, nodes, strict=True))


def plan_again(plan: Plan) -> Plan:
    """The same actors, or as many of them as the nodes that are left can hold."""
    left = live_nodes()
    cpus = min(plan.cpus, max(1, int(max((node.get("CPU", 0) for node in left), default=1))))
    for actors in range(plan.actors, 0, -1):
        with contextlib.suppress(CamError):
            asked = Ray(num_actors=actors, gpus_per_actor=plan.gpus, cpus_per_actor=cpus)
            return plan_actors(left, asked, plan.device)
    raise CamError(
        f"no node is left in the Ray cluster that has {plan.gpus:g} GPU and a CPU for an actor: "
        "what was computed is kept, the next call goes on from there"
    )


def innermost_reason(error: BaseException) -> str:
    """What went wrong first, in one line: the message of the innermost of nested errors."""
    while (cause := getattr(error, "cause", None) or error.__cause__) and str(cause):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__
