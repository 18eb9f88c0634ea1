"""Two runs side by side: two models, or two trainings of one. What changed, and did they look elsewhere?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from fiftyone import ViewField as F
from numpy.typing import NDArray

from fiftyone_cam.analysis.audit import computed
from fiftyone_cam.analysis.compare_report import CHANGES, Comparison, comparison_name
from fiftyone_cam.core.boxes import as_box
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.evidence import agreement
from fiftyone_cam.core.names import HEATMAP
from fiftyone_cam.core.regions import Cells
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

_TYPES: dict[str, dict[str, Any]] = {
    "change": {"ftype": fo.StringField},
    "correlation": {"ftype": fo.FloatField},
    "overlap": {"ftype": fo.FloatField},
}


def compare(
    samples: Collection, before: str, after: str, *, ground_truth: str | None = None, progress: Any = None
) -> Comparison:
    """Compare two runs on the same samples: predictions, and where their evidence lies. Nothing is inferred anew.

    Writes, as fields of the run ``after``, ``{after}_vs_{before}_change``: ``same`` prediction, ``fixed`` (was wrong,
    is right), ``broken`` (was right, is wrong) or ``changed`` otherwise; ``{after}_vs_{before}_correlation``, Pearson's
    of the two signed maps; and ``{after}_vs_{before}_overlap``, the share of positive evidence that both have in the
    same place. Each map is that of its own prediction. Grids of any sizes are compared on the common refinement of
    their cells. The views ``"{after} vs {before} fixed"`` … are saved on the dataset; all goes when ``after`` goes.

    Args:
        samples: a dataset or view with the results of both runs.
        before: the key of one run.
        after: the key of the other.
        ground_truth: a ``Classification`` field with the true class; by default that of either run.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`Comparison`, whose printed form is the summary by class.

    Raises:
        RunError: there is no such run, or both are one.

    >>> print(focam.compare(dataset, "cam_resnet18", "cam_resnet50"))
    """
    if before == after:
        raise RunError(
            f"expected two runs, found {before!r} twice: only {', '.join(catalog.list_runs(samples))} are there"
        )
    _, first = computed(samples, before)
    collection, second = computed(samples, after)
    settings = [run.record["settings"] for run in (first, second)]
    ground_truth = ground_truth or settings[1].get("ground_truth") or settings[0].get("ground_truth")
    truths = [
        GroundTruth(collection, ground_truth, setting.get("class_map"), run.classes)
        for run, setting in zip((first, second), settings, strict=True)
    ]

    earlier, later = _Side(first, truths[0]), _Side(second, truths[1])
    true = f"{ground_truth}.label" if ground_truth else None
    paths = [*earlier.paths, *later.paths, *([true] if true else [])]
    bulk.require(collection, paths)

    names = {name: comparison_name(before, name) for name in _TYPES}
    second.update(comparisons={**second.record.get("comparisons", {}), before: None})  # until all is written
    path = {name: second.claim_field(full, **_TYPES[name]) for name, full in names.items()}
    for rows in bulk.chunks(collection, paths, progress):
        values = {}
        for row in rows:
            found = _compared(earlier.read(row), later.read(row), row[true] if true else None)
            values[row["id"]] = {path[name]: found.get(name) for name in _TYPES}
        bulk.write(second.dataset, values)

    second.index(names["change"])
    for change in CHANGES[1:]:
        second.save_view(f"vs {before} {change}", second.dataset.match(F(path["change"]) == change))
    record = {
        "ground_truth": ground_truth,
        "revisions": [run.record["revision"] for run in (first, second)],
        "compared_at": datetime.now(timezone.utc).isoformat(),
    }
    second.update(comparisons={**second.record["comparisons"], before: record})
    second.show()
    return Comparison(second, before, samples)


class _Map(NamedTuple):
    word: str
    grid: NDArray[np.float32]
    cells: Cells


class _Side:
    """One of the two runs: a row in, its prediction and map out."""

    def __init__(self, run: CamRun, truth: GroundTruth) -> None:
        heat = run.field(HEATMAP)
        self.paths = [f"{heat}.{name}" for name in ("label", "grid", "box", "seen")]
        self._truth = truth

    def read(self, row: Mapping[str, Any]) -> _Map | None:
        label, grid, box, seen = (row[path] for path in self.paths)
        grid = bulk.array(grid)
        if grid is None:
            return None
        return _Map(self._truth.translate(label) or label, grid, Cells.of(grid.shape, as_box(box), as_box(seen)))


def _compared(before: _Map | None, after: _Map | None, true: str | None) -> dict[str, Any]:
    if before is None or after is None:
        return {}
    correlation, overlap = agreement(before.grid, before.cells, after.grid, after.cells)
    return {"change": _change(before.word, after.word, true), "correlation": correlation, "overlap": overlap}


def _change(before: str, after: str, true: str | None) -> str:
    if before == after:
        return "same"
    if true is not None and after == true:
        return "fixed"
    return "broken" if true is not None and before == true else "changed"
