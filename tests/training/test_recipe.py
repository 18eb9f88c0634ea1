"""The recipe of a training: what it refuses, and what it leaves open."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.training.recipe import Recipe


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"freeze": "head"}, "freeze is 'head', expected None or 'backbone'"),
        ({"batch_size": 0}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_by_name(change, word):
    with pytest.raises(TrainingError, match=word):
        Recipe(**change)


def test_a_recipe_survives_the_way_through_a_database():
    recipe = Recipe(epochs=20, freeze="backbone", patience=None, learning_rate=1e-4, precision="bfloat16", seed=3)
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe
