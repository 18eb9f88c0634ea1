"""The classifier as users hold it: a network whose maps are exact, its origin, and a ``fo.Model`` at the same time."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fiftyone_cam.classifiers import checkpoint, modules, sources
from fiftyone_cam.classifiers.dispatch import collect, load_source
from fiftyone_cam.classifiers.fiftyone_model import FiftyOneModel
from fiftyone_cam.classifiers.processors import of_processor
from fiftyone_cam.classifiers.transforms import of_transforms
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import CamError, SourceError, did_you_mean, first_line
from fiftyone_cam.core.explain import Explainer, prepare, wait_for_prepared
from fiftyone_cam.core.files import write_atomically
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.names import CHECKPOINT_JSON, CHECKPOINT_WEIGHTS, LITE
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing
from fiftyone_cam.core.results import Explanation, Failure, Item
from fiftyone_cam.core.workers import Workers
from fiftyone_cam.networks import architectures
from fiftyone_cam.runs.record import ClassifierRecord


@torch.inference_mode(False)  # whatever the caller is in the middle of
@torch.autocast("cpu", enabled=False)
@torch.autocast("cuda", enabled=False)
def load_classifier(
    source: Any,
    classes: Sequence[str] | None = None,
    *,
    weights: Any = "DEFAULT",
    arch: str | None = None,
    preprocessing: Any = None,
    activation: str | None = None,
    output: str | int | None = None,
    input_size: int | tuple[int, int] | None = None,
    whole_picture: bool = False,
    trust_pickle: bool = False,
    **kwargs: Any,
) -> Classifier:
    """Load a classifier; find out how its logits come from feature maps, and certify it.

    Args:
        source: what to load. A name: ``"efficientnet_lite0"`` (1, 2; extra ``lite``), a torchvision classifier
            (``"resnet18"``), ``"timm:resnet50.a1_in1k"``, ``"hf:microsoft/resnet-50"``, a FiftyOne zoo model
            (``"resnet50-imagenet-torch"``); a path: a checkpoint folder of this project, or a file of weights (with
            ``arch``); or an object: a zoo model, a Hugging Face model or pipeline, any ``torch.nn.Module``. Of an
            object a copy is taken: it is never cast, moved or changed, and later changes of it do not count.
        classes: a name for each logit, in order, where the source does not know better. Two classes of one name get
            the numbers of their logits: ``crane (134)``.
        weights: torchvision's weights, by name or as its enum, or None for random ones.
        arch: the architecture of a file of weights, as in :func:`fiftyone_cam.networks.build`.
        preprocessing: a :class:`Preprocessing`, evaluation transforms (torchvision, timm, albumentations) or a Hugging
            Face image processor, instead of the source's own.
        activation: ``"softmax"``, or ``"sigmoid"`` for labels that do not exclude each other; by default that of the
            checkpoint, of the Hugging Face configuration or of the forward itself, else softmax.
        output: what to take of a forward that returns several things that may be logits: a key or a number.
        input_size: of the network's input, a side or (height, width), where it is not that of the source's own
            preprocessing; what that cuts off is in proportion.
        whole_picture: squeeze the whole picture into the input instead of a crop from its middle, so that nothing is
            cut off. Objects are then smaller and narrower than the network knows them: EfficientNet-Lite0 reads 83.5%
            of 400 ImageNet photos right instead of 85.3% (84.8% with ``input_size=256``).
        trust_pickle: unpickle a whole module from the file. That runs whatever code the file names.
        kwargs: for the loader of a torchvision, timm or Hugging Face model.

    Returns:
        a :class:`Classifier`.

    Raises:
        SourceError: nothing that can be loaded, pixels that would differ from the source's own, or a keyword that this
            kind of source does not use; the message says what was found and what to do.
        HeadError: its logits are no function of places in feature maps; the message names what was found.

    >>> classifier = focam.load_classifier("efficientnet_lite0")
    >>> len(classifier.classes), classifier.network.head.error < 1e-5
    (1000, True)
    """
    if isinstance(source, Classifier):
        given = {**collect(weights, arch, trust_pickle, kwargs), "output": output}
        given |= {"classes": classes, "preprocessing": preprocessing, "activation": activation}
        given |= {"input_size": input_size, "whole_picture": whole_picture or None}
        if found := [name for name, value in given.items() if value is not None]:
            raise SourceError(
                f"a loaded classifier stays as it is: leave out {', '.join(found)}, or load it anew with them"
            )
        return source
    if classes is not None:
        classes = _names(classes)
    loaded = load_source(
        source,
        classes,
        _fed(preprocessing),
        weights=weights,
        arch=arch,
        trust_pickle=trust_pickle,
        kwargs=kwargs,
    )
    told, pixels = _as_asked(loaded, input_size, whole_picture)
    modules.require_values(loaded.module)
    module = (modules.own_copy(loaded.module) if loaded.borrowed else loaded.module).float()
    module, count, own = modules.with_output(module, told, output)
    if output is not None:
        loaded.origin["output"] = output
    modules.require_function_of_image(module, told)
    names = numbered(classes or loaded.classes)
    if count == 1:
        if len(names) != 2:
            raise SourceError(
                f"the network has one logit, and {len(names)} classes were given: pass two names, of the class below "
                "zero and of the class above it: classes=['ok', 'defect']. A number (a regression) has no classes"
            )
        if _network(module, names[1:], told, "sigmoid").head.logits_at.on_top is not None:
            raise SourceError("the network's one output is a probability: let it return the logit, before the sigmoid")
        module, activation = modules.with_two_sides(module), "sigmoid"
    network = _network(module, names, told, activation or own or loaded.activation)
    if activation is None:
        if network.head.logits_at.on_top is None:
            modules.require_logits(module, told, network.head.steps)
        elif network.head.logits_at.on_top in ("sigmoid", "logsigmoid"):
            network.activation = "sigmoid"
    return Classifier(network, loaded.origin, [pixels])


def _names(classes: Any) -> list[str]:
    """The classes that the caller gave, if they are a list of names."""
    if isinstance(classes, (str, bytes, Set)) or not isinstance(classes, Iterable):
        raise SourceError(f"classes is {classes!r:.80}, expected a list of names, one for each logit: ['cat', 'dog']")
    names = _by_number(classes) if isinstance(classes, Mapping) else list(classes)
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    for index, name in enumerate(names):
        if name is None or not str(name).strip():
            raise SourceError(f"class {index} has no name: expected one for each logit, in order")
    return names


def _by_number(classes: Mapping[Any, Any]) -> list[Any]:
    """The names in the order of the logits, of ``{0: "cat", …}`` or, as torchvision's folders, ``{"cat": 0, …}``."""
    for numbers, names in ((classes.keys(), classes.values()), (classes.values(), classes.keys())):
        found = {int(number): name for number, name in zip(numbers, names, strict=True) if str(number).isdecimal()}
        if sorted(found) == list(range(len(classes))):
            return [found[number] for number in sorted(found)]
    raise SourceError(
        f"classes is {dict(classes)!r:.80}, expected a list of names, or names with the numbers of their logits, from 0"
    )


