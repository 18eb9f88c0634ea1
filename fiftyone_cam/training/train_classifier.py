"""Train a GAP classifier on a labelled collection: one good recipe, no framework."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import psutil
import torch
from fiftyone import ViewField as F
from torch import Tensor, nn

from fiftyone_cam.classifiers.classifier import Classifier, load_classifier
from fiftyone_cam.core.errors import FieldError, RunError, SourceError, TrainingError, did_you_mean
from fiftyone_cam.core.files import folder_of
from fiftyone_cam.core.names import LITE, SMALL
from fiftyone_cam.core.network import GapNetwork, resolve_device
from fiftyone_cam.core.preprocessing import Preprocessing
from fiftyone_cam.core.results import Item
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.dataset.ground_truth import check_field
from fiftyone_cam.dataset.internals import dataset_of
from fiftyone_cam.networks import architectures
from fiftyone_cam.runs import catalog, lease, training_run
from fiftyone_cam.runs.interruption import is_database_gone, reason_of, terminable
from fiftyone_cam.runs.record import Epoch, Metrics, TrainingRecord
from fiftyone_cam.runs.training_run import TRAIN, VALIDATION, TrainingRun
from fiftyone_cam.training.checkpoint import STATE, Checkpoint
from fiftyone_cam.training.console import Console
from fiftyone_cam.training.initial_network import last_layer, new_network
from fiftyone_cam.training.loop import LEARNING_RATES, fit, usual_precision
from fiftyone_cam.training.pictures import Features, PictureCache, Pictures, augmentation
from fiftyone_cam.training.progress import Clock, Progress
from fiftyone_cam.training.recipe import Recipe
from fiftyone_cam.training.record import check_key, key_of, register
from fiftyone_cam.training.split import TrainingData

logger = logging.getLogger(__name__)


def train_classifier(
    samples: Collection,
    ground_truth: str,
    out_dir: str | os.PathLike[str],
    *,
    key: str | None = None,
    arch: str = "efficientnet_lite0",
    weights: str | None = "DEFAULT",
    size: int | None = None,
    recipe: Recipe = Recipe(),
    split: float | str = 0.2,
    media_field: str = "filepath",
    augment: Callable[[Tensor], Tensor] | None = None,
    snapshots: Sequence[int] = (),
    device: str | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Classifier:
    """Train a classifier whose class activation maps are exact; save it as a checkpoint; evaluate it in FiftyOne.

    The checkpoint of the best epoch (by balanced validation accuracy) lies in ``out_dir`` from the first epoch on:
    ``model.safetensors`` and ``classifier.json``. Killed at any moment, the same call goes on from the last whole epoch
    and ends with the same weights as a training that was not killed; finished, it returns what is there.

    On the dataset it leaves a run of its own kind (see :func:`fiftyone_cam.load_training`) with the history,
    the fields ``{key}_split``, ``{key}_prediction`` (of validation samples) and ``{key}_error`` (why an image could not
    be read), and FiftyOne's evaluation ``{key}_eval``, which its Model Evaluation panel shows.

    The recipe works for most: AdamW, warm-up, cosine, label smoothing, random parts of the picture, mirrored or not.
    This is not a framework. If you train with Lightning, timm or Hugging Face, bring the model to
    :func:`load_classifier`.

    Args:
        samples: a dataset or view of images. Those without a label are left out and counted.
        ground_truth: a ``Classification`` field.
        out_dir: the folder of the checkpoint: new, empty, or of this very training.
        key: the run's name and the beginning of its fields' names; by default the folder's name.
        arch: any torchvision classifier with an exact head (``"resnet18"``), ``"efficientnet_lite0"`` (1, 2; extra
            ``lite``), or ``"small_gap_net"`` for images of about 32x32 pixels.
        weights: torchvision's weights to begin with, by name; None: random ones.
        size: the side of the network's input in pixels; by default what its weights were made for.
        recipe: how to train: a :class:`Recipe`, with the epochs, the learning rate, the seed, …
        split: what validates: a fraction of each class (drawn with the recipe's seed), ``"tags"``, or a field whose
            values are ``"train"`` and ``"validation"`` (``"val"``; ``"test"`` where there is no other). What is in
            neither part is left out.
        media_field: the field with the images' paths, for a dataset that has several, such as thumbnails.
        augment: from a ``(3, H, W)`` uint8 picture to one of the network's size, instead of
            :func:`fiftyone_cam.training.pictures.augmentation` (whose mirroring is wrong for letters and digits).
        snapshots: epochs to keep a checkpoint of, ``out_dir/epoch_5``, to compare them. All epochs are then trained.
        device: ``"cpu"``, ``"cuda"``, ``"mps"``, …; by default CUDA's GPU where there is one.
        overwrite: replace another training in ``out_dir``.
        progress: print it or not, FiftyOne's default (None), or a function that gets a :class:`Progress` about twice a
            second. What it raises stops the training.

    Returns:
        the :class:`Classifier` of the best epoch.

    Raises:
        FieldError: the labels cannot be learned (one class, no labels, …), or a field is not this project's.
        HeadError: the architecture's head is not exact.
        SourceError: the architecture, its weights or the folder cannot be used.
        TrainingError: the loss is not finite, the disk is full, … The last good checkpoint stays in ``out_dir``.
        RunError: the key is taken, or another process trains it now.

    >>> recipe = focam.Recipe(epochs=20)
    >>> classifier = focam.train_classifier(dataset, "ground_truth", "runs/pets", arch="resnet18", recipe=recipe)
    >>> run = focam.compute_cam(dataset, classifier, key="cam", ground_truth="ground_truth")
    """
    collection = require_images(samples)
    folder = folder_of(out_dir)
    key = key or key_of(folder)
    _check(collection, ground_truth, arch, weights, size, recipe, snapshots)
    check_key(dataset_of(collection), key)
    data = TrainingData.read(collection, ground_truth, split, recipe.seed, media_field)

    target = resolve_device(device, apple=False)  # MPS where it is asked for: no check holds a training against another
    start = "frozen" if recipe.freeze else "random" if weights is None or arch in SMALL else "given"
    recipe = replace(
        recipe,
        learning_rate=recipe.learning_rate or LEARNING_RATES[start],
        patience=None if snapshots else recipe.patience,
        precision=recipe.precision or usual_precision(target),
    )
    network = new_network(arch, weights, data.classes, size, recipe.seed).to(target)
    if recipe.precision == "float16" and target.type == "cpu":
        raise TrainingError("float16 needs a GPU: use bfloat16 or float32 on the CPU")
    reading, varying = _augmentation(network.preprocessing, augment, recipe.freeze)
    training = {
        "arch": arch,
        "weights": weights if arch not in SMALL else None,
        "ground_truth": ground_truth,
        "split": split,
        "data": data.digest,
        "preprocessing": network.preprocessing.to_dict(),
        "augment": str(varying),
        "snapshots": sorted(set(snapshots)),
        **asdict(recipe),
    }
    checkpoint = Checkpoint(folder, training, str(dataset_of(collection).name))
    checkpoint.open(overwrite)
    run = _record(dataset_of(collection), key, folder, training, data, overwrite)
    if checkpoint.complete and run.record.status == "complete":
        return load_classifier(folder)

    memory = PictureCache(min(2 << 30, psutil.virtual_memory().available // 4))
    train = Pictures(*data.part(TRAIN), reading, varying, None if recipe.freeze else memory)
    validation = Pictures(*data.part(VALIDATION), network.preprocessing, None, memory)
    console = Console(progress, run)
    lease.take(run, stopped_by=None)
    try:
        with terminable():
            checkpoint.clear()
            _write_split(run, data)
            if not checkpoint.complete:
                _train(network, train, validation, recipe, checkpoint, run, console)
            checkpoint.note(run)
            classifier = load_classifier(folder)
            classifier.network.to(target)
            _evaluate(run, classifier, validation, ground_truth, console)
            run.arrange()
            checkpoint.finish(classifier, run)
            _leave(run, train, validation, status="complete")
    except BaseException as error:
        _note_interruption(run, train, validation, error=error)
        if isinstance(error, TrainingError) and checkpoint.saved:
            where = f"The last good checkpoint, of epoch {checkpoint.saved}, is in {folder}"
            raise TrainingError(f"{error}. {where}") from error
        raise
    console.line(str(run))
    return classifier


# what is asked for


def _check(
    samples: Collection,
    ground_truth: str,
    arch: str,
    weights: str | None,
    size: int | None,
    recipe: Recipe,
    snapshots: Sequence[int],
) -> None:
    """What can be known to be wrong before anything is loaded."""
    if not isinstance(recipe, Recipe):
        raise TrainingError(f"recipe is a {type(recipe).__name__}, expected focam.Recipe(epochs=…, …)")
    check_field(samples, ground_truth)
    if arch not in LITE and arch not in architectures():
        raise SourceError(
            f"{arch!r} cannot be trained here{did_you_mean(arch, [*LITE, *architectures()])}: expected a torchvision "
            f"classifier, {', '.join([*LITE, *SMALL])}. Train others with their own tools, then load_classifier"
        )
    if recipe.freeze and (weights is None or arch in SMALL):
        raise TrainingError("a frozen backbone of random weights cannot learn: give weights, or freeze=None")
    if size is not None and size < 8:
        raise TrainingError(f"size is {size}, expected at least 8 pixels")
    wrong = [epoch for epoch in snapshots if not 1 <= epoch <= recipe.epochs]
    if wrong:
        raise TrainingError(f"snapshots at epoch {wrong} of {recipe.epochs}: expected 1 to {recipe.epochs}")


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


# the training


def _train(
    network: GapNetwork,
    train: Pictures,
    validation: Pictures,
    recipe: Recipe,
    checkpoint: Checkpoint,
    run: TrainingRun,
    console: Console,
) -> None:
    def on_epoch(history: Sequence[Epoch]) -> None:
        checkpoint.save(network, run, history)
        console.epoch(history[-1], recipe.epochs)

    common: dict[str, Any] = {
        "state": checkpoint.folder / STATE,
        "identity": json.dumps(checkpoint.training, sort_keys=True),
        "report": console.report,
    }
    classes = len(network.classes)
    if recipe.freeze is None:
        network.module.to(memory_format=torch.channels_last)
        checkpoint.history = fit(
            network.module,
            train,
            validation,
            classes,
            recipe,
            normalize=network.preprocessing.normalize,
            on_epoch=on_epoch,
            **common,
        )
        return

    found = last_layer(network)
    if found is None:
        raise TrainingError(
            f"{checkpoint.training['arch']} does not end in pooling and one linear layer: there is no "
            "last layer to train alone"
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

    learned = _features(network, train, recipe, Clock("features of training", console.report))
    watched = _features(network, validation, recipe, Clock("features of validation", console.report))
    exact = replace(recipe, precision="float32")
    checkpoint.history = fit(linear, learned, watched, classes, exact, on_epoch=back, **common)


def _features(network: GapNetwork, pictures: Pictures, recipe: Recipe, clock: Clock) -> Features:
    """What the last layer is fed: pooled feature maps, of the same forward as for the maps."""
    inputs = [
        maps.float().mean((2, 3)).cpu()
        for _, _, maps in _forwards(network, pictures, recipe.precision or "float32", clock)
    ]
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


# the record


def _record(
    dataset: fo.Dataset, key: str, folder: Path, training: Mapping[str, Any], data: TrainingData, overwrite: bool
) -> TrainingRun:
    """The run under the key: continued if it is of the same training, new otherwise."""
    training = json.loads(json.dumps(training))
    if key in catalog.list_trainings(dataset):
        run = catalog.load_training(dataset, key)
        if run.checkpoint != folder:
            raise RunError(f"the key {key!r} is that of the training in {run.checkpoint}: pass another key=")
        if run.record.training == training and not overwrite:
            return run
        run.delete()
    names = (training_run.SPLIT, training_run.PREDICTION, training_run.ERROR, training_run.EVALUATION)
    taken = [f"{key}_{name}" for name in names if dataset.has_sample_field(f"{key}_{name}")]
    if dataset.has_evaluation(f"{key}_{training_run.EVALUATION}"):
        taken.append(f"{key}_{training_run.EVALUATION}")
    if taken:
        raise FieldError(f"the field or evaluation {taken[0]!r} exists: delete or rename it, or pass another key=")
    return register(
        dataset,
        key,
        TrainingRecord(
            training=dict(training),
            out_dir=str(folder),
            classes=data.classes,
            counts=data.counts,
            untested=data.untested,
        ),
    )


def _write_split(run: TrainingRun, data: TrainingData) -> None:
    path = run.claim_field(training_run.SPLIT, ftype=fo.StringField)
    run.dataset.set_values(path, data.split(), key_field="id", progress=False)


def _leave(run: TrainingRun, *pictures: Pictures, **entries: Any) -> None:
    """Write what failed on the samples and the record, and train no more.

    Raises:
        RunError: the training was deleted or taken over meanwhile; then nothing is written.
    """
    lease.keep(run)
    failures: dict[str, str] = {}
    for part in pictures:
        failures |= part.failures
    if failures:
        path = run.claim_field(training_run.ERROR, ftype=fo.StringField)
        run.dataset.set_values(path, failures, key_field="id", progress=False)
    counts = replace(run.counts, failed=len(failures))
    lease.leave(run, counts=counts, failures=dict(Counter(failures.values()).most_common()), **entries)


def _note_interruption(run: TrainingRun, *pictures: Pictures, error: BaseException) -> None:
    try:
        if not is_database_gone(error):
            _leave(run, *pictures, status="interrupted", stopped_by=reason_of(error))
    except Exception:  # the first error is the one to see
        logger.debug("could not record how training %s ended", run.key, exc_info=True)
    finally:
        lease.forget(run)


def _evaluate(
    run: TrainingRun, classifier: Classifier, validation: Pictures, ground_truth: str, console: Console
) -> None:
    """Predictions of the best epoch, and FiftyOne's own evaluation of them."""
    network, predictions = classifier.network, {}
    for items, logits, _ in _forwards(network, validation, "float32", Clock("evaluating", console.report)):
        confidences, indices = network.confidences(logits).max(1)
        for item, confidence, index in zip(items, confidences.tolist(), indices.tolist(), strict=True):
            predictions[item.id] = fo.Classification(label=network.classes[index], confidence=confidence)

    dataset = run.dataset
    path = run.claim_field(training_run.PREDICTION, ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    dataset.set_values(path, predictions, key_field="id", progress=False)
    run.clear_evaluation()
    run.update(evaluated=True)  # before it is made, so that deleting the run deletes it in any case
    view = dataset.match((F(run.field(training_run.SPLIT)) == VALIDATION) & F(path).exists())
    results = view.evaluate_classifications(
        path, gt_field=ground_truth, eval_key=run.evaluation, classes=run.classes, progress=False
    )
    tested = sorted(set(results.ytrue))
    report = results.metrics(classes=tested, average="macro")
    run.update(
        metrics=Metrics(
            accuracy=float((results.ytrue == results.ypred).mean()),
            balanced_accuracy=float(report["recall"]),
            precision=float(report["precision"]),
            fscore=float(report["fscore"]),
        )
    )
