"""Concepts as fields of a dataset: their places as detections, and the map of them for the Embeddings panel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box, as_box
from fiftyone_cam.core.concept_places import find_places, outline
from fiftyone_cam.core.names import CONCEPTS
from fiftyone_cam.dataset import bulk, database
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_sums import Arrays, Sums

DETECTIONS = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Detections}

_DETECTION = bulk.document(
    fo.Detection(
        label="",
        bounding_box=[0, 0, 1, 1],
        mask=np.ones((1, 1), bool),
        confidence=0.0,
        evidence=0.0,
        blame=0.0,
        correct=False,
    )
)


class Images(NamedTuple):
    """``n`` images of a chunk of sums with grids of one shape ``(h, w)``.

    See :class:`fiftyone_cam.core.concept_sums.ImageSums`. ``correct`` is None where nobody knows.
    """

    ids: list[str]
    boxes: list[Box]
    seen: list[Box]
    correct: list[bool | None]
    assigned: NDArray[np.int16]
    evidence: NDArray[np.float32]
    blame: NDArray[np.float32]
    offset: NDArray[np.float16]


def images(chunk: Arrays) -> Iterator[Images]:
    """The images of a chunk of sums, those with grids of one shape together.

    >>> for chunk in sums.chunks():
    ...     for some in images(chunk): ...
    """
    shapes = chunk["shape"]
    starts = np.cumsum(shapes.prod(1)) - shapes.prod(1) if len(shapes) else shapes
    for height, width in sorted({tuple(shape) for shape in shapes.tolist()}):
        which = np.flatnonzero((shapes == (height, width)).all(1))
        cells = (starts[which, None] + np.arange(height * width)).reshape(-1, height, width)
        gaps = chunk["gap"][which].tolist()
        yield Images(
            ids=chunk["ids"][which].tolist(),
            boxes=[as_box(box) for box in chunk["box"][which].tolist()],
            seen=[as_box(box) for box in chunk["seen"][which].tolist()],
            correct=[None if gap != gap else not gap > 0 for gap in gaps],  # NaN: nobody knows
            **{name: chunk[name][cells] for name in ("assigned", "evidence", "blame", "offset")},
        )


class Points(NamedTuple):
    """Places that were written: their labels' ids, their concepts, and how far they lie from the concepts' middles."""

    ids: list[str]
    concept: NDArray[np.integer]
    offset: NDArray[np.floating]


def write_places(run: CamRun, sums: Sums, names: Mapping[int, str], written: Callable[[int], Any]) -> Points:
    """Write the places of concepts into ``{key}_concepts``.

    A place has its concept's name as label, as ``confidence`` its share of the image's positive evidence, ``evidence``
    in logit units, ``correct`` (the prediction) and, where it is wrong, ``blame``: its share of the logit gap.

    Args:
        run: whose concepts they are.
        sums: of all images.
        names: of the concepts, by their numbers.
        written: is called with how many more images are done.

    >>> write_places(run, sums, {0: "concept 1"}, bar.update).ids[0]
    '6565f0d6a1b2c3d4e5f60718'
    """
    path = run.claim_field(CONCEPTS, **DETECTIONS)
    found: list[Points] = []
    with bulk.writing(run.dataset) as put:
        for chunk in sums.chunks():
            values: dict[str, dict[str, Any]] = {str(id): {path: None} for id in chunk["failed"]}
            for some in images(chunk):
                documents, points = _documents(some, names)
                found.append(points)
                values |= {
                    id: {path: {"_cls": "Detections", "detections": of_image}}
                    for id, of_image in zip(some.ids, documents, strict=True)
                }
            put(values)
            written(len(values))
    return Points(
        [id for points in found for id in points.ids],
        np.concatenate([points.concept for points in found]),
        np.concatenate([points.offset for points in found]),
    )


def _documents(some: Images, names: Mapping[int, str]) -> tuple[list[list[dict[str, Any]]], Points]:
    """The labels of each image as plain documents, and where their places lie on the map."""
    places = find_places(some.assigned, some.evidence)
    blame = places.sums(some.blame).tolist()
    documents: list[list[dict[str, Any]]] = [[] for _ in some.ids]
    written, ids = [], []
    columns = (places.image, places.concept, places.share, places.evidence)
    for i, (image, concept, share, evidence) in enumerate(zip(*(each.tolist() for each in columns), strict=True)):
        cells, correct = places.cells[i], some.correct[image]
        drawn = _drawn(cells.tobytes(), cells.shape, some.boxes[image], some.seen[image])
        if drawn is None:
            continue
        document = _DETECTION(
            label=names[concept],
            bounding_box=list(drawn[0]),
            confidence=share,
            evidence=evidence,
            blame=blame[i] if correct is False else None,
            correct=correct,
            mask=drawn[1],
        )
        documents[image].append(document)
        written.append(i)
        ids.append(str(document["_id"]))
    offsets = [places.sums(some.offset[..., axis].astype(np.float32)) for axis in range(some.offset.shape[-1])]
    offset = np.stack(offsets, 1) / places.cells.sum((1, 2))[:, None]
    return documents, Points(ids, places.concept[written], offset[written])


@lru_cache(maxsize=8192)  # few cells make few patterns
def _drawn(cells: bytes, shape: tuple[int, int], box: Box, seen: Box) -> tuple[Box, bytes] | None:
    """Where cells are on an image, and their mask as the database keeps it."""
    where = outline(np.frombuffer(cells, bool).reshape(shape), box, seen)
    return None if where is None else (where[0], bulk.pack(where[1]))


def box_of(some: Images, index: int, concept: int) -> Box | None:
    """Where a concept's strongest place is on an image, whatever its share; None where it is not there."""
    here = slice(index, index + 1)
    found = find_places(some.assigned[here], some.evidence[here], least=0.0, most=some.assigned[index].size)
    mine = [*found.cells[found.concept == concept], some.assigned[index] == concept]
    where = outline(mine[0], some.boxes[index], some.seen[index]) if mine[0].any() else None
    return None if where is None else where[0]


