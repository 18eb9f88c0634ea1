"""Train a GAP classifier on a labelled collection: one good recipe, no framework."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import fiftyone as fo
import numpy as np
import psutil
import torch
from fiftyone import ViewField as F
from numpy.typing import NDArray
from pymongo.errors import PyMongoError
from safetensors import SafetensorError
from torch import Tensor, nn

from fiftyone_cam import sources, trainings
from fiftyone_cam.classifier import Classifier, load_classifier
from fiftyone_cam.collection import images
from fiftyone_cam.core.errors import FieldError, RunError, SourceError
from fiftyone_cam.core.explain import Item
from fiftyone_cam.core.geometry import CenterCrop, Preprocessing, Resize
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.training import (
    SMALL_INPUT,
    Clock,
    Epoch,
    Features,
    Memory,
    Pictures,
    Progress,
    Report,
    Settings,
    TrainingError,
    augmentation,
    best_epoch,
    fit,
    stratified,
)
from fiftyone_cam.models import LITE, SMALL, architectures, build
from fiftyone_cam.runs import Collection
from fiftyone_cam.trainings import TRAIN, VALIDATION, TrainingRun

logger = logging.getLogger(__name__)

STATE = "training.safetensors"
"""What an unfinished training goes on from, in its folder."""

_SPLIT_WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_LEARNING_RATES = {"scratch": 1e-3, "fine-tune": 3e-4, "frozen": 1e-2}


def train_classifier(
    samples: Collection,
    label_field: str,
    *,
    out: str | os.PathLike[str],
    arch: str = "efficientnet_lite0",
    epochs: int = 5,
    split: float | str = 0.2,
    weights: str | None = "DEFAULT",
    freeze: Literal["backbone"] | None = None,
    size: int | None = None,
    snapshots: Sequence[int] = (),
    key: str | None = None,
    batch_size: int = 32,
    learning_rate: float | None = None,
    weight_decay: float = 0.05,
    label_smoothing: float = 0.1,
    balance: bool = True,
    augment: Callable[[Tensor], Tensor] | None = None,
    patience: int | None = 10,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Classifier:
    """Train a classifier whose class activation maps are exact; save it as a checkpoint; evaluate it in FiftyOne.

    The checkpoint of the best epoch (by balanced validation accuracy) lies in ``out`` from the first epoch on:
    ``model.safetensors`` and ``classifier.json``. Killed at any moment, the same call goes on from the last whole epoch
    and ends with the same weights as a training that was not killed; finished, it returns what is there.

    On the dataset it leaves a run of its own kind (see :func:`fiftyone_cam.trainings.load_training`) with the history,
    the fields ``{key}_split``, ``{key}_prediction`` (of validation samples) and ``{key}_error`` (why an image could not
    be read), and FiftyOne's evaluation ``{key}_eval``, which its Model Evaluation panel shows.

    The recipe is one that works for most: AdamW, warm-up, cosine, label smoothing, random parts of the picture,
    mirrored or not. It is not a framework. Whoever trains with Lightning, timm or Hugging Face brings the model to
    :func:`load_classifier`.

    Args:
        samples: a dataset or view of images. Those without a label are left out and counted.
        label_field: a ``Classification`` field.
        out: the folder of the checkpoint: new, empty, or of this very training.
        arch: any torchvision classifier with an exact head (``"resnet18"``), ``"efficientnet_lite0"`` (1, 2; extra
            ``lite``), or ``"small_gap_net"`` for images of about 32x32 pixels.
        epochs: how often each sample is seen.
        split: what validates: a fraction of each class (drawn with ``seed``), ``"tags"``, or a field whose values are
            ``"train"`` and ``"validation"`` (``"val"``; ``"test"`` where there is no other). What is in neither part
            is left out.
        weights: torchvision's weights to begin with, by name; None: random ones.
        freeze: ``"backbone"``: features are computed once, without augmentation, and only the last layer is trained.
        size: the side of the network's input; by default what its weights were made for.
        snapshots: epochs to keep a checkpoint of, ``out/epoch_5``, to compare them. All epochs are then trained.
        key: the run's name and the beginning of its fields' names; by default the folder's name.
        batch_size: images per step.
        learning_rate: the highest; by default 1e-3 from random weights, 3e-4 from given ones, 1e-2 for the last layer
            alone.
        weight_decay: AdamW's.
        label_smoothing: the share of certainty that goes to the other classes.
        balance: give each class the same weight in the loss, however many samples it has.
        augment: instead of the usual augmentation (see :func:`core.training.augmentation`; mirroring is wrong for
            letters and digits): from a ``(3, H, W)`` uint8 picture to one of the network's size.
        patience: stop after so many epochs without a better validation; None: never.
        seed: of the split, the first weights, the order and the augmentation.
        device: ``"cpu"``, ``"cuda"``, …; by default a GPU where there is one.
        precision: of the forward; by default mixed on CUDA, ``"float32"`` elsewhere. ``"bfloat16"`` doubles the speed
            of CPUs that have AMX.
        overwrite: replace another training in ``out``.
        progress: print it or not, FiftyOne's default (None), or a function that gets a
            :class:`~fiftyone_cam.core.training.Progress` about twice a second. What it raises stops the training.

    Returns:
        the :class:`Classifier` of the best epoch.

    Raises:
        FieldError: the labels cannot be learned (one class, no labels, …), or a field is not this project's.
        HeadError: the architecture's head is not exact.
        SourceError: the architecture, its weights or the folder cannot be used.
        TrainingError: the loss is not finite, the disk is full, … The last good checkpoint stays in ``out``.
        RunError: the key is taken.

    >>> classifier = focam.train_classifier(dataset, "ground_truth", arch="resnet18", epochs=5, out="runs/cats_dogs")
    >>> run = focam.compute_cam(dataset, classifier, key="cam", ground_truth="ground_truth")
    """
    collection = images(samples)
    folder = Path(out).expanduser().absolute()
    key = key or _key_of(folder)
    _check(collection, label_field, arch, weights, freeze, size, epochs, snapshots)
    trainings.check_key(collection._dataset, key)
    data = _Data.read(collection, label_field, split, seed)

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = "frozen" if freeze else "scratch" if weights is None or arch in SMALL else "fine-tune"
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=_LEARNING_RATES[start] if learning_rate is None else learning_rate,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        balance=balance,
        patience=None if snapshots else patience,
        precision=precision or _mixed(target),
        seed=seed,
    )
    network = _network(arch, weights, data.classes, size, seed).to(target)
    if settings.precision == "float16" and target.type == "cpu":
        raise TrainingError("float16 needs a GPU: use bfloat16 or float32 on the CPU")
    reading, varying = _augmentation(network.preprocessing, augment, freeze)
    training = {
        "arch": arch,
        "weights": weights if arch not in SMALL else None,
        "freeze": freeze,
        "label_field": label_field,
        "split": split,
        "data": data.digest,
        "preprocessing": network.preprocessing.to_dict(),
        "augment": str(varying),
        "snapshots": sorted(set(snapshots)),
        **asdict(settings),
    }
    checkpoint = _Checkpoint(folder, training, str(collection._dataset.name))
    checkpoint.open(overwrite)
    run = _record(collection._dataset, key, folder, training, data, overwrite)
    if checkpoint.complete and run.record["status"] == "complete":
        return load_classifier(folder)

    memory = Memory(min(2 << 30, psutil.virtual_memory().available // 4))
    train = Pictures(*data.part(TRAIN), reading, varying, None if freeze else memory)
    validation = Pictures(*data.part(VALIDATION), network.preprocessing, None, memory)
    console = _Console(progress)
    try:
        if not checkpoint.complete:
            _train(network, train, validation, settings, freeze, checkpoint, run, console)
        checkpoint.note(run)
        classifier = load_classifier(folder)
        classifier.network.to(target)
        _evaluate(run, classifier, validation, label_field, console)
        checkpoint.finish(classifier, run)
    except BaseException as error:
        _note(run, train, validation, status="stopped", stopped_by=f"{type(error).__name__}: {error}"[:500])
        if isinstance(error, TrainingError) and checkpoint.saved:
            where = f"The last good checkpoint, of epoch {checkpoint.saved}, is in {folder}"
            raise TrainingError(f"{error}. {where}") from error
        raise
    _note(run, train, validation, status="complete", stopped_by=None)
    console.line(str(run))
    return classifier


# what is asked for


def _key_of(folder: Path) -> str:
    key = re.sub(r"\W", "_", folder.name, flags=re.ASCII)
    return key if key.isidentifier() and not key.startswith("_") else f"train_{key.strip('_')}"


def _check(
    samples: Collection,
    label_field: str,
    arch: str,
    weights: str | None,
    freeze: str | None,
    size: int | None,
    epochs: int,
    snapshots: Sequence[int],
) -> None:
    """What can be known to be wrong before anything is loaded."""
    field = samples.get_field(label_field)
    if field is None:
        known = list(samples.get_field_schema(embedded_doc_type=fo.Classification))
        raise FieldError(
            f"there is no field {label_field!r} to learn from: "
            + (f"the Classification fields are {', '.join(known)}" if known else "nor any Classification field")
        )
    if not (isinstance(field, fo.EmbeddedDocumentField) and issubclass(field.document_type, fo.Classification)):
        found = getattr(field, "document_type", type(field)).__name__
        raise FieldError(f"the field {label_field!r} is of type {found}, expected Classification: one label a sample")
    if arch not in LITE and arch not in architectures():
        raise SourceError(
            f"{arch!r} cannot be trained here{sources.near(arch, [*LITE, *architectures()])}: expected a torchvision "
            f"classifier, {', '.join([*LITE, *SMALL])}. Train others with their own tools, then load_classifier"
        )
    if freeze not in (None, "backbone"):
        raise TrainingError(f"freeze is {freeze!r}, expected None or 'backbone'")
    if freeze and (weights is None or arch in SMALL):
        raise TrainingError("a frozen backbone of random weights cannot learn: give weights, or freeze=None")
    if size is not None and size < 8:
        raise TrainingError(f"size is {size}, expected at least 8 pixels")
    wrong = [epoch for epoch in snapshots if not 1 <= epoch <= epochs]
    if wrong:
        raise TrainingError(f"snapshots at epoch {wrong} of {epochs}: expected 1 to {epochs}")


def _augmentation(
    preprocessing: Preprocessing, augment: Callable[[Tensor], Tensor] | None, freeze: str | None
) -> tuple[Preprocessing, Callable[[Tensor], Tensor] | None]:
    """How training pictures are read, and what is then varied."""
    if freeze:
        return preprocessing, None
    reading, varying = augmentation(preprocessing)
    if augment is None:
        return reading, varying
    expected = (3, *preprocessing.input_size())
    for height, width in ((expected[1], 2 * expected[2]), (2 * expected[1], expected[2])):
        with torch.random.fork_rng(devices=[]):
            found = augment(reading.apply(torch.zeros(3, height, width, dtype=torch.uint8)))
        if tuple(found.shape) != expected or found.dtype != torch.uint8:
            raise TrainingError(f"augment gives {tuple(found.shape)} {found.dtype}, expected {expected} torch.uint8")
    return reading, augment


def _mixed(device: torch.device) -> str:
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


@dataclass(frozen=True)
class _Data:
    """Which samples are learned from and which validate."""

    items: list[Item]
    labels: list[str]
    validates: NDArray[np.bool_]
    classes: list[str]
    counts: dict[str, int]
    untested: list[str]

    @classmethod
    def read(cls, samples: Collection, label_field: str, split: float | str, seed: int) -> _Data:
        ids, paths, labels = samples.values(["id", "filepath", f"{label_field}.label"])
        labelled = np.array([label is not None for label in labels])
        names = [label for label in labels if label is not None]
        kinds = Counter(names)
        if len(kinds) < 2:
            found = f"only the class {next(iter(kinds))!r}" if kinds else "no label"
            raise FieldError(f"{label_field!r} holds {found} on {len(labels):,} samples: expected two classes or more")

        part = np.full(len(labels), "", dtype=object)
        if isinstance(split, str):
            part[labelled] = np.array(_parts(samples, split), dtype=object)[labelled]
        else:
            part[labelled] = np.where(stratified(names, split, seed), VALIDATION, TRAIN)
        outside = labelled & (part == "")

        learned = {label for label, where in zip(labels, part, strict=True) if where == TRAIN}
        if len(learned) < 2:
            raise FieldError(f"the training samples have {len(learned)} class(es), expected two or more: {learned}")
        unknown = (part == VALIDATION) & ~np.array([label in learned for label in labels])
        used = np.flatnonzero((part != "") & ~unknown)
        validates = part[used] == VALIDATION
        if not validates.any():
            raise FieldError("there are no validation samples of classes that are trained: no epoch can be told best")

        tested = {labels[index] for index in used[validates]}
        untested = sorted(learned - tested)
        if untested:
            logger.warning("%d classes have no validation samples: %s", len(untested), ", ".join(untested[:10]))
        return cls(
            items=[Item(ids[index], paths[index]) for index in used],
            labels=[labels[index] for index in used],
            validates=validates,
            classes=sorted(learned),
            counts={
                "samples": len(labels),
                "train": int((~validates).sum()),
                "validation": int(validates.sum()),
                "unlabelled": int((~labelled).sum()),
                "outside": int(outside.sum()),
                "unknown": int(unknown.sum()),
                "failed": 0,
            },
            untested=untested,
        )

    @property
    def digest(self) -> str:
        """Of all paths, labels and parts: a training goes on only with the same."""
        lines = (
            f"{item.path}\0{label}\0{validates}"
            for item, label, validates in zip(self.items, self.labels, self.validates.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def part(self, name: str) -> tuple[list[Item], Tensor]:
        indices = np.flatnonzero(self.validates == (name == VALIDATION))
        numbers = {label: index for index, label in enumerate(self.classes)}
        targets = torch.tensor([numbers[self.labels[index]] for index in indices])
        return [self.items[index] for index in indices], targets

    def split(self) -> dict[str, str]:
        parts = np.where(self.validates, VALIDATION, TRAIN).tolist()
        return {item.id: part for item, part in zip(self.items, parts, strict=True)}


def _parts(samples: Collection, split: str) -> list[str]:
    """For each sample ``"train"``, ``"validation"`` or nothing, by its tags or a field."""
    if split != "tags" and samples.get_field(split) is None:
        raise FieldError(f"there is no field {split!r} to split by: expected 'tags', a field's name, or a fraction")
    values = samples.values(split)
    words = [
        {str(word).lower() for word in (value if isinstance(value, (list, tuple)) else [value]) if word is not None}
        for value in values
    ]
    found: dict[str, int] = Counter(word for several in words for word in several)
    tests = "test" if not any(word in found for word in _SPLIT_WORDS[VALIDATION]) else VALIDATION
    parts = []
    for several in words:
        trains = not several.isdisjoint(_SPLIT_WORDS[TRAIN])
        validates = not several.isdisjoint(_SPLIT_WORDS[tests])
        if trains and validates:
            raise FieldError(f"a sample is in both parts by {split!r}: {sorted(several)}")
        parts.append(TRAIN if trains else VALIDATION if validates else "")
    if TRAIN not in parts or VALIDATION not in parts:
        raise FieldError(
            f"{split!r} does not split the samples: expected 'train' and 'validation' (or 'val', 'test'), "
            f"found {sorted(found)[:8]}"
        )
    return parts


# the network


def _network(arch: str, weights: str | None, classes: Sequence[str], size: int | None, seed: int) -> GapNetwork:
    """The architecture with a new last layer, everything before it from the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(arch, len(classes))
    if arch in SMALL:
        if weights not in (None, "DEFAULT"):
            raise SourceError(f"there are no weights {weights!r} for {arch}, expected None")
        return GapNetwork(module, classes, _preprocessing(Preprocessing(mean=_MEAN, std=_STD), size or 32))
    if weights is None:
        return GapNetwork(module, classes, _preprocessing(sources.default_preprocessing(arch), size))
    try:
        source = sources.from_lite(arch) if arch in LITE else sources.from_torchvision(arch, weights)
    except SourceError as error:
        raise SourceError(f"{error}. To begin with random weights: weights=None") from error
    network = GapNetwork(module, classes, _preprocessing(source.preprocessing, size))
    _transfer(source.module, network)
    # the head was certified with random weights before it: probe again what will be trained
    return GapNetwork(module, classes, network.preprocessing)


