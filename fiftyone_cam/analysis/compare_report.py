"""What a comparison of two runs found, read back from the database: for a dataset, or for any view of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fiftyone_cam.analysis.class_tables import group_by_class
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.group_effects import FEWEST, GroupEffect, group_effects, worst_group
from fiftyone_cam.core.group_tables import HEADER, cells, what_is_worse
from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.core.tables import Summary, Table, class_name, percent
from fiftyone_cam.dataset.collection import Collection, flattened
from fiftyone_cam.dataset.ground_truth import Translation
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.record import ComparisonRecord

CHANGES = ("same", "fixed", "broken", "changed")
"""What became of a prediction: it is the same; it was wrong and is right; it was right and is wrong; or it differs."""


GROUP = "group"
"""The end of the name of the field with the group of each sample."""


class ChangeRow(NamedTuple):
    """One class of the ground truth; without ground truth, one class predicted before. Means are None where unknown.

    ``label`` is None for all classes together.
    """

    label: str | None
    samples: int
    same: int
    fixed: int
    broken: int
    changed: int
    correlation: float | None
    overlap: float | None


@dataclass
class Comparison:
    """What :func:`compare` found. ``print(comparison)`` gives the summary by class.

    >>> comparison.classes[-1].fixed
    17

    Attributes:
        run: the later run, which owns the fields; its ``record.comparisons[before]`` is the record.
        before: the key of the earlier run.
        samples: what the comparison is about: the dataset, or a view of it.
    """

    run: CamRun
    before: str
    samples: Collection

    def __post_init__(self) -> None:
        self.samples = flattened(self.samples)

    @property
    def record(self) -> ComparisonRecord:
        """What was compared, and when."""
        record = self.run.record.comparisons.get(self.before)
        if record is None:
            raise RunError(_not_compared(self.before, self.run.key))
        return record

    @property
    def stale(self) -> str | None:
        """Why the comparison does not fit the runs any more, and what to do; None where it fits."""
        if self.before not in catalog.list_runs(self.run.dataset):
            return f"run {self.before!r} has been deleted since: compare with another one"
        now = [catalog.load_run(self.run.dataset, key).record.revision for key in (self.before, self.run.key)]
        return None if now == self.record.revisions else "one of the runs has computed again since: compare again"

    @property
    def classes(self) -> list[ChangeRow]:
        """One row for each class, the most frequent first; the last row is all of them together. Empty: no samples.

        >>> comparison.classes[-1].fixed
        17
        """
        names = ("change", "correlation", "overlap")
        path = {name: self.run.field(comparison_name(self.before, name)) for name in names}
        means = {name: path[name] for name in ("correlation", "overlap")}
        counts = {word: {"$eq": [f"${path['change']}", word]} for word in CHANGES}
        compared = [{"$match": {path["change"]: {"$ne": None}}}]
        classes = f"{self.record.ground_truth or f'{self.before}_{PREDICTION}'}.label"
        found = group_by_class(self.samples, classes, means, counts, compared)
        return [ChangeRow(label=label, samples=n, **values) for label, n, values in found]

    @property
    def groups(self) -> list[GroupEffect]:
        """Accuracy of each group before and after, with intervals; empty where no groups or true classes are known.

        >>> comparison.groups[0].before, comparison.groups[0].after
        (0.41, 0.82)
        """
        record, path = self.record, self.run.field(comparison_name(self.before, GROUP))
        if record.ground_truth is None or path not in self.run.fields:
            return []
        runs = catalog.load_run(self.run.dataset, self.before), self.run
        paths = [path, f"{record.ground_truth}.label", *(f"{run.field(PREDICTION)}.label" for run in runs)]
        names, labels, *predicted = self.samples.values(paths)
        right = []
        for run, found in zip(runs, predicted, strict=True):
            words = Translation(run.classes, run.record.settings.class_map)
            right.append([words.is_right(each, label) for each, label in zip(found, labels, strict=True)])
        judged = [name is not None and None not in both for name, *both in zip(names, *right, strict=True)]
        group = np.array([name for name, known in zip(names, judged, strict=True) if known], object)
        before, after = (np.array([r for r, known in zip(side, judged, strict=True) if known], bool) for side in right)
        return group_effects(before, after, {str(name): group == name for name in sorted(set(group))})

    def describe(self, most: int = 20) -> Summary:
        """What changed, in words: at most ``most`` classes, those first in which most changed.

        >>> comparison.describe().tables[0].header
        ('class', 'n', 'same', 'fixed', 'broken', 'changed', 'correlation', 'overlap')
        """
        rows = [("stale", self.stale)] if self.stale else []
        tables = []
        if table := self.classes:
            *classes, total = table
            classes.sort(key=lambda row: row.same - row.samples)
            caption = f"The {most} of {len(classes):,} classes in which most changed" if len(classes) > most else ""
            header = ("class", "n", *CHANGES, "correlation", "overlap")
            tables.append(Table(caption, header, [_cells(row) for row in (*classes[:most], total)]))
        else:
            rows.append(("samples", "none of these samples has a map of both runs"))
        title = f"Comparison of run {self.run.key!r} with {self.before!r} before it, on {self.run.dataset.name!r}"
        if groups := self.groups if not self.stale else []:
            title += f"; {what_is_worse([group for group in groups if group.worse])}"
            rows.append(("worst group", _worst(groups)))
            caption = f"The {most} largest of {len(groups):,} groups" if len(groups) > most else ""
            largest = sorted(groups, key=lambda group: -group.samples)[:most]
            kept = [cells(group) for group in groups if group in largest]
            tables.insert(0, Table(caption, ("group", *HEADER), kept))
        return Summary(title, rows, tables)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


def _worst(groups: Sequence[GroupEffect]) -> str:
    """Of the groups that are large enough to be judged."""
    judged = [group for group in groups if group.samples >= FEWEST] or groups
    worst = worst_group(list(judged))
    low, high = (percent(share) for share in worst.interval_after)
    return f"{percent(worst.before)} before, {percent(worst.after)} after (95%: {low} to {high})"


def comparison_name(before: str, name: str) -> str:
    """The name, without the key, of a comparison's field: run ``cam_b`` has ``cam_b_vs_cam_a_change``.

    >>> comparison_name("cam_a", "change")
    'vs_cam_a_change'
    """
    return f"vs_{before}_{name}"


def load_comparison(samples: Collection, before: str, after: str) -> Comparison:
    """Load the comparison that was made of two runs.

    Args:
        samples: the dataset, or a view: the comparison is about its samples.
        before: the earlier run.
        after: the later run.

    Raises:
        RunError: there is no such run, or they have not been compared.

    >>> print(focam.load_comparison(dataset, "cam_a", "cam_b"))
    """
    run = catalog.load_run(samples, after)
    if run.record.comparisons.get(before) is None:
        raise RunError(_not_compared(before, after))
    return Comparison(run, before, samples)


def _not_compared(before: str, after: str) -> str:
    return f"run {after!r} has not been compared with {before!r}: focam.compare(dataset, {before!r}, {after!r})"


def _cells(row: ChangeRow) -> list[str]:
    counts = [f"{count:,}" for count in (row.samples, row.same, row.fixed, row.broken, row.changed)]
    correlation = "–" if row.correlation is None else f"{row.correlation:.2f}"
    return [class_name(row.label), *counts, correlation, percent(row.overlap)]
