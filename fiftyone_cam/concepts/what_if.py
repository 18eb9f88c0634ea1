"""What a classifier would predict without some concepts: from sums, so that no network is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.concepts.report import WHY_NOT, names_of, numbers_of, require_found
from fiftyone_cam.core.errors import CamError, RunError
from fiftyone_cam.core.names import CONCEPTS
from fiftyone_cam.core.tables import Summary, percent
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_record import ConceptsRecord
from fiftyone_cam.runs.concept_sums import Parts, Sums

SAME, CHANGED, FIXED, BROKEN = "same", "changed", "fixed", "broken"
"""What becomes of a prediction: it is the same; it differs; it was wrong and is right; it was right and is wrong."""

_CLASSIFICATION = bulk.document(fo.Classification(label="", confidence=0.0))


@dataclass
class WhatIf:
    """What would be without some concepts. ``print(what_if)`` says it in words.

    >>> found.fixed, found.broken
    (7, 2)

    Attributes:
        run: the run.
        without: names of the concepts.
        field: where the predictions are; ``{field}_change`` says what became of each.
        same: predictions that stay.
        changed: predictions that change, with neither side known to be right.
        fixed: errors that are put right.
        broken: hits that are lost.
        judged: samples with a known true class.
        right: how many of these were right before.
    """

    run: CamRun
    without: list[str]
    field: str
    same: int = 0
    changed: int = 0
    fixed: int = 0
    broken: int = 0
    judged: int = 0
    right: int = 0

    @property
    def accuracy_before(self) -> float | None:
        """Of the samples with a known true class."""
        return self.right / self.judged if self.judged else None

    @property
    def accuracy(self) -> float | None:
        """The same without the concepts."""
        return (self.right + self.fixed - self.broken) / self.judged if self.judged else None

    def describe(self) -> Summary:
        """What would be, in words.

        >>> found.describe().rows[0]
        ('predictions', '7 errors put right, 2 hits lost, 12 others changed, 779 the same')
        """
        words = f"{self.fixed:,} errors put right, {self.broken:,} hits lost, {self.changed:,} others changed"
        about = [("predictions", f"{words}, {self.same:,} the same")]
        if self.judged:
            about.append(("accuracy", f"{percent(self.accuracy_before)} before, {percent(self.accuracy)} without"))
        about.append(("field", f"{self.field!r}, and {self.field + '_change'!r}"))
        return Summary(f"Run {self.run.key!r} without {', '.join(self.without)}", about)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


def what_if(
    samples: Collection,
    key: str = "cam",
    classifier: Any = None,
    *,
    without: Sequence[str] | str,
    into: str = "without",
) -> WhatIf:
    """Write what would be predicted if the evidence of some concepts were removed. No network is run.

    Exact for a head that is one affine map of the mean features: the logits are sums over concepts, and those of
    ``without`` are left out. Writes ``{key}_{into}`` (``fo.Classification``) and ``{key}_{into}_change``: ``same``,
    ``fixed``, ``broken`` or ``changed``.

    Args:
        samples: the dataset or view.
        key: a run whose concepts were found.
        classifier: not needed; if it is given, its weights must be the run's.
        without: names of concepts.
        into: the end of the fields' names.

    Raises:
        RunError: there is no such run, it or these samples have no concepts, or their sums are not on this machine.
        CamError: there is no such concept, the head's weights are those of each image, or the run holds something else
            in a field of that name.

    >>> print(focam.what_if(dataset, "cam", without=["watermark"]))
    >>> dataset.match(F("cam_without_change") == "fixed")
    """
    samples = require_images(samples)
    run = catalog.load_run(samples, key)
    record = require_found(run)
    if classifier is not None:
        from fiftyone_cam.classifiers.classifier import load_classifier  # imports PyTorch

        run.require_weights(load_classifier(classifier).fingerprint)
    names = names_of(without, "without")
    if not names:
        raise CamError(f"no concept is left out: expected without=, such as [{record.concepts[0].name!r}]")
    numbers = numbers_of(record.concepts, names)
    if not record.removable:
        raise CamError(f"what would be without a concept is not known: {WHY_NOT.format(grade=record.grade)}")
    _check_into(run, record, into)
    sums = Sums(record.folder)
    arrays = sums.require_concepts()

    class_map = None if record.class_map is None else {pair[0]: pair[1] for pair in record.class_map}
    truth = GroundTruth.read(samples, record.ground_truth, run.classes, class_map)
    true = dict(zip(*samples.values(["id", f"{truth.field}.label"]), strict=True)) if truth.field else None
    wanted = dict.fromkeys(samples.values("id")) if true is None else true
    names_written = [into, f"{into}_change"]
    record.written = list(dict.fromkeys([*record.written, *names_written]))
    run.update(concepts=record)
    classification = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classification}
    field = run.claim_field(into, **classification)
    change = run.claim_field(f"{into}_change", ftype=fo.StringField)

    counts: Counter[str] = Counter()
    for chunk in sums.parts():
        before, after = _logits(chunk, numbers, arrays["weight"], arrays["bias"])
        confidence = _confidences(after, run.record.classifier.activation)
        values = {}
        for i, id in enumerate(chunk.ids.tolist()):
            if id not in wanted:
                continue
            old, new = (run.classes[int(logits[i].argmax())] for logits in (before, after))
            was, now = (truth.is_right(label, wanted[id]) for label in (old, new))
            became = SAME if old == new else CHANGED if was == now else FIXED if now else BROKEN
            counts.update([became, *(["judged"] if was is not None else []), *(["right"] if was else [])])
            prediction = _CLASSIFICATION(label=new, confidence=float(confidence[i].max()))
            values[id] = {field: prediction, change: became}
        bulk.write(run.dataset, values)
    if not counts:
        raise RunError(f"none of these samples has concepts of run {key!r}: widen the view, or find concepts of it")
    run.arrange()
    return WhatIf(
        run, names, field, **{name: counts[name] for name in (SAME, CHANGED, FIXED, BROKEN, "judged", "right")}
    )


def _check_into(run: CamRun, record: ConceptsRecord, into: str) -> None:
    """Refuse an end of a name that would write over what else the run holds."""
    if not isinstance(into, str) or not into.isidentifier():
        raise CamError(f"into is {into!r}, expected the end of a field's name, such as 'without'")
    names = [into, f"{into}_change"]
    taken = [run.path(name) for name in names if run.path(name) in run.fields]
    if taken and (into == CONCEPTS or not set(names) <= set(record.written)):  # and not by a call before
        raise CamError(f"into is {into!r}, and run {run.key!r} holds something else in {taken[0]!r}: give another end")


def _logits(
    chunk: Parts, numbers: Sequence[int], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits with all concepts, and without some, ``(n, C)`` each."""
    rest = chunk.pooled.copy()
    owner = np.repeat(np.arange(len(chunk.ids)), np.diff(chunk.starts))
    removed = np.isin(chunk.concept, list(numbers))
    np.subtract.at(rest, owner[removed], chunk.parts[removed])
    return chunk.pooled @ weight.T + bias, rest @ weight.T + bias


def _confidences(logits: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    if activation == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float32)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)