_MEAN, _STD = (0.5,) * 3, (0.25,) * 3


def _preprocessing(usual: Preprocessing, size: int | None) -> Preprocessing:
    if size is None:
        return usual
    margin = 1.0 if size < SMALL_INPUT else 0.875  # a small image has no border to spare
    steps = (Resize(short=round(size / margin)), CenterCrop((size, size)))
    return replace(usual, steps=steps)


def _transfer(given: nn.Module, network: GapNetwork) -> None:
    """Copy every weight that fits, by name, but the last layer's."""
    last = _last_layer(network)
    kept = set() if last is None else {f"{last[0]}.weight", f"{last[0]}.bias"}
    state, own = given.state_dict(), network.module.state_dict()
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    missing = [name for name in own if name not in state and not name.lower().startswith("aux")]
    if missing:
        raise SourceError(f"the weights do not fit the architecture: they have no {', '.join(missing[:3])}, …")
    network.module.load_state_dict({name: fitting[name] for name in fitting if name not in kept}, strict=False)


def _last_layer(network: GapNetwork) -> tuple[str, nn.Linear | nn.Conv2d] | None:
    """The layer that is the head's linear map, with its name; None where pooling comes last."""
    for name, layer in network.module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.numel() == network.head.weight.numel():
            weight = layer.weight.detach().flatten(1)
            if weight.shape == network.head.weight.shape and torch.equal(weight, network.head.weight):
                return name, layer
    return None


