"""What an audit finds on samples: the numbers of their maps, and where the evidence lies by the annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np

from fiftyone_cam.analysis.audit_report import BACKGROUND
from fiftyone_cam.core import evidence
from fiftyone_cam.core.many_regions import partitions
from fiftyone_cam.core.names import HEATMAP
from fiftyone_cam.core.regions import Shape, contains
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import Scene
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import MapReader, StoredMap

FILLS = 0.9
"""If an object covers a larger share of the grid than this, evidence on it proves nothing: there is no verdict."""

# why a sample has no verdict
NO_MAP = "no map"
NO_LABEL = "no ground truth"
NO_CLASS = "its label matches no class"
NO_OBJECT = "no object"
UNREADABLE = "its object cannot be read"
NOT_SEEN = "object not seen"
FILLED = "object fills the image"
NO_EVIDENCE = "no positive evidence"


@dataclass
class Finding:
    """What an audit finds on one sample, named as the fields are. None where there is nothing to say.

    ``unjudged`` is the reason why there can be no verdict.
    """

    spread: float | None = None
    border: float | None = None
    half_cells: int | None = None
    peak: dict[str, Any] | None = None
    margin: float | None = None
    correct: bool | None = None
    inside: float | None = None
    area: float | None = None
    focus: float | None = None
    evidence_in: float | None = None
    evidence_out: float | None = None
    peak_inside: bool | None = None
    regions: dict[str, Any] | None = None
    unjudged: str | None = None

    def verdict(self, threshold: float) -> str | None:
        """The verdict: right or wrong, and on the object from a focus of ``threshold``.

        >>> Finding(correct=True, focus=0.4).verdict(0.6)
        'shortcut'
        """
        if self.unjudged is not None or self.correct is None or self.focus is None:
            return None
        return _VERDICT[self.correct, self.focus >= threshold]


_VERDICT = {
    (True, True): "trusted",
    (True, False): "shortcut",
    (False, True): "confused",
    (False, False): "distracted",
}
"""The verdict by whether the prediction is right, and whether its evidence is on the object."""


class _Found(NamedTuple):
    """A sample with a map, and what is found on it."""

    finding: Finding
    stored: StoredMap
    row: bulk.Row


class Finder:
    """Measures samples, all that have grids of the same size at once: one by one takes several times longer.

    Args:
        run: whose maps.
        truth: what is right.
        scene: where things are; None if nobody knows.

    Attributes:
        paths: what to read of the maps. What to read of the annotations says the scene.

    >>> finder = Finder(run, truth, scene)
    >>> for rows in bulk.chunks(dataset, [*finder.paths, *scene.paths]):
    ...     findings = finder.find(rows)
    """

    def __init__(self, run: CamRun, truth: GroundTruth, scene: Scene | None) -> None:
        self._reader = MapReader(run)
        self._truth = truth
        self._true = None if truth.field is None else truth.labels_path
        self._scene = scene
        self._second = f"{run.field(HEATMAP)}_2.logit" if run.record.settings.top_k > 1 else None
        self.paths = [*self._reader.paths, *([self._second] if self._second else [])]
        self.paths += [self._true] if self._true else []

    def find(self, rows: Sequence[bulk.Row]) -> list[Finding]:
        """One finding for each row of :func:`fiftyone_cam.dataset.bulk.chunks`."""
        findings = [Finding(unjudged=NO_MAP) for _ in rows]
        sizes: dict[tuple[int, ...], list[_Found]] = {}
        for finding, row in zip(findings, rows, strict=True):
            stored = self._reader.read(row)
            if stored is not None:
                sizes.setdefault(stored.grid.shape, []).append(_Found(finding, stored, row))
        for alike in sizes.values():
            self._measure(alike, np.stack([stored.grid for _, stored, _ in alike]))
        return findings

    def _measure(self, samples: Sequence[_Found], grids: np.ndarray) -> None:
        """Fill in the findings on samples with maps of the same size; ``grids`` ``(n, h, w)``."""
        spreads, borders = _numbers(evidence.spread(grids)), _numbers(evidence.border(grids))
        half_cells = evidence.half_cells(grids).tolist()
        rows, columns = evidence.peak(grids)
        tops = grids[np.arange(len(grids)), rows, columns].tolist()
        places = list(zip(rows.tolist(), columns.tolist(), strict=True))
        for i, (finding, stored, row) in enumerate(samples):
            true = row[self._true] if self._true else None
            second = row[self._second] if self._second else None
            finding.correct = self._truth.is_right(stored.label, true)
            finding.unjudged = None if finding.correct is not None else NO_LABEL if true is None else NO_CLASS
            finding.margin = None if second is None else stored.logit - second
            finding.spread, finding.border = spreads[i], borders[i]
            if finding.spread is not None:
                finding.half_cells = half_cells[i]
                finding.peak = _keypoint(stored, *places[i], tops[i])
        if self._scene is not None:
            self._look(self._scene, samples, grids)

    def _look(self, scene: Scene, samples: Sequence[_Found], grids: np.ndarray) -> None:
        """Add where the evidence lies, by the annotations."""
        scenes: dict[int, dict[tuple[bool, str], list[Shape]]] = {}
        for i, (finding, _, row) in enumerate(samples):
            try:
                regions = scene.regions(row)
            except OSError:
                finding.unjudged = UNREADABLE
                continue
            if regions:
                scenes[i] = dict(sorted(regions.items(), key=_name))  # the order of the annotations must not matter
            else:
                finding.unjudged = NO_OBJECT
        if not scenes:
            return
        cells = [samples[i].stored.cells for i in scenes]
        others = [[not mine for mine, _ in regions] for regions in scenes.values()]
        parts = partitions([list(regions.values()) for regions in scenes.values()], cells, others)
        grids = grids[list(scenes)]
        is_object = np.zeros(parts.shape[:2], bool)
        for i, regions in enumerate(scenes.values()):
            is_object[i, : len(regions)] = [mine for mine, _ in regions]

        shares = evidence.shares(grids, parts)
        coverage = (parts * is_object[:, :, None, None]).sum(1).clip(0, 1)
        area = coverage.mean((-2, -1))
        inside = np.minimum(1, (shares * is_object).sum(1))
        rows, columns = evidence.peak(grids)
        numbers = zip(
            *map(_numbers, (area, inside, evidence.focus(inside, area), *evidence.split(grids, coverage))),
            coverage[np.arange(len(grids)), rows, columns].tolist(),
            shares.tolist(),
            parts.mean((-2, -1)).tolist(),
            strict=True,
        )
        for (i, regions), found in zip(scenes.items(), numbers, strict=True):
            _judge(samples[i].finding, regions, *found)


_CLASSIFICATION = bulk.document(fo.Classification(label="", confidence=0.0, area=0.0))
_KEYPOINT = bulk.document(fo.Keypoint(label="", points=[(0.0, 0.0)], value=0.0))


def _numbers(values: np.ndarray) -> list[float | None]:
    """As the database keeps them: None where there is no number."""
    return [None if value != value else value for value in values.tolist()]


def _name(region: tuple[tuple[bool, str], list[Shape]]) -> tuple[bool, str]:
    return region[0]


def _keypoint(stored: StoredMap, row: int, column: int, value: float) -> dict[str, Any]:
    """A keypoint in the middle of a cell, moved into what was seen."""
    (x, y, width, height), (left, top, across, down) = stored.box, stored.seen
    rows, columns = stored.grid.shape
    point = [
        min(max(x + width * (column + 0.5) / columns, left), left + across),
        min(max(y + height * (row + 0.5) / rows, top), top + down),
    ]
    return _KEYPOINT(label=stored.label, points=[point], value=value)


def _judge(
    finding: Finding,
    regions: Mapping[tuple[bool, str], Sequence[Shape]],
    area: float,
    inside: float | None,
    focus: float | None,
    evidence_in: float,
    evidence_out: float,
    at_peak: float,
    shares: Sequence[float],
    areas: Sequence[float],
) -> None:
    """Write into a finding where its evidence lies. ``at_peak`` is the object's share of the strongest cell."""
    if inside is not None:
        finding.regions = _classifications(regions, shares, areas)
    if not any(mine for mine, _ in regions):
        finding.unjudged = NO_OBJECT
        return
    finding.area, finding.evidence_in, finding.evidence_out = area, evidence_in, evidence_out
    if inside is None or finding.peak is None:
        finding.unjudged = NO_EVIDENCE
        return
    finding.inside, finding.focus = inside, focus
    if 1e-9 < at_peak < 1 - 1e-9:
        shapes = [shape for (mine, _), region in regions.items() if mine for shape in region]
        finding.peak_inside = contains(shapes, *finding.peak["points"][0])
    else:  # the cell is wholly in or out, and so is its middle
        finding.peak_inside = at_peak > 0.5
    if area == 0:
        finding.unjudged = NOT_SEEN
    elif area > FILLS or focus is None:
        finding.unjudged = FILLED


def _classifications(
    names: Iterable[tuple[bool, str]], shares: Sequence[float], areas: Sequence[float]
) -> dict[str, Any]:
    held: dict[str, list[float]] = {}
    for (_, name), share, area in zip(names, shares, areas, strict=False):  # shorter where others have more regions
        if area > 0:
            entry = held.setdefault(name, [0.0, 0.0])
            entry[0], entry[1] = entry[0] + share, entry[1] + area
    rest = held.setdefault(BACKGROUND, [0.0, 0.0])
    rest[0] += max(0.0, 1 - sum(shares))
    rest[1] += max(0.0, 1 - sum(areas))
    entries = [_CLASSIFICATION(label=name, confidence=share, area=area) for name, (share, area) in held.items()]
    return {"_cls": "Classifications", "classifications": entries}
