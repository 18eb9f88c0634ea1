"""What an audit found, read back from the database: counts, tables, views and plots of a dataset, or of a view."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from numpy.typing import NDArray

from fiftyone_cam.analysis.class_tables import group, group_by_class
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.core.tables import Summary, Table, class_name, percent
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection, flattened
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import MapReader
from fiftyone_cam.runs.record import AuditRecord

VERDICTS = ("trusted", "shortcut", "confused", "distracted")
"""Right and on the object, right and off it, wrong and on it, wrong and off it."""

THRESHOLD = 0.6
"""The evidence is 1.5 times as dense on the object as off it.

On 800 ImageNet validation photos, EfficientNet-Lite0 reaches it for 96 to 98% of its right predictions, whatever the
object's size between 2 and 90% of the photo; 9% of the same maps do with their cells shuffled."""

BACKGROUND = "background"
"""The region of all places that no annotation names."""


class ClassRow(NamedTuple):
    """One class of the ground truth; without ground truth, one predicted class. Shares are means, None where unknown.

    ``label`` is None for all classes together. ``inside``, ``area`` and ``focus`` are means over the samples that have
    an object. ``unjudged`` counts the samples without a verdict, also those that were not audited.
    """

    label: str | None
    samples: int
    accuracy: float | None
    inside: float | None
    area: float | None
    focus: float | None
    trusted: int
    shortcut: int
    confused: int
    distracted: int
    unjudged: int


class RegionRow(NamedTuple):
    """A region by class: over the class's samples, the mean share of the positive evidence that it holds.

    A sample without the region counts with a share and an area of 0. ``label`` is None for all classes together;
    ``present`` is the number of samples, of ``samples``, in which the region was seen.
    """

    label: str | None
    region: str
    samples: int
    present: int
    share: float
    area: float


class Point(NamedTuple):
    """One sample of a scatter plot."""

    id: str
    inside: float | None
    focus: float | None
    confidence: float | None
    verdict: str | None


class MeanMap(NamedTuple):
    """The mean signed map of a class over the whole image, ``(size, size)``, logit units; None if there is no sample.

    ``errors`` is the mean over the class's wrong predictions. ``used`` of ``samples`` samples were averaged, drawn at
    random, and ``used_errors`` of ``wrong``.
    """

    label: str | None
    mean: NDArray[np.float32] | None
    samples: int
    used: int
    errors: NDArray[np.float32] | None
    wrong: int
    used_errors: int


