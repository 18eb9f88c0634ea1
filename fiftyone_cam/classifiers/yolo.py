"""Ultralytics' classifiers (``*-cls``): global average pooling and a linear layer, with a softmax beside the logits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fiftyone_cam.classifiers import sources
from fiftyone_cam.classifiers.transforms import of_transforms
from fiftyone_cam.core.errors import SourceError, first_line

PREFIX = "ultralytics:"


def is_of_ultralytics(source: Any) -> bool:
    """Whether it is a ``YOLO`` object, or the module in one.

    >>> is_of_ultralytics(torch.nn.Identity())
    False
    """
    return any(base.__module__.split(".")[0] == "ultralytics" for base in type(source).__mro__)


def from_ultralytics(
    model: Any, classes: Sequence[str] | None = None, fed: sources.Fed | None = None
) -> sources.Source:
    """A ``YOLO`` object, or its module, with the transforms and names that came with its weights.

    Raises:
        SourceError: it is no classifier: a detector, a segmenter, …

    >>> from_ultralytics(ultralytics.YOLO("yolov8n-cls.yaml")).origin["source"]
    'ultralytics'
    """
    both = (getattr(model, "model", None), model)  # a YOLO has all attributes of its module
    module = next((one for one in both if _is_classifier(one)), None)
    if module is None:
        task = getattr(model, "task", None) or type(model).__name__
        raise SourceError(f"expected a classifier of Ultralytics (yolo11n-cls, …), found a model for {task}")
    names = module.names
    names = list(names.values()) if isinstance(names, dict) else list(names)
    if fed is None:
        fed = of_transforms(getattr(module, "transforms", None) or _default_transforms())
    name = str(getattr(model, "ckpt_path", None) or module.yaml.get("yaml_file") or type(module).__name__)
    return sources.Source(module, classes or names, fed, {"source": "ultralytics", "model": name}, borrowed=True)


def of_module(
    module: Any, classes: Sequence[str] | None = None, fed: sources.Fed | None = None
) -> sources.Source | None:
    """The source of a module, if it is Ultralytics'."""
    return from_ultralytics(module, classes, fed) if is_of_ultralytics(module) else None


def from_name(
    name: str, trusted: bool, classes: Sequence[str] | None = None, fed: sources.Fed | None = None
) -> sources.Source:
    """A classifier by Ultralytics' own name; its weights are pickles, which run code when they are loaded.

    Raises:
        SourceError: the caller does not trust them, the package is not there, or it knows no such model.
    """
    if find_spec("ultralytics") is None:
        raise SourceError("ultralytics is not installed: pip install ultralytics")
    if not trusted and not name.endswith((".yaml", ".yml")):  # those build an architecture, with random weights
        raise SourceError(
            f"Ultralytics' weights ({name}) are pickles, which run code when they are loaded: if you trust them, pass "
            "trust_pickle=True"
        )
    try:
        model = import_module("ultralytics").YOLO(name)
    except Exception as error:  # no such file, no network, a broken pickle
        raise SourceError(f"Ultralytics cannot load {name!r}: {type(error).__name__}: {first_line(error)}") from error
    return from_ultralytics(model, classes, fed)


def _is_classifier(module: Any) -> bool:
    return any(base.__name__ == "ClassificationModel" for base in type(module).__mro__)


def _default_transforms() -> Any:
    """What Ultralytics takes for weights without transforms of their own, at its classifiers' usual size."""
    return import_module("ultralytics.data.augment").classify_transforms(224)