# the training


def _train(
    network: GapNetwork,
    train: Pictures,
    validation: Pictures,
    settings: Settings,
    freeze: str | None,
    checkpoint: _Checkpoint,
    run: TrainingRun,
    console: _Console,
) -> None:
    run.update(status="running", stopped_by=None)

    def on_epoch(history: Sequence[Epoch]) -> None:
        checkpoint.save(network, run, history)
        console.epoch(history[-1], settings.epochs)

    common: dict[str, Any] = {
        "state": checkpoint.folder / STATE,
        "identity": json.dumps(checkpoint.training, sort_keys=True),
        "report": console.report,
    }
    classes = len(network.classes)
    if freeze is None:
        network.module.to(memory_format=torch.channels_last)
        checkpoint.history = fit(
            network.module,
            train,
            validation,
            classes,
            settings,
            normalize=network.preprocessing.normalize,
            on_epoch=on_epoch,
            **common,
        )
        return

    found = _last_layer(network)
    if found is None:
        raise TrainingError(
            f"{checkpoint.training['arch']} ends with its pooling: there is no last layer to train alone"
        )
    last = found[1]
    linear = nn.Linear(last.weight.shape[1], classes, bias=last.bias is not None).to(network.device)
    pairs = list(zip(linear.parameters(), last.parameters(), strict=True))
    with torch.no_grad():
        for ours, theirs in pairs:
            ours.copy_(theirs.reshape(ours.shape))

    def back(history: Sequence[Epoch]) -> None:
        with torch.no_grad():
            for ours, theirs in pairs:
                theirs.copy_(ours.reshape(theirs.shape))
        on_epoch(history)

    learned = _features(network, train, settings, Clock("features of training", console.report))
    watched = _features(network, validation, settings, Clock("features of validation", console.report))
    exact = replace(settings, precision="float32")
    checkpoint.history = fit(linear, learned, watched, classes, exact, on_epoch=back, **common)


