"""Rows of a report from what each concept does to each prediction."""

from __future__ import annotations

import numpy as np

from fiftyone_cam.concepts.rows import telling
from fiftyone_cam.core.concept_effects import TEMPERATURE, Effects


def test_those_images_tell_most_where_a_removal_would_help_most(rng):
    held = rng.random((40, 3)) * (rng.random((40, 3)) < 0.6)
    evidence, margin = rng.normal(size=(40, 3)), rng.normal(size=40)
    without = np.where(held > 0, rng.normal(size=(40, 3)), margin[:, None])
    predicted = np.zeros((40, 3), np.int32)
    effects = Effects(held, evidence, np.zeros((40, 3)), margin, without, predicted[:, 0], predicted)

    def right(margin: float) -> float:
        return float(1 / (1 + np.exp(-margin / TEMPERATURE)))

    for concept, chosen in enumerate(telling(effects, 5)):
        gain = {i: right(without[i, concept]) - right(margin[i]) for i in range(40) if held[i, concept]}
        assert sorted(chosen, key=lambda i: -gain[i]) == sorted(gain, key=lambda i: -gain[i])[:5]
    effects.margin[:] = np.nan  # nobody knows what is right: then where it holds most
    for concept, chosen in enumerate(telling(effects, 5)):
        there = [i for i in range(40) if held[i, concept]]
        assert chosen.tolist() == sorted(there, key=lambda i: -evidence[i, concept])[:5]
