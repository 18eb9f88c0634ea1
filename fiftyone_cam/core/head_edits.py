"""Directions taken out of a linear head: what they are, what becomes of the logits, and how strongly. numpy alone.

With orthonormal directions ``B`` ``(K, r)``, a strength ``s`` and a mean ``m`` ``(K,)``, the logits lose the part that
the deviation from the mean along the directions holds, and nothing else::

    logits' = logits - G B^T (p - m) ,   G = s W B
    W' = W - G B^T ,   b' = b + G B^T m
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.concept_sums import Affine
from fiftyone_cam.core.errors import CamError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class HeadEdit:
    """What is taken out of a head.

    Attributes:
        directions: orthonormal columns, ``(K, r)``.
        mean: where the directions begin, ``(K,)``: images there keep their logits.
        strength: 1 takes the whole part along the directions, 0 nothing.
    """

    directions: Floats
    mean: Floats
    strength: float = 1.0

    def lost(self, weight: Floats, pooled: Floats) -> Floats:
        """The part that logits lose: weight ``(C, K)`` and pooled features ``(n, K)`` to ``(n, C)``.

        >>> logits_edited = logits - edit.lost(head.weight, pooled)
        """
        part: Floats = ((pooled - self.mean) @ self.directions) @ self._pull(weight).T
        return part

    def applied(self, head: Affine) -> Affine:
        """The edited head.

        >>> edit.applied(head).weight.shape == head.weight.shape
        True
        """
        pull = self._pull(head.weight)
        exact = pull.astype(np.float64) @ self.directions.T.astype(np.float64)
        weight = head.weight - exact
        bias = head.bias + exact @ self.mean.astype(np.float64)
        return Affine(weight.astype(np.float32), bias.astype(np.float32))

    def _pull(self, weight: Floats) -> Floats:
        pull: Floats = np.float32(self.strength) * (weight @ self.directions)
        return pull


def principal_directions(rows: Floats, count: int) -> Floats:
    """The first right singular vectors of some rows ``(M, K)``, as orthonormal columns ``(K, r)``, r at most ``count``.

    They are not centred: the first one is about the mean of the rows, which is what a concept's cells have in common.

    >>> principal_directions(np.float32([[3, 0], [4, 0]]), 5).shape
    (2, 1)
    """
    rows = np.asarray(rows, np.float64)
    values, vectors = np.linalg.eigh(rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T)
    order = np.argsort(-values)[:count]
    order = order[values[order] > 1e-9 * max(float(values.max(initial=0.0)), np.finfo(np.float64).tiny)]
    vectors = vectors[:, order]
    if rows.shape[0] <= rows.shape[1]:
        vectors = rows.T @ vectors / np.sqrt(values[order])
    directions, _ = np.linalg.qr(vectors)
    return np.asarray(directions, np.float32)


COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""Numbers of directions that are tried."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""How much of them is removed."""

TOLERATED = 0.005
"""The share of the images without the concept that may be lost."""


