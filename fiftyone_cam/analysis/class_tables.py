"""Counts and means by class: grouped in the database, in one pass over it, however many samples there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fiftyone_cam.dataset import internals
from fiftyone_cam.dataset.collection import Collection


def group(samples: Collection, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run MongoDB's own stages on a view: FiftyOne's aggregations do not group by a second field.

    >>> group(dataset, [{"$group": {"_id": "$ground_truth.label", "n": {"$sum": 1}}}])
    [{'_id': 'cat', 'n': 84}, {'_id': 'dog', 'n': 175}]
    """
    return internals.aggregate(samples, stages)


def group_by_class(
    samples: Collection,
    path: str,
    means: Mapping[str, str],
    counts: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[str | None, int, dict[str, Any]]]:
    """For each class: its label, its samples, and by name the mean of a field, or how many samples satisfy a condition.

    The most frequent class comes first. The last entry, with label None, is all samples together, those without a
    label too.

    Args:
        samples: the dataset, or a view.
        path: where the class is.
        means: the field for each name; samples where it is None do not count.
        counts: MongoDB's condition for each name.
        before: MongoDB's stages to run first, such as a match.

    >>> group_by_class(dataset, "ground_truth.label", {"inside": "cam_inside"}, {"right": "$cam_correct"})[0]
    ('dog', 175, {'right': 168, 'inside': 0.66})
    """
    grouping: dict[str, Any] = {"_id": f"${path}", "n": {"$sum": 1}}
    for name, field in means.items():
        grouping[f"sum_{name}"] = {"$sum": {"$toDouble": f"${field}"}}
        grouping[f"has_{name}"] = {"$sum": {"$cond": [{"$eq": [{"$ifNull": [f"${field}", None]}, None]}, 0, 1]}}
    for name, condition in counts.items():
        grouping[f"sum_{name}"] = {"$sum": {"$cond": [condition, 1, 0]}}
    found = group(samples, [*before, {"$group": grouping}])
    if not found:
        return []
    together = {name: sum(entry[name] for entry in found) for name in grouping if name != "_id"}
    labelled = [entry for entry in found if entry["_id"] is not None]
    rows = []
    for entry in [*sorted(labelled, key=lambda entry: (-entry["n"], entry["_id"])), {"_id": None, **together}]:
        values: dict[str, Any] = {name: entry[f"sum_{name}"] for name in counts}
        for name in means:
            values[name] = entry[f"sum_{name}"] / entry[f"has_{name}"] if entry[f"has_{name}"] else None
        rows.append((entry["_id"], entry["n"], values))
    return rows
