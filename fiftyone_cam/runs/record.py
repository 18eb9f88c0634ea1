"""What is written down of a run: plain data with names and types, as it lies in the database.

Every entry but the first few has a default, so that a record that was written before the entry existed can be read.
Entries that are not known here are left alone: a record is written entry by entry, see :meth:`Run.update`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

from dacite import Config, DaciteError, from_dict

from fiftyone_cam.core.display import THRESHOLD
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.runs.concept_record import ConceptsRecord

SCHEMA_VERSION = 2
"""Of the records that are written. 2: heatmaps nest what restores their map in ``cam``, and ``map`` is in logits."""

READABLE = (1, 2)
"""The versions that can be read: :func:`fiftyone_cam.redraw_heatmaps` brings a run of an earlier one up to date."""

Status = Literal["new", "running", "interrupted", "complete"]


# what every run has


@dataclass(kw_only=True)
class Process:
    """Who computes a run: see :mod:`fiftyone_cam.runs.lease`."""

    host: str
    pid: int
    started: float
    token: str | None = None


@dataclass(kw_only=True)
class RunRecord:
    """What is written down of every run.

    Attributes:
        schema_version: of the record; :func:`read_record` refuses others than :data:`READABLE`.
        status: as it was written last; :attr:`Run.status` knows whether that is still so.
        fields: the dataset's fields that the run wrote, and for each its name without the key.
        views: the saved views that the run made.
        evaluated: whether FiftyOne's evaluation was registered.
        scenarios: ids of the run's scenarios in FiftyOne's Model Evaluation panel, by name.
        failures: how many samples have no result, by reason.
        created_at, updated_at: ISO 8601, UTC.
        stopped_by: the error that interrupted it.
        process: who computes it now.
        alive_at: when that one gave a sign of life.
    """

    schema_version: int = SCHEMA_VERSION
    status: Status = "new"
    fields: dict[str, str] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)
    evaluated: bool = False
    scenarios: dict[str, str] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    created_at: str = ""
    updated_at: str = ""
    stopped_by: str | None = None
    process: Process | None = None
    alive_at: str | None = None


# class activation maps


@dataclass(kw_only=True)
class ClassifierRecord:
    """Which classifier it was.

    Attributes:
        source: where it came from: ``"torchvision"``, ``"checkpoint"``, …
        model: its name there.
        sha256: of its weights.
        classes: their names, in the order of the logits.
        activation: ``"softmax"`` or ``"sigmoid"``.
        preprocessing: as :meth:`Preprocessing.to_dict` gives it.
        head: as :meth:`Head.describe` gives it.
        grid_frame: where the map lies on the network's input, relative: left, top, width, height.
        arch: the architecture's name, where ``model`` is none.
        weights: the name of the weights, where there are several.
        details: what else its source says.
        checks: what it was held against when it was loaded: each as :meth:`Check.to_dict` gives it.
    """

    source: str
    model: str
    sha256: str
    classes: list[str]
    activation: str = "softmax"
    preprocessing: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    grid_frame: list[float] = field(default_factory=list)
    arch: str | None = None
    weights: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Settings:
    """With what settings the maps were computed: those of :func:`fiftyone_cam.compute_cam` that change results."""

    ground_truth: str | None = None
    class_map: dict[str, str] | None = None
    precision: str = "float32"
    top_k: int = 1
    threshold: float | None = None
    media_field: str = "filepath"
    frames: bool = False


@dataclass(kw_only=True)
class Counts:
    """``samples`` that were asked for, ``computed`` with a result, ``failed`` without; of the last call ``new``."""

    samples: int = 0
    computed: int = 0
    failed: int = 0
    new: int = 0


@dataclass(kw_only=True)
class AuditRecord:
    """With what the maps of a run were audited, and when.

    Attributes:
        ground_truth: the field with the true class.
        objects: the fields that say where things are.
        object_labels: pairs of a true class and the labels that are its object.
        object_labels_of_all: labels that are the object of any class.
        class_map: pairs of a predicted label and the ground truth's word for it.
        threshold: the focus from which evidence is on the object.
        verdict: whether there are verdicts.
        revision: of the run, when it was audited: another one since makes the audit stale.
        audited_at: ISO 8601, UTC.
        notes: what a person should know of it.
    """

    ground_truth: str | None
    objects: list[str]
    threshold: float
    object_labels: list[list[Any]] = field(default_factory=list)
    object_labels_of_all: list[str] = field(default_factory=list)
    class_map: list[list[str]] | None = None
    verdict: bool = False
    revision: int = 0
    audited_at: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class ComparisonRecord:
    """Against which ground truth two runs were compared, when, by which groups, and the revisions of both."""

    ground_truth: str | None
    revisions: list[int]
    compared_at: str = ""
    groups: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class LocalizationRecord:
    """With what threshold the boxes were made, when, and of which revision of the run."""

    threshold: float
    revision: int = 0
    localized_at: str = ""


@dataclass(kw_only=True)
class CamRecord(RunRecord):
    """What is written down of a run of class activation maps.

    >>> run.record.settings.ground_truth, run.record.counts.computed
    ('ground_truth', 259)

    Attributes:
        classifier: which it was.
        settings: what changes results.
        counts: of samples.
        versions: of the packages that computed it.
        revision: how many calls have computed something.
        certificate: the largest relative error of all maps.
        scale: evidence that is drawn in full colour, logit units; None before the first map.
        contrast_scale: the same of contrastive maps.
        threshold: the share of the scale below which evidence is not drawn.
        timing: of the last call that computed something.
        accuracy: against the ground truth.
        precision, recall: of all labels together, where an image may have several.
        unknown_labels: samples whose true label is no class.
        audit: the audit, if there is one.
        comparisons: by the key of the earlier run; None while one is being made.
        localization: of the boxes, if there are any.
        concepts: what predictions are made of, if that was found.
        visualized: whether FiftyOne's brain holds a layout of its pooled features.
        loaded_from: what ``load_classifier`` is given to have the classifier again, and its keywords.
        notes: what a person should know of its pictures.
        checks: ``pixels``, ``logits`` and ``maps``: each as :meth:`Check.to_dict` gives it.
        hidden: fields that the App showed before, and that would have covered the heatmaps.
    """

    classifier: ClassifierRecord
    settings: Settings
    counts: Counts = field(default_factory=Counts)
    versions: dict[str, str] = field(default_factory=dict)
    revision: int = 0
    certificate: float = 0.0
    scale: float | None = None
    contrast_scale: float | None = None
    threshold: float = THRESHOLD
    timing: Timing | None = None
    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    unknown_labels: int = 0
    audit: AuditRecord | None = None
    comparisons: dict[str, ComparisonRecord | None] = field(default_factory=dict)
    localization: LocalizationRecord | None = None
    concepts: ConceptsRecord | None = None
    visualized: bool = False
    loaded_from: list[Any] | None = None
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# trainings


@dataclass(kw_only=True)
class TrainingCounts:
    """How many samples there were, in which part, and why others are in none."""

    samples: int = 0
    train: int = 0
    validation: int = 0
    unlabelled: int = 0
    outside: int = 0
    unknown: int = 0
    failed: int = 0


@dataclass(kw_only=True)
class Metrics:
    """Of the best epoch on the validation samples, by FiftyOne's ``evaluate_classifications``."""

    accuracy: float
    balanced_accuracy: float
    precision: float
    fscore: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch, in numbers: mean loss and accuracy on the (augmented) training pictures and on the validation's.

    ``balanced_accuracy`` is the mean of the classes' own accuracies, those that have validation samples.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    balanced_accuracy: float
    seconds: float

    def better(self, other: Epoch | None) -> bool:
        """Whether it validates better: by balanced accuracy, then by loss."""
        return other is None or (self.balanced_accuracy, -self.validation_loss) > (
            other.balanced_accuracy,
            -other.validation_loss,
        )


