"""Finding concepts: one forward over a collection, clusters of cells, and sums over them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

import fiftyone.core.utils as fou
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.classifiers.classifier import Classifier, load_classifier
from fiftyone_cam.concepts import fields, rows
from fiftyone_cam.concepts.report import ConceptReport
from fiftyone_cam.core import class_maps, concepts
from fiftyone_cam.core.concept_effects import Effects
from fiftyone_cam.core.concept_reader import BlurredItem, BlurredReader, CellReader, SumsReader, affine
from fiftyone_cam.core.concept_sums import Affine, CellFeatures, ImageSums, summarise
from fiftyone_cam.core.errors import CamError, expect_whole
from fiftyone_cam.core.explain import BatchRunner
from fiftyone_cam.core.names import CONCEPTS, PRECISIONS
from fiftyone_cam.core.network import check_precision, resolve_device
from fiftyone_cam.core.results import Failure, Item, Outcome
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset import database
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import GroundTruth, check_field
from fiftyone_cam.dataset.media import read_files
from fiftyone_cam.engines import local
from fiftyone_cam.engines import ray as ray_engine
from fiftyone_cam.engines.settings import Engine, Ray, as_engine
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.concept_record import Concept, ConceptExample, ConceptsRecord, PixelCheck
from fiftyone_cam.runs.concept_sums import CHUNK, Sums
from fiftyone_cam.runs.interruption import terminable

logger = logging.getLogger(__name__)

MOST_FITTED = 2000
"""Images, drawn at random, whose cells are clustered; those of all others are assigned."""

_FITTED_BYTES = 640 << 20
"""Features that are kept until there are clusters; with larger feature maps fewer images are clustered."""

CHECKED, BLURRED = 10, 50
"""How many concepts have a pixel check, of how many images each."""

EXAMPLES = 10
"""Most telling places that are kept of each concept."""

_R = TypeVar("_R", bound=Outcome)


def find_concepts(
    samples: Collection,
    key: str,
    classifier: Any,
    ground_truth: str | None = None,
    *,
    class_map: Mapping[str, str] | str | None = None,
    count: int | None = None,
    seed: int = 51,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    engine: str | Engine = "local",
    map_places: int = 100_000,
    progress: bool | Callable[[Any], None] | None = None,
) -> ConceptReport:
    """Find what predictions are made of, without annotations.

    The features of all cells are clustered over the collection. Each cell of each image then belongs to one *concept*,
    and every logit is a sum over concepts, without a remainder. So for each concept it is known what share of the
    evidence it holds, what part of the errors is its (blame), and what all predictions would be without it: how many
    errors it would put right (repaired), how many hits it would cost (broken). Concepts come in the order of the
    difference, smoothed. The first ones also have a pixel check: their cells are blurred, and the network runs again.

    Runs the network once over the images, and for pixel checks at most 500 times more. It needs about 1.1 GB beside the
    network, and hardly more with more images (``docs/concepts.md``), and on disk about 35 kB an image for 1,280
    features. If it is interrupted, the same call goes on.

    Writes ``{key}_concepts`` (``fo.Detections``): each connected place of a concept that holds evidence for the
    prediction, at most eight an image, with the concept's name as label, ``confidence`` (its share of the image's
    positive evidence), ``evidence`` (logit units), ``mask``, ``correct`` (the prediction) and, on errors, ``blame``.
    Their map is registered for the Embeddings panel under the brain key ``{key}_concepts``.

    Args:
        samples: a dataset or view of images; concepts are found in these alone: errors, one class, one confusion.
        key: a run of :func:`compute_cam`. A run has one set of concepts: a new one replaces it.
        classifier: as for :func:`compute_cam`; the one that the run was made with.
        ground_truth: a ``Classification`` field with the true class; by default the run's.
        class_map: translates predicted labels into the ground truth's words; by default the run's.
        count: how many concepts; by default one for each 250 cells, from 16 to 128.
        seed: of all draws: the same seed gives the same concepts.
        batch_size: images per forward.
        device: as for :func:`compute_cam`.
        precision: of the forward.
        engine: ``"local"``, ``"ray"``, :class:`Local` or :class:`Ray`.
        map_places: how many places are on the map at most, by lot, of each concept as many as of the others, or all.
            Of more than 100,000 FiftyOne's panel lights up what is in the view only after one more click.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`ConceptReport`; print it for the table.

    Raises:
        RunError: there is no such run, it is being computed, or it was made with other weights.
        FieldError: the ground truth is missing, or of another type.
        CamError: a setting makes no sense, or there are too few cells.

    >>> report = focam.find_concepts(dataset, "cam", classifier, ground_truth="ground_truth")
    >>> print(report)
    >>> dataset.to_patches("cam_concepts")
    """
    if precision not in PRECISIONS:
        raise CamError(f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    expect_whole(2, count=count)
    expect_whole(1, batch_size=batch_size)
    expect_whole(0, map_places=map_places, seed=seed)
    collection, run = finished_run(samples, key)
    engine = as_engine(engine, device)
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    truth = _truth(collection, run, classifier, ground_truth, class_map)
    if isinstance(engine, Ray):
        classifier.network.to("cpu")  # from where the actors get it
    else:
        check_precision(resolve_device(device), precision)
    search = _Search(run, classifier, truth, seed, count, precision, engine, device, batch_size, map_places, progress)
    with terminable():
        return search.report(samples, collection)


def _truth(
    samples: Collection,
    run: CamRun,
    classifier: Classifier,
    ground_truth: str | None,
    class_map: Mapping[str, str] | str | None,
) -> GroundTruth:
    settings = run.record.settings
    if ground_truth is None and settings.ground_truth is not None:
        several = check_field(samples, settings.ground_truth, several=True)
        ground_truth = None if several else settings.ground_truth
    run.refuse_own([] if ground_truth is None else [ground_truth], "ground truth")
    given = class_maps.resolve(class_map, classifier.classes)
    words = settings.class_map if given is None else given
    return GroundTruth.read(samples, ground_truth, classifier.classes, words)


class _Search:
    """One search: its settings, and the steps."""

    def __init__(
        self,
        run: CamRun,
        classifier: Classifier,
        truth: GroundTruth,
        seed: int,
        count: int | None,
        precision: str,
        engine: Engine,
        device: str | None,
        batch_size: int | None,
        map_places: int,
        progress: Any,
    ) -> None:
        self.run, self.truth, self.seed, self.count, self.precision = run, truth, seed, count, precision
        self._engine, self._device, self._progress, self._map_places = engine, device, progress, map_places
        self._classifier = classifier
        self._network = classifier.network.for_inference()
        if not isinstance(engine, Ray):
            self._network.to(resolve_device(device))
        self._head: Affine | None = affine(self._network.head)
        self._batch_size = batch_size or self._network.batch_size()

    def report(self, samples: Collection, collection: Collection) -> ConceptReport:
        items = self._items(collection)
        sums = self._begin(items)
        with fou.ProgressBar(total=len(items), progress=self._progress) as bar:
            found = self._clusters(items, sums, bar)
            self._stream(items, sums, found, bar)
        self._finish(items, sums, found)
        record = self.run.record.concepts
        assert record is not None
        return ConceptReport(self.run, samples, record.concepts, record.judged, record.errors)

    def _items(self, samples: Collection) -> list[Item]:
        """What is to be read, in random order, so that the first ones are like all."""
        files = read_files(samples, self.run.media_field)
        labels = samples.values(f"{self.truth.field}.label") if self.truth.field else [None] * len(files)
        items = [Item(*file, self.truth.indices(label)) for file, label in zip(files, labels, strict=True)]
        return [items[i] for i in np.random.default_rng(self.seed).permutation(len(items))]

    def _begin(self, items: Sequence[Item]) -> Sums:
        """Go on with what was interrupted, or begin anew."""
        entries = [self._classifier.fingerprint, self.seed, self.count, self.precision]
        entries.append([[item.id, list(item.truth)] for item in items])
        digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
        before = self.run.record.concepts
        if before is not None and not before.complete and before.digest == digest:
            return Sums(before.folder)
        self.run.delete_concepts()
        sums = Sums.new()
        class_map = self.truth.class_map
        self.run.update(
            concepts=ConceptsRecord(
                folder=sums.name,
                digest=digest,
                ground_truth=self.truth.field,
                class_map=None if class_map is None else sorted(map(list, class_map.items())),
                seed=self.seed,
                precision=self.precision,
                grade=self._network.head.grade,
                removable=self._head is not None,
                revision=self.run.record.revision,
                written=[CONCEPTS],
            )
        )
        return sums

    def _run(self, items: Sequence[Item], runner: BatchRunner[_R]) -> Generator[_R | Failure, None, None]:
        if isinstance(self._engine, Ray):
            return ray_engine.explain_all(items, runner, self._batch_size, Timing(), self._engine, self._device)
        return local.explain_all(items, runner, self._batch_size, self._engine.num_workers, Timing())

    def _clusters(self, items: Sequence[Item], sums: Sums, bar: Any) -> concepts.Concepts:
        """The clusters, of the first images' cells. These images are then done."""
        saved = sums.load_concepts()
        if saved is not None:
            return concepts.Concepts.from_arrays(saved)
        kept: dict[str, CellFeatures] = {}
        failures: list[Failure] = []
        size = 0
        with contextlib.closing(self._run(items[:MOST_FITTED], CellReader(self._network, self.precision))) as results:
            for result in results:
                bar.update()
                if isinstance(result, Failure):
                    failures.append(result)
                    continue
                kept[result.id] = result
                size += result.features.nbytes
                if size >= _FITTED_BYTES:
                    break
        ordered = [kept[item.id] for item in items if item.id in kept]
        if not ordered:
            reasons = Counter(failure.reason for failure in failures)
            raise CamError(f"none of {len(failures)} images can be read: {reasons.most_common(1)[0][0]}")
        found = concepts.fit(some_cells(ordered, self.seed), self.count, self.seed)
        head = {} if self._head is None else self._head._asdict()
        sums.save_concepts({**found.to_arrays(), **head})
        for start in range(0, len(ordered), CHUNK):
            part = [summarise(cells, found, self._head) for cells in ordered[start : start + CHUNK]]
            sums.add([*part, *(failures if start == 0 else [])], len(found))
        return found

    def _stream(self, items: Sequence[Item], sums: Sums, found: concepts.Concepts, bar: Any) -> None:
        done = sums.done()
        left = [item for item in items if item.id not in done]
        bar.update(len(done) - bar.iteration)
        waiting: list[ImageSums | Failure] = []
        if not left:
            return
        with contextlib.closing(self._run(left, SumsReader(self._network, found, self.precision))) as results:
            for result in results:
                waiting.append(result)
                bar.update()
                if len(waiting) == CHUNK:
                    sums.add(waiting, len(found))
                    waiting = []
        if waiting:
            sums.add(waiting, len(found))

    # what comes of the sums

    def _finish(self, items: Sequence[Item], sums: Sums, found: concepts.Concepts) -> None:
        ids, effects = sums.effects(len(found))
        weight = None if self._head is None else self._head.weight
        classes = rows.spoken_for(effects, self._classifier.classes, sums.totals(), weight)
        listed = [
            Concept(name="", number=number, speaks_for=speaks_for, speaks_against=against)
            for number, (speaks_for, against) in enumerate(classes)
        ]
        listed = rows.measured(listed, effects, rows.held_out(ids.tolist(), self.seed), self.seed)
        for rank, concept in enumerate(listed, 1):
            concept.name = f"concept {rank}"
        self._look(listed, items, sums, ids, effects)
        self._write(listed, items, sums, found)
        failures = Counter(reason for reason in sums.done().values() if reason is not None)
        record = self.run.record.concepts
        assert record is not None
        record.concepts = listed
        record.samples = len(ids)
        record.judged, record.errors = int(effects.known.sum()), int(effects.wrong.sum())
        record.failures = dict(failures.most_common())
        record.found_at = datetime.now(timezone.utc).isoformat()
        record.complete = True
        database.refresh(self.run.dataset)
        self.run.update(concepts=record)

    def _look(
        self, listed: list[Concept], items: Sequence[Item], sums: Sums, ids: NDArray[np.str_], effects: Effects
    ) -> None:
        """Add examples of all concepts, and the pixel checks of the first ones."""
        telling = [ids[chosen].tolist() for chosen in rows.telling(effects, EXAMPLES)]
        checked = {c.number: _to_blur(effects, c.number) for c in listed[:CHECKED]}
        wanted: dict[str, set[int]] = {}
        for number, chosen in enumerate(telling):
            for id in chosen:
                wanted.setdefault(id, set()).add(number)
        for number, indices in checked.items():
            for i in indices:
                wanted.setdefault(str(ids[i]), set()).add(number)
        boxes: dict[tuple[str, int], list[float]] = {}
        cells: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for some in (some for chunk in sums.chunks() for some in fields.images(chunk)):
            for i, id in enumerate(some.ids):
                for number in wanted.get(id, ()):
                    cells[id, number] = some.assigned[i] == number
                    if box := fields.box_of(some, i, number):
                        boxes[id, number] = list(box)
        for concept in listed:
            n = concept.number
            concept.examples = [ConceptExample(sample=id, box=boxes[id, n]) for id in telling[n] if (id, n) in boxes]
        self._check_pixels({c.number: c for c in listed}, checked, items, cells, ids, effects)

    def _check_pixels(
        self,
        by_number: Mapping[int, Concept],
        checked: Mapping[int, Sequence[int]],
        items: Sequence[Item],
        cells: Mapping[tuple[str, int], NDArray[np.bool_]],
        ids: NDArray[np.str_],
        effects: Effects,
    ) -> None:
        paths = {item.id: item.path for item in items}
        asked: dict[str, tuple[int, int]] = {}
        blurred = []
        for number, indices in checked.items():
            for i in indices:
                name, id = f"{number} {i}", str(ids[i])
                asked[name] = (number, i)
                blurred.append(BlurredItem(name, paths[id], cells=cells[id, number]))
        counts: dict[int, Counter[str]] = {number: Counter() for number in checked}
        if not blurred:
            return
        with (
            contextlib.closing(self._run(blurred, BlurredReader(self._network, self.precision))) as results,
            fou.ProgressBar(total=len(blurred), progress=self._progress) as bar,
        ):
            for result in results:
                bar.update()
                if isinstance(result, Failure):
                    continue
                number, i = asked[result.id]
                before, said = int(effects.predicted[i]), int(effects.predicted_without[i, number])
                kind, did = ("stays", "stayed") if said in (before, -1) else ("changes", "changed")
                counts[number][kind] += 1
                counts[number][did] += result.predicted == (before if kind == "stays" else said)
        for number, counter in counts.items():
            by_number[number].pixels = PixelCheck(
                **{name: counter[name] for name in ("changes", "changed", "stays", "stayed")}
            )

    def _write(self, listed: Sequence[Concept], items: Sequence[Item], sums: Sums, found: concepts.Concepts) -> None:
        """The places into the database, and their map."""
        with fou.ProgressBar(total=len(items), progress=self._progress) as bar:
            points = fields.write_places(self.run, sums, {c.number: c.name for c in listed}, bar.update)
        self.run.index(CONCEPTS, "detections.label")
        fields.declare_attributes(self.run)
        layout = concepts.layout(found.centres, self.seed)
        deviation = float(np.abs(found.centres).std()) or 1.0
        placed = fields.place_on_map(points, layout, 0.1 * float(np.abs(layout).max() or 1.0) / deviation / 10)
        drawn = fields.some_of_each(points.concept, self._map_places, self.seed).tolist()
        record = self.run.record.concepts
        assert record is not None
        record.places, record.mapped = len(points.ids), len(drawn)
        try:
            record.brain = fields.register_map(self.run, {points.ids[i]: placed[i] for i in drawn})
        except Exception:  # of the brain, which is no part of what was found
            logger.warning("the map of concepts is not in the Embeddings panel", exc_info=True)
        self.run.arrange()


def some_cells(images: Sequence[CellFeatures], seed: int) -> NDArray[np.float32]:
    """Cells to cluster, ``(M, K)``: of each image as many, drawn at random.

    >>> some_cells(images, seed=51).shape
    (39200, 1280)
    """
    random = np.random.default_rng(seed)
    most = -(-concepts.MOST_CELLS // len(images))
    chosen = []
    for image in images:
        flat = image.features.reshape(len(image.features), -1).T
        few = np.sort(random.choice(len(flat), most, replace=False)) if len(flat) > most else slice(None)
        chosen.append(flat[few])
    return np.concatenate(chosen)


def _to_blur(effects: Effects, concept: int) -> list[int]:
    """The images of a pixel check: those whose prediction the sum says to change, then those where it holds most."""
    there = np.flatnonzero(effects.held[:, concept] > 0)
    said = effects.predicted_without[there, concept]
    changes = (said != effects.predicted[there]) & (said >= 0)
    order = np.lexsort((-effects.evidence[there, concept], ~changes))
    return [int(i) for i in there[order][:BLURRED]]
