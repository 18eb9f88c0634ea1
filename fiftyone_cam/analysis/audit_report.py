"""What an audit found, read back from the database: tables, means and views, of the dataset or of any view of it.

Every function takes the samples and the run's key, so that the App can ask the same questions of what it shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from numpy.typing import NDArray

from fiftyone_cam.analysis.tables import by_class, class_name, grouped, percent
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
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
"""The region of all that no annotation names."""


class ClassRow(NamedTuple):
    """One class of the ground truth; without ground truth, one predicted class. Shares are means, None where unknown.

    ``label`` is None for all classes together. ``inside``, ``area`` and ``focus`` are over the samples that have an
    object. ``unjudged`` are all without a verdict, those that were not audited among them.
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
    """The mean signed map of a class over the whole image, ``(size, size)``, logit units; None where no sample is.

    ``errors`` is the same over the class's wrong predictions. ``used`` samples of ``samples`` were averaged, drawn at
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

    >>> report.verdicts, report.unjudged
    ({'trusted': 224, 'shortcut': 10, 'confused': 17, 'distracted': 4}, {'object fills the image': 4})

    Attributes:
        run: the audited run; ``run.record.audit`` is the audit's record.
        samples: what is reported on: the dataset, or a view of it.
    """

    run: CamRun
    samples: Collection

    @property
    def record(self) -> AuditRecord:
        """With what was audited, and when."""
        if self.run.record.audit is None:
            raise RunError(_not_audited(self.run.key))
        return self.run.record.audit

    @property
    def verdicts(self) -> dict[str, int]:
        """How many samples have each verdict."""
        return verdict_counts(self.samples, self.run.key)

    @property
    def unjudged(self) -> dict[str, int]:
        """How many samples have no verdict, by reason."""
        return unjudged_counts(self.samples, self.run.key)

    @property
    def classes(self) -> list[ClassRow]:
        return class_table(self.samples, self.run.key)

    @property
    def regions(self) -> list[RegionRow]:
        """The regions that errors look at; without ground truth, those that all samples look at."""
        return region_table(self.samples, self.run.key, correct=False if self.record.ground_truth else None)

    @property
    def stale(self) -> str | None:
        """Why the audit no longer tells of what is there, and what to do; None where it does."""
        return stale(self.run)

    def summary(self) -> None:
        """Print what was found."""
        print(self)

    def __str__(self) -> str:
        return _text(self)

    __repr__ = __str__


