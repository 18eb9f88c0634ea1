"""Training the last layer anew with what was found: balanced over groups, and with its evidence on the object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fiftyone.core.utils as fou
import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_cam.classifiers.classifier import Classifier, load_classifier
from fiftyone_cam.core.concept_sums import Affine
from fiftyone_cam.core.errors import CamError, HeadError, expect_whole
from fiftyone_cam.core.group_effects import FEWEST
from fiftyone_cam.core.heads import ConstantHead
from fiftyone_cam.core.last_layer import LastLayer, constant_last_layer, last_layer, with_last_layer
from fiftyone_cam.core.last_layer_fit import fit, group_weights, loss_weights, off_object_evidence
from fiftyone_cam.core.network import resolve_device
from fiftyone_cam.core.pooled_reader import AnnotatedItem, PooledFeatures, PooledReader, SecondMoment
from fiftyone_cam.core.results import Failure
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import ObjectLabels, Scene, field_names
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.engines import local
from fiftyone_cam.engines import ray as ray_engine
from fiftyone_cam.engines.settings import Engine, Ray, as_engine
from fiftyone_cam.repair.mended import MendedClassifier
from fiftyone_cam.repair.report import RepairReport
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.groups import read_groups

NEAR = (10.0, 1.0, 0.1, 0.01, 0.001)
"""How near to the first weights: all are tried."""

FIT, CHOOSE, JUDGE = 0, 1, 2
"""What a sample is for: half of them are trained on, a quarter chooses the strengths, a quarter judges the result."""

LEAST = 40
"""Samples with a known true class below which nothing is trained."""

MOST_LOOKED_AT = 200
"""Judged images whose cells are kept until the end, at most: 50 MB of EfficientNet-Lite0's."""

_WITHIN = 0.02
"""With a penalty the least evidence off the object is chosen of what is as accurate as the best to within this, or to
within two images of the smallest group. Accuracy alone cannot choose: where a shortcut always holds, it costs none."""


def retrain_head(
    samples: Collection,
    key: str,
    classifier: Any,
    ground_truth: str | None = None,
    out_dir: str | os.PathLike[str] | None = None,
    *,
    groups: str | Sequence[str] | None = None,
    objects: str | Sequence[str] | None = None,
    object_labels: ObjectLabels = None,
    off_object: float | Sequence[float] = 0.0,
    seed: int = 51,
    batch_size: int | None = None,
    device: str | None = None,
    engine: str | Engine = "local",
    progress: bool | Callable[[Any], None] | None = None,
) -> MendedClassifier:
    """Train a classifier's last layer anew, balanced over groups of samples, with its evidence on the object.

    The network runs once over the samples, for its pooled features; then the last layer alone is trained, in seconds.

    With ``groups``, each group of each class counts the same, however few samples it has: deep feature reweighting
    (Kirichenko et al., ICLR 2023). Without, samples count by their loss: what the classifier gets wrong is what its
    shortcuts do not explain (Qiu et al., ICML 2023). With ``objects`` and ``off_object`` the mean squared evidence off
    the object costs as well; that is exact, and convex. The weights are kept near those that they begin from, so that
    few samples of many classes do not ruin them.

    Half of the samples are trained on. A quarter chooses how near the weights stay and how much evidence off the object
    costs, by the accuracy of the worst group. With the choice the layer is trained on both; the last quarter judges it.

    Args:
        samples: a dataset or view.
        key: a run of :func:`compute_cam` with this classifier.
        classifier: as for :func:`compute_cam`. It stays as it is.
        ground_truth: a ``Classification`` field with the true class; by default the run's.
        out_dir: a folder to save a checkpoint in, for :func:`load_classifier`.
        groups: what makes the groups: a field (``"cam_verdict"``), a tag, the name of a concept, or several of them.
        objects: fields that say where the object is; samples without it are trained on as well.
        object_labels: more labels that mean the object, as for :func:`audit`.
        off_object: how much evidence off the object costs; 1: at the start as much as one nat of loss. Several are all
            tried: of what is as accurate as the best to within two points, or two images of the smallest group, that is
            chosen which has the least share of its evidence off the object.
        seed: of the lot that parts the samples.
        batch_size: images per forward.
        device: as for :func:`compute_cam`.
        engine: ``"local"``, ``"ray"``, :class:`Local` or :class:`Ray`.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`MendedClassifier`; print its ``preview`` for every group before and after.

    Raises:
        HeadError: the logits are not the output of one linear layer; or, with objects, the head's weights are those of
            each image.
        FieldError: a field is missing, or of another type.
        RunError: there is no such run, or it was made with other weights.
        CamError: there are too few samples, or a setting makes no sense.

    >>> better = focam.retrain_head(dataset, "cam", classifier, out_dir="runs/better", groups="cam_verdict")
    >>> print(better.preview)
    >>> better = focam.retrain_head(dataset, "cam", classifier, objects="animals", off_object=1.0)
    """
    strengths = [off_object] if isinstance(off_object, (int, float)) else list(off_object)
    if not strengths or any(not isinstance(each, (int, float)) or not 0 <= each < 1e6 for each in strengths):
        raise CamError(f"off_object is {off_object!r}, expected a number from 0, or several")
    expect_whole(0, seed=seed)
    if any(strengths) and objects is None:
        raise CamError(f"off_object is {off_object!r}, and nothing says where the object is: pass objects=")
    collection, run = finished_run(samples, key)
    engine = as_engine(engine, device)
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    if out_dir is not None:
        classifier.buildable  # noqa: B018 - raises now, and not after the training
    layer = _layer(classifier, with_objects=objects is not None)
    truth = _truth(collection, run, classifier, ground_truth)
    parted = read_groups(collection, run, groups) if groups else None
    fields = field_names(objects)
    scene = Scene(collection, fields, object_labels, truth.field)
    items, labels = _items(collection, run.media_field, truth, scene)
    classifier.network.to("cpu" if isinstance(engine, Ray) else resolve_device(device))
    data = _read(classifier, items, labels, parted, seed, batch_size, engine, device, progress)
    start = Affine(layer.weight.float().cpu().numpy(), layer.bias.float().cpu().numpy())
    after, chosen, path = _trained(data, start, classifier, strengths)

    network = with_last_layer(classifier.network, *(torch.from_numpy(values) for values in after))
    settings = {
        "from": classifier.fingerprint,
        "groups": [groups] if isinstance(groups, str) else list(groups or []),
        "objects": fields,
        "near": chosen.near,
        "off_object": chosen.strength,
        "dataset": run.dataset.name,
        "run": key,
        "seed": seed,
    }
    better = MendedClassifier(network, {**classifier.origin, "retrained": settings}, list(classifier.checks.values()))
    better.preview = _report(data, start, after, chosen, path)
    if out_dir is not None:
        better.save(out_dir)
    return better


