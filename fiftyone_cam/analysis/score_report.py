"""What a scorecard found: each measure with an interval, an honest figure, and baselines beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.localization import IOUS, pixel_average_precision
from fiftyone_cam.core.tables import Summary, Table, percent
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs.cam_run import CamRun

Floats = NDArray[np.float64]

RESAMPLES = 200
"""Draws of the bootstrap."""

HALF = IOUS.index(0.5)

WORDS = {
    "maxboxacc_v2": "MaxBoxAccV2",
    "maxboxacc": "MaxBoxAcc",
    "pxap": "PxAP",
    "gt_known": "GT-known localization",
    "top1": "top-1 localization",
    "top5": "top-5 localization",
    "pointing": "pointing game",
    "energy": "energy pointing game",
    "rank_accuracy": "relevance rank accuracy",
}
"""The measures, by their names here, as the papers call them."""


class PlaceScores(NamedTuple):
    """One map's scores on one sample.

    ``one`` and ``every`` are the best overlaps by threshold, of the largest part's box and of all parts' boxes.
    """

    one: Floats
    every: Floats
    pixels: Floats | None
    box_iou: float
    pointing: float
    energy: float
    rank_accuracy: float


@dataclass(frozen=True)
class AttentionScores:
    """The measures of one kind of map over the samples, each from 0 to 1; None where it cannot be said.

    >>> report.baselines["centre"].pointing
    0.879
    """

    maxboxacc_v2: float | None = None
    maxboxacc: float | None = None
    pxap: float | None = None
    gt_known: float | None = None
    top1: float | None = None
    top5: float | None = None
    pointing: float | None = None
    energy: float | None = None
    rank_accuracy: float | None = None


@dataclass(frozen=True)
class ScoreReport(AttentionScores):
    """What :func:`score_attention` found. ``print(report)`` gives the table.

    >>> report.maxboxacc_v2, report.intervals["maxboxacc_v2"], report.baselines["centre"].maxboxacc_v2
    (0.637, (0.621, 0.652), 0.525)

    Attributes:
        run: whose maps they are.
        samples: what was scored.
        count: how many samples have a score.
        skipped: how many have none, by reason.
        intervals: of each measure 95% of the bootstrap's draws of samples.
        held_out: the measures that choose a threshold, with the threshold of one half used on the other.
        baselines: the same measures of maps that know nothing: ``"whole"``, ``"centre"``, ``"random"``; and of the mean
            of the feature maps, ``"class_free"``, where the classifier was given.
        settings: with what settings it was made.
    """

    run: CamRun = field(kw_only=True)
    samples: Collection = field(kw_only=True)
    count: int = field(kw_only=True)
    skipped: Mapping[str, int] = field(kw_only=True)
    intervals: Mapping[str, tuple[float, float]] = field(kw_only=True)
    held_out: Mapping[str, float] = field(kw_only=True)
    baselines: Mapping[str, AttentionScores] = field(kw_only=True)
    settings: Mapping[str, Any] = field(kw_only=True)

    def describe(self) -> Summary:
        """The table in words: a row for each measure, the baselines beside it.

        >>> report.describe().tables[0].header
        ('measure', 'maps', '95% interval', 'held out', 'whole', 'centre', 'random')
        """
        rows = [("samples", f"{self.count:,} scored")]
        rows += [("", f"{count:,} x {reason}") for reason, count in Counter(self.skipped).most_common()]
        header = ("measure", "maps", "95% interval", "held out", *self.baselines)
        body = []
        for name, words in WORDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            low, high = self.intervals[name]
            rest = [percent(getattr(scores, name)) for scores in self.baselines.values()]
            body.append([words, percent(value), f"{low:.1%} to {high:.1%}", percent(self.held_out.get(name)), *rest])
        title = f"Scores of the maps of run {self.run.key!r} on {self.run.dataset.name!r}"
        return Summary(title, rows, [Table("", header, body)])

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


class Tally:
    """Collects the scores of samples, of the run's maps (``"map"``) and of each baseline.

    Args:
        thresholds: those of :attr:`PlaceScores.one`.

    Attributes:
        skipped: how many samples have no score, by reason.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = thresholds
        self.skipped: Counter[str] = Counter()
        self._scores: dict[str, list[PlaceScores]] = {}
        self._right: list[bool | None] = []
        self._among_five: list[bool | None] = []

    def __len__(self) -> int:
        return len(self._scores.get("map", ()))

    def add(self, name: str, scores: PlaceScores, right: bool | None, among_five: bool | None) -> None:
        """Note the scores of one kind of map on a sample."""
        self._scores.setdefault(name, []).append(scores)
        if name == "map":
            self._right.append(right)
            self._among_five.append(among_five)

    def report(self, run: CamRun, samples: Collection, settings: Mapping[str, Any], seed: int) -> ScoreReport:
        """The report of all samples."""
        tables = {name: _Table(scores, self._right, self._among_five) for name, scores in self._scores.items()}
        mine, count = tables.pop("map"), len(self)
        everything = np.ones((1, count))
        random = np.random.default_rng(seed)
        drawn = random.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
        values = {name: _only(found) for name, found in mine.measures(everything).items()}
        intervals = {
            name: (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975)))
            for name, found in mine.measures(drawn).items()
        }
        return ScoreReport(
            **values,
            run=run,
            samples=samples,
            count=count,
            skipped=dict(self.skipped),
            intervals=intervals,
            held_out=mine.held_out(random.permutation(count) < count // 2) if count > 1 else {},
            baselines={
                name: AttentionScores(**{key: _only(found) for key, found in tables[name].measures(everything).items()})
                for name in ("whole", "centre", "random", "class_free")
                if name in tables
            },
            settings=settings,
        )


class _Table:
    """The scores of one kind of map as arrays over samples, and measures of weighted samples."""

    def __init__(
        self, scores: Sequence[PlaceScores], right: Sequence[bool | None], among_five: Sequence[bool | None]
    ) -> None:
        one, every = (np.stack([getattr(s, name) for s in scores]) for name in ("one", "every"))
        self._hits = [(every >= iou).astype(np.float32) for iou in IOUS]
        self._largest = (one >= 0.5).astype(np.float32)
        self._pixels = [s.pixels for s in scores]
        found = np.array([s.box_iou >= 0.5 for s in scores], np.float64)
        self._plain = {"gt_known": found}
        for name, known in (("top1", right), ("top5", among_five)):
            if None not in known:
                self._plain[name] = found * np.array(known, np.float64)
        for name in ("pointing", "energy", "rank_accuracy"):
            self._plain[name] = np.array([getattr(s, name) for s in scores], np.float64)

    def measures(self, weights: Floats) -> dict[str, Floats]:
        """Each measure for each row of weights, ``(draws, samples)``."""
        share = weights / weights.sum(1, keepdims=True)
        found = {name: share @ values for name, values in self._plain.items()}
        found["maxboxacc"] = (share @ self._largest).max(1)
        found["maxboxacc_v2"] = np.mean([(share @ hits).max(1) for hits in self._hits], axis=0)
        with_masks = [i for i, pixels in enumerate(self._pixels) if pixels is not None]
        if with_masks:
            counts = np.stack([pixels for pixels in self._pixels if pixels is not None])
            summed = np.einsum("ds,skt->dkt", weights[:, with_masks], counts)
            found["pxap"] = np.array([pixel_average_precision(each) or 0.0 for each in summed])
        return {name: found[name] for name in (entry.name for entry in fields(AttentionScores)) if name in found}

    def held_out(self, first: NDArray[np.bool_]) -> dict[str, float]:
        """The measures that choose a threshold: chosen on one half, taken on the other; the mean of both ways."""

        def across(hits: NDArray[np.float32]) -> float:
            means = [hits[part].mean(0) for part in (first, ~first)]
            return float((means[1][means[0].argmax()] + means[0][means[1].argmax()]) / 2)

        return {
            "maxboxacc_v2": float(np.mean([across(hits) for hits in self._hits])),
            "maxboxacc": across(self._largest),
        }


def _only(values: Floats) -> float:
    return float(values[0])
