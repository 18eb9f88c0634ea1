"""What a repair does, in words: every group before and after, and first of all what became worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.group_effects import FEWEST, GroupEffect, WorstGroup, group_effects, worst_group
from fiftyone_cam.core.group_tables import HEADER, cells, what_is_worse
from fiftyone_cam.core.tables import Summary, Table, percent

ALL = "all"
"""The group of all images."""


@dataclass
class RepairReport:
    """A classifier before and after a repair, on samples that did not choose how it was made. ``print(report)``.

    >>> print(edited.preview)
    >>> edited.preview.overall.repaired, edited.preview.overall.broken
    (12, 3)

    Attributes:
        what: what was done, in words.
        settings: what was chosen, as rows of the report.
        overall: all judged samples.
        groups: each group.
        classes: each true class.
        worst: of the groups with at least 10 samples; None where there is none.
    """

    what: str
    settings: list[tuple[str, str]]
    overall: GroupEffect
    groups: list[GroupEffect] = field(default_factory=list)
    classes: list[GroupEffect] = field(default_factory=list)
    worst: WorstGroup | None = None

    @classmethod
    def of(
        cls,
        what: str,
        settings: Sequence[tuple[str, str]],
        before: NDArray[np.bool_],
        after: NDArray[np.bool_],
        groups: Mapping[str, NDArray[np.bool_]],
        classes: Mapping[str, NDArray[np.bool_]],
    ) -> RepairReport:
        """Count: ``before`` and ``after`` ``(n,)`` say who is right, the others who belongs to what."""
        [overall] = group_effects(before, after, {ALL: np.ones(len(before), bool)})
        found = group_effects(before, after, groups)
        judged = [group for group in found if group.samples >= FEWEST]
        worst = worst_group(judged) if judged else None
        return cls(what, list(settings), overall, found, group_effects(before, after, classes), worst)

    @property
    def worse(self) -> list[GroupEffect]:
        """The groups that lose more hits than errors are put right; of classes those that surely do."""
        return [g for g in self.groups if g.worse] + [c for c in self.classes if c.interval[1] < 0]

    def describe(self, most: int = 20) -> Summary:
        """The report in words; its first line says which groups became worse.

        >>> edited.preview.describe().title
        'Without watermark: 50.1% right before, 54.6% after; no group is worse'
        """
        right = f"{percent(self.overall.before)} right before, {percent(self.overall.after)} after"
        rows = list(self.settings)
        if self.worst is not None and len(self.groups) > 1:
            low, high = self.worst.interval_after
            words = f"{percent(self.worst.before)} before, {percent(self.worst.after)} after"
            rows.append(("worst group", f"{words} (95%: {percent(low)} to {percent(high)})"))
        classes = sorted(self.classes, key=lambda c: (-(c.repaired + c.broken), c.name))
        caption = f"The {most} of {len(classes):,} classes in which most changed" if len(classes) > most else ""
        tables = [Table("", ("group", *HEADER), [cells(g) for g in (self.overall, *self.groups)])]
        if classes:
            tables.append(Table(caption, ("class", *HEADER), [cells(c) for c in classes[:most]]))
        return Summary(f"{self.what}: {right}; {what_is_worse(self.worse)}", rows, tables)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__