@dataclass
class _Data:
    """What the last layer learns from: in the order of the ids, so that nothing depends on the order of the results.

    ``part`` says what a sample is for; ``group`` has its true class in it.
    """

    pooled: NDArray[np.float32]
    right: NDArray[np.bool_]
    label: list[str]
    group: list[str] | None
    part: NDArray[np.int64]
    moment: SecondMoment
    judged_cells: list[tuple[NDArray[np.float32], NDArray[np.float32]]]

    def of(self, *parts: int) -> NDArray[np.intp]:
        return np.flatnonzero(np.isin(self.part, parts))

    def names(self) -> list[str]:
        """The group of each sample, or its class."""
        return self.label if self.group is None else self.group


def _layer(classifier: Classifier, with_objects: bool) -> LastLayer:
    if with_objects or isinstance(classifier.network.head, ConstantHead):
        return constant_last_layer(classifier.network)
    layer = last_layer(classifier.network)
    if classifier.network.head.width != layer.weight.shape[1]:
        raise HeadError(f"what enters the last layer is no vector for each image: {classifier.network.head.kind}")
    return layer


def _truth(samples: Collection, run: CamRun, classifier: Classifier, ground_truth: str | None) -> GroundTruth:
    field = ground_truth or run.record.settings.ground_truth
    if field is None:
        raise CamError(f"run {run.key!r} has no ground truth: pass ground_truth=, the field with the true class")
    run.refuse_own([field], "ground truth")
    return GroundTruth.read(samples, field, classifier.classes, run.record.settings.class_map)


def _items(
    samples: Collection, media_field: str, truth: GroundTruth, scene: Scene
) -> tuple[list[AnnotatedItem], dict[str, str]]:
    """The images with a known true class, with their objects; and that class."""
    names = scene.annotations.fields
    if names:
        scene.check(samples)
    items: list[AnnotatedItem] = []
    labels: dict[str, str] = {}
    paths = [media_field, *scene.paths]
    bulk.require(samples, paths)
    for rows in bulk.chunks(samples, paths, False):
        for row in rows:
            true = row[f"{truth.field}.label"]
            if indices := truth.indices(true):
                shapes = tuple(scene.object(row)) if names else ()
                items.append(AnnotatedItem(str(row["id"]), row[media_field] or "", indices, objects=shapes))
                labels[str(row["id"])] = true
    if len(items) < LEAST:
        raise CamError(f"{len(items)} samples have a known true class, expected at least {LEAST} to train on")
    return items, labels


