"""The audit: was the prediction right, and did it look in the right place? Numbers, words and views over a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from fiftyone_cam.analysis.audit_report import THRESHOLD, VERDICTS, AuditReport
from fiftyone_cam.analysis.findings import Finder
from fiftyone_cam.core import class_maps
from fiftyone_cam.core.errors import CamError, is_number
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import ObjectLabels, Scene, field_names
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.record import AuditRecord


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
    if not is_number(threshold) or not 0 < threshold < 1:
        raise CamError(f"threshold is {threshold!r}, expected a focus between 0 and 1, such as {THRESHOLD}")
    threshold = float(threshold)  # the database keeps no NumPy's
    collection, run = finished_run(samples, key)
    auditor = _Auditor(collection, run, ground_truth, objects, object_labels, class_map, threshold)
    bulk.require(collection, auditor.paths)

    notes = _begin(run, auditor)
    run.claim_fields({name: _TYPES[name] for name in auditor.fields})
    with bulk.writing(run.dataset) as write:
        for rows in bulk.chunks(collection, auditor.paths, progress):
            write(auditor.values(rows))
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


class _Auditor:
    """Audits samples; holds the settings of the audit."""

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
        names = field_names(objects)
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
        self._finder = Finder(run, self.truth, self.scene if names else None)
        self.paths = [*self._finder.paths, *self.scene.paths]

    @property
    def has_verdicts(self) -> bool:
        """Whether it is known what is right, and where the object is."""
        return self.has_objects and self.truth.field is not None

    def values(self, rows: Sequence[bulk.Row]) -> dict[str, dict[str, Any]]:
        """All fields by sample: None where there is nothing to say, so that nothing of an earlier audit stays."""
        written = {}
        for row, finding in zip(rows, self._finder.find(rows), strict=True):
            found = {**vars(finding), "verdict": finding.verdict(self.threshold)}
            written[row["id"]] = {path: found[name] for name, path in self._path.items()}
        return written

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