_LARGEST_INPUT = 4096


def _as_asked(loaded: sources.Source, input_size: Any, whole_picture: bool) -> sources.Fed:
    """How the source feeds it, with what the caller wants otherwise; that is noted in the source's origin."""
    told, check = loaded.fed
    if input_size is not None:
        size = (input_size, input_size) if type(input_size) is int else input_size  # True is no size
        if not (
            isinstance(size, (tuple, list))
            and len(size) == 2
            and all(isinstance(side, int) and 1 <= side <= _LARGEST_INPUT for side in size)
        ):
            raise SourceError(
                f"input_size is {input_size!r}, expected a side or (height, width) in pixels, 1 to {_LARGEST_INPUT}"
            )
        try:
            told = told.resized(*size)
        except ValueError as error:
            raise SourceError(f"{error}: pass preprocessing=Preprocessing(…) instead of input_size=") from error
        loaded.origin["input_size"] = list(size)
        check = replace(check, detail=f"{check.detail}; then for an input of {size[0]}x{size[1]}, as asked")
    if whole_picture:
        told = told.whole_picture()
        loaded.origin["whole_picture"] = True
        check = replace(check, detail=f"{check.detail}; then of the whole picture, as asked")
    return told, check


def _network(module: nn.Module, classes: Sequence[str], preprocessing: Preprocessing, activation: str) -> GapNetwork:
    try:
        return GapNetwork(module, classes, preprocessing, activation)
    except CamError:
        raise
    except Exception as error:  # the module is anybody's
        raise SourceError(f"the network cannot be looked into: {type(error).__name__}: {first_line(error)}") from error


