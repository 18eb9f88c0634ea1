"""Groups before and after, in words: what became worse, and a table."""

from __future__ import annotations

from collections.abc import Sequence

from fiftyone_cam.core.group_effects import GroupEffect
from fiftyone_cam.core.tables import class_name, percent

HEADER = ("n", "before", "after", "95% of the change, points", "repaired", "broken")
"""Of a table of groups, behind the column with their names."""


def what_is_worse(groups: Sequence[GroupEffect], most: int = 5) -> str:
    """The groups that became worse, for a report's first line.

    >>> what_is_worse([GroupEffect("cup", 50, 1.0, 0.9, 0, 5, (-0.18, -0.02))])
    'WORSE: cup (100.0% to 90.0%)'
    """
    lost = [f"{class_name(group.name)} ({percent(group.before)} to {percent(group.after)})" for group in groups]
    return f"WORSE: {', '.join(lost[:most])}{', …' if len(lost) > most else ''}" if lost else "no group is worse"


def cells(group: GroupEffect) -> list[str]:
    """A row of a table of groups.

    >>> cells(GroupEffect("cup", 50, 1.0, 0.9, 0, 5, (-0.18, -0.02)))
    ['cup', '50', '100.0%', '90.0%', '-18.0 to -2.0', '0', '5']
    """
    low, high = (100 * value for value in group.interval)
    return [
        class_name(group.name),
        f"{group.samples:,}",
        percent(group.before),
        percent(group.after),
        f"{low:+.1f} to {high:+.1f}",
        f"{group.repaired:,}",
        f"{group.broken:,}",
    ]
