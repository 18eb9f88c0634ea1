"""What goes into an engine and what comes out: an item and a result for each image. Plain data, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box


@dataclass(frozen=True, slots=True)
class Item:
    """One image to explain. ``truth``: indices of the logits that count as right; empty where nobody knows.

    ``truths``: the same for each of several true labels; None where there is no such ground truth.
    """

    id: str
    path: str
    truth: tuple[int, ...] = ()
    truths: tuple[tuple[int, ...], ...] | None = None


class Outcome(Protocol):
    """What engines need of a result: the image's id."""

    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image has no result."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClassMap:
    """One class's map: ``grid`` is ``(h, w)`` float32 in logit units and ``grid.mean() + bias == logit``.

    A contrastive map is one as well: the map of ``label`` minus the map of ``versus``.

    ``remainder_share`` is the part of the logit that no place holds, ``gap_remainder_share`` that of the gap between
    this class's logit and the strongest other's. None where a head leaves no remainder (all but class tokens).
    """

    label: str
    logit: float
    bias: float
    grid: NDArray[np.float32]
    confidence: float | None = None
    versus: str | None = None
    remainder_share: float | None = None
    gap_remainder_share: float | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """What a classifier of independent labels says of one image: pairs of a class and its confidence.

    ``predicted``: every class from the threshold on, strongest first; ``false``: those of them that are not true;
    ``missed``: of each true label that was not predicted its strongest class. None where the truth is not known.
    """

    predicted: tuple[tuple[str, float], ...]
    false: tuple[tuple[str, float], ...] | None = None
    missed: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The strongest classes' maps of one image, and the contrast to the truth where the strongest is wrong.

    ``logits`` of all classes and the ``pooled`` features are there where the explainer was asked for them. ``light``:
    mean and standard deviation of what the network got, in grey levels.
    """

    id: str
    maps: tuple[ClassMap, ...]
    contrast: ClassMap | None
    box: Box
    seen: Box
    size: tuple[int, int]
    error: float
    logits: NDArray[np.float32] | None = None
    pooled: NDArray[np.float32] | None = None
    labels: Labels | None = None
    light: tuple[float, float] | None = None


Result = Explanation | Failure