@dataclass
class AuditReport:
    """What :func:`audit` found. ``print(report)`` or ``report.summary()`` gives the summary.

    Every number is counted in the database when it is asked for, over ``samples``.

    >>> report = focam.load_audit(dataset, "cam")
    >>> report.verdicts, report.unjudged
    ({'trusted': 224, 'shortcut': 10, 'confused': 17, 'distracted': 4}, {'object fills the image': 4})

    Attributes:
        run: the audited run; ``run.record.audit`` is the audit's record.
        samples: what the report is about: the dataset, or a view of it.
    """

    run: CamRun
    samples: Collection

    def __post_init__(self) -> None:
        self.samples = flattened(self.samples)

    @property
    def record(self) -> AuditRecord:
        """What was audited, how, and when."""
        if self.run.record.audit is None:
            raise RunError(_not_audited(self.run.key))
        return self.run.record.audit

    @property
    def stale(self) -> str | None:
        """Why the audit does not fit the dataset any more, and what to do; None where it fits."""
        key, record = self.run.key, self.record
        if record.revision != self.run.record.revision:
            return f"run {key!r} has computed again since its audit: audit it again"
        used = [field for field in [record.ground_truth, *record.objects] if field]
        gone = [field for field in used if not self.run.dataset.has_field(field)]
        if gone:
            return f"the audit of run {key!r} used {', '.join(map(repr, gone))}, no longer there: audit it again"
        return None

    # counts and tables

    @property
    def verdicts(self) -> dict[str, int]:
        """How many samples have each of the four verdicts."""
        found = self._count("verdict")
        return {verdict: found.get(verdict, 0) for verdict in VERDICTS}

    @property
    def unjudged(self) -> dict[str, int]:
        """How many samples have no verdict, by reason; the most frequent reason first."""
        return dict(sorted(self._count("unjudged").items(), key=lambda entry: (-entry[1], entry[0])))

    @property
    def classes(self) -> list[ClassRow]:
        """One row for each class, the most frequent first; the last row is all of them together. Empty: no samples.

        >>> report.classes[0]
        ClassRow(label='dog', samples=175, accuracy=0.96, inside=0.66, area=0.42, focus=0.75, trusted=163, …)
        """
        field = self.run.field
        means = {"accuracy": field("correct"), **{name: field(name) for name in ("inside", "area", "focus")}}
        counts = {word: {"$eq": [f"${field('verdict')}", word]} for word in VERDICTS}
        rows = []
        for label, n, found in group_by_class(self.samples, self._class_path, means, counts):
            unjudged = n - sum(found[word] for word in VERDICTS)
            rows.append(ClassRow(label=label, samples=n, unjudged=unjudged, **found))
        return rows

    @property
    def regions(self) -> list[RegionRow]:
        """The regions that errors look at; without ground truth, those that all predictions look at."""
        return self.region_table(correct=False if self.record.ground_truth else None)

    def region_table(self, correct: bool | None = None) -> list[RegionRow]:
        """Which regions hold the evidence, by class; the largest share first.

        Rows with ``label`` None are all classes together.

        Args:
            correct: of wrong predictions (False), right ones (True), or all (None).

        >>> report.region_table(correct=False)[0]
        RegionRow(label=None, region='grass', samples=24, present=24, share=0.71, area=0.64)
        """
        regions = f"{self.run.field('regions')}.classifications"
        match: dict[str, Any] = {f"{regions}.0": {"$exists": True}}
        if correct is not None:
            match[self.run.field("correct")] = correct
        grouping: dict[str, Any] = {
            "_id": {"class": {"$ifNull": ["$class", None]}, "region": "$regions.label"},
            "present": {"$sum": 1},
            "share": {"$sum": "$regions.confidence"},
            "area": {"$sum": "$regions.area"},
        }
        project = {"class": f"${self._class_path}", "regions": f"${regions}"}
        found = group(
            self.samples, [{"$match": match}, {"$project": project}, {"$unwind": "$regions"}, {"$group": grouping}]
        )
        totals: dict[str | None, int] = {}
        for entry in found:  # each sample with regions has the background once, so the largest count is all samples
            label = entry["_id"]["class"]
            totals[label] = max(totals.get(label, 0), entry["present"])

        together: dict[str, dict[str, float]] = {}
        rows = []
        for entry in found:
            label, region = entry["_id"]["class"], entry["_id"]["region"]
            if label is not None:
                n = totals[label]
                rows.append(RegionRow(label, region, n, entry["present"], entry["share"] / n, entry["area"] / n))
            total = together.setdefault(region, {"present": 0, "share": 0.0, "area": 0.0})
            for name in total:
                total[name] += entry[name]
        n = sum(totals.values())
        rows += [
            RegionRow(None, region, n, int(total["present"]), total["share"] / n, total["area"] / n)
            for region, total in together.items()
        ]
        return sorted(rows, key=lambda row: (row.label is not None, row.label or "", -row.share, row.region))

    # views

    def verdict_view(self, verdict: str) -> fo.DatasetView:
        """The samples with a verdict.

        >>> report.verdict_view("distracted")
        """
        return self.samples.match(F(self.run.field("verdict")) == verdict)

    def unjudged_view(self) -> fo.DatasetView:
        """The audited samples without a verdict.

        >>> report.unjudged_view()
        """
        return self.samples.exists(self.run.field("unjudged"))

    def class_view(self, label: str, correct: bool | None = None) -> fo.DatasetView:
        """The samples of a class: of the ground truth or, without one, of the predictions.

        Args:
            label: the class.
            correct: wrong predictions (False), right ones (True), or all (None).

        >>> report.class_view("dog", correct=False)
        """
        view = self.samples.match(F(self._class_path) == label)
        return view if correct is None else view.match(F(self.run.field("correct")) == correct)

    def region_view(self, region: str, label: str | None = None, correct: bool | None = None) -> fo.DatasetView:
        """The samples behind a row of :meth:`region_table`, those with most of their evidence in the region first.

        >>> report.region_view("grass", label="dog", correct=False)
        """
        regions = self.run.field("regions")
        here = F("classifications").filter((F("label") == region) & (F("confidence") > 0))
        view = self.samples.match(F(regions).exists()).match(F(regions).apply(here.length() > 0))
        view = view if correct is None else view.match(F(self.run.field("correct")) == correct)
        view = view if label is None else view.match(F(self._class_path) == label)
        share = F(f"{regions}.classifications").filter(F("label") == region).map(F("confidence")).sum()
        return view.sort_by(share, reverse=True)

    # data of plots: where there are many samples, some are drawn at random, and their number is returned too

    def points(self, limit: int = 5000) -> tuple[list[Point], int]:
        """At most ``limit`` audited samples, drawn at random, and how many there are.

        >>> points, total = report.points()
        """
        ids = self.samples.exists(self.run.field("inside")).values("id")
        paths = [self.run.field(name) for name in ("inside", "focus", f"{PREDICTION}.confidence", "verdict")]
        there = paths if self.samples.has_field(self.run.field("verdict")) else paths[:-1]
        points = []
        for rows in bulk.chunks(self.run.dataset.select(_sample_at_most(ids, limit)), there, progress=False):
            points += [Point(row["id"], *(row.get(path) for path in paths)) for row in rows]
        return points, len(ids)

    def mean_maps(self, labels: Sequence[str] | None = None, size: int = 32, limit: int = 300) -> list[MeanMap]:
        """For each class the mean map of its samples, and the mean map of the wrong ones: they show watermarks.

        A map lies over the whole image, squashed to a square: it says where on *any* image the evidence is.

        Args:
            labels: the classes; by default the twelve most frequent ones.
            size: of the mean maps, in cells.
            limit: each mean is over at most so many samples, drawn at random.

        >>> report.mean_maps()[0].mean.shape
        (32, 32)
        """
        reader = MapReader(self.run)

        def mean(ids: list[str]) -> NDArray[np.float32] | None:
            total = None
            for rows in bulk.chunks(self.run.dataset.select(ids), reader.paths, progress=False):
                for row in rows:
                    if (stored := reader.read(row)) is not None:
                        laid = lay_out(stored.grid, stored.box, stored.seen, size, size)
                        total = laid if total is None else total + laid
            return None if total is None else (total / len(ids)).astype(np.float32)

        if labels is None:
            labels = [row.label for row in self.classes if row.label is not None][:12]
        judged = self.samples.has_field(self.run.field("correct"))
        maps = []
        for label in labels:
            ids = self.class_view(label).exists(reader.field).values("id")
            wrong = self.class_view(label, correct=False).exists(reader.field).values("id") if judged else []
            used, used_errors = _sample_at_most(ids, limit), _sample_at_most(wrong, limit)
            maps.append(
                MeanMap(label, mean(used), len(ids), len(used), mean(used_errors), len(wrong), len(used_errors))
            )
        return maps

    def describe(self) -> Summary:
        """What was found, in words.

        >>> report.describe().rows[0]
        ('evidence', '56.6% on the object, which covers 30.7% of what was seen; its peak on the object for 83.4%')
        """
        record, table = self.record, self.classes
        rows = [("stale", self.stale)] if self.stale else []
        rows += [("note", note) for note in record.notes]
        spread, border, half_cells, peak_inside = self._means("spread", "border", "half_cells", "peak_inside")
        if table and table[-1].inside is not None:
            inside, area = percent(table[-1].inside), percent(table[-1].area)
            where = f"{inside} on the object, which covers {area} of what was seen"
            rows.append(("evidence", f"{where}; its peak on the object for {percent(peak_inside)}"))
        if spread is not None and half_cells is not None:
            border_cells = f"{percent(border)} in the border cells"
            rows.append(("spread", f"{spread:.2f} of 1; {border_cells}; half of it in {half_cells:.1f} cells"))
        if record.verdict:
            counts = self.verdicts
            judged = max(1, sum(counts.values()))
            shares = ", ".join(f"{n:,} {word} ({percent(n / judged)})" for word, n in counts.items())
            rows.append(("verdicts", f"{shares}; on the object from a focus of {record.threshold}"))
            rows += [("no verdict", f"{count:,} x {reason}") for reason, count in self.unjudged.items()]
        else:
            needed = {"objects": record.objects, "ground truth": record.ground_truth}
            lacking = " and ".join(what for what, field in needed.items() if not field)
            rows.append(("verdicts", f"none: the audit lacks {lacking}"))
        against = ", ".join(record.objects) or "no annotation of objects"
        tables = [_class_table(table, record.verdict)] if table else []
        together = [row for row in self.regions if row.label is None] if record.objects else []
        if together:
            tables.append(_region_table(together, wrong=record.ground_truth is not None))
        return Summary(f"Audit of run {self.run.key!r} on {self.run.dataset.name!r}: {against}", rows, tables)

    def summary(self) -> None:
        """Print what was found."""
        print(self)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__

    @property
    def _class_path(self) -> str:
        return f"{self.record.ground_truth or self.run.field(PREDICTION)}.label"

    def _count(self, name: str) -> dict[str, int]:
        field = self.run.field(name)
        if not self.samples.has_field(field):
            return {}
        return {str(value): int(n) for value, n in self.samples.count_values(field).items() if value is not None}

    def _means(self, *names: str) -> list[float | None]:
        grouping = {name: {"$avg": {"$toDouble": f"${self.run.field(name)}"}} for name in names}
        [found] = group(self.samples, [{"$group": {"_id": None, **grouping}}]) or [{}]
        return [found.get(name) for name in names]


