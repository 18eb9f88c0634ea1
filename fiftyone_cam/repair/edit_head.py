"""Editing a head: what a concept adds to the logits is projected out of the last layer. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.concepts.report import ConceptReport, names_of, numbers_of, require_found
from fiftyone_cam.concepts.rows import held_out
from fiftyone_cam.core.concept_sums import Affine
from fiftyone_cam.core.errors import CamError, expect_whole, is_number
from fiftyone_cam.core.head_edits import Choice, HeadEdit, Known, choose, principal_directions
from fiftyone_cam.core.last_layer import constant_last_layer, with_last_layer
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.repair.mended import MendedClassifier
from fiftyone_cam.repair.report import RepairReport
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.concept_sums import Parts, Sums
from fiftyone_cam.runs.groups import of_classes

MOST_CHOOSING = 4000
"""Images that choose how much is removed, at most."""


def edit_head(
    classifier: Any,
    report: ConceptReport,
    remove: Sequence[str] | str,
    *,
    directions: int | None = None,
    strength: float | None = None,
) -> MendedClassifier:
    """Take concepts out of a classifier's head: the result does not hear them any more, and is not trained.

    What a concept looks like in the features are a few directions, the principal ones of its cells. They are projected
    out of the last layer's weight, and the mean is restored in its bias::

        logits' = logits - W B s Bᵀ (pooled - mean)

    Half of the report's samples choose how many directions there are and how much of them is removed: as much as
    costs at most half a percent of the hits where the concept is not, and surely harms no class. Where nothing helps,
    or what helps could be chance, nothing is removed, and the ``preview`` says so in its first line. It counts
    what becomes of the other half. Only sums that :func:`find_concepts` stored are read; no network is run.

    The result is a :class:`Classifier` whose maps are certified anew. What was removed stands in its ``origin``, in the
    records of its runs, and in the folder that :meth:`Classifier.save` writes.

    Args:
        classifier: the one that the concepts were found with: as for :func:`compute_cam`. It stays as it is.
        report: of :func:`find_concepts` or :func:`load_concepts`; that of a view chooses and judges by its samples.
        remove: names of concepts.
        directions: how many, instead of a choice.
        strength: how much of them is removed, instead of a choice; 1 is all.

    Returns:
        the :class:`MendedClassifier`; print its ``preview``.

    Raises:
        HeadError: the last layer is not linear, or the head's weights are those of each image.
        RunError: the classifier is another one, or the sums are not on this machine.
        CamError: there is no such concept, or too few samples have a known true class to choose by.

    >>> edited = focam.edit_head(classifier, report, remove=["watermark"])
    >>> print(edited.preview)
    >>> edited.save("runs/edited")
    >>> run = focam.compute_cam(dataset, edited, key="cam_edited")
    """
    if not isinstance(report, ConceptReport):
        raise CamError(f"expected the report of find_concepts or load_concepts, found {type(report).__name__}")
    classifier = load_classifier(classifier)
    run = catalog.load_run(report.run.dataset, report.run.key)  # a concept may have got its name since
    report, record = ConceptReport(run, report.samples), require_found(run)
    run.require_weights(classifier.fingerprint)
    names = names_of(remove, "remove")
    numbers = numbers_of(record.concepts, names)
    layer = constant_last_layer(classifier.network)
    expect_whole(1, directions=directions)
    if strength is not None and not (is_number(strength) and 0 <= strength <= 2):
        raise CamError(f"strength is {strength!r}, expected a number from 0 (nothing) to 1 (all), at most 2")
    head = Affine(layer.weight.float().cpu().numpy(), layer.bias.float().cpu().numpy())
    material = _Material.read(report, numbers, head)
    known = material.choosing
    if not names or strength == 0:
        edit, chosen = HeadEdit(principal_directions(known.rows, 0), known.mean, 0.0), None
    elif directions is not None and strength is not None:
        edit, chosen = HeadEdit(principal_directions(known.rows, directions), known.mean, strength), None
    elif material.truth.field is None:
        raise CamError(
            "the concepts were found without a ground truth, so nobody knows what an edit would repair: find them with "
            "ground_truth=, or pass directions= and strength="
        )
    else:
        edit, chosen = choose(known, head, directions, strength)
    after = edit.applied(head)
    weight, bias = (torch.from_numpy(values).to(layer.layer.weight) for values in after)
    network = with_last_layer(classifier.network, weight, bias)
    settings = {
        "removed": names,
        "directions": int(edit.directions.shape[1]),
        "strength": float(edit.strength),
        "from": classifier.fingerprint,
        "concepts": {"dataset": run.dataset.name, "run": run.key, "seed": record.seed},
    }
    edited = MendedClassifier(network, {**classifier.origin, "edit": settings}, list(classifier.checks.values()))
    edited.preview = material.preview(names, edit, head, chosen)
    return edited


@dataclass
class _Material:
    """What sums say for an edit: directions, and the samples that choose and judge."""

    report: ConceptReport
    numbers: list[int]
    sums: Sums
    truth: GroundTruth
    true: dict[str, str | None]
    judging: set[str]
    choosing: Known

    @classmethod
    def read(cls, report: ConceptReport, numbers: list[int], head: Affine) -> _Material:
        record, run = report.record, report.run
        sums = Sums(record.folder)
        sums.require_concepts()
        class_map = None if record.class_map is None else {pair[0]: pair[1] for pair in record.class_map}
        truth = GroundTruth.read(report.samples, record.ground_truth, run.classes, class_map)
        labels = report.samples.values(f"{truth.field}.label") if truth.field else None
        ids = report.samples.values("id")
        true = dict(zip(ids, labels or [None] * len(ids), strict=True))
        all_ids = sorted(id for id, reason in sums.done().items() if reason is None)
        judged = {id for id, test in zip(all_ids, held_out(all_ids, record.seed), strict=True) if test}

        pooled: list[NDArray[np.float32]] = []
        right: list[tuple[int, ...]] = []
        rows: list[NDArray[np.float32]] = []
        owner: list[int] = []
        for chunk in sums.parts():
            for i, id in enumerate(chunk.ids.tolist()):
                indices = truth.indices(true.get(id))
                if id in judged or id not in true or (truth.field and not indices) or len(pooled) == MOST_CHOOSING:
                    continue
                here = slice(int(chunk.starts[i]), int(chunk.starts[i + 1]))
                mine = chunk.parts[here][np.isin(chunk.concept[here], numbers)]
                owner += [len(pooled)] * len(mine)
                rows += list(mine)
                pooled.append(chunk.pooled[i])
                right.append(indices)
        if not pooled:
            raise CamError("no sample is left to take the concept from: the other half judges; take a wider view")
        width = head.weight.shape[1]
        known = Known(np.stack(pooled), right, np.reshape(rows, (-1, width)), np.array(owner, np.intp))
        return cls(report, numbers, sums, truth, true, judged & true.keys(), known)

    def preview(self, names: Sequence[str], edit: HeadEdit, head: Affine, chosen: Choice | None) -> RepairReport | None:
        if self.truth.field is None:
            return None
        before, after, has, labels = [], [], [], []
        for chunk in self.sums.parts():
            there = _with(chunk, self.numbers)
            logits = chunk.pooled @ head.weight.T + head.bias
            edited = logits - edit.lost(head.weight, chunk.pooled)
            for i, id in enumerate(chunk.ids.tolist()):
                if id in self.judging and (indices := self.truth.indices(self.true[id])):
                    before.append(int(logits[i].argmax()) in indices)
                    after.append(int(edited[i].argmax()) in indices)
                    has.append(bool(there[i]))
                    labels.append(self.true[id])
        if not before:
            return None
        with_it, of_class = np.array(has), np.array(labels, object)
        count = edit.directions.shape[1]
        words = f"{count} direction{'' if count == 1 else 's'}, {edit.strength:.0%} of what lies along"
        how = "as asked"
        if chosen is not None:
            how = f"chosen by {chosen.images:,} samples: {chosen.repaired:,} repaired, {chosen.broken:,} broken"
        title = f"Without {', '.join(names)}" if names else "With nothing removed"
        if chosen is not None and chosen.nothing:
            title = f"Nothing is removed of {', '.join(names)}, since {chosen.nothing}"
            words, how = "nothing", f"chosen by {chosen.images:,} samples"
        return RepairReport.of(
            title,
            [("removed", f"{words}; {how}"), ("judged", f"{len(before):,} samples that did not choose")],
            np.array(before),
            np.array(after),
            _groups(names, with_it, labels) if names else {},
            {str(label): of_class == label for label in dict.fromkeys(labels)},
        )


def _groups(
    names: Sequence[str], with_it: NDArray[np.bool_], labels: Sequence[str | None]
) -> dict[str, NDArray[np.bool_]]:
    """Samples with the concepts and without, of each class where there are few."""
    words = " or ".join(names)
    found = np.array(
        of_classes([f"with {words}" if there else f"without {words}" for there in with_it], labels), object
    )
    return {str(group): found == group for group in sorted(set(found))}


def _with(chunk: Parts, numbers: Sequence[int]) -> NDArray[np.bool_]:
    """Which images have a cell of the concepts, ``(n,)``."""
    owner = np.repeat(np.arange(len(chunk.ids)), np.diff(chunk.starts))
    there = np.zeros(len(chunk.ids), bool)
    there[owner[np.isin(chunk.concept, list(numbers))]] = True
    return there