def _read(
    classifier: Classifier,
    items: Sequence[AnnotatedItem],
    labels: dict[str, str],
    groups: dict[str, str] | None,
    seed: int,
    batch_size: int | None,
    engine: Engine,
    device: str | None,
    progress: Any,
) -> _Data:
    network = classifier.network.for_inference()
    reader, size = PooledReader(network), batch_size or network.batch_size()

    def results() -> Generator[PooledFeatures | Failure, None, None]:
        if isinstance(engine, Ray):
            return ray_engine.explain_all(items, reader, size, Timing(), engine, device)
        return local.explain_all(items, reader, size, engine.num_workers, Timing())

    names = {item.id: labels[item.id] if groups is None else f"{labels[item.id]}: {groups[item.id]}" for item in items}
    part = _parts(names, seed)
    found: dict[str, NDArray[np.float32]] = {}  # all that is kept of an image; its cells go into the moment
    assert network.head.width is not None
    moment = SecondMoment(network.head.width)
    looked_at = sorted(item.id for item in items if item.objects and part[item.id] == JUDGE)[:MOST_LOOKED_AT]
    cells: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]] | None] = dict.fromkeys(looked_at)
    with contextlib.closing(results()) as stream, fou.ProgressBar(total=len(items), progress=progress) as bar:
        for result in stream:
            bar.update()
            if isinstance(result, Failure):
                continue
            if part[result.id] != JUDGE:
                moment.add(result.cells, result.off)
            elif result.id in cells and len(result.cells):
                cells[result.id] = (result.cells, result.off)
            found[result.id] = result.pooled
    kept = [item for item in sorted(items, key=lambda item: item.id) if item.id in found]
    if len(kept) < LEAST:
        raise CamError(f"{len(kept)} images can be read, expected at least {LEAST} to train on")
    right = np.zeros((len(kept), len(classifier.classes)), bool)
    for i, item in enumerate(kept):
        right[i, list(item.truth)] = True
    return _Data(
        pooled=np.stack([found[item.id] for item in kept]),
        right=right,
        label=[labels[item.id] for item in kept],
        group=None if groups is None else [names[item.id] for item in kept],
        part=np.array([part[item.id] for item in kept]),
        moment=moment,
        judged_cells=[each for each in cells.values() if each is not None],
    )


def _parts(names: dict[str, str], seed: int) -> dict[str, int]:
    """What each sample is for, by lot within each group: of four samples two train, one chooses, one judges."""
    random = np.random.default_rng(seed)
    ids = sorted(names)
    lot = dict(zip(ids, random.permutation(len(ids)).tolist(), strict=True))
    part: dict[str, int] = {}
    offset = 0
    for group in sorted(set(names.values())):
        members = sorted((id for id in ids if names[id] == group), key=lot.__getitem__)
        for i, id in enumerate(members):
            part[id] = (FIT, JUDGE, FIT, CHOOSE)[(i + offset) % 4]
        offset += len(members)
    return part


def _weights(data: _Data, chosen: NDArray[np.intp], start: Affine, classifier: Classifier) -> NDArray[np.float32]:
    if data.group is not None:
        return group_weights([data.group[i] for i in chosen])
    confidences = classifier.network.confidences(
        torch.from_numpy(data.pooled[chosen] @ start.weight.T + start.bias)
    ).numpy()
    probability = np.where(data.right[chosen], confidences, 0).sum(1)
    return loss_weights(probability.astype(np.float32), [data.label[i] for i in chosen])


class _Tried(NamedTuple):
    """What a choice is made by, the best first: accuracy of the worst group and the mean, and what was tried."""

    worst: float
    mean: float
    near: float
    strength: float
    off: float


def _trained(
    data: _Data, start: Affine, classifier: Classifier, strengths: Sequence[float]
) -> tuple[Affine, _Tried, list[_Tried]]:
    """The layer with the least loss, with what was chosen, and what would be chosen of each strength."""
    sigmoid = classifier.network.activation == "sigmoid"
    train, choose = data.of(FIT), data.of(CHOOSE)
    weights = _weights(data, train, start, classifier)
    moment = data.moment.mean if any(strengths) else None
    tried: list[_Tried] = []
    for strength in sorted(strengths):
        begin = start
        for near in NEAR:
            begin = fit(
                *(data.pooled[train], data.right[train], weights, start),
                near=near,
                off_object=strength,
                moment=moment,
                sigmoid=sigmoid,
                begin=begin,
            )
            worst, mean = _accuracies(data, choose, begin)
            off = data.moment.share(begin.weight) if moment is not None else 0.0
            tried.append(_Tried(worst, mean, near, strength, off))
    smallest = min(int(group.sum()) for group in _groups(data, choose))
    within = max(_WITHIN, 2 / smallest) if moment is not None else 0.0
    chosen = _chosen(tried, within)
    path = [_chosen([each for each in tried if each.strength == strength], within) for strength in sorted(strengths)]
    both = data.of(FIT, CHOOSE)
    after = fit(
        *(data.pooled[both], data.right[both], _weights(data, both, start, classifier), start),
        near=chosen.near,
        off_object=chosen.strength,
        moment=moment,
        sigmoid=sigmoid,
    )
    return after, chosen, path


