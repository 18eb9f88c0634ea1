"""Two runs side by side, of two classifiers or of two trainings: what changed, and do they look elsewhere?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo
from fiftyone import ViewField as F

from fiftyone_cam.analysis.compare_report import CHANGES, GROUP, Comparison, comparison_name
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.evidence import agreement
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.groups import known_groups, mended_by, of_classes, read_groups
from fiftyone_cam.runs.heatmaps import MapReader, StoredMap
from fiftyone_cam.runs.record import ComparisonRecord

MOST_SUBSETS = 50
"""Groups that the Model Evaluation panel is told of."""

_TYPES: dict[str, dict[str, Any]] = {
    "change": {"ftype": fo.StringField},
    GROUP: {"ftype": fo.StringField},
    "correlation": {"ftype": fo.FloatField},
    "overlap": {"ftype": fo.FloatField},
}


def compare(
    samples: Collection,
    before: str,
    after: str,
    *,
    ground_truth: str | None = None,
    groups: str | Sequence[str] | None = None,
    progress: Any = None,
) -> Comparison:
    """Compare two runs on the same samples: predictions, and where their evidence lies. No network is run.

    Writes three fields, which belong to the run ``after``: ``{after}_vs_{before}_change`` is ``same``, ``fixed`` (was
    wrong, is right), ``broken`` (was right, is wrong) or otherwise ``changed``; ``{after}_vs_{before}_correlation`` is
    Pearson's correlation of the two signed maps; ``{after}_vs_{before}_overlap`` is the share of positive evidence that
    both have in the same place. Each map is the one of its own prediction. Grids of different sizes are compared on
    the common refinement of their cells. The views ``"{after} vs {before} fixed"`` … are saved on the dataset. All of
    it is deleted with ``after``.

    With a ground truth and ``groups`` the report counts every group before and after, and its first line says which
    became worse. ``{after}_vs_{before}_group`` says to which a sample belongs; in the Model Evaluation panel, where
    ``{before}_eval`` and ``{after}_eval`` can be compared, the groups are a scenario. Of at most 10 true classes each
    has groups of its own.

    Args:
        samples: a dataset or view with the results of both runs.
        before: the key of one run.
        after: the key of the other.
        ground_truth: a ``Classification`` field with the true class; by default that of either run.
        groups: a field (``"cam_verdict"``), a tag, the name of a concept of ``before``, or several of them; by default
            what the classifier of ``after`` was mended by, where this dataset knows it.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`Comparison`; print it for the summary by class.

    Raises:
        RunError: there is no such run, it is being computed, or ``before`` is ``after``.
        FieldError: a field is missing, or there is no such group.

    >>> print(focam.compare(dataset, "cam_resnet18", "cam_resnet50"))
    """
    if before == after:
        raise RunError(
            f"expected two runs, found {before!r} twice: only {', '.join(catalog.list_runs(samples))} are there"
        )
    _, first = finished_run(samples, before)
    collection, second = finished_run(samples, after)
    settings = [run.record.settings for run in (first, second)]
    ground_truth = ground_truth or second.ground_truth or first.ground_truth
    truths = [
        GroundTruth.read(collection, ground_truth, run.classes, setting.class_map)
        for run, setting in zip((first, second), settings, strict=True)
    ]

    if groups is None:
        asked, group = known_groups(collection, first, mended_by(second.record))
    else:
        asked = [groups] if isinstance(groups, str) else list(groups)
        group = read_groups(collection, first, asked) if asked else {}
    if group and ground_truth:
        ids, labels = collection.values(["id", f"{ground_truth}.label"])
        found = of_classes([group[id] for id in ids], labels)
        group = {id: name for id, name in zip(ids, found, strict=True) if name is not None}

    readers = MapReader(first), MapReader(second)
    true = f"{ground_truth}.label" if ground_truth else None
    paths = [*readers[0].paths, *readers[1].paths, *([true] if true else [])]
    bulk.require(collection, paths)

    names = {name: comparison_name(before, name) for name in _TYPES}
    second.update_comparison(before, None)  # until all is written
    if not group:
        second.clear_scenarios(_scenario(before))
        second.clear_field(names.pop(GROUP))
    full = second.claim_fields({names[name]: _TYPES[name] for name in names})
    path = {name: full[names[name]] for name in names}
    for rows in bulk.chunks(collection, paths, progress):
        values = {}
        for row in rows:
            old, new = (reader.read(row) for reader in readers)
            written: dict[str, Any] = {}
            if old is not None and new is not None:
                change = _change(old, new, truths, row[true] if true else None)
                correlation, overlap = agreement(old.grid, old.cells, new.grid, new.cells)
                written = {"change": change, "correlation": correlation, "overlap": overlap}
                written[GROUP] = group.get(str(row["id"]))
            values[row["id"]] = {path[name]: written.get(name) for name in names}
        bulk.write(second.dataset, values)

    second.index(names["change"])
    for change in CHANGES[1:]:
        second.save_view(f"vs {before} {change}", second.dataset.match(F(path["change"]) == change))
    if group:
        there = second.dataset.distinct(path[GROUP])
        second.save_scenario(_scenario(before), path[GROUP], [str(name) for name in there][:MOST_SUBSETS])
    record = ComparisonRecord(
        ground_truth=ground_truth,
        revisions=[run.record.revision for run in (first, second)],
        compared_at=datetime.now(timezone.utc).isoformat(),
        groups=asked,
    )
    second.update_comparison(before, record)
    second.arrange()
    return Comparison(second, before, samples)


def _scenario(before: str) -> str:
    return f"vs {before} groups"


def _change(before: StoredMap, after: StoredMap, truths: Sequence[GroundTruth], true: str | None) -> str:
    """What became of a prediction, in the ground truth's words: each run has a translation of its own."""
    old, new = (truth.translate(side.label) or side.label for truth, side in zip(truths, (before, after), strict=True))
    if old == new:
        return "same"
    was_right, is_right = truths[0].is_right(before.label, true), truths[1].is_right(after.label, true)
    return "fixed" if is_right else "broken" if was_right else "changed"