def _features(network: GapNetwork, pictures: Pictures, settings: Settings, clock: Clock) -> Features:
    """What the last layer is fed: pooled feature maps, of the same forward as for the maps."""
    inputs = [maps.float().mean((2, 3)).cpu() for _, _, maps in _forwards(network, pictures, settings.precision, clock)]
    if not inputs:
        raise TrainingError("none of the pictures can be read")
    readable = torch.tensor([item.id not in pictures.failures for item in pictures.items])
    return Features(
        torch.cat(inputs).clone(), pictures.targets[readable]
    )  # a clone: no inference tensor can be trained on


def _forwards(
    network: GapNetwork, pictures: Pictures, precision: str, clock: Clock, batch_size: int = 32
) -> Iterator[tuple[list[Item], Tensor, Tensor]]:
    """Each batch's readable items, their logits and feature maps."""
    count = len(pictures.items)
    chunks = np.array_split(np.arange(count), math.ceil(count / batch_size))
    with network.evaluating():
        for chunk, (batch, targets) in zip(chunks, pictures.batches(chunks), strict=True):
            items = [pictures.items[index] for index in chunk]
            if len(targets):
                readable = [item for item in items if item.id not in pictures.failures]
                yield readable, *network.forward(batch, precision)
            clock((int(chunk[-1]) + 1) / count)


