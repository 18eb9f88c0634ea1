"""What each concept does to each prediction, and what that adds up to: shares, blame, lift, net repair.

All of it comes from sums (:mod:`fiftyone_cam.core.concept_sums`): no network is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TEMPERATURE = 2.0
"""Logits over which a margin counts as half decided in the smoothed net repair.

Counting flips alone leaves too few events on some hundred photos. Of 0.5 to 3, from 1.5 to 3 find ImageNet-W's
watermark first equally often.
"""


@dataclass
class Effects:
    """For ``n`` images and ``k`` concepts; what needs a true class is NaN where it is not known.

    Attributes:
        held: share of the image's cells, ``(n, k)``.
        evidence: part of the predicted class's logit, ``(n, k)``, logit units.
        blame: share of the gap between the predicted and the true class's logit, ``(n, k)``; 0 where it is right.
        margin: the true class's logit minus the best other's, ``(n,)``.
        margin_without: the same if the concept's evidence were removed, ``(n, k)``; NaN where that is not known.
        predicted: index of the predicted class, ``(n,)``.
        predicted_without: the same if the concept's evidence were removed, ``(n, k)``; -1 where that is not known.
    """

    held: Floats
    evidence: Floats
    blame: Floats
    margin: Floats
    margin_without: Floats
    predicted: NDArray[np.int32]
    predicted_without: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.margin)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.integer]) -> Effects:
        """Those of some images."""
        return Effects(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the true class is known, ``(n,)``."""
        return np.isfinite(self.margin)

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the prediction is wrong, ``(n,)``; False where that is not known."""
        return self.known & (self.margin <= 0)

    @property
    def removable(self) -> bool:
        """Whether it is known what predictions would be without a concept."""
        return bool(len(self) and (self.predicted_without >= 0).all())

    @classmethod
    def joined(cls, chunks: Sequence[Effects]) -> Effects:
        """Those of several chunks of images."""
        return cls(*(np.concatenate([getattr(chunk, field.name) for chunk in chunks]) for field in fields(cls)))


@dataclass(frozen=True)
class Score:
    """One concept over some images. None where it cannot be known: without true classes, or what it would be without.

    Attributes:
        present: share of the images that have a cell of it.
        share: its share of the positive evidence for the predicted classes.
        blame: its share of the logit gaps of all errors, summed. With the biases' share they add up to 1; a concept can
            have more, where others speak for the true class and have less than none.
        lift: error rate where it holds evidence for the prediction, over the error rate.
        repaired: errors that would be right without its evidence.
        broken: hits that would be wrong without it.
        gain: net repair, smoothed (:data:`TEMPERATURE`): what orders concepts.
    """

    present: float
    share: float
    blame: float | None = None
    lift: float | None = None
    repaired: int | None = None
    broken: int | None = None
    gain: float | None = None


def scores(found: Effects) -> list[Score]:
    """One :class:`Score` for each concept.

    >>> scores(found)[0].repaired
    7
    """
    known, wrong, removable = found.known, found.wrong, found.removable
    positive = np.maximum(found.evidence, 0)
    total = float(positive.sum())
    right_without = found.margin_without > 0
    gains = smoothed_gain(found).sum(0)
    rate = wrong.sum() / known.sum() if known.any() else 0.0
    # a ratio of sums: the mean of ratios is of the errors that are nearly right, where parts are many times the gap
    gap = -found.margin[wrong].astype(np.float64)
    blames = gap @ found.blame[wrong] / (gap.sum() or 1.0)
    rows = []
    for concept in range(found.held.shape[1]):
        there = found.held[:, concept] > 0
        speaks = known & there & (found.evidence[:, concept] > 0)
        judged = removable and bool(known.any())
        rows.append(
            Score(
                present=float(there.mean()) if len(found) else 0.0,
                share=float(positive[:, concept].sum()) / total if total else 0.0,
                blame=float(blames[concept]) if wrong.any() else None,
                lift=float(wrong[speaks].mean() / rate) if speaks.any() and rate else None,
                repaired=int((wrong & right_without[:, concept]).sum()) if judged else None,
                broken=int((known & ~wrong & ~right_without[:, concept]).sum()) if judged else None,
                gain=float(gains[concept]) if judged else None,
            )
        )
    return rows


def smoothed_gain(found: Effects) -> NDArray[np.float64]:
    """How much more probably each image would be right without each concept, ``(n, k)``; 0 where that is not known.

    ``sigmoid(margin without / T) - sigmoid(margin / T)``: a flip near the boundary counts half, far from it whole.
    """
    after, before = found.margin_without.astype(np.float64), found.margin.astype(np.float64)[:, None]
    gain = _sigmoid(after / TEMPERATURE) - _sigmoid(before / TEMPERATURE)
    return np.nan_to_num(gain, nan=0.0)


def corrected_p_values(gain: NDArray[np.float64], *, rounds: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """Probability of so large a gain among all concepts if none had any: ``(n, k)`` gains to ``(k,)``.

    A sign-flip test with the largest of all concepts' t values (Westfall and Young, 1993): if a concept had no effect,
    each image's gain would be as likely of the other sign. It corrects for looking at many concepts.

    >>> corrected_p_values(np.ones((50, 1)))[0] < 0.01
    True
    """
    random = np.random.default_rng(seed)
    scale = np.sqrt((gain**2).sum(0))
    used = scale > 0
    values = np.ones(gain.shape[1])
    if not used.any():
        return values
    unit = (gain[:, used] / scale[used]).astype(np.float32)
    observed = unit.sum(0)
    exceeded = np.ones(len(observed))
    for start in range(0, rounds, 200):
        signs = random.integers(0, 2, (min(200, rounds - start), len(gain))).astype(np.float32) * 2 - 1
        exceeded += ((signs @ unit).max(1)[:, None] >= observed).sum(0)
    values[used] = exceeded / (rounds + 1)
    return values


def net_intervals(found: Effects, *, level: float = 0.95, rounds: int = 4000, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap intervals of the net repair of each concept, ``(k, 2)``: images are drawn anew, with replacement.

    Of a draw only counts matter (put right, lost, neither), and these are multinomial.

    >>> net_intervals(found)[0]
    array([1., 9.])
    """
    known, wrong = found.known, found.wrong
    n = int(known.sum())
    intervals = np.zeros((found.held.shape[1], 2))
    random = np.random.default_rng(seed)
    for concept, without in enumerate((found.margin_without > 0).T):
        repaired, broken = int((wrong & without).sum()), int((known & ~wrong & ~without).sum())
        if repaired + broken:
            drawn = random.multinomial(n, [repaired / n, broken / n, 1 - (repaired + broken) / n], rounds)
            intervals[concept] = np.quantile(drawn[:, 0] - drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return intervals


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(values / 2))  # which does not overflow