@dataclass(frozen=True)
class Known:
    """Images with a known true class, and what the concepts look like in them.

    Attributes:
        pooled: features, ``(n, K)``.
        right: the logits that count as right for each image.
        rows: the parts of the concepts, one of each concept in each image that has it, ``(M, K)``.
        owner: the image of each row, ``(M,)``.
    """

    pooled: Floats
    right: Sequence[tuple[int, ...]]
    rows: Floats
    owner: NDArray[np.intp]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which images have a cell of the concepts, ``(n,)``."""
        there = np.zeros(len(self.pooled), bool)
        there[self.owner] = True
        return there

    @property
    def mean(self) -> Floats:
        """The mean of the images without the concepts, ``(K,)``; of all, if each has them."""
        mean: Floats = self.pooled[~self.present if not self.present.all() else slice(None)].mean(0)
        return mean

    def take(self, chosen: NDArray[np.bool_]) -> Known:
        """Some of the images."""
        number = np.cumsum(chosen) - 1
        kept = chosen[self.owner]
        right = [indices for indices, mine in zip(self.right, chosen, strict=True) if mine]
        return Known(self.pooled[chosen], right, self.rows[kept], number[self.owner[kept]])

    def margins(self, logits: Floats) -> Floats:
        """The best right logit minus the best other, ``(n, C)`` to ``(n,)``: above 0 where the prediction is right."""
        others = logits.copy()
        best = np.empty(len(logits), np.float32)
        for i, indices in enumerate(self.right):
            best[i] = logits[i, list(indices)].max()
            others[i, list(indices)] = -np.inf
        margin: Floats = best - others.max(1)
        return margin


@dataclass(frozen=True)
class Choice:
    """What a choice was made by: counts over images whose own cells did not make the directions.

    Attributes:
        images: how many.
        gain: errors put right minus hits lost, smoothed.
        repaired: errors put right.
        broken: hits lost.
        lost_elsewhere: how many of these where the concepts are not.
    """

    images: int
    gain: float
    repaired: int
    broken: int
    lost_elsewhere: int


def choose(
    known: Known, head: Affine, count: int | None = None, strength: float | None = None
) -> tuple[HeadEdit, Choice]:
    """How many directions are taken out, and how much of them: what puts most errors right.

    Directions lose all that *their own* images hold along them, also what is no concept's. So each of five parts of the
    images is judged by the directions of the other four. What loses more than :data:`TOLERATED` of the images without
    the concepts is not chosen. The directions of the result are those of all images.

    Args:
        known: images to choose by.
        head: that is edited.
        count: of directions, if that is fixed.
        strength: if that is fixed.

    Raises:
        CamError: there are too few images, or too few with the concepts.

    >>> edit, choice = choose(known, head)
    >>> edit.strength, choice.repaired
    (1.0, 12)
    """
    n, there = len(known.right), known.present
    if n < FEWEST or there.sum() < FOLDS:
        raise CamError(
            f"{n} samples with a known true class, {int(there.sum())} of them with the concept, are too few to choose "
            f"by: expected at least {FEWEST}, {FOLDS} of them with it; or pass directions= and strength="
        )
    counts = [count] if count is not None else list(COUNTS)
    strengths = [strength] if strength is not None else list(STRENGTHS)
    logits = known.pooled @ head.weight.T + head.bias
    before = known.margins(logits)
    after = np.empty((len(counts), len(strengths), n), np.float32)
    order = np.argsort(there, kind="stable")
    fold = np.empty(n, np.intp)
    fold[order] = np.arange(n) % FOLDS
    for f in range(FOLDS):
        others, mine = known.take(fold != f), fold == f
        directions = principal_directions(others.rows, max(counts))
        along, pull = (known.pooled[mine] - others.mean) @ directions, head.weight @ directions
        judged = known.take(mine)
        for i, r in enumerate(counts):
            part = along[:, :r] @ pull[:, :r].T
            for j, s in enumerate(strengths):
                after[i, j, mine] = judged.margins(logits[mine] - np.float32(s) * part)
    best: tuple[Choice, int, float] | None = None
    for i, r in enumerate(counts):
        for j, s in enumerate(strengths):
            repaired, broken = (before <= 0) & (after[i, j] > 0), (before > 0) & (after[i, j] <= 0)
            choice = Choice(
                images=n,
                gain=float((_sigmoid(after[i, j]) - _sigmoid(before)).sum()),
                repaired=int(repaired.sum()),
                broken=int(broken.sum()),
                lost_elsewhere=int((broken & ~there).sum()),
            )
            harmless = choice.lost_elsewhere <= TOLERATED * (~there).sum()
            if harmless and choice.gain > (best[0].gain if best else 0):
                best = choice, r, float(s)
    if best is None:  # nothing helps: an edit of nothing
        return HeadEdit(principal_directions(known.rows, 1), known.mean, 0.0), Choice(n, 0.0, 0, 0, 0)
    return HeadEdit(principal_directions(known.rows, best[1]), known.mean, best[2]), best[0]


FEWEST = 20
"""Images below which nothing is chosen."""

FOLDS = 5
"""Parts of the images, for directions that come from others."""

SHARPNESS = 0.5
"""Logits over which a margin counts as half decided. Shorter than for ranking concepts: an edit shrinks all margins."""


def _sigmoid(margins: Floats) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(margins.astype(np.float64) / (2 * SHARPNESS)))