# the checkpoint


class _Checkpoint:
    """The folder of a training: the best epoch's checkpoint, snapshots, and the state while it is not finished."""

    def __init__(self, folder: Path, training: Mapping[str, Any], dataset: str) -> None:
        self.folder = folder
        self.training: dict[str, Any] = json.loads(json.dumps(training))  # as it will be read back
        self.dataset = dataset
        self.history: list[Epoch] = []
        self.saved: int | None = None
        self.complete = False

    def open(self, overwrite: bool) -> None:
        """See what the folder holds.

        Raises:
            SourceError: something else, or another training and ``overwrite`` is not set.
        """
        found = self._read()
        if found is None:
            self._probe()
            return
        before = found.get("training")
        if before is None:
            raise SourceError(f"{self.folder} holds a checkpoint that was not trained here: give another folder")
        if overwrite:
            self._clear(before)
        elif changed := self._changes(before):
            raise SourceError(
                f"{self.folder} holds another training ({'; '.join(changed)}): give another folder, or overwrite=True"
            )
        else:
            self.saved = found["epoch"]
            self.complete = bool(found["complete"])
            self.history = [Epoch(**epoch) for epoch in found["history"]] if self.complete else []
        self._probe()

    def _changes(self, before: Mapping[str, Any]) -> list[str]:
        """In words, what differs from the training that is there."""
        words = {
            "data": "other samples, labels or split",
            "preprocessing": "another size",
            "augment": "other augmentation",
        }
        return [
            words.get(name, f"{name} was {before.get(name)!r}, now {self.training.get(name)!r}")
            for name in {**self.training, **before}
            if self.training.get(name) != before.get(name)
        ]

    def _clear(self, before: Mapping[str, Any]) -> None:
        """Delete what would be taken for a part of the new training: state and snapshots."""
        (self.folder / STATE).unlink(missing_ok=True)
        for epoch in before.get("snapshots", ()):
            for name in (sources.CHECKPOINT_WEIGHTS, sources.CHECKPOINT_JSON):
                (self.snapshot(epoch) / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # gone, or not empty
                self.snapshot(epoch).rmdir()

    def _read(self) -> dict[str, Any] | None:
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            raise SourceError(f"{self.folder} is a file: give a folder that is new or empty")
        path = self.folder / sources.CHECKPOINT_JSON
        if not path.exists():
            if any(self.folder.iterdir()):
                raise SourceError(f"{self.folder} holds something else: give a folder that is new or empty")
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SourceError(f"{path} cannot be read: {error!r}") from error
        return dict(found)

    def _probe(self) -> None:
        """Find out now, not after the first epoch, that nothing can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise SourceError(f"{self.folder} cannot be written: {error.strerror}") from error

    def snapshot(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch}"

    def save(self, network: GapNetwork, run: TrainingRun, history: Sequence[Epoch]) -> None:
        """An epoch's weights where they are wanted, then its numbers on the dataset."""
        self.history = list(history)
        number = history[-1].epoch
        classifier = Classifier(network, {"source": "training", "arch": self.training["arch"]})
        if best_epoch(history) is history[-1]:
            self._write(classifier, self.folder, number, complete=False)
            self.saved = number
        if number in self.training["snapshots"]:
            self._write(classifier, self.snapshot(number), number)
        try:
            self.note(run)
        except PyMongoError as error:  # an hour of training is worth more than a line of its history
            logger.warning("epoch %d cannot be noted on the dataset, training goes on: %s", number, error)

    def note(self, run: TrainingRun) -> None:
        """What there is, on the dataset."""
        snapshots = {
            str(epoch): str(self.snapshot(epoch)) for epoch in self.training["snapshots"] if epoch <= len(self.history)
        }
        history = [asdict(epoch) for epoch in self.history]
        run.update(history=history, epoch=best_epoch(self.history).epoch, snapshots=snapshots)

    def finish(self, classifier: Classifier, run: TrainingRun) -> None:
        """The final JSON, with the metrics; then the state is not needed any more."""
        best = best_epoch(self.history).epoch
        self._write(classifier, self.folder, best, complete=True, metrics=run.metrics)
        (self.folder / STATE).unlink(missing_ok=True)

    def _write(self, classifier: Classifier, folder: Path, epoch: int, **details: Any) -> None:
        history = [asdict(entry) for entry in self.history]
        versions = {name: version(name) for name in ("fiftyone", "torch", "torchvision")}
        try:
            classifier.save(
                folder,
                dataset=self.dataset,
                training=self.training,
                epoch=epoch,
                history=history,
                versions=versions,
                **details,
            )
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the checkpoint of epoch {epoch} cannot be saved to {folder}: {error}. "
                "Make room, and the same call goes on"
            ) from error


