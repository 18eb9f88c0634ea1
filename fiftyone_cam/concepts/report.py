"""What was found of concepts, read back from the database: for a dataset, or for any view of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F

from fiftyone_cam.concepts import rows
from fiftyone_cam.core.errors import CamError, RunError, did_you_mean
from fiftyone_cam.core.names import CONCEPTS
from fiftyone_cam.core.tables import Summary, Table, class_name, percent
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection, flattened
from fiftyone_cam.dataset.internals import dataset_of
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_record import Concept, ConceptsRecord, PixelCheck
from fiftyone_cam.runs.concept_sums import Sums


@dataclass
class ConceptReport:
    """What :func:`find_concepts` found. ``print(report)`` gives the table.

    >>> report.concepts[0].name, report.concepts[0].net
    ('concept 1', 7)

    Attributes:
        run: the run, whose ``record.concepts`` is the record.
        samples: what the report is about: the dataset, or a view of it.
        concepts: one row for each, in order: by net repair where true classes are known.
        judged: samples with a known true class.
        errors: how many of these are predicted wrong.
    """

    run: CamRun
    samples: Collection
    concepts: list[Concept] = field(default_factory=list)
    judged: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        self.samples = flattened(self.samples)

    @property
    def record(self) -> ConceptsRecord:
        """With what they were found, and when."""
        return require_found(self.run)

    @property
    def path(self) -> str:
        """The field with the places of concepts: ``cam_concepts``."""
        return self.run.field(CONCEPTS)

    @property
    def stale(self) -> str | None:
        """Why the concepts do not fit the run any more, and what to do; None where they fit."""
        if self.record.revision != self.run.record.revision:
            return f"run {self.run.key!r} has computed again since: find its concepts again"
        return None

    def concept(self, name: str) -> Concept:
        """A concept by its name.

        Raises:
            CamError: there is none of that name.

        >>> report.concept("concept 7").speaks_for
        ['carton']
        """
        for concept in self.concepts:
            if concept.name == name:
                return concept
        names = [concept.name for concept in self.concepts]
        raise CamError(f"there is no concept {name!r}{did_you_mean(name, names)}: expected one of {names[:5]}, …")

    @property
    def by_share(self) -> list[Concept]:
        """The concepts by how much of the evidence they hold, the largest first.

        Net repair ranks what errs by chance low, and so it does what most of a class rests on: without that as many
        hits are lost as errors are put right. What is in all pictures of a class has no errors at all. The first ones
        here are what predictions rest on; whether they should, their places show.

        >>> report.by_share[0].name
        'concept 90'
        """
        return sorted(self.concepts, key=lambda concept: (-concept.share, concept.number))

    def view(self, name: str) -> fo.DatasetView:
        """The samples in which a concept holds evidence, those first where it holds most.

        >>> report.view("concept 7")
        """
        label = self.concept(name).name
        bulk.require(self.samples, [self.path])
        held = F(f"{self.path}.detections").filter(F("label") == label).map(F("confidence")).sum()
        return self.samples.match(F(f"{self.path}.detections.label").contains(label)).sort_by(held, reverse=True)

    def patches(self, name: str) -> fo.DatasetView:
        """The places of a concept as crops.

        >>> report.patches("concept 7")
        """
        label = self.concept(name).name
        bulk.require(self.samples, [self.path])
        return self.samples.filter_labels(self.path, F("label") == label).to_patches(self.path)

    def describe(self, most: int = 20) -> Summary:
        """What was found, in words: the first concepts.

        >>> report.describe().tables[0].header[:3]
        ('concept', 'present', 'share')
        """
        record = self.record
        about = [("stale", self.stale)] if self.stale else []
        about.append(("found in", f"{record.samples:,} samples, {len(self.concepts)} concepts; seed {record.seed}"))
        about += [("", f"{count:,} x {reason}") for reason, count in list(record.failures.items())[:10]]
        if record.ground_truth is not None:
            about.append(("judged", f"{self.judged:,} samples, {self.errors:,} errors, by {record.ground_truth!r}"))
        if not record.removable:
            about.append(("repair", f"not known: {WHY_NOT.format(grade=record.grade)}"))
        held = [f"{concept.name} ({percent(concept.share)})" for concept in self.by_share[:3]]
        about.append(("most evidence", ", ".join(held)))
        if record.left_off is not None:
            about.append(("map", record.left_off))
        caption = f"The first {most} of {len(self.concepts)} concepts" if len(self.concepts) > most else ""
        table = Table(caption, _HEADER, [_cells(concept) for concept in self.concepts[:most]])
        return Summary(f"Concepts of run {self.run.key!r} on {self.run.dataset.name!r}", about, [table])

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


WHY_NOT = (
    "the head is {grade}, so its weights would be others without a concept; only a head of the grade 'exact' that "
    "pools by the average says what a prediction would be without some cells"
)

_HEADER = (
    *("concept", "present", "share", "blame", "lift", "repaired", "broken", "net", "95%", "p"),
    *("pixel check", "speaks for"),
)


def _cells(concept: Concept) -> list[str]:
    def number(value: float | None, style: str = ",") -> str:
        return "–" if value is None else f"{value:{style}}"

    interval = "–" if concept.interval is None else f"{concept.interval[0]:+.0f} to {concept.interval[1]:+.0f}"
    return [
        class_name(concept.name),
        percent(concept.present),
        percent(concept.share),
        percent(concept.blame),
        number(concept.lift, ".1f"),
        number(concept.repaired),
        number(concept.broken),
        number(concept.net, "+,"),
        interval,
        number(concept.p, ".3f"),
        pixels_in_words(concept.pixels),
        ", ".join(class_name(label) for label in concept.speaks_for) or "–",
    ]


def pixels_in_words(check: PixelCheck | None) -> str:
    """How often the network did what the sum said, when a concept's cells were blurred.

    >>> pixels_in_words(PixelCheck(changes=12, changed=7, stays=38, stayed=36))
    '7 of 12 changed, 36 of 38 stayed'
    """
    if check is None:
        return "–"
    parts = [f"{check.changed} of {check.changes} changed"] if check.changes else []
    return ", ".join([*parts, *([f"{check.stayed} of {check.stays} stayed"] if check.stays else [])]) or "–"


def list_concepts(samples: Collection) -> list[str]:
    """The keys of the runs whose concepts were found.

    >>> focam.list_concepts(dataset)
    ['cam']
    """
    runs, _ = catalog.load_runs(samples)
    return [key for key, run in runs.items() if run.record.concepts is not None and run.record.concepts.complete]


def load_concepts(samples: Collection, key: str = "cam") -> ConceptReport:
    """Load what was found of a run's concepts: for the dataset as it was found, for a view from its samples' sums.

    So any question is answered at once: the errors of one class, one confusion, a tag. No network is run.

    Args:
        samples: the dataset, or a view of it.
        key: the run.

    Raises:
        RunError: there is no such run, its concepts were not found, or their sums are not on this machine.

    >>> print(focam.load_concepts(dataset, "cam"))
    >>> confusion = (F("ground_truth.label") == "cat") & (F("cam_prediction.label") == "dog")
    >>> print(focam.load_concepts(dataset.match(confusion), "cam"))
    """
    run = catalog.load_run(samples, key)
    record = require_found(run)
    if isinstance(samples, fo.Dataset) or samples == dataset_of(samples).view():
        return ConceptReport(run, samples, record.concepts, record.judged, record.errors)
    ids, effects = Sums(record.folder).effects(len(record.concepts))
    mine = np.isin(ids, np.array(samples.values("id"), np.str_))
    if not mine.any():
        raise RunError(f"none of these samples has concepts of run {key!r}: widen the view, or find concepts of it")
    some = effects.take(mine)
    test = rows.held_out(ids.tolist(), record.seed)[mine]
    found = rows.measured(record.concepts, some, test, record.seed)
    return ConceptReport(run, samples, found, int(some.known.sum()), int(some.wrong.sum()))


def require_found(run: CamRun) -> ConceptsRecord:
    """The record of a run's concepts.

    Raises:
        RunError: they were not found, or not to the end.
    """
    record = run.record.concepts
    if record is None:
        raise RunError(f"no concepts of run {run.key!r} were found: focam.find_concepts(dataset, {run.key!r}, …)")
    if not record.complete:
        raise RunError(f"finding the concepts of run {run.key!r} was interrupted: the same call goes on from there")
    return record


def delete_concepts(samples: Collection, key: str = "cam") -> None:
    """Delete a run's concepts with their fields, their sums on disk and their map of embeddings. The run stays.

    Raises:
        RunError: there is no such run, or it has no concepts.

    >>> focam.delete_concepts(dataset, "cam")
    """
    run = catalog.load_run(samples, key)
    if run.record.concepts is None:
        require_found(run)
    run.delete_concepts()


def name_concept(samples: Collection, key: str, concept: str, name: str) -> ConceptReport:
    """Give a concept a name that says what it is: in the report, and on all its places.

    Args:
        samples: the dataset, or a view of it: all places get the name, also those of other samples.
        key: the run.
        concept: the name that it has.
        name: the new one.

    Returns:
        the report.

    Raises:
        RunError: there is no such run, or it has no concepts.
        CamError: there is no such concept, or another one has the name.

    >>> focam.name_concept(dataset, "cam", "concept 7", "watermark").concept("watermark").number
    12
    """
    report = load_concepts(dataset_of(samples), key)
    found = report.concept(concept)
    if not isinstance(name, str) or not name.strip():
        raise CamError(f"{name!r} is no name for a concept: expected some letters, such as 'watermark'")
    name = name.strip()
    if name != concept:
        if any(other.name == name for other in report.concepts):
            raise CamError(f"there is a concept {name!r} already: use another name")
        dataset = report.run.dataset
        if dataset.has_sample_field(report.path):
            dataset.map_labels(report.path, {concept: name}).save(report.path)
        found.name = name
        report.run.update(concepts=report.record)
    return load_concepts(samples, key)


def names_of(given: Sequence[str] | str, what: str) -> list[str]:
    """Names of concepts as a list, where one name, or several, were given.

    Args:
        given: the names.
        what: of the argument, for words.

    Raises:
        CamError: they are no names.

    >>> names_of("watermark", "without")
    ['watermark']
    """
    if isinstance(given, str):
        return [given]
    names = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in names):
        raise CamError(f"{what} is {given!r:.80}, expected names of concepts, such as ['concept 1']")
    return names


def numbers_of(concepts: Sequence[Concept], names: Sequence[str]) -> list[int]:
    """The clusters of concepts, by their names.

    Raises:
        CamError: there is none of a name.

    >>> numbers_of(report.concepts, ["watermark"])
    [12]
    """
    known = {concept.name: concept.number for concept in concepts}
    for name in names:
        if name not in known:
            some = list(known)[:5]
            raise CamError(f"there is no concept {name!r}{did_you_mean(name, known)}: expected one of {some}, …")
    return [known[name] for name in names]
