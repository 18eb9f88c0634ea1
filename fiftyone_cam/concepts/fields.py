"""Concepts as fields of a dataset: their places as detections, and the map of them for the Embeddings panel."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box, as_box
from fiftyone_cam.core.concept_places import Place, outline, places
from fiftyone_cam.core.names import CONCEPTS
from fiftyone_cam.dataset import bulk, database
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_sums import Arrays, Sums

logger = logging.getLogger(__name__)

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


class Image(NamedTuple):
    """One image of a chunk of sums: see :class:`fiftyone_cam.core.concept_sums.ImageSums`."""

    id: str
    box: Box
    seen: Box
    assigned: NDArray[np.int16]
    evidence: NDArray[np.float32]
    blame: NDArray[np.float32]
    offset: NDArray[np.float16]
    correct: bool | None


def images(chunk: Arrays) -> Iterator[Image]:
    """The images of a chunk of sums.

    >>> for chunk in sums.chunks():
    ...     for image in images(chunk): ...
    """
    end = 0
    for i, (h, w) in enumerate(chunk["shape"].tolist()):
        start, end = end, end + h * w
        yield Image(
            id=str(chunk["ids"][i]),
            box=as_box(chunk["box"][i]),
            seen=as_box(chunk["seen"][i]),
            assigned=chunk["assigned"][start:end].reshape(h, w),
            evidence=chunk["evidence"][start:end].reshape(h, w),
            blame=chunk["blame"][start:end].reshape(h, w),
            offset=chunk["offset"][start:end].reshape(h, w, -1),
            correct=None if np.isnan(chunk["gap"][i]) else not chunk["gap"][i] > 0,
        )


class Written(NamedTuple):
    """A place as it was written: its label's id, and the cells."""

    id: str
    place: Place


def write_places(run: CamRun, sums: Sums, names: Mapping[int, str]) -> Iterator[tuple[Image, list[Written]]]:
    """Write the places of concepts into ``{key}_concepts``, and give each image with what was written of it.

    A place has its concept's name as label, as ``confidence`` its share of the image's positive evidence, ``evidence``
    in logit units, ``correct`` (the prediction) and, where it is wrong, ``blame``: its share of the logit gap.

    >>> for image, written in write_places(run, sums, {0: "concept 1"}): ...
    """
    path = run.claim_field(CONCEPTS, **DETECTIONS)
    for chunk in sums.chunks():
        values: dict[str, dict[str, Any]] = {str(id): {path: None} for id in chunk["failed"]}
        found: list[tuple[Image, list[Written]]] = []
        for image in images(chunk):
            documents, written = [], []
            for place in places(image.assigned, image.evidence):
                where = outline(place.cells, image.box, image.seen)
                if where is None:
                    continue
                box, mask = where
                document = _DETECTION(
                    label=names[place.concept],
                    bounding_box=list(box),
                    confidence=place.share,
                    evidence=place.evidence,
                    blame=float(image.blame[place.cells].sum()) if image.correct is False else None,
                    correct=image.correct,
                    mask=bulk.pack(mask),
                )
                documents.append(document)
                written.append(Written(str(document["_id"]), place))
            values[image.id] = {path: {"_cls": "Detections", "detections": documents}}
            found.append((image, written))
        bulk.write(run.dataset, values)
        yield from found


def box_of(image: Image, concept: int) -> Box | None:
    """Where a concept's strongest place is on an image, whatever its share; None where it is not there."""
    found = places(image.assigned, image.evidence, least=0.0, most=len(image.evidence.ravel()))
    mine = [place.cells for place in found if place.concept == concept] or [image.assigned == concept]
    where = outline(mine[0], image.box, image.seen) if mine[0].any() else None
    return None if where is None else where[0]


def register_map(run: CamRun, points: Mapping[str, NDArray[np.float32]]) -> bool:
    """Register points of places, by their labels' ids, for the Embeddings panel, under ``{key}_concepts``.

    Returns:
        Whether FiftyOne could.
    """
    import fiftyone.brain as fob

    path = run.field(CONCEPTS)
    if not points:
        return False
    if run.dataset.has_brain_run(path):
        run.dataset.delete_brain_run(path)
    there = run.dataset.exists(path)
    ids = there.values(f"{path}.detections.id", unwind=True)
    fob.compute_visualization(
        there,
        patches_field=path,
        points=np.stack([points[str(id)] for id in ids]),
        brain_key=path,
        method="manual",
    )
    return True


def point_of(image: Image, place: Place, layout: NDArray[np.float32], spread: float) -> NDArray[np.float32]:
    """Where a place lies on the map of concepts: near the middle of its concept, by the mean of its cells."""
    offset = image.offset[place.cells].astype(np.float32).mean(0)
    point: NDArray[np.float32] = layout[place.concept].copy()
    point[: len(offset)] += spread * offset
    return point


def declare_attributes(run: CamRun) -> None:
    """Declare what places have beside FiftyOne's own attributes, so that the sidebar filters by it."""
    path = run.field(CONCEPTS)
    for name, kind in (("evidence", fo.FloatField), ("blame", fo.FloatField), ("correct", fo.BooleanField)):
        database.refresh(run.dataset)
        if run.dataset.get_field(f"{path}.detections.{name}") is None:
            run.dataset.add_sample_field(f"{path}.detections.{name}", ftype=kind)