# the record


def _record(
    dataset: fo.Dataset, key: str, folder: Path, training: Mapping[str, Any], data: _Data, overwrite: bool
) -> TrainingRun:
    """The run under the key: continued if it is of the same training, new otherwise."""
    training = json.loads(json.dumps(training))
    if key in trainings.list_trainings(dataset):
        run = trainings.load_training(dataset, key)
        if run.checkpoint != folder:
            raise RunError(f"the key {key!r} is that of the training in {run.checkpoint}: pass another key=")
        if run.record["training"] == training and not overwrite:
            return run
        run.delete()
    names = (trainings.SPLIT, trainings.PREDICTION, trainings.ERROR, trainings.EVALUATION)
    taken = [f"{key}_{name}" for name in names if dataset.has_sample_field(f"{key}_{name}")]
    if dataset.has_evaluation(f"{key}_{trainings.EVALUATION}"):
        taken.append(f"{key}_{trainings.EVALUATION}")
    if taken:
        raise FieldError(f"the field or evaluation {taken[0]!r} exists: delete or rename it, or pass another key=")
    run = trainings.register(
        dataset,
        key,
        {
            "training": training,
            "out": str(folder),
            "classes": data.classes,
            "counts": data.counts,
            "untested": data.untested,
            "status": "new",
        },
    )
    path = run.claim_field(trainings.SPLIT, ftype=fo.StringField)
    dataset.set_values(path, data.split(), key_field="id", progress=False)
    return run


