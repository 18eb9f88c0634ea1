"""What an engine can be told: where to compute, and with how many processes, cores and GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

from fiftyone_cam.core.errors import CamError


@dataclass(frozen=True)
class Local:
    """Compute in this process.

    Attributes:
        num_workers: threads that decode; None: one for each core, at most 16.

    Raises:
        CamError: a setting makes no sense.

    >>> run = focam.compute_cam(dataset, "efficientnet_lite0", engine=focam.Local(num_workers=4))
    """

    num_workers: int | None = None

    def __post_init__(self) -> None:
        _check_count("num_workers", self.num_workers)


@dataclass(frozen=True)
class Ray:
    """Compute with actors on a `Ray <https://docs.ray.io>`_ cluster (extra ``ray``).

    All actors must be able to read the samples' paths. They need this package and PyTorch, and no database.

    Attributes:
        num_actors: processes that compute; None: one for each ``gpus_per_actor`` GPUs, or for each node of a cluster
            without GPUs.
        gpus_per_actor: GPUs that each actor reserves. 0.5 lets two actors share a GPU; 0 computes on CPUs.
        cpus_per_actor: CPUs that each actor reserves, to decode and to compute; None: an even share of the cluster's.
        address: of the cluster. ``"auto"`` finds one that runs on this machine. None: the cluster that this process is
            connected to or that ``RAY_ADDRESS`` names, or else a new one on this machine, for as long as the run takes.

    Raises:
        CamError: a setting makes no sense.

    >>> run = focam.compute_cam(dataset, "efficientnet_lite0", engine=focam.Ray(num_actors=8, address="auto"))
    """

    num_actors: int | None = None
    gpus_per_actor: float = 1
    cpus_per_actor: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        _check_count("num_actors", self.num_actors)
        _check_count("cpus_per_actor", self.cpus_per_actor)
        gpus = self.gpus_per_actor
        if not isinstance(gpus, (int, float)) or not gpus >= 0 or math.isinf(gpus):
            raise CamError(f"gpus_per_actor is {gpus!r}, expected 0 (no GPU), a part of one (0.5) or more")
        if self.address is not None and not self.address.strip():
            raise CamError(
                "address is empty, expected 'auto' or an address such as '10.0.0.1:6379'; None for no cluster"
            )


Engine = Local | Ray

ENGINES: dict[str, type[Local] | type[Ray]] = {"local": Local, "ray": Ray}


def as_engine(engine: str | Engine, device: str | None = None) -> Engine:
    """The engine of that name with its default settings; an engine stays what it is.

    Raises:
        CamError: there is no such engine, it is not installed, or it cannot be told to use this device.

    >>> as_engine("local")
    Local(num_workers=None)
    """
    found = ENGINES[engine]() if isinstance(engine, str) and engine in ENGINES else engine
    if not isinstance(found, (Local, Ray)):
        raise CamError(f"unknown engine {engine!r}, expected 'local', 'ray', focam.Local(…) or focam.Ray(…)")
    if isinstance(found, Ray):
        if find_spec("ray") is None or find_spec("pyarrow") is None:
            raise CamError("the engine 'ray' needs Ray Data, which is not installed: pip install 'fiftyone_cam[ray]'")
        if device not in (None, "cpu", "cuda"):
            raise CamError(f"device is {device!r}, expected 'cuda', 'cpu' or None: Ray chooses the GPU of each actor")
    return found


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise CamError(f"{name} is {value!r}, expected a whole number from 1")
