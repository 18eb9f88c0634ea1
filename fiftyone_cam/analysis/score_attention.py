"""A scorecard of a run's maps, in the field's own measures, beside baselines that look at nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.analysis.score_report import PlaceScores, ScoreReport, Tally
from fiftyone_cam.core import evidence, localization
from fiftyone_cam.core.boxes import WHOLE, Box
from fiftyone_cam.core.errors import CamError, FieldError
from fiftyone_cam.core.names import CONTRAST, TOP
from fiftyone_cam.core.regions import Cells, Polygon, Shape, partition
from fiftyone_cam.core.results import Failure
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import ObjectLabels, Scene, field_names
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.heatmaps import MapReader, StoredMap

if TYPE_CHECKING:
    from fiftyone_cam.core.class_free import FeatureMean

_TYPES: dict[str, dict[str, Any]] = {
    "box_iou": {"ftype": fo.FloatField},
    "pointing": {"ftype": fo.BooleanField},
    "energy": {"ftype": fo.FloatField},
    "rank_accuracy": {"ftype": fo.FloatField},
}


def score_attention(
    samples: Collection,
    key: str = "cam",
    objects: str | Sequence[str] | None = None,
    *,
    ground_truth: str | None = None,
    object_labels: ObjectLabels = None,
    box_threshold: float = 0.2,
    interval: float = 0.01,
    seed: int = 0,
    classifier: Any = None,
    progress: Any = None,
) -> ScoreReport:
    """Score how well a run's maps find the object, from stored grids: no image is read and no network is run.

    Each map is that of the true class where the ground truth is known (*GT-known*; where the prediction is wrong it is
    the stored map minus the contrastive one), else that of the prediction. The measures, and where they come from:

    - ``maxboxacc``, ``maxboxacc_v2``, ``pxap``: Choe et al., CVPR 2020; each threshold is the best of all for these
      samples, as in the paper. ``held_out`` has the honest figure: the threshold is chosen on one half of the samples
      and used on the other.
    - ``gt_known``, ``top1``, ``top5``: the box of the largest part above ``box_threshold`` of the maximum (Zhou et al.,
      CVPR 2016) overlaps an object by half; for the last two the true class is the prediction, or among the five
      strongest (of a run with ``top_k`` of 5 or more).
    - ``pointing``: the strongest place is on the object, or at most 15 of 224 pixels beside it (Zhang et al., 2016).
    - ``energy``: the object's share of the positive evidence (Wang et al., 2020); the audit's ``inside`` is the same
      for the predicted class. ``rank_accuracy``: its share of the strongest pixels (Arras et al., 2022).

    ``report.baselines`` has the same for maps that know nothing: ``"whole"`` (everywhere alike), ``"centre"`` (a bump
    in the middle) and ``"random"`` (random cells). With ``classifier`` the network runs once an image, for a fourth:
    ``"class_free"``, the mean of the feature maps. It knows where the network sees anything, and no class; stored maps
    do not hold it. :func:`score_faithfulness` scores what else needs the network.

    Writes, for each sample, ``{key}_box_iou``, ``{key}_pointing``, ``{key}_energy`` and ``{key}_rank_accuracy``.

    Args:
        samples: a dataset or view with the results of :func:`compute_cam`.
        key: its run.
        objects: the field, or fields, that say where things are, as in :func:`audit`; by default the audit's.
        ground_truth: a ``Classification`` field with the true class; by default the run's.
        object_labels: more labels that mean the object, as in :func:`audit`.
        box_threshold: the share of the map's maximum, for the paper's box.
        interval: between the thresholds of Choe et al.; their own is 0.001, which takes two and a half times as long.
        seed: of the random baseline, of the halves and of the bootstrap.
        classifier: as for :func:`compute_cam`, the one that the run was made with; only for ``"class_free"``.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`ScoreReport`; print it for the table.

    Raises:
        RunError: there is no such run, it is being computed, or it was made with another classifier.
        FieldError: a field is missing, of the wrong type, or nothing in it is an object.
        CamError: a threshold is none.

    >>> report = focam.score_attention(dataset, "cam", objects="animals")
    >>> report.maxboxacc_v2, report.baselines["centre"].maxboxacc_v2
    (0.637, 0.525)
    """
    if not 0 < box_threshold <= 1:
        raise CamError(f"box_threshold is {box_threshold}, expected a share of the maximum: above 0, at most 1")
    if not 0.001 <= interval <= 0.5:
        raise CamError(f"interval is {interval}, expected 0.001 to 0.5")
    collection, run = finished_run(samples, key)
    scorer = _Scorer(collection, run, objects, ground_truth, object_labels, box_threshold, interval, seed)
    bulk.require(collection, scorer.paths)
    with contextlib.ExitStack() as stack:
        if classifier is not None:
            from fiftyone_cam.analysis.feature_means import read_feature_means  # PyTorch: only who asks waits for it

            scorer.class_free = _ById(
                stack.enter_context(contextlib.closing(read_feature_means(collection, run, classifier)))
            )
        _write_scores(run, collection, scorer, progress)
    if not len(scorer.tally):
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in scorer.tally.skipped.most_common())
        raise FieldError(f"none of the samples can be scored: {reasons or 'there are no samples'}")
    run.arrange()
    return scorer.tally.report(run, collection, scorer.settings, seed)


def _write_scores(run: CamRun, collection: Collection, scorer: _Scorer, progress: Any) -> None:
    path = run.claim_fields(_TYPES)
    for rows in bulk.chunks(collection, scorer.paths, progress):
        values = {}
        for row in rows:
            found = scorer.score(row)
            scores: dict[str, Any] = {} if found is None else found._asdict()
            values[row["id"]] = {path[name]: scores.get(name) for name in _TYPES}
        bulk.write(run.dataset, values)


class _ById:
    """Results that come in the order of the samples, for a reader who asks by id and may leave some out."""

    def __init__(self, results: Generator[FeatureMean | Failure]) -> None:
        self._results = results
        self._found: dict[str, FeatureMean | Failure] = {}

    def __call__(self, id: str) -> FeatureMean | None:
        while id not in self._found:
            result = next(self._results)
            self._found[result.id] = result
        found = self._found.pop(id)
        return None if isinstance(found, Failure) else found


class _Score(NamedTuple):
    """What a sample's fields get."""

    box_iou: float
    pointing: bool
    energy: float
    rank_accuracy: float