@dataclass(kw_only=True)
class TrainingRecord(RunRecord):
    """What is written down of a training.

    >>> training.record.epoch, training.record.metrics.accuracy
    (4, 0.935)

    Attributes:
        training: what was asked for: a training goes on only with the same.
        out_dir: the folder of its checkpoint.
        classes: their names, in the order of the logits.
        counts: of samples.
        untested: classes without validation samples.
        history: the epochs that are done.
        epoch: the best of them, whose checkpoint it is.
        snapshots: folders of checkpoints of single epochs, by epoch.
        metrics: of the best epoch.
    """

    training: dict[str, Any]
    out_dir: str
    classes: list[str]
    counts: TrainingCounts = field(default_factory=TrainingCounts)
    untested: list[str] = field(default_factory=list)
    history: list[Epoch] = field(default_factory=list)
    epoch: int | None = None
    snapshots: dict[str, str] = field(default_factory=dict)
    metrics: Metrics | None = None


# between data and records


Record = TypeVar("Record", bound=RunRecord)


def read_record(kind: type[Record], entries: Mapping[str, Any], key: str) -> Record:
    """A record from plain data.

    Args:
        kind: what it should be.
        entries: as they lie in the database. Those that are not known are passed over, missing ones get their default.
        key: of the run, for words.

    Raises:
        RunError: it is of another version, or is no such record.

    >>> read_record(CamRecord, to_plain(run.record), "cam") == run.record
    True
    """
    if "schema_version" not in entries:
        entries = _with_version(entries)
    found = entries["schema_version"]
    otherwise = f"or forget it with dataset.delete_run({key!r}): its fields stay"
    if found not in READABLE:
        raise RunError(
            f"the record of run {key!r} is of version {found!r}, expected {SCHEMA_VERSION} or earlier: use the "
            f"version of fiftyone_cam that wrote it, {otherwise}"
        )
    try:
        return from_dict(kind, dict(entries), Config(type_hooks={float: _as_float}))
    except (DaciteError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"the record of run {key!r} cannot be read ({_first_line(error)}): expected a {kind.__name__} as "
            f"fiftyone_cam writes it. Restore it, {otherwise}"
        ) from error


def to_plain(value: Any) -> Any:
    """Plain data: of records dictionaries, of all sequences lists.

    >>> to_plain({"counts": Counts(samples=2)})
    {'counts': {'samples': 2, 'computed': 0, 'failed': 0, 'new': 0}}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain(asdict(value))
    if isinstance(value, Mapping):
        return {name: to_plain(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(entry) for entry in value]
    return value


def set_entries(record: RunRecord, entries: Mapping[str, Any]) -> None:
    """Set entries of a record by name.

    Raises:
        AttributeError: there is no such entry.

    >>> set_entries(run.record, {"status": "complete"})
    """
    require_entries(record, entries)
    for name, value in entries.items():
        setattr(record, name, value)


def require_entries(record: RunRecord, names: Mapping[str, Any]) -> None:
    """See that a record has these entries.

    Raises:
        AttributeError: it has not.

    >>> require_entries(run.record, {"status": "complete"})
    """
    if unknown := sorted(set(names) - {entry.name for entry in fields(record)}):
        raise AttributeError(f"a {type(record).__name__} has no entry {', '.join(unknown)}")


def _with_version(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A record from before there were versions: the same but for a word, and so read as the first."""
    words = {"stopped": "interrupted"}
    status = entries.get("status", "new")
    return {**entries, "schema_version": 1, "status": words.get(status, status)}


def _as_float(value: Any) -> Any:
    """A whole number where a float is expected is one."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
