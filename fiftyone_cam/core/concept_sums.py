"""What one image says of each concept: parts of its logits, and its prediction without each of them. Sums alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.concepts import Concepts

Floats = NDArray[np.float32]


class Affine(NamedTuple):
    """A head that is one weight for all images: ``weight`` ``(C, K)``, ``bias`` ``(C,)``."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class CellFeatures:
    """What a forward says of one image's cells.

    Attributes:
        id: of the image.
        features: ``(K, h, w)``.
        logits: ``(C,)``.
        confidence: of the predicted class.
        evidence: the predicted class's map, ``(h, w)``, logit units.
        rival: the strongest true class's map, if the prediction is wrong; else None.
        truth: the classes that count as right; empty where nobody knows.
        box: where the grid lies on the image.
        seen: the part of the image that the network saw.
    """

    id: str
    features: Floats
    logits: Floats
    confidence: float
    evidence: Floats
    rival: Floats | None
    truth: tuple[int, ...]
    box: Box
    seen: Box


@dataclass(frozen=True, slots=True)
class ImageSums:
    """What each concept does to one image's prediction. ``p`` concepts are present, of ``N = h * w`` cells.

    Attributes:
        id: of the image.
        box: where the grid lies on the image.
        seen: the part of the image that the network saw.
        predicted: index of the predicted class.
        confidence: of it.
        margin: the true class's logit minus the best other's; NaN where the true class is not known.
        gap: the predicted class's logit minus the true class's; NaN where the true class is not known.
        assigned: the concept of each cell, ``(h, w)``.
        evidence: each cell's part of the predicted class's logit, ``(h, w)``: they and the bias add up to the logit.
        blame: each cell's share of the gap, ``(h, w)``; zeros where the prediction is right, or nobody knows.
        offset: where each cell lies beside the middle of its concept, ``(h, w, 2)``, for a map of concepts.
        concept: which are present, ``(p,)``, ascending.
        margin_without: ``margin`` without each concept's evidence, ``(p,)``; NaN where that is not known.
        predicted_without: the same for ``predicted``, ``(p,)``; -1 where the head's weights are those of the image.
        pooled: the mean features, ``(K,)``; empty where the head's weights are those of the image.
        parts: the same as a sum over concepts, ``(p, K)``: they add up to ``pooled``.
    """

    id: str
    box: Box
    seen: Box
    predicted: int
    confidence: float
    margin: float
    gap: float
    assigned: NDArray[np.int16]
    evidence: Floats
    blame: Floats
    offset: Floats
    concept: NDArray[np.int16]
    margin_without: Floats
    predicted_without: NDArray[np.int32]
    pooled: Floats
    parts: Floats


def summarise(cells: CellFeatures, concepts: Concepts, head: Affine | None) -> ImageSums:
    """Split one image over concepts.

    Args:
        cells: what a forward gave.
        concepts: the clusters.
        head: None where the head's weights are those of each image. Then nobody knows from sums what a prediction
            would be without a concept.

    >>> sums = summarise(cells, concepts, head)
    >>> (sums.parts @ head.weight.T).sum(0) + head.bias        # the logits
    """
    shape = cells.evidence.shape
    count = cells.evidence.size
    flat = cells.features.reshape(len(cells.features), -1).T  # (N, K)
    projected = concepts.project(flat)
    assigned = concepts.nearest(projected)
    present, inverse = np.unique(assigned, return_inverse=True)

    logits = cells.logits
    predicted = int(np.argmax(logits))
    right = np.zeros(len(logits), bool)
    right[list(cells.truth)] = True
    margin = margins(logits[None], right)[0]
    gap = float(logits[predicted] - logits[right].max()) if right.any() else np.nan
    wrong = cells.rival is not None and gap > 0
    blame = (cells.evidence - cells.rival) / (count * gap) if cells.rival is not None and wrong else None

    margin_without = np.full(len(present), np.nan, np.float32)
    predicted_without = np.full(len(present), -1, np.int32)
    pooled, parts = np.zeros(0, np.float32), np.zeros((len(present), 0), np.float32)
    if head is not None:
        membership = (inverse == np.arange(len(present))[:, None]).astype(np.float32)
        parts = membership @ flat / np.float32(count)
        pooled = flat.mean(0)
        without = logits - parts @ head.weight.T
        predicted_without = without.argmax(1).astype(np.int32)
        margin_without = margins(without, right)
    return ImageSums(
        id=cells.id,
        box=cells.box,
        seen=cells.seen,
        predicted=predicted,
        confidence=cells.confidence,
        margin=float(margin),
        gap=gap,
        assigned=assigned.reshape(shape),
        evidence=cells.evidence / np.float32(count),
        blame=np.zeros(shape, np.float32) if blame is None else blame.astype(np.float32),
        offset=(projected - concepts.centres[assigned])[:, :2].reshape(*shape, -1),
        concept=present,
        margin_without=margin_without,
        predicted_without=predicted_without,
        pooled=pooled,
        parts=parts,
    )


def margins(logits: Floats, right: NDArray[np.bool_]) -> Floats:
    """The best right class's logit minus the best other's: ``(n, C)`` and ``(C,)`` to ``(n,)``.

    NaN where no class is right, or every class is.

    >>> margins(np.float32([[1, 3, 2]]), np.array([True, False, False]))
    array([-2.], dtype=float32)
    """
    if right.all() or not right.any():
        return np.full(len(logits), np.nan, np.float32)
    found: Floats = (logits[:, right].max(1) - logits[:, ~right].max(1)).astype(np.float32)
    return found