def place_on_map(points: Points, layout: NDArray[np.float32], spread: float) -> NDArray[np.float32]:
    """Where places lie on the map of concepts, ``(m, 2)``: near the middle of each one's concept, by its cells.

    Args:
        points: of :func:`write_places`.
        layout: the middles of the concepts, ``(k, 2)``.
        spread: units of the map for one of the space of features.
    """
    placed: NDArray[np.float32] = layout[points.concept].copy()
    placed[:, : points.offset.shape[1]] += spread * points.offset
    return placed


def some_of_each(concept: NDArray[np.integer], most: int, seed: int) -> NDArray[np.intp]:
    """At most so many places, by lot, of each concept as many as of the others or all: ``(m,)`` to indices, ascending.

    So what is rare is on the map as a whole.

    >>> some_of_each(np.array([0, 0, 0, 0, 1]), most=3, seed=0)
    array([1, 3, 4])
    """
    order = np.random.default_rng(seed).permutation(len(concept))
    order = order[np.argsort(concept[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(concept[order], concept[order])
    chosen: NDArray[np.intp] = np.sort(order[np.argsort(rank, kind="stable")[:most]])
    return chosen


def register_map(run: CamRun, points: Mapping[str, NDArray[np.float32]]) -> bool:
    """Register points of places, by their labels' ids, for the Embeddings panel, under ``{key}_concepts``.

    Returns:
        Whether there is a map: not of no places.
    """
    import fiftyone.brain as fob

    path = run.field(CONCEPTS)
    if not points:
        return False
    if run.dataset.has_brain_run(path):
        run.dataset.delete_brain_run(path)
    fob.compute_visualization(run.dataset, patches_field=path, points=dict(points), brain_key=path, method="manual")
    return True


def declare_attributes(run: CamRun) -> None:
    """Declare what places have beside FiftyOne's own attributes, so that the sidebar filters by it."""
    path = run.field(CONCEPTS)
    for name, kind in (("evidence", fo.FloatField), ("blame", fo.FloatField), ("correct", fo.BooleanField)):
        database.refresh(run.dataset)
        if run.dataset.get_field(f"{path}.detections.{name}") is None:
            run.dataset.add_sample_field(f"{path}.detections.{name}", ftype=kind)
