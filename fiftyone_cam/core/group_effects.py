"""What a repair does to each group of images: accuracy before and after, with intervals. numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

FEWEST = 10
"""In smaller groups one image is worth so much that the worst of them says little: they are listed, and not judged."""

_ROUNDS = 4000


@dataclass(frozen=True)
class GroupEffect:
    """One group before and after.

    Attributes:
        name: of the group.
        samples: how many are judged.
        before: accuracy before.
        after: accuracy after.
        repaired: errors put right.
        broken: hits lost.
        interval: 95% interval of ``after - before``: images are drawn anew, with replacement.
    """

    name: str
    samples: int
    before: float
    after: float
    repaired: int
    broken: int
    interval: tuple[float, float]

    @property
    def change(self) -> float:
        """``after - before``."""
        return self.after - self.before

    @property
    def worse(self) -> bool:
        """Whether more hits are lost than errors put right."""
        return self.broken > self.repaired


@dataclass(frozen=True)
class WorstGroup:
    """The accuracy of the group that is worst, before and after (it need not be the same), with 95% intervals."""

    before: float
    after: float
    interval_before: tuple[float, float]
    interval_after: tuple[float, float]


def group_effects(before: Bools, after: Bools, groups: Mapping[str, Bools], seed: int = 0) -> list[GroupEffect]:
    """Each group's accuracy before and after; groups without images are left out.

    Args:
        before: whether each image was right, ``(n,)``.
        after: whether it is now, ``(n,)``.
        groups: which images are in each group, ``(n,)``; they may overlap.
        seed: of the bootstrap.

    >>> before, after = np.array([True, False, False]), np.array([True, True, False])
    >>> group_effects(before, after, {"all": np.ones(3, bool)})[0].repaired
    1
    """
    random = np.random.default_rng(seed)
    found = []
    for name, mask in groups.items():
        n = int(mask.sum())
        if n:
            repaired, broken = int((mask & ~before & after).sum()), int((mask & before & ~after).sum())
            drawn = random.multinomial(n, [repaired / n, broken / n, 1 - (repaired + broken) / n], _ROUNDS)
            low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
            right = before[mask].mean(), after[mask].mean()
            found.append(
                GroupEffect(name, n, float(right[0]), float(right[1]), repaired, broken, (float(low), float(high)))
            )
    return found


def worst_group(groups: list[GroupEffect], seed: int = 0) -> WorstGroup:
    """The worst group's accuracy before and after, with the intervals of a bootstrap within groups.

    >>> worst_group(group_effects(before, after, groups)).after
    0.82
    """
    random = np.random.default_rng(seed)
    found: list[tuple[float, tuple[float, float]]] = []
    for side in ("before", "after"):
        shares = [getattr(group, side) for group in groups]
        drawn = [
            random.binomial(g.samples, share, _ROUNDS) / g.samples for g, share in zip(groups, shares, strict=True)
        ]
        low, high = np.quantile(np.min(drawn, axis=0), [0.025, 0.975])
        found.append((min(shares), (float(low), float(high))))
    (before, before_interval), (after, after_interval) = found
    return WorstGroup(before, after, before_interval, after_interval)