def load_audit(samples: Collection, key: str = "cam") -> AuditReport:
    """Load the report of the audit that was made of a run.

    Args:
        samples: the dataset, or a view: the report is about its samples.
        key: the run.

    Raises:
        RunError: there is no such run, or it has not been audited.

    >>> print(focam.load_audit(dataset, "cam"))
    """
    run = catalog.load_run(samples, key)
    if run.record.audit is None:
        raise RunError(_not_audited(key))
    return AuditReport(run, samples)


def _not_audited(key: str) -> str:
    return f"run {key!r} has not been audited: focam.audit(dataset, key={key!r}, …)"


def _sample_at_most(ids: list[str], limit: int) -> list[str]:
    """All of the ids or, where they are more than ``limit``, so many of them at random: always the same ones."""
    return ids if len(ids) <= limit else sorted(random.Random(0).sample(ids, limit))


def _class_table(table: Sequence[ClassRow], judged: bool, most: int = 20) -> Table:
    *classes, total = table
    caption = f"The {most} most frequent of {len(classes):,} classes" if len(classes) > most else ""
    header = ["class", "n", "right", "inside", "area", "focus", *((*VERDICTS, "unjudged") if judged else ())]
    rows = []
    for row in [*classes[:most], total]:
        cells = [class_name(row.label), f"{row.samples:,}", *map(percent, (row.accuracy, row.inside, row.area))]
        cells.append("–" if row.focus is None else f"{row.focus:.2f}")
        if judged:
            counts = (row.trusted, row.shortcut, row.confused, row.distracted, row.unjudged)
            cells += [f"{count:,}" for count in counts]
        rows.append(cells)
    return Table(caption, header, rows)


def _region_table(rows: Sequence[RegionRow], wrong: bool, most: int = 10) -> Table:
    caption = f"What {rows[0].samples:,} {'wrong ' if wrong else ''}predictions look at"
    cells = [(class_name(row.region), percent(row.share), percent(row.area), f"{row.present:,}") for row in rows]
    return Table(caption, ("region", "share of the evidence", "share of the area", "seen in"), cells[:most])
