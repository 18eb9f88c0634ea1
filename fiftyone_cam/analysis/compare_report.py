"""What a comparison of two runs found, read back from the database: of the dataset, or of any view of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fiftyone_cam.analysis.tables import by_class, class_name, percent
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.record import ComparisonRecord

CHANGES = ("same", "fixed", "broken", "changed")
"""What became of a prediction: the same, wrong before and right now, right before and wrong now, otherwise another."""


class ChangeRow(NamedTuple):
    """One class of the ground truth, or one class predicted before: how many changed, and how alike the maps are.

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
        run: the later run, which owns the fields; its record has ``record.comparisons[before]``.
        before: the key of the earlier run.
        samples: what is reported on: the dataset, or a view of it.
    """

    run: CamRun
    before: str
    samples: Collection

    @property
    def record(self) -> ComparisonRecord:
        """What was compared, and when."""
        record = self.run.record.comparisons.get(self.before)
        if record is None:
            raise RunError(_not_compared(self.before, self.run.key))
        return record

    @property
    def classes(self) -> list[ChangeRow]:
        return change_table(self.samples, self.before, self.run.key)

    @property
    def stale(self) -> str | None:
        """Why the comparison no longer tells of what is there, and what to do; None where it does."""
        if self.before not in catalog.list_runs(self.run.dataset):
            return f"run {self.before!r} has been deleted since: compare with another one"
        now = [catalog.load_run(self.run.dataset, key).record.revision for key in (self.before, self.run.key)]
        return None if now == self.record.revisions else "one of the runs has computed again since: compare again"

    def __str__(self) -> str:
        table = self.classes
        lines = [f"Comparison of run {self.run.key!r} with {self.before!r} before it, on {self.run.dataset.name!r}"]
        if self.stale:
            lines.append(f"  stale: {self.stale}")
        width = max(5, *(len(class_name(row.label)) for row in table[:20])) if table else 5
        head = f"  {'class':<{width}} {'n':>7}"
        lines.append(head + "".join(f" {name:>8}" for name in CHANGES) + f" {'correlation':>12} {'overlap':>8}")
        for row in [*table[:-1][:20], *table[-1:]]:
            line = f"  {class_name(row.label):<{width}} {row.samples:>7,}"
            line += "".join(f" {count:>8,}" for count in (row.same, row.fixed, row.broken, row.changed))
            correlation = "–" if row.correlation is None else f"{row.correlation:.2f}"
            lines.append(f"{line} {correlation:>12} {percent(row.overlap):>8}")
        if len(table) > 21:
            lines.insert(-1, f"  … and {len(table) - 21:,} more classes")
        return "\n".join(lines)

    __repr__ = __str__


def comparison_name(before: str, name: str) -> str:
    """The name, without the key, of a comparison's field: run ``cam_b`` has ``cam_b_vs_cam_a_change``.

    >>> comparison_name("cam_a", "change")
    'vs_cam_a_change'
    """
    return f"vs_{before}_{name}"


def load_comparison(samples: Collection, before: str, after: str) -> Comparison:
    """The comparison that was made of two runs.

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


def change_table(samples: Collection, before: str, after: str) -> list[ChangeRow]:
    """One row for each class, the most frequent first; the last row is all of them together.

    >>> change_table(dataset, "cam_a", "cam_b")[-1].fixed
    17
    """
    record = load_comparison(samples, before, after).record
    path = {name: f"{after}_{comparison_name(before, name)}" for name in ("change", "correlation", "overlap")}
    means = {name: path[name] for name in ("correlation", "overlap")}
    counts = {word: {"$eq": [f"${path['change']}", word]} for word in CHANGES}
    compared = [{"$match": {path["change"]: {"$ne": None}}}]
    classes = f"{record.ground_truth or f'{before}_prediction'}.label"
    return [
        ChangeRow(label=label, samples=n, **found)
        for label, n, found in by_class(samples, classes, means, counts, compared)
    ]