class _Scorer:
    """Scores one sample after the other, and its baselines."""

    def __init__(
        self,
        samples: Collection,
        run: CamRun,
        objects: str | Sequence[str] | None,
        ground_truth: str | None,
        object_labels: ObjectLabels,
        box_threshold: float,
        interval: float,
        seed: int,
    ) -> None:
        record = run.record
        ground_truth = run.ground_truth if ground_truth is None else ground_truth
        if objects is None:
            if record.audit is None or not record.audit.objects:
                raise FieldError("say where the objects are: objects='a field of boxes, polygons or masks'")
            objects = record.audit.objects
        names = field_names(objects)
        run.refuse_own([] if ground_truth is None else [ground_truth], "ground truth")
        run.refuse_own(names, "objects")
        self.truth = GroundTruth.read(samples, ground_truth, run.classes, record.settings.class_map)
        self.scene = Scene(samples, names, object_labels, ground_truth)
        self.scene.check(samples)
        self.box_threshold = box_threshold
        self.thresholds = np.arange(0, 1, interval).tolist()
        self._random = np.random.default_rng(seed)
        self._reader = MapReader(run)
        known = run.field(CONTRAST) in run.fields
        self._contrast = MapReader(run, CONTRAST) if known else None
        self._true = None if ground_truth is None else f"{ground_truth}.label"
        top = run.field(TOP)
        self._top = f"{top}.classifications.label" if record.settings.top_k >= 5 and top in run.fields else None
        self.paths = [*self._reader.paths, *(self._contrast.paths if self._contrast else []), *self.scene.paths]
        self.paths += [self._top] if self._top else []
        self.settings = {**self.scene.settings, "box_threshold": box_threshold, "interval": interval, "seed": seed}
        self.tally = Tally(self.thresholds)
        self.class_free: _ById | None = None
        self._centre = _centre(localization.SIDE)
        self._centre_box = evidence.evidence_box(self._centre, WHOLE, WHOLE, box_threshold) or WHOLE
        self._centre_outlines = localization.Outlines.of(self._centre, self.thresholds)

    def score(self, row: Any) -> _Score | None:
        """Score one sample; None, and counted by its reason, where that cannot be done."""
        found = self._read(row)
        free = self.class_free(row["id"]) if self.class_free else None
        if isinstance(found, str):
            self.tally.skipped[found] += 1
            return None
        stored, right, among_five = found
        try:
            shapes = self.scene.object(row)
        except OSError:
            self.tally.skipped["its object cannot be read"] += 1
            return None
        target = _Target.of(shapes)
        if target is None:
            self.tally.skipped["no object"] += 1
            return None
        if free is not None:
            about = stored._replace(grid=free.grid, box=free.box, seen=free.seen)
            scores = self._score_map(about, partition([shapes], about.cells), target)
            self.tally.add("class_free", scores, right, among_five)
        elif self.class_free is not None:  # all figures are of the same samples
            self.tally.skipped["its image cannot be read again"] += 1
            return None
        coverage = partition([shapes], stored.cells)
        noise = stored._replace(grid=self._random.random(stored.grid.shape).astype(np.float32))
        mine = self._score_map(stored, coverage, target)
        self.tally.add("map", mine, right, among_five)
        self.tally.add("random", self._score_map(noise, coverage, target), right, among_five)
        self.tally.add("centre", self._score_centre(target), right, among_five)
        self.tally.add("whole", self._score_whole(target), right, among_five)
        return _Score(mine.box_iou, mine.pointing > 0, mine.energy, mine.rank_accuracy)

    def _read(self, row: Any) -> tuple[StoredMap, bool | None, bool | None] | str:
        """The map to score, whether the prediction is right, whether the truth is among five; or why there is none."""
        stored = self._reader.read(row)
        if stored is None:
            return "no map"
        if self._true is None:
            return stored, None, None
        right = self.truth.is_right(stored.label, row[self._true])
        if right is None:
            return "no ground truth" if row[self._true] is None else "its label matches no class"
        among = None
        if self._top is not None:
            among = any(self.truth.is_right(label, row[self._true]) for label in row[self._top] or ())
        if right:
            return stored, True, among
        contrast = self._contrast.read(row) if self._contrast else None
        if contrast is None:
            return "no map of the true class"
        return stored._replace(grid=stored.grid - contrast.grid), False, among

    def _score_map(self, stored: StoredMap, coverage: NDArray[np.float64], target: _Target) -> PlaceScores:
        scores = localization.score_map(stored.grid, stored.box, stored.seen)
        share = evidence.shares(stored.grid, coverage)
        box = evidence.evidence_box(stored.grid, stored.box, stored.seen, self.box_threshold)
        row, column = np.unravel_index(int(stored.grid.argmax()), stored.grid.shape)
        x, y, width, height = stored.box
        return self._scores(
            scores,
            localization.Outlines.of(scores, self.thresholds),
            target,
            box_iou=0.0 if box is None else target.iou(box),
            pointing=target.points_at(
                x + width * (column + 0.5) / stored.grid.shape[1], y + height * (row + 0.5) / stored.grid.shape[0]
            ),
            energy=float(np.nan_to_num(share[0])),  # a map without evidence holds none there
        )

    def _score_centre(self, target: _Target) -> PlaceScores:
        return self._scores(
            self._centre,
            self._centre_outlines,
            target,
            box_iou=target.iou(self._centre_box),
            pointing=target.points_at(0.5, 0.5),
            energy=float(self._centre[target.raster].sum() / self._centre.sum()),
        )

    def _scores(
        self,
        scores: NDArray[np.float64],
        outlines: localization.Outlines,
        target: _Target,
        *,
        box_iou: float,
        pointing: float,
        energy: float,
    ) -> PlaceScores:
        one, every = outlines.best_ious(target.boxes)
        return PlaceScores(
            one=one,
            every=every,
            pixels=self._pixels(scores, target),
            box_iou=box_iou,
            pointing=pointing,
            energy=energy,
            rank_accuracy=localization.rank_accuracy(scores, target.raster) or 0.0,
        )

    def _score_whole(self, target: _Target) -> PlaceScores:
        """A map that is equal everywhere: its box is the image, its strongest place any."""
        ious = np.full(len(self.thresholds), target.iou(WHOLE))
        area = float(target.raster.mean())
        return PlaceScores(
            one=ious,
            every=ious,
            pixels=self._pixels(np.ones(target.raster.shape), target),
            box_iou=float(ious[0]),
            pointing=float(target.near.mean()),
            energy=area,
            rank_accuracy=area,
        )

    def _pixels(self, scores: NDArray[np.float64], target: _Target) -> NDArray[np.float64] | None:
        return localization.pixel_counts(scores, target.raster, self.thresholds) if target.masks else None


