"""The classifier as users hold it: a network whose maps are exact, its origin, and a ``fo.Model`` at the same time."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fiftyone.core.models as fom
import fiftyone.utils.torch as fout
import torch
from torch import Tensor, nn

from fiftyone_cam.classifiers import checkpoint, sources, transforms
from fiftyone_cam.core.errors import SourceError, did_you_mean
from fiftyone_cam.core.explain import Explainer, Prepared, prepare, wait_for_prepared
from fiftyone_cam.core.files import write_atomically
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.names import CHECKPOINT_JSON, CHECKPOINT_WEIGHTS, LITE
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing
from fiftyone_cam.core.results import Explanation, Failure, Item
from fiftyone_cam.core.workers import Workers
from fiftyone_cam.networks import architectures
from fiftyone_cam.runs.heatmaps import heatmap, prediction
from fiftyone_cam.runs.record import ClassifierRecord


def load_classifier(
    source: Any,
    classes: Sequence[str] | None = None,
    *,
    weights: str | None = "DEFAULT",
    arch: str | None = None,
    preprocessing: Any = None,
    activation: str | None = None,
    trust_pickle: bool = False,
    **kwargs: Any,
) -> Classifier:
    """Load a classifier that ends in global average pooling and a linear layer; find and certify its head.

    Args:
        source: what to load. A name: ``"efficientnet_lite0"`` (1, 2; extra ``lite``), a torchvision classifier
            (``"resnet18"``), ``"timm:resnet50.a1_in1k"``, ``"hf:microsoft/resnet-50"``, a FiftyOne zoo model
            (``"resnet50-imagenet-torch"``); a path: a checkpoint folder of this project, or a file of weights (with
            ``arch``); or an object: a zoo model, a Hugging Face model, any ``torch.nn.Module``.
        classes: a name for each logit, in order, where the source does not know better.
        weights: torchvision's weights by name, or None for random ones.
        arch: the architecture of a file of weights, as in :func:`fiftyone_cam.networks.build`.
        preprocessing: a :class:`Preprocessing`, or torchvision evaluation transforms, instead of the source's own.
        activation: ``"softmax"``, or ``"sigmoid"`` for labels that do not exclude each other; by default the
            checkpoint's, else softmax.
        trust_pickle: unpickle a whole module from the file. That runs whatever code the file names.
        kwargs: for the loader of a torchvision, timm or Hugging Face model.

    Returns:
        a :class:`Classifier`.

    Raises:
        SourceError: nothing that can be loaded, or a keyword that this kind of source does not use; the message says
            what was found and what to do.
        HeadError: the network has no exact head (VGG, ViT, …); the message names what it has instead.

    >>> classifier = focam.load_classifier("efficientnet_lite0")
    >>> len(classifier.classes), classifier.network.head.error < 1e-5
    (1000, True)
    """
    given = dict(kwargs)
    for name, value, default in (
        ("weights", weights, "DEFAULT"),
        ("arch", arch, None),
        ("trust_pickle", trust_pickle, False),
    ):
        if value != default:
            given[name] = value
    if isinstance(source, Classifier):
        given |= {"classes": classes, "preprocessing": preprocessing, "activation": activation}
        if found := [name for name, value in given.items() if value is not None]:
            raise SourceError(
                f"a loaded classifier stays as it is: leave out {', '.join(found)}, or load it anew with them"
            )
        return source
    preprocessing = None if preprocessing is None else transforms.convert(preprocessing)
    loaded = _load(source, classes, weights, arch, preprocessing, trust_pickle, kwargs, given)
    network = GapNetwork(
        loaded.module,
        list(classes or loaded.classes),
        preprocessing or loaded.preprocessing,
        activation or loaded.activation,
    )
    return Classifier(network, loaded.origin)


def _load(
    source: Any,
    classes: Sequence[str] | None,
    weights: str | None,
    arch: str | None,
    preprocessing: Preprocessing | None,
    trust_pickle: bool,
    kwargs: dict[str, Any],
    given: Mapping[str, Any],
) -> sources.Source:
    """What the source is, by its own function; ``given``: the keywords that not every kind of source uses."""
    if isinstance(source, fom.Model):
        _refuse_unused(given, "a zoo model")
        return sources.from_zoo(source)
    if type(source).__module__.startswith("transformers."):
        _refuse_unused(
            given, "a Hugging Face model", sources.HUB if kwargs.get("processor") is None else ("processor",)
        )
        return sources.from_huggingface(source, classes=classes, **kwargs)
    if isinstance(source, nn.Module):
        _refuse_unused(given, "a torch.nn.Module")
        return sources.from_module(source, classes, preprocessing)
    if not isinstance(source, (str, os.PathLike)):
        raise SourceError(f"expected a name, a path, a zoo model or a torch.nn.Module, found {type(source).__name__}")

    name = os.fspath(source)
    path = Path(os.path.expanduser(name))  # pathlib's raises for an unknown user
    if name in LITE:
        _refuse_unused(given, name)
        return sources.from_lite(name, classes)
    if name.startswith("timm:"):
        if weights not in (None, "DEFAULT"):
            raise SourceError(f"timm's names say which weights: timm:resnet50.a1_in1k, not weights={weights!r}")
        _refuse_unused(given, "a timm model", ("weights",), passes_on=True)
        return sources.from_timm(name[5:], weights is not None, classes, **kwargs)
    if name.startswith("hf:"):
        _refuse_unused(given, "a Hugging Face model", ("processor",), passes_on=True)
        return sources.from_huggingface(name[3:], classes=classes, **kwargs)
    if name in architectures():
        _refuse_unused(given, "a torchvision model", ("weights",), passes_on=True)
        return sources.from_torchvision(name, weights, classes, **kwargs)
    if os.path.isdir(path):  # pathlib's raise where the name is too long
        _refuse_unused(given, "a checkpoint folder")
        return sources.from_checkpoint(path)
    if os.path.isfile(path):
        if trust_pickle:
            _refuse_unused(given, "a pickled module", ("trust_pickle",))
            return sources.from_pickle(path, classes, preprocessing)
        _refuse_unused(given, "a file of weights", ("arch", "trust_pickle"))
        return sources.from_state_dict(path, arch, classes, preprocessing)
    if name.endswith("-torch"):  # FiftyOne's zoo names its models so
        _refuse_unused(given, "a zoo model")
        return sources.from_zoo(name)
    raise SourceError(
        f"{name!r} is neither a classifier name nor an existing path{did_you_mean(name, [*LITE, *architectures()])}. "
        "Expected efficientnet_lite0, a torchvision classifier, timm:…, hf:…, a FiftyOne zoo model (…-torch), "
        "a checkpoint folder or a file of weights"
    )


_ALWAYS = ("classes", "preprocessing", "activation")
_OWN = (*_ALWAYS, "weights", "arch", "trust_pickle")


def _refuse_unused(given: Mapping[str, Any], kind: str, used: Sequence[str] = (), *, passes_on: bool = False) -> None:
    """Refuse keywords that a kind of source would pass over in silence.

    Args:
        given: the keywords that not every kind uses.
        kind: in words.
        used: those that this kind uses.
        passes_on: other keywords go to its loader, which refuses what it does not know. Not those that are almost one
            of :func:`load_classifier`'s: some loaders pass over ``activatoin``.

    Raises:
        SourceError: naming the first such keyword, never its value, which may be a token.
    """
    known = (*_ALWAYS, *used)
    for name in given:
        misspelt = bool(difflib.get_close_matches(name, _OWN, n=1, cutoff=0.8))
        if name not in used and (misspelt or not passes_on):
            meant = did_you_mean(name, known)
            further = ", and what its loader takes" if passes_on else ""
            raise SourceError(f"{kind} does not use {name}={meant}: it uses {', '.join(known)}{further}")


class Classifier(fom.SupportsGetItem, fom.TorchModelMixin, fom.Model):
    """A GAP classifier with an exact head: made by :func:`load_classifier`.

    It is a FiftyOne model as well: ``dataset.apply_model(classifier, label_field="cam", batch_size=32)`` gives
    ``cam_prediction`` and ``cam_heatmap``. :func:`fiftyone_cam.compute_cam` gives the same faster, and keeps a record.

    Attributes:
        network: the :class:`~fiftyone_cam.core.network.GapNetwork`.
        origin: plain data that says where the classifier came from.

    >>> classifier = focam.load_classifier("efficientnet_lite0")
    >>> classifier.explain("cat.jpg").maps[0].label
    'tabby'
    """

    def __init__(self, network: GapNetwork, origin: Mapping[str, Any]) -> None:
        self.network = network
        self.origin = dict(origin)
        self._fingerprint: str | None = None
        self._preprocess = True

    def __repr__(self) -> str:
        return f"Classifier({self.origin.get('model')!r}, {len(self.classes)} classes, {self.network.device})"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.network.classes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: names, shapes and values of the state dict, in hexadecimal."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.network.module.state_dict().items()):
                values = tensor.detach().cpu().contiguous()
                digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
                digest.update(values.flatten().view(torch.uint8).numpy().data)
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
            **self.network.describe(),
        )

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

        arch = self.origin.get("arch") or self.origin.get("model")
        if self.origin.get("source") == "timm":
            arch = f"timm:{arch}"
        elif arch not in LITE and arch not in architectures() and not str(arch).startswith("timm:"):
            raise SourceError(f"{arch} cannot be built by name, so a checkpoint could not be loaded: save a state dict")
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

    # fo.Model

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        return False  # sizes may differ, but the explainer groups them itself

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    @property
    def has_collate_fn(self) -> bool:
        return True

    @staticmethod
    def collate_fn(batch: list[Any]) -> list[Any]:
        return batch

    def build_get_item(self, field_mapping: Mapping[str, str] | None = None) -> fout.GetItem:
        return _Prepare(self.network.preprocessing, field_mapping=field_mapping)

    def predict(self, arg: Any) -> dict[str, Any] | None:
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[Any]) -> list[dict[str, Any] | None]:
        """Labels for images: what :meth:`build_get_item` made of files, or ``(H, W, 3)`` uint8 arrays."""
        batch = [self._prepare(i, arg) for i, arg in enumerate(args)]
        results = iter(Explainer(self.network)([entry for entry in batch if isinstance(entry, Prepared)]))
        return [_labels(next(results) if isinstance(entry, Prepared) else entry) for entry in batch]

    def _prepare(self, i: int, arg: Any) -> Prepared | Failure:
        if isinstance(arg, Failure):
            return arg
        if isinstance(arg, Prepared):  # a batch from a data loader has no ids: number it
            return Prepared(Item(str(i), arg.item.path), arg.pixels, arg.frame, arg.size)
        pixels = arg if isinstance(arg, Tensor) else torch.tensor(arg).permute(2, 0, 1)
        height, width = pixels.shape[-2:]
        preprocessing = self.network.preprocessing
        frame = preprocessing.frame(height, width)
        return Prepared(Item(str(i), ""), preprocessing.apply(pixels), frame, (height, width))


def _labels(result: Explanation | Failure) -> dict[str, Any] | None:
    if isinstance(result, Failure):
        return None  # what FiftyOne passes over; an empty dict would cost the whole batch
    return {"prediction": prediction(result.maps[0]), "heatmap": heatmap(result.maps[0], result)}


class _Prepare(fout.GetItem):
    """Decodes and preprocesses in the data loader's workers; an unreadable file costs one sample, not its batch."""

    def __init__(self, preprocessing: Preprocessing, field_mapping: Mapping[str, str] | None = None) -> None:
        super().__init__(field_mapping=field_mapping)
        self._preprocessing = preprocessing

    @property
    def required_keys(self) -> list[str]:
        return ["filepath"]

    def __call__(self, d: Mapping[str, Any]) -> Prepared | Failure:
        return prepare(Item("", d["filepath"]), self._preprocessing)
