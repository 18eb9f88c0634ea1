"""From what each concept does to each prediction to the rows of a report; free of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.concept_effects import Effects, corrected_p_values, net_intervals, scores, smoothed_gain
from fiftyone_cam.runs.concept_record import Concept

_LEAST_JUDGED = 10
"""Fewer images of a known class than these tell nothing about chance."""

CLASSES_NAMED = 3


def held_out(ids: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which images were not used for finding: half of them, by lot, the same ones whatever else is asked for.

    >>> held_out(["a", "b", "c", "d"], 51).sum()
    2
    """
    order = np.random.default_rng(seed).permutation(len(ids))
    return order < len(ids) // 2


def measured(concepts: Sequence[Concept], effects: Effects, test: NDArray[np.bool_], seed: int) -> list[Concept]:
    """Concepts with their numbers over some images, in order: by net repair, by blame, or by share, as is known.

    Args:
        concepts: which there are; names, classes and examples stay.
        effects: what each does to each prediction.
        test: the images that intervals and p-values come from.
        seed: of draws.

    >>> measured(report.concepts, effects.take(mine), test[mine], seed=51)[0].net
    3
    """
    found = scores(effects)
    judged = effects.take(test)
    n = int(judged.known.sum())
    tested = effects.removable and n >= _LEAST_JUDGED
    p = corrected_p_values(smoothed_gain(judged), seed=seed) if tested else None
    intervals = net_intervals(judged, seed=seed) * (effects.known.sum() / n) if tested else None
    rows = []
    for concept in concepts:
        score = found[concept.number]
        rows.append(
            Concept(
                **{
                    **vars(concept),
                    **vars(score),
                    "interval": None if intervals is None else [float(v) for v in intervals[concept.number]],
                    "p": None if p is None else float(p[concept.number]),
                }
            )
        )
    return sorted(rows, key=_order)


def _order(concept: Concept) -> tuple[float, float, int]:
    first = concept.gain if concept.gain is not None else concept.blame if concept.blame is not None else concept.share
    return (-first, -concept.share, concept.number)


def spoken_for(
    effects: Effects, classes: Sequence[str], totals: NDArray[np.float64], weight: NDArray[np.float32] | None
) -> list[tuple[list[str], list[str]]]:
    """The classes that each concept speaks for and against.

    With a constant weight: those whose logits it raises and lowers most, beside the mean of all classes. Else those
    that are predicted where it holds evidence.

    Args:
        effects: of all images.
        classes: their names.
        totals: the parts of each concept, summed over images, ``(k, K)``.
        weight: ``(C, K)``; None where there is none for all images.
    """
    k = effects.held.shape[1]
    if weight is not None:
        logits = totals @ weight.T.astype(np.float64)
        logits -= logits.mean(1, keepdims=True)
    else:
        logits = np.zeros((k, len(classes)))
        np.add.at(logits.T, effects.predicted, effects.evidence)
    found = []
    for row in logits:
        order = np.argsort(-row, kind="stable")
        found.append(
            (
                [classes[i] for i in order[:CLASSES_NAMED] if row[i] > 0],
                [classes[i] for i in order[::-1][:CLASSES_NAMED] if row[i] < 0],
            )
        )
    return found


def telling(effects: Effects, most: int) -> list[NDArray[np.intp]]:
    """Of each concept the images that tell most: where its removal would help or, if nobody knows, where it holds most.

    >>> telling(effects, most=6)[3]
    array([17, 4, 99])
    """
    gains = smoothed_gain(effects) if effects.removable and effects.known.any() else None
    chosen = []
    for concept in range(effects.held.shape[1]):
        there = np.flatnonzero(effects.held[:, concept] > 0)
        value = effects.evidence[there, concept].astype(np.float64)
        if gains is not None:
            value = gains[there, concept] + 1e-3 * value / max(1e-9, float(np.abs(value).max(initial=0.0)))
        chosen.append(there[np.argsort(-value, kind="stable")[:most]])
    return chosen
