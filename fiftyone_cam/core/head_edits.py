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

from fiftyone_cam.core.concept_effects import corrected_p_values
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
        p: the probability of so large a gain, of all settings that were tried, if none of them had any.
        nothing: why nothing is removed; empty where something is.
    """

    images: int
    gain: float
    repaired: int
    broken: int
    lost_elsewhere: int
    p: float = 1.0
    nothing: str = ""


def choose(
    known: Known, head: Affine, count: int | None = None, strength: float | None = None
) -> tuple[HeadEdit, Choice]:
    """How many directions are taken out, and how much of them: as much as can be without harm, where that surely helps.

    Directions lose all that *their own* images hold along them, also what is no concept's. So each of five parts of the
    images is judged by the directions of the other four. Not chosen is

    - what loses more than :data:`TOLERATED` of the images without the concepts,
    - what surely costs a true class more than that, with the concepts or without them, whatever others gain: a shortcut
      helps one class and misleads another.
    Where nothing is left, or gains no more than chance would of all settings that are tried (:data:`SURE`), nothing is
    removed. Of what is as good as the best (:data:`ERRORS`), that is chosen which removes most: it is what was asked
    for, and few errors cannot tell settings apart. The directions of the result are those of all images.

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
    before, after = _tried(known, head, counts, strengths)
    settings = [(r, s) for r in counts for s in strengths]
    gain, loss = (_sigmoid(after / each) - _sigmoid(before / each)[:, None] for each in (SHARPNESS, SHARP))
    flipped = (after > 0).astype(np.int8) - (before > 0)[:, None]  # 1: repaired, -1: broken
    p, groups = corrected_p_values(gain), _groups(known)
    elsewhere = ((flipped < 0) & ~there[:, None]).sum(0)
    helps = gain.sum(0) > 0
    harms = elsewhere > TOLERATED * (~there).sum()
    for mine in groups:
        harms |= _loses(loss[mine])
    good = np.flatnonzero(helps & ~harms)
    if not len(good) or p[good].min() >= SURE:
        why = "no setting repairs more than it breaks"
        if len(good):
            why = f"what it repairs could be chance (p = {p[good].min():.2f})"
        elif helps.any():
            why = "what it repairs is lost in other classes, or where it is not"
        return HeadEdit(principal_directions(known.rows, 1), known.mean, 0.0), Choice(n, 0.0, 0, 0, 0, nothing=why)
    best = good[gain[:, good].sum(0).argmax()]
    behind = gain[:, [best]] - gain[:, good]
    as_good = good[behind.sum(0) <= ERRORS * behind.std(0) * np.sqrt(n)]
    i = max(as_good, key=lambda i: (settings[i][0] * settings[i][1], settings[i][1]))
    count, strength = settings[i]
    choice = Choice(
        images=n,
        gain=float(gain[:, i].sum()),
        repaired=int((flipped[:, i] > 0).sum()),
        broken=int((flipped[:, i] < 0).sum()),
        lost_elsewhere=int(elsewhere[i]),
        p=float(p[good].min()),
    )
    return HeadEdit(principal_directions(known.rows, count), known.mean, float(strength)), choice


def _tried(known: Known, head: Affine, counts: Sequence[int], strengths: Sequence[float]) -> tuple[Floats, Floats]:
    """Margins before, ``(n,)``, and after each setting, ``(n, settings)``, by directions of other images."""
    n = len(known.right)
    logits = known.pooled @ head.weight.T + head.bias
    after = np.empty((len(counts), len(strengths), n), np.float32)
    order = np.argsort(known.present, kind="stable")
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
    return known.margins(logits), after.reshape(-1, n).T


def _groups(known: Known) -> list[NDArray[np.bool_]]:
    """Images of each true class, and of these those with the concepts and without; only where there are enough."""
    there = known.present
    classes = sorted(set(known.right))
    number = np.array([classes.index(indices) for indices in known.right])
    found = [number == k for k in range(len(classes)) if (number == k).sum() >= LEAST_OF_CLASS]
    parts = [mine & side for mine in found for side in (there, ~there)]
    return found + [part for part in parts if part.sum() >= LEAST_OF_CLASS]


def _loses(gain: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a group surely loses more than is tolerated, by each setting: ``(n, settings)`` gains."""
    mean, error = gain.mean(0), gain.std(0, ddof=1) / np.sqrt(len(gain))
    lost: NDArray[np.bool_] = (mean < -TOLERATED) & (mean + ONE_SIDED * error < 0)
    return lost


FEWEST = 20
"""Images below which nothing is chosen."""

LEAST_OF_CLASS = 10
"""Images of a class below which nobody knows what it loses."""

FOLDS = 5
"""Parts of the images, for directions that come from others."""

SURE = 0.05
"""The p-value below which a gain is taken for real."""

ERRORS = 0.5
"""Standard errors of the difference within which one setting is as good as the best: few errors tell them apart."""

ONE_SIDED = 1.645
"""Standard errors of the mean within which a loss could be chance."""

SHARPNESS = 0.5
"""Logits over which a margin counts as half decided. Shorter than for ranking concepts: an edit shrinks all margins."""

SHARP = 0.125
"""The same where a class could lose: what stays right by a logit has lost nothing, what is barely right soon will."""


def _sigmoid(values: Floats) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(values.astype(np.float64) / 2))
