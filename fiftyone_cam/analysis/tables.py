"""Tables by class: grouped in the database, in one pass over it, however many samples there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fiftyone_cam.dataset.collection import Collection


def grouped(samples: Collection, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What MongoDB's own stages make of a view: FiftyOne's aggregations do not group by a second field.

    >>> grouped(dataset, [{"$group": {"_id": "$ground_truth.label", "n": {"$sum": 1}}}])
    [{'_id': 'cat', 'n': 84}, {'_id': 'dog', 'n': 175}]
    """
    return list(samples._aggregate(post_pipeline=list(stages)))


def by_class(
    samples: Collection,
    path: str,
    means: Mapping[str, str],
    counts: Mapping[str, Any],
    before: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[str | None, int, dict[str, Any]]]:
    """By class, in one pass over the database: label, samples, and by name the mean of a field or how often it is so.

    The most frequent class first; the last entry, of label None, is all of them together, the unlabelled too.

    Args:
        samples: the dataset, or a view.
        path: where the class is.
        means: fields by name; None counts for nothing.
        counts: MongoDB's conditions by name.
        before: MongoDB's stages to go before, such as a match.

    >>> by_class(dataset, "ground_truth.label", {"inside": "cam_inside"}, {"right": "$cam_correct"})[0]
    ('dog', 175, {'right': 168, 'inside': 0.66})
    """
    group: dict[str, Any] = {"_id": f"${path}", "n": {"$sum": 1}}
    for name, field in means.items():
        group[f"sum_{name}"] = {"$sum": {"$toDouble": f"${field}"}}
        group[f"has_{name}"] = {"$sum": {"$cond": [{"$eq": [{"$ifNull": [f"${field}", None]}, None]}, 0, 1]}}
    for name, condition in counts.items():
        group[f"sum_{name}"] = {"$sum": {"$cond": [condition, 1, 0]}}
    found = grouped(samples, [*before, {"$group": group}])
    if not found:
        return []
    together = {name: sum(entry[name] for entry in found) for name in group if name != "_id"}
    labelled = [entry for entry in found if entry["_id"] is not None]
    rows = []
    for entry in [*sorted(labelled, key=lambda entry: (-entry["n"], entry["_id"])), {"_id": None, **together}]:
        values: dict[str, Any] = {name: entry[f"sum_{name}"] for name in counts}
        for name in means:
            values[name] = entry[f"sum_{name}"] / entry[f"has_{name}"] if entry[f"has_{name}"] else None
        rows.append((entry["_id"], entry["n"], values))
    return rows


def percent(value: float | None) -> str:
    """A share for a person to read.

    >>> percent(0.5), percent(None)
    ('50.0%', '–')
    """
    return "–" if value is None else f"{value:.1%}"


def class_name(label: str | None) -> str:
    """A class's name in a table of text: one line, never empty; ``all`` for the row of all classes.

    >>> class_name(None), class_name("tabby"), class_name("")
    ('all', 'tabby', "''")
    """
    if label is None:
        return "all"
    return label if label and label.isprintable() else repr(label)