def _fed(preprocessing: Any) -> sources.Fed | None:
    if preprocessing is None:
        return None
    if isinstance(preprocessing, Preprocessing):
        _require_unit_range(preprocessing)
    return of_processor(preprocessing) if hasattr(preprocessing, "model_input_names") else of_transforms(preprocessing)


_LARGEST_MEAN, _LARGEST_STD = 2.0, 10.0
"""Of pixels between 0 and 1, beyond which all inputs are far below zero, or nearly alike."""


def _require_unit_range(preprocessing: Preprocessing) -> None:
    if max(preprocessing.mean) > _LARGEST_MEAN or max(preprocessing.std) > _LARGEST_STD:
        raise SourceError(
            f"mean={preprocessing.mean} and std={preprocessing.std}, expected those of pixels between 0 (black) and 1 "
            "(white): divide both by 255, or by what white is"
        )


def numbered(classes: Sequence[str]) -> list[str]:
    """Names that are all different: classes that share one get the number of their logit.

    >>> numbered(["crane", "heron", "crane"])
    ['crane (0)', 'heron', 'crane (2)']
    """
    names = [str(name) for name in classes]
    while len(counts := Counter(names)) < len(names):  # again where a name with a number was there already
        names = [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]
    return names


class Classifier(FiftyOneModel):
    """A GAP classifier with an exact head: made by :func:`load_classifier`.

    It is a FiftyOne model as well: ``dataset.apply_model(classifier, label_field="cam", batch_size=32)`` gives
    ``cam_prediction`` and ``cam_heatmap``. :func:`fiftyone_cam.compute_cam` gives the same faster, and keeps a record.
    With ``store_logits=True`` the predictions hold their logits, for ``fob.compute_hardness``. Its embeddings are the
    pooled features: ``dataset.compute_embeddings(classifier)``, ``fob.compute_similarity(dataset, model=classifier)``.

    Attributes:
        network: the :class:`~fiftyone_cam.core.network.GapNetwork`.
        origin: plain data that says where the classifier came from.
        checks: what it was held against when it was loaded, by name: ``pixels`` (our input against the source's own)
            and ``maps`` (mean of the map plus bias against the logit).

    >>> classifier = focam.load_classifier("efficientnet_lite0")
    >>> classifier.explain("cat.jpg").maps[0].label
    'tabby'
    """

    def __init__(self, network: GapNetwork, origin: Mapping[str, Any], checks: Sequence[Check] = ()) -> None:
        super().__init__(network)
        self.origin = dict(origin)
        maps = Check("maps", True, network.head.error, "of the largest logit", "on noise, when it was loaded")
        self.checks: dict[str, Check] = {check.name: check for check in (*checks, maps)}
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"Classifier({self.origin.get('model')!r}, {len(self.classes)} classes, {self.network.device})"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.network.classes

    @property
    def independent(self) -> bool:
        """Whether its labels do not exclude each other: an image may have several, or none.

        >>> focam.load_classifier("resnet18", weights=None).independent
        False
        """
        return self.network.activation == "sigmoid" and not isinstance(self.network.module, modules.TwoSides)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: names, shapes and values of the state dict, and which output was chosen."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.network.module.state_dict().items()):
                values = tensor.detach().cpu().contiguous()
                digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
                digest.update(values.flatten().view(torch.uint8).numpy().data)
            if "output" in self.origin:  # one body with two heads is two classifiers
                digest.update(f"output {self.origin['output']!r}".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def describe(self) -> ClassifierRecord:
        """Everything that a run's record keeps to repeat it.

        >>> classifier.describe().sha256 == classifier.fingerprint
        True
        """
        details = dict(self.origin)
        source, model = (str(details.pop(name, None)) for name in ("source", "model"))
        arch, weights = (details.pop(name, None) for name in ("arch", "weights"))
        return ClassifierRecord(
            source=source,
            model=model,
            sha256=self.fingerprint,
            arch=arch,
            weights=weights,
            details=details,
            checks={name: check.to_dict() for name, check in self.checks.items()},
            **self.network.describe(),
        )

    @property
    def buildable(self) -> str:
        """The name by which its architecture can be built anew, so that it can be saved.

        Raises:
            SourceError: it has none.

        >>> classifier.buildable
        'efficientnet_lite0'
        """
        arch = self.origin.get("arch") or self.origin.get("model")
        if self.origin.get("source") == "timm":
            return f"timm:{arch}"
        if arch not in LITE and arch not in architectures() and not str(arch).startswith("timm:"):
            raise SourceError(f"{arch} cannot be built by name, so a checkpoint could not be loaded: save a state dict")
        return str(arch)

    def save(self, folder: str | os.PathLike[str], **details: Any) -> Path:
        """Write a checkpoint folder: ``model.safetensors`` and ``classifier.json``; whole or not at all.

        Args:
            folder: where; must be absent, empty, or a checkpoint of this project (then replaced).
            details: further plain data for the JSON (training configuration, metrics).

        Raises:
            SourceError: the folder holds something else, or the architecture has no name to build it by.

        >>> load_classifier(classifier.save("runs/pets")).fingerprint == classifier.fingerprint
        True
        """
        from safetensors.torch import save_file

        arch = self.buildable
        folder = Path(folder).expanduser().absolute()
        if folder.exists() and not checkpoint.may_replace(folder):
            raise SourceError(f"{folder} holds something else: give a folder that is new or empty")
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.network.module.state_dict().items()
        }
        data = {
            "schema_version": checkpoint.SCHEMA_VERSION,
            "arch": arch,
            "classes": list(self.classes),
            "preprocessing": self.network.preprocessing.to_dict(),
            "activation": self.network.activation,
            **{name: self.origin[name] for name in checkpoint.REPAIRS if name in self.origin},
            **details,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The JSON takes its place last, because it makes the folder a checkpoint. Both are staged outside: what a kill
        # leaves of them must not make a new folder one that holds something else.
        with (
            write_atomically(folder / CHECKPOINT_JSON, staging=folder.parent) as json_file,
            write_atomically(folder / CHECKPOINT_WEIGHTS, staging=folder.parent) as weights_file,
        ):
            save_file(tensors, weights_file)
            json_file.write_text(json.dumps(data, indent=2), encoding="utf-8")
            folder.mkdir(exist_ok=True)
        return folder

    def explain(
        self, path: str | os.PathLike[str], labels: Sequence[str] | None = None, top_k: int = 1
    ) -> Explanation | Failure:
        """Maps of one image file: of the named classes, or of the ``top_k`` strongest.

        >>> classifier.explain("cat.jpg").maps[0].label
        'tabby'
        """
        if not isinstance(path, (str, os.PathLike)):
            raise CamError(f"expected the path of an image file, found {type(path).__name__}")
        item = Item("", os.fspath(path))
        with Workers(1, seconds=limits().seconds, name="cam-decode") as workers:
            prepared = wait_for_prepared(workers, workers.submit(prepare, item, self.network.preprocessing), item)
        if isinstance(prepared, Failure):
            return prepared
        classes = None if labels is None else [self.index(label) for label in labels]
        [result] = Explainer(self.network, top_k=top_k, classes=classes)([prepared])
        return result

    def index(self, label: str) -> int:
        """The logit of a class.

        Raises:
            SourceError: there is no such class.
        """
        if label not in self.classes:
            near = did_you_mean(label, self.classes)
            raise SourceError(f"{label!r} is none of the {len(self.classes)} classes{near}")
        return self.classes.index(label)