def _note(run: TrainingRun, *pictures: Pictures, **entries: Any) -> None:
    """Status and failures, on the record and on the samples."""
    failures: dict[str, str] = {}
    for part in pictures:
        failures |= part.failures
    try:
        if failures:
            path = run.claim_field(trainings.ERROR, ftype=fo.StringField)
            run.dataset.set_values(path, failures, key_field="id", progress=False)
        counts = {**run.counts, "failed": len(failures)}
        run.update(counts=counts, failures=dict(Counter(failures.values()).most_common()), **entries)
    except Exception:
        if entries["status"] == "complete":
            raise
        logger.debug("could not record how training %s ended", run.key, exc_info=True)  # the first error is to be seen


def _evaluate(
    run: TrainingRun, classifier: Classifier, validation: Pictures, label_field: str, console: _Console
) -> None:
    """Predictions of the best epoch, and FiftyOne's own evaluation of them."""
    network, predictions = classifier.network, {}
    for items, logits, _ in _forwards(network, validation, "float32", Clock("evaluating", console.report)):
        confidences, indices = network.confidences(logits).max(1)
        for item, confidence, index in zip(items, confidences.tolist(), indices.tolist(), strict=True):
            predictions[item.id] = fo.Classification(label=network.classes[index], confidence=confidence)

    dataset = run.dataset
    path = run.claim_field(trainings.PREDICTION, ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    dataset.set_values(path, predictions, key_field="id", progress=False)
    run.clear_evaluation()
    run.update(evaluated=True)  # before it is made, so that deleting the run deletes it in any case
    view = dataset.match((F(run.field(trainings.SPLIT)) == VALIDATION) & F(path).exists())
    results = view.evaluate_classifications(
        path, gt_field=label_field, eval_key=run.evaluation, classes=run.classes, progress=False
    )
    tested = sorted(set(results.ytrue))
    report = results.metrics(classes=tested, average="macro")
    run.update(
        metrics={
            "accuracy": float((results.ytrue == results.ypred).mean()),
            "balanced_accuracy": float(report["recall"]),
            "precision": float(report["precision"]),
            "fscore": float(report["fscore"]),
        }
    )


class _Console:
    """Where progress goes: the caller's function, or lines that a person reads."""

    def __init__(self, progress: bool | Callable[[Progress], None] | None) -> None:
        self._prints = bool(fo.config.show_progress_bars) if progress is None else progress is True
        self.report: Report | None = progress if callable(progress) else self._live if self._prints else None

    def _live(self, progress: Progress) -> None:
        if os.isatty(1):
            print(f"\r{progress}\x1b[K", end="" if progress.done < 1 else "\n", flush=True)

    def epoch(self, epoch: Epoch, epochs: int) -> None:
        self.line(
            f"epoch {epoch.epoch}/{epochs}  loss {epoch.loss:.3f}  accuracy {epoch.accuracy:.1%}  "
            f"validation: loss {epoch.validation_loss:.3f}  accuracy {epoch.validation_accuracy:.1%}  "
            f"({epoch.seconds:.0f} s, learning rate {epoch.learning_rate:.1e})"
        )

    def line(self, text: str) -> None:
        if self._prints:
            print(f"\r\x1b[K{text}" if os.isatty(1) else text, flush=True)