def load_audit(samples: Collection, key: str = "cam") -> AuditReport:
    """The report of the audit that was made of a run.

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


def stale(run: CamRun) -> str | None:
    """Why a run's audit no longer tells of what is there, and what to do; None where it does, or there is none.

    >>> stale(focam.load_run(dataset, "cam"))
    'run 'cam' has computed again since its audit: audit it again'
    """
    record = run.record.audit
    if record is None:
        return None
    if record.revision != run.record.revision:
        return f"run {run.key!r} has computed again since its audit: audit it again"
    gone = [field for field in [record.ground_truth, *record.objects] if field and not run.dataset.has_field(field)]
    if gone:
        return f"the audit of run {run.key!r} used {', '.join(map(repr, gone))}, no longer there: audit it again"
    return None


# tables: grouped in the database


def verdict_counts(samples: Collection, key: str) -> dict[str, int]:
    """How many samples have each of the four verdicts.

    >>> verdict_counts(dataset, "cam")
    {'trusted': 220, 'shortcut': 12, 'confused': 15, 'distracted': 9}
    """
    found = _counts(samples, f"{key}_verdict")
    return {verdict: found.get(verdict, 0) for verdict in VERDICTS}


def unjudged_counts(samples: Collection, key: str) -> dict[str, int]:
    """How many samples have no verdict, by reason, most frequent first.

    >>> unjudged_counts(dataset, "cam")
    {'object fills the image': 3}
    """
    found = _counts(samples, f"{key}_unjudged")
    return dict(sorted(found.items(), key=lambda entry: (-entry[1], entry[0])))


def class_table(samples: Collection, key: str) -> list[ClassRow]:
    """One row for each class, the most frequent first; the last row is all of them together.

    >>> class_table(dataset, "cam")[0]
    ClassRow(label='dog', samples=175, accuracy=0.96, inside=0.66, area=0.42, focus=0.75, trusted=163, …)
    """
    means = {"accuracy": f"{key}_correct", **{name: f"{key}_{name}" for name in ("inside", "area", "focus")}}
    counts = {word: {"$eq": [f"${key}_verdict", word]} for word in VERDICTS}
    rows = []
    for label, n, found in by_class(samples, _class_path(samples, key), means, counts):
        unjudged = n - sum(found[word] for word in VERDICTS)
        rows.append(ClassRow(label=label, samples=n, unjudged=unjudged, **found))
    return rows


def region_table(samples: Collection, key: str, correct: bool | None = False) -> list[RegionRow]:
    """Which regions hold the evidence, by class; the largest share first.

    Rows with ``label`` None are of all classes together.

    Args:
        samples: the dataset, or a view.
        key: an audited run.
        correct: of wrong predictions (False), right ones (True), or all (None).

    >>> region_table(dataset, "cam")[0]
    RegionRow(label=None, region='grass', samples=24, present=24, share=0.71, area=0.64)
    """
    path = _class_path(samples, key)
    match: dict[str, Any] = {f"{key}_regions.classifications.0": {"$exists": True}}
    if correct is not None:
        match[f"{key}_correct"] = correct
    regions = f"{key}_regions.classifications"
    group: dict[str, Any] = {
        "_id": {"class": {"$ifNull": ["$class", None]}, "region": "$regions.label"},
        "present": {"$sum": 1},
        "share": {"$sum": "$regions.confidence"},
        "area": {"$sum": "$regions.area"},
    }
    stages: list[dict[str, Any]] = [
        {"$match": match},
        {"$project": {"class": f"${path}", "regions": f"${regions}"}},
        {"$unwind": "$regions"},
        {"$group": group},
    ]
    found = grouped(samples, stages)
    totals: dict[str | None, int] = {}
    for entry in found:  # every sample that has regions has one background
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


# plots: samples drawn at random where there are many, and said so


def scatter(samples: Collection, key: str, limit: int = 5000, seed: int = 0) -> tuple[list[Point], int]:
    """At most ``limit`` audited samples, drawn at random, and how many there are.

    >>> points, total = scatter(dataset, "cam")
    """
    audited = samples.exists(f"{key}_inside")
    ids = audited.values("id")
    chosen = _drawn(ids, limit, seed)
    paths = [f"{key}_inside", f"{key}_focus", f"{key}_prediction.confidence", f"{key}_verdict"]
    verdict = samples.has_field(f"{key}_verdict")
    points = []
    for rows in bulk.chunks(samples._dataset.select(chosen), paths if verdict else paths[:-1], progress=False):
        points += [Point(row["id"], *(row.get(path) for path in paths)) for row in rows]
    return points, len(ids)


def mean_heatmaps(
    samples: Collection, key: str, labels: Sequence[str] | None = None, size: int = 32, limit: int = 300, seed: int = 0
) -> list[MeanMap]:
    """For each class the mean map of the predictions, and beside it that of the wrong ones: shows watermarks.

    The maps lie over the whole image, squashed to a square, as where on *any* image the evidence is. Each mean is of
    at most ``limit`` samples, drawn at random.

    Args:
        samples: the dataset, or a view.
        key: an audited run.
        labels: the classes; by default the twelve most frequent ones.
        size: of the mean maps.
        limit: samples averaged.
        seed: of the draw.

    >>> mean_heatmaps(dataset, "cam")[0].mean.shape
    (32, 32)
    """
    reader = MapReader(catalog.load_run(samples, key))

    def mean(ids: list[str]) -> NDArray[np.float32] | None:
        total = None
        for rows in bulk.chunks(samples._dataset.select(ids), reader.paths, progress=False):
            for row in rows:
                if (stored := reader.read(row)) is not None:
                    laid = lay_out(stored.grid, stored.box, stored.seen, size, size)
                    total = laid if total is None else total + laid
        return None if total is None else (total / len(ids)).astype(np.float32)

    path = _class_path(samples, key)
    if labels is None:
        labels = [row.label for row in class_table(samples, key) if row.label is not None][:12]
    maps = []
    for label in labels:
        of_class = samples.match((F(path) == label) & F(reader.field).exists())
        ids = of_class.values("id")
        wrong = of_class.match(~F(f"{key}_correct")).values("id") if samples.has_field(f"{key}_correct") else []
        used, used_errors = _drawn(ids, limit, seed), _drawn(wrong, limit, seed)
        maps.append(MeanMap(label, mean(used), len(ids), len(used), mean(used_errors), len(wrong), len(used_errors)))
    return maps


# views


def verdict_view(samples: Collection, key: str, verdict: str) -> fo.DatasetView:
    """The samples with a verdict.

    >>> verdict_view(dataset, "cam", "distracted")
    """
    return samples.match(F(f"{key}_verdict") == verdict)


def class_view(samples: Collection, key: str, label: str) -> fo.DatasetView:
    """The samples of a class: of the ground truth or, without one, of the predictions.

    >>> class_view(dataset, "cam", "dog")
    """
    return samples.match(F(_class_path(samples, key)) == label)


def region_view(
    samples: Collection, key: str, region: str, label: str | None = None, correct: bool | None = False
) -> fo.DatasetView:
    """The samples behind a row of :func:`region_table`, those with most of their evidence in the region first.

    >>> region_view(dataset, "cam", "grass", label="dog")
    """
    regions = f"{key}_regions"
    here = F("classifications").filter((F("label") == region) & (F("confidence") > 0))
    view = samples.match(F(regions).exists()).match(F(regions).apply(here.length() > 0))
    if correct is not None:
        view = view.match(F(f"{key}_correct") == correct)
    if label is not None:
        view = class_view(view, key, label)
    return view.sort_by(
        F(f"{regions}.classifications").filter(F("label") == region).map(F("confidence")).sum(), reverse=True
    )


# helpers


def _class_path(samples: Collection, key: str) -> str:
    record = catalog.load_run(samples, key).record.audit
    truth = record and record.ground_truth
    return f"{truth or f'{key}_prediction'}.label"


def _counts(samples: Collection, field: str) -> dict[str, int]:
    if not samples.has_field(field):
        return {}
    return {str(value): int(n) for value, n in samples.count_values(field).items() if value is not None}


def _drawn(ids: list[str], limit: int, seed: int) -> list[str]:
    return ids if len(ids) <= limit else sorted(random.Random(seed).sample(ids, limit))


def _text(report: AuditReport) -> str:
    record, run = report.record, report.run
    table = report.classes
    against = ", ".join(record.objects) or "no annotation of objects"
    lines = [f"Audit of run {run.key!r} on {run.dataset.name!r}: {against}"]
    if report.stale:
        lines.append(f"  stale        {report.stale}")
    lines += [f"  note         {note}" for note in record.notes]
    spread, border, half_cells, peak_inside = _means(report, "spread", "border", "half_cells", "peak_inside")
    if record.objects and table:
        total = table[-1]
        if total.inside is not None:
            lines.append(
                f"  evidence     {total.inside:.1%} on the object, which covers {total.area:.1%} of what was seen; "
                f"its peak on the object for {peak_inside:.1%}"
            )
    lines.append(
        f"  spread       {spread:.2f} of 1; {border:.1%} in the border cells; half of it in {half_cells:.1f} cells"
    )
    if record.verdict:
        counts, unjudged = report.verdicts, report.unjudged
        judged = sum(counts.values())
        shares = ", ".join(f"{n:,} {word} ({n / max(judged, 1):.1%})" for word, n in counts.items())
        lines.append(f"  verdicts     {shares}; on the object from a focus of {record.threshold}")
        lines += [f"  no verdict   {count:,} x {reason}" for reason, count in unjudged.items()]
    lines += ["", *_class_lines(table, record.verdict)]
    if record.objects:
        rows = [row for row in report.regions if row.label is None]
        if rows:
            what = "wrong predictions look at" if record.ground_truth else "predictions look at"
            lines += [
                "",
                f"  What {rows[0].samples:,} {what} (mean share of the evidence, of the area; in how many seen)",
            ]
            width = max(len(row.region) for row in rows[:10])
            lines += [
                f"    {row.region:<{width}}  {row.share:6.1%}  {row.area:6.1%}  {row.present:,}" for row in rows[:10]
            ]
    return "\n".join(lines)


def _class_lines(table: Sequence[ClassRow], judged: bool, most: int = 20) -> list[str]:
    if not table:
        return []
    *classes, total = table
    width = max(5, *(len(class_name(row.label)) for row in table[:most]))
    head = f"  {'class':<{width}} {'n':>7} {'right':>7} {'inside':>7} {'area':>7} {'focus':>6}"
    lines = [head + "".join(f" {name:>10}" for name in (*VERDICTS, "unjudged")) if judged else head]
    for row in [*classes[:most], total]:
        line = f"  {class_name(row.label):<{width}} {row.samples:>7,}"
        line += "".join(f" {percent(value):>7}" for value in (row.accuracy, row.inside, row.area))
        line += f" {'–' if row.focus is None else f'{row.focus:.2f}':>6}"
        if judged:
            counts = (row.trusted, row.shortcut, row.confused, row.distracted, row.unjudged)
            line += "".join(f" {count:>10,}" for count in counts)
        lines.append(line)
    if len(classes) > most:
        lines.insert(-1, f"  … and {len(classes) - most:,} more classes")
    return lines


def _means(report: AuditReport, *names: str) -> list[float]:
    group = {name: {"$avg": {"$toDouble": f"${report.run.field(name)}"}} for name in names}
    [found] = grouped(report.samples, [{"$group": {"_id": None, **group}}]) or [{}]
    return [float("nan") if found.get(name) is None else float(found[name]) for name in names]