def _chosen(tried: Sequence[_Tried], within: float) -> _Tried:
    """The least evidence off the object, of what is nearly as accurate as the best."""
    best = max(tried)
    fitting = [each for each in tried if min(each.worst - best.worst, each.mean - best.mean) >= -within]
    return min(fitting, key=lambda each: (each.off, -each.worst, -each.mean, -each.near))


def _hits(data: _Data, chosen: NDArray[np.intp], head: Affine) -> NDArray[np.bool_]:
    predicted = (data.pooled[chosen] @ head.weight.T + head.bias).argmax(1)
    hits: NDArray[np.bool_] = data.right[chosen, predicted]
    return hits


def _groups(data: _Data, chosen: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
    """Who belongs to each group; groups of few samples are one group together."""
    names = np.asarray(data.names())[chosen]
    found, counts = np.unique(names, return_counts=True)
    small = np.isin(names, found[counts < FEWEST])
    return [names == name for name in found[counts >= FEWEST]] + ([small] if small.any() else [])


def _accuracies(data: _Data, chosen: NDArray[np.intp], head: Affine) -> tuple[float, float]:
    """Of the worst group, and the mean of all groups."""
    hits = _hits(data, chosen, head)
    shares = [float(hits[group].mean()) for group in _groups(data, chosen)]
    return min(shares), float(np.mean(shares))


def _off_share(data: _Data, start: Affine, after: Affine) -> str:
    """The share of squared evidence off the object before and after, of judged samples, in words."""
    shares = np.empty((2, len(data.judged_cells)))
    for i, (cells, off) in enumerate(data.judged_cells):
        for side, head in enumerate((start, after)):
            squares = np.square(cells @ head.weight.T, dtype=np.float64).sum(1)
            shares[side, i] = (squares * off).sum() / max(float(squares.sum()), float(np.finfo(np.float64).tiny))
    change = shares[1] - shares[0]
    drawn = np.random.default_rng(0).integers(0, len(change), (2000, len(change)))
    low, high = 100 * np.quantile(change[drawn].mean(1), [0.025, 0.975])
    before, now = shares.mean(1)
    return (
        f"{before:.1%} of an image's squared evidence before, {now:.1%} after, mean of {len(change):,} judged samples "
        f"(95% of the change: {low:+.1f} to {high:+.1f} points)"
    )


def _report(data: _Data, start: Affine, after: Affine, chosen: _Tried, path: Sequence[_Tried]) -> RepairReport:
    judged = data.of(JUDGE)
    names, labels = np.asarray(data.names(), object)[judged], np.asarray(data.label, object)[judged]
    balanced = "classes, by loss" if data.group is None else f"{len(set(data.names()))} groups"
    rows = [
        ("trained", f"on {len(data.of(FIT, CHOOSE)):,} samples, balanced over {balanced}; near {chosen.near:g}"),
        ("judged", f"{len(judged):,} samples that were not trained on"),
    ]
    if data.moment.area:
        before, now = (off_object_evidence(head.weight, data.moment.mean) for head in (start, after))
        words = f"mean squared evidence {before:.3g} before, {now:.3g} after ({now / before:.0%})"
        rows.append(("off the object", f"{words}; cost {chosen.strength:g}"))
        if data.judged_cells:
            rows.append(("", _off_share(data, start, after)))
    for each in path if len(path) > 1 else ():
        words = f"worst group {each.worst:.1%}, mean {each.mean:.1%}, of those that choose"
        rows.append((f"cost {each.strength:g}", f"{words}; {each.off:.1%} off the object"))
    grouped = {} if data.group is None else {str(name): names == name for name in sorted(set(names))}
    return RepairReport.of(
        "Last layer trained anew",
        rows,
        _hits(data, judged, start),
        _hits(data, judged, after),
        grouped,
        {str(label): labels == label for label in sorted(set(labels))},
    )