@dataclass(frozen=True)
class _Target:
    """What a map should find on a sample, on the raster of a score map.

    ``raster`` are the object's pixels, ``near`` those that the pointing game takes, ``boxes`` ``(n, 4)``; ``masks``:
    the annotation says more than boxes do.
    """

    raster: NDArray[np.bool_]
    near: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    masks: bool

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> _Target | None:
        """None where the shapes hold no pixel."""
        side = localization.SIDE
        raster = partition([shapes], Cells.of((side, side), WHOLE, WHOLE))[0] > 0.5
        if not raster.any():
            return None
        bounds = [localization.to_pixels(box) for box in map(_bounds, shapes) if box is not None]
        masks = any(not _is_box(shape) for shape in shapes)
        return cls(raster, localization.near(raster), np.array(bounds, np.int64), masks)

    def iou(self, box: Box) -> float:
        return float(localization.box_ious(np.array([localization.to_pixels(box)], np.int64), self.boxes).max())

    def points_at(self, x: float, y: float) -> float:
        row, column = (int(np.clip(value * localization.SIDE, 0, localization.SIDE - 1)) for value in (y, x))
        return float(self.near[row, column])


def _centre(side: int) -> NDArray[np.float64]:
    """A bump in the middle of the image; its width, a quarter of the side, matters to the paper's box alone."""
    at = (np.arange(side) + 0.5) / side - 0.5
    bump = np.exp(-(at**2) / (2 * 0.25**2))
    scores: NDArray[np.float64] = np.outer(bump, bump)
    return (scores - scores.min()) / (scores.max() - scores.min())


def _bounds(shape: Shape) -> Box | None:
    """The box around a shape, on the image; None where it has no area there."""
    if isinstance(shape, Polygon):
        corners = np.concatenate(shape.rings)
        (left, top), (right, bottom) = corners.min(0), corners.max(0)
    else:
        rows, columns = (np.flatnonzero(shape.pixels.any(axis)) for axis in (1, 0))
        if not len(rows):
            return None
        x, y, width, height = shape.box
        tall, wide = shape.pixels.shape
        left, right = x + width * columns[0] / wide, x + width * (columns[-1] + 1) / wide
        top, bottom = y + height * rows[0] / tall, y + height * (rows[-1] + 1) / tall
    left, top, right, bottom = (float(np.clip(value, 0, 1)) for value in (left, top, right, bottom))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _is_box(shape: Shape) -> bool:
    """Whether a shape says no more than its box does."""
    if not isinstance(shape, Polygon) or len(shape.rings) != 1 or len(shape.rings[0]) != 4:
        return False
    x, y = shape.rings[0].T
    return len(set(x.tolist())) == 2 and len(set(y.tolist())) == 2
