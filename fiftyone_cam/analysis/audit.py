"""The audit: was the prediction right, and did it look in the right place? Numbers, words and views over a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F

from fiftyone_cam.analysis.audit_report import BACKGROUND, THRESHOLD, VERDICTS, AuditReport
from fiftyone_cam.core import class_maps, evidence
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import HEATMAP
from fiftyone_cam.core.regions import contains, partition
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import ObjectLabels, Scene
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.heatmaps import MapReader, StoredMap
from fiftyone_cam.runs.record import AuditRecord

FILLS = 0.9
"""If an object covers a larger share of the grid than this, evidence on it proves nothing: there is no verdict."""

# why a sample has no verdict
NO_MAP = "no map"
NO_LABEL = "no ground truth"
NO_CLASS = "its label matches no class"
NO_OBJECT = "no object"
UNREADABLE = "its object cannot be read"
NOT_SEEN = "object not seen"
FILLED = "object fills the image"
NO_EVIDENCE = "no positive evidence"

_CLASSIFICATION = bulk.document(fo.Classification(label="", confidence=0.0, area=0.0))
_KEYPOINT = bulk.document(fo.Keypoint(label="", points=[(0.0, 0.0)], value=0.0))


def audit(
    samples: Collection,
    key: str = "cam",
    ground_truth: str | None = None,
    objects: str | Sequence[str] | None = None,
    *,
    object_labels: ObjectLabels = None,
    class_map: Mapping[str, str] | str | None = None,
    threshold: float = THRESHOLD,
    progress: Any = None,
) -> AuditReport:
    """Write where the classifier looked into fields, verdicts and views. No image is read and no network is run.

    Evidence is the positive part of the predicted class's map. How much of each cell a region covers is computed
    exactly, so ``evidence_in + evidence_out + bias`` is the logit.

    Always writes ``{key}_spread`` (normalised entropy of the evidence: 0 in one cell, 1 if all cells are equal),
    ``{key}_border`` (its share in the outermost cells), ``{key}_half_cells`` (how many cells hold half of it),
    ``{key}_peak`` (``fo.Keypoint`` at the strongest cell; its ``value`` in logit units) and, where the run has
    ``top_k > 1``, ``{key}_margin`` (logit minus the runner-up's).

    With ``ground_truth`` also ``{key}_correct``. With ``objects`` also ``{key}_inside`` (share of the evidence on the
    object), ``{key}_area`` (the object's share of the grid: what ``inside`` would be by chance), ``{key}_focus``
    (``inside`` for an object that covers half of the grid: chance is 0.5 at any size), ``{key}_evidence_in`` and
    ``{key}_evidence_out`` (signed, logit units), ``{key}_peak_inside`` and ``{key}_regions`` (``fo.Classifications``:
    each region that was seen, with its share of the evidence as ``confidence`` and its share of the grid as ``area``;
    the rest is ``background``. Where regions overlap, the place belongs to the object, or else to the smallest one).

    With both also ``{key}_verdict``: ``trusted`` (right, on the object), ``shortcut`` (right, off), ``confused``
    (wrong, on) or ``distracted`` (wrong, off). Evidence is on the object if the focus is at least ``threshold``. A
    sample without a verdict has ``{key}_unjudged``, the reason. The views ``"{key} trusted"`` … are saved.

    Args:
        samples: a dataset or view with the results of :func:`compute_cam`.
        key: its run. A run has one audit: a new one replaces it.
        ground_truth: a ``Classification`` field with the true class; by default the run's.
        objects: the field, or fields, that say where things are: ``Detections`` (boxes or instance masks),
            ``Detection``, ``Polylines``, ``Polyline`` (closed or filled), ``Segmentation``. A thing is the object if
            it has no label, or the true class as its label. All others are regions, named by their label. Without
            ground truth all things are the object.
        object_labels: more labels, or values of masks, that mean the object: by true class,
            ``{"cat": ["head", "tail"]}``, or for all classes, ``["animal"]``.
        class_map: translates predicted labels into the ground truth's words, as in :func:`compute_cam`; by default
            the run's. A prediction that is not in it is wrong.
        threshold: evidence is on the object from this focus: 0.5 is chance; at 0.6 the evidence is 1.5 times as dense
            on the object as off it, at 0.75 three times.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`AuditReport`; print it for the summary.

    Raises:
        RunError: there is no such run, or it is being computed.
        FieldError: a field is missing, of the wrong type, or no label in it is an object.

    >>> report = focam.audit(dataset, key="cam", ground_truth="ground_truth", objects="animals")
    >>> report.summary()
    >>> dataset.load_saved_view("cam distracted")
    """
    if not 0 < threshold < 1:
        raise CamError(f"threshold is {threshold}, expected a focus between 0 and 1, such as {THRESHOLD}")
    collection, run = finished_run(samples, key)
    auditor = _Auditor(collection, run, ground_truth, objects, object_labels, class_map, threshold)
    bulk.require(collection, auditor.paths)

    notes = _begin(run, auditor)
    for name in auditor.fields:
        run.claim_field(name, **_TYPES[name])
    with bulk.writing(run.dataset) as write:
        for rows in bulk.chunks(collection, auditor.paths, progress):
            write({row["id"]: auditor.values(row) for row in rows})
    for name, attribute in _INDEXES.items():  # made last: an index slows every write
        if name in auditor.fields:
            run.index(name, attribute)
    if auditor.has_verdicts:
        for verdict in VERDICTS:
            run.save_view(verdict, run.dataset.match(F(run.field("verdict")) == verdict))
        there = set(run.dataset.distinct(run.field("verdict")))
        run.save_scenario("verdicts", run.field("verdict"), [verdict for verdict in VERDICTS if verdict in there])
    run.update(
        audit=AuditRecord(
            **auditor.settings,
            verdict=auditor.has_verdicts,
            revision=run.record.revision,
            audited_at=datetime.now(timezone.utc).isoformat(),
            notes=[*notes, *auditor.notes()],
        )
    )
    run.arrange()
    return AuditReport(run, samples)


_FLOAT, _BOOL, _STRING = {"ftype": fo.FloatField}, {"ftype": fo.BooleanField}, {"ftype": fo.StringField}
_TYPES: dict[str, dict[str, Any]] = {
    "spread": _FLOAT,
    "border": _FLOAT,
    "half_cells": {"ftype": fo.IntField},
    "peak": {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Keypoint},
    "margin": _FLOAT,
    "correct": _BOOL,
    "inside": _FLOAT,
    "area": _FLOAT,
    "focus": _FLOAT,
    "evidence_in": _FLOAT,
    "evidence_out": _FLOAT,
    "peak_inside": _BOOL,
    "regions": {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classifications},
    "verdict": _STRING,
    "unjudged": _STRING,
}
"""All fields that an audit can write, in the order of the sidebar, with their types."""

_INDEXES = {"inside": "", "focus": "", "verdict": "", "unjudged": "", "regions": "classifications.label"}
"""Only what the sidebar filters on most: MongoDB allows 64 indexes for a dataset, and there may be many runs."""

_ALWAYS = ("spread", "border", "half_cells", "peak")
_WITH_OBJECTS = ("inside", "area", "focus", "evidence_in", "evidence_out", "peak_inside", "regions")


@dataclass(frozen=True)
class Finding:
    """What an audit finds on one sample, named as the fields are. None where there is nothing to say.

    ``unjudged`` is the reason why there can be no verdict.
    """

    spread: float | None = None
    border: float | None = None
    half_cells: int | None = None
    peak: dict[str, Any] | None = None
    margin: float | None = None
    correct: bool | None = None
    inside: float | None = None
    area: float | None = None
    focus: float | None = None
    evidence_in: float | None = None
    evidence_out: float | None = None
    peak_inside: bool | None = None
    regions: dict[str, Any] | None = None
    unjudged: str | None = None

    def verdict(self, threshold: float) -> str | None:
        """The verdict: right or wrong, and on the object from a focus of ``threshold``.

        >>> Finding(correct=True, focus=0.4).verdict(0.6)
        'shortcut'
        """
        if self.unjudged is not None or self.correct is None or self.focus is None:
            return None
        return _VERDICT[self.correct, self.focus >= threshold]


_VERDICT = {
    (True, True): "trusted",
    (True, False): "shortcut",
    (False, True): "confused",
    (False, False): "distracted",
}
"""The verdict by whether the prediction is right, and whether its evidence is on the object."""


class _Auditor:
    """Audits one sample after the other; holds the settings of the audit."""

    def __init__(
        self,
        samples: Collection,
        run: CamRun,
        ground_truth: str | None,
        objects: str | Sequence[str] | None,
        object_labels: ObjectLabels,
        class_map: Mapping[str, str] | str | None,
        threshold: float,
    ) -> None:
        settings = run.record.settings
        ground_truth = run.ground_truth if ground_truth is None else ground_truth
        given = class_maps.resolve(class_map, run.classes)
        class_map = settings.class_map if given is None else given
        names = [objects] if isinstance(objects, str) else list(objects or ())
        run.refuse_own([] if ground_truth is None else [ground_truth], "ground truth")
        run.refuse_own(names, "objects")
        self.truth = GroundTruth.read(samples, ground_truth, run.classes, class_map)
        self.scene = Scene(samples, names, object_labels, ground_truth)
        self.scene.check(samples)
        self.threshold = threshold
        self.has_objects = bool(names)
        self.settings: dict[str, Any] = {
            **self.scene.settings,
            "class_map": None if class_map is None else sorted(map(list, class_map.items())),
            "threshold": threshold,
        }

        margin = settings.top_k > 1
        self.fields = [
            *_ALWAYS,
            *(["margin"] if margin else []),
            *(["correct"] if ground_truth is not None else []),
            *(_WITH_OBJECTS if self.has_objects else []),
            *(["verdict", "unjudged"] if self.has_verdicts else []),
        ]
        self._path = {name: run.field(name) for name in self.fields}
        self._reader = MapReader(run)
        self._second = f"{run.field(HEATMAP)}_2.logit" if margin else None
        self._true = None if ground_truth is None else f"{ground_truth}.label"
        self.paths = [*self._reader.paths, *([self._second] if self._second else []), *self.scene.paths]

    @property
    def has_verdicts(self) -> bool:
        """Whether it is known what is right, and where the object is."""
        return self.has_objects and self.truth.field is not None

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """All fields of one sample. None where there is nothing to say, so that nothing of an earlier audit stays."""
        finding = self.find(row)
        found = {**vars(finding), "verdict": finding.verdict(self.threshold)}
        return {path: found[name] for name, path in self._path.items()}

    def find(self, row: Mapping[str, Any]) -> Finding:
        """Measure one sample."""
        stored = self._reader.read(row)
        if stored is None:
            return Finding(unjudged=NO_MAP)
        true = row[self._true] if self._true else None
        correct = self.truth.is_right(stored.label, true)
        second = row[self._second] if self._second else None
        finding = Finding(
            spread=evidence.spread(stored.grid),
            border=evidence.border(stored.grid),
            half_cells=evidence.half_cells(stored.grid),
            peak=_keypoint(stored),
            margin=None if second is None else stored.logit - second,
            correct=correct,
            unjudged=None if correct is not None else NO_LABEL if true is None else NO_CLASS,
        )
        return self._look(finding, stored, row) if self.has_objects else finding

    def _look(self, finding: Finding, stored: StoredMap, row: Mapping[str, Any]) -> Finding:
        """Add where the evidence lies, by the annotations."""
        try:
            regions = self.scene.regions(row)
        except OSError:
            return replace(finding, unjudged=UNREADABLE)
        if not regions:
            return replace(finding, unjudged=NO_OBJECT)
        names = sorted(regions)  # the order of the annotations must not matter
        is_object = np.array([mine for mine, _ in names])
        parts = partition([regions[name] for name in names], stored.cells, (~is_object).tolist())
        shares = evidence.shares(stored.grid, parts)
        if shares is not None:
            finding = replace(finding, regions=_classifications(names, shares, parts))
        if not is_object.any():
            return replace(finding, unjudged=NO_OBJECT)

        coverage = parts[is_object].sum(0).clip(0, 1)
        area = float(coverage.mean())
        evidence_in, evidence_out = evidence.split(stored.grid, coverage)
        finding = replace(finding, area=area, evidence_in=evidence_in, evidence_out=evidence_out)
        if shares is None or finding.peak is None:
            return replace(finding, unjudged=NO_EVIDENCE)
        inside = min(1.0, float(shares[is_object].sum()))
        focus = evidence.focus(inside, area)
        in_cell = coverage[evidence.peak(stored.grid)]
        if 1e-9 < in_cell < 1 - 1e-9:
            shapes = [shape for name in names if name[0] for shape in regions[name]]
            peak_inside = contains(shapes, *finding.peak["points"][0])
        else:  # the cell is wholly in or out, and so is its middle
            peak_inside = bool(in_cell > 0.5)
        reason = NOT_SEEN if area == 0 else FILLED if area > FILLS or focus is None else finding.unjudged
        return replace(finding, inside=inside, focus=focus, peak_inside=peak_inside, unjudged=reason)

    def notes(self) -> list[str]:
        """What a person should know about this audit."""
        notes = [
            f"{count:,} annotations ignored: {reason}" for reason, count in self.scene.annotations.ignored.most_common()
        ]
        if self.truth.unmatched:
            names = ", ".join(sorted(self.truth.unmatched)[:5])
            notes.append(f"{sum(self.truth.unmatched.values()):,} samples have a label that matches no class: {names}")
        return notes


def _begin(run: CamRun, auditor: _Auditor) -> list[str]:
    """Clear away an audit with other settings, and return a note about it; an audit with the same settings goes on."""
    before = run.record.audit
    changed = [name for name, value in auditor.settings.items() if before and getattr(before, name) != value]
    if before and AuditReport(run, run.dataset).stale is None and not changed:
        run.update(audit=None)  # until all is written there is none
        return []
    there = [name for name in _TYPES if run.field(name) in run.fields]
    run.update(audit=None)
    run.clear_scenarios("verdicts")
    for name in there:
        if name not in auditor.fields:
            run.clear_field(name)
    if kept := [run.field(name) for name in there if name in auditor.fields]:
        run.dataset.clear_sample_fields(kept)
    if before is None:
        return []
    what = f"of other {', '.join(changed)}" if changed else "of earlier results"
    return [f"replaces the audit {what} of {before.audited_at[:16].replace('T', ' ')} UTC"]


def _keypoint(stored: StoredMap) -> dict[str, Any] | None:
    """A keypoint in the middle of the strongest cell, moved into what was seen; None if there is no evidence."""
    peak = evidence.peak(stored.grid)
    if peak is None:
        return None
    (x, y, width, height), (left, top, across, down) = stored.box, stored.seen
    rows, columns = stored.grid.shape
    point = [
        float(np.clip(x + width * (peak[1] + 0.5) / columns, left, left + across)),
        float(np.clip(y + height * (peak[0] + 0.5) / rows, top, top + down)),
    ]
    return _KEYPOINT(label=stored.label, points=[point], value=float(stored.grid[peak]))


def _classifications(names: Sequence[tuple[bool, str]], shares: np.ndarray, parts: np.ndarray) -> dict[str, Any]:
    areas = parts.mean((1, 2))
    held: dict[str, list[float]] = {}
    for (_, name), share, area in zip(names, shares.tolist(), areas.tolist(), strict=True):
        if area > 0:
            entry = held.setdefault(name, [0.0, 0.0])
            entry[0], entry[1] = entry[0] + share, entry[1] + area
    rest = held.setdefault(BACKGROUND, [0.0, 0.0])
    rest[0] += max(0.0, 1 - float(shares.sum()))
    rest[1] += max(0.0, 1 - float(areas.sum()))
    entries = [_CLASSIFICATION(label=name, confidence=share, area=area) for name, (share, area) in held.items()]
    return {"_cls": "Classifications", "classifications": entries}
