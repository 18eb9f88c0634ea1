"""A network that says where it runs, and what else runs there; free of FiftyOne, as are the processes that get it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Spy(nn.Module):
    """A small network that leaves a line in a folder for each forward away from home: where, and how many images.

    ``wide``: results of 16 kB, with a map of 64 x 64 cells for a picture of 64 x 64 pixels. And away from home:
    ``seconds``: how slow a forward is. ``meet``: it waits until so many processes have begun. ``poison``: it ends its
    process at once when it sees a picture of one colour. ``detour``: it takes another path. ``unloadable``: it cannot
    even be unpickled.
    """

    def __init__(
        self,
        folder: Path,
        *,
        wide: bool = False,
        seconds: float = 0.0,
        meet: int = 1,
        poison: bool = False,
        detour: bool = False,
        unloadable: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        features = nn.Conv2d(3, 8, 1) if wide else nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.network = nn.Sequential(features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        self.folder = str(folder)
        self.seconds = seconds
        self.meet = meet
        self.poison = poison
        self.detour = detour
        self.unloadable = unloadable
        self.home = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["unloadable"] and state["home"] != os.getpid():
            raise OSError("the weights are not here")
        super().__setstate__(state)

    def forward(self, input: Tensor) -> Tensor:
        if os.getpid() != self.home:
            if self.poison and ((input.amax((2, 3)) - input.amin((2, 3))).amax(1) == 0).any():
                os._exit(1)
            time.sleep(self.seconds)
            database = any(name in sys.modules for name in ("fiftyone", "pymongo", "mongoengine"))
            with open(Path(self.folder) / str(os.getpid()), "a") as file:
                file.write(f"{_node()} {len(input)} {int(database)} {torch.get_num_threads()}\n")
            deadline = time.monotonic() + 120
            while len(os.listdir(self.folder)) < self.meet and time.monotonic() < deadline:
                time.sleep(0.05)
            if self.detour:
                return input.mean((2, 3))
        output: Tensor = self.network(input)
        return output


@dataclass(frozen=True)
class Seen:
    """One forward."""

    process: int
    node: str
    images: int
    database: bool
    threads: int


def seen(folder: Path) -> list[Seen]:
    """What spies saw: ``database``, whether FiftyOne or a database's driver was loaded there."""
    found = []
    for file in sorted(folder.iterdir()):
        for line in file.read_text().splitlines():
            node, images, database, threads = line.split()
            found.append(Seen(int(file.name), node, int(images), database == "1", int(threads)))
    return found


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
