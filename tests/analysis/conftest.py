"""Datasets with runs and annotations that several tests audit."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest

from tests.helpers.annotations import CLASSES, LEFT, RIGHT, add, boxes, left_half, true
from tests.helpers.stored_runs import Made, made_run


@pytest.fixture()
def zoo(dataset, rng):
    """Sixty samples with random maps on random grids, and annotations of every kind, overlapping at random."""
    made, samples = [], []
    for i in range(60):
        shape = tuple(rng.integers(1, 9, 2))
        seen = (0.1, 0.0, 0.8, 1.0) if i % 3 else (0.0, 0.0, 1.0, 1.0)
        box = (seen[0] - 0.01, seen[1] + 0.02, seen[2], seen[3])
        grid = rng.normal(-3 if i % 10 == 7 else 0.3, 1, shape)
        made.append(Made(str(rng.choice(CLASSES)), grid, float(rng.normal()), float(rng.random()), box, seen))
        names = rng.choice([*CLASSES, "grass"], 3)
        samples.append(
            {
                "ground_truth": true(str(rng.choice(CLASSES))),
                "boxes": boxes(*((str(n), (*rng.uniform(-0.2, 0.8, 2), *rng.uniform(0, 0.6, 2))) for n in names)),
                "outlines": fo.Polylines(
                    polylines=[
                        fo.Polyline(label=str(n), points=[rng.random((5, 2)).tolist()], closed=True, filled=bool(j))
                        for j, n in enumerate(names[:2])
                    ]
                ),
                "scene": fo.Segmentation(mask=rng.integers(0, 4, (6, 9)).astype(np.uint8)),
            }
        )
    ids = add(dataset, *samples)
    dataset.mask_targets = {"scene": {1: "cat", 2: "grass", 3: "sky"}}
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, ground_truth="ground_truth")
    return dataset


@pytest.fixture()
def four(dataset):
    """Four samples, a run, and two fields that disagree about where the object is."""
    right_half = boxes((None, (0.5, 0, 0.5, 1)))
    ids = add(dataset, *[{"ground_truth": true("cat"), "left": left_half(), "right": right_half}] * 4)
    made = [Made("cat", LEFT), Made("cat", RIGHT), Made("dog", LEFT), Made("dog", RIGHT)]
    made_run(dataset, dict(zip(ids, made, strict=True)), CLASSES, ground_truth="ground_truth")
    return dataset
