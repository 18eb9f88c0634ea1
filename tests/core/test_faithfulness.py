"""Pixels taken away and put back: equal to the references' figures, and laws that hold for any network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fiftyone_cam.core import faithfulness

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "faithfulness_reference.json").read_text(encoding="utf-8"))
"""What the code of RISE and ROAD gives for one small image; ``source`` in the file says which."""

IMAGE = torch.tensor(REFERENCE["image"], dtype=torch.float32)
SALIENCY = torch.tensor(REFERENCE["saliency"])
WEIGHTS = torch.tensor(REFERENCE["weights"])


def predict(images):
    probabilities = (images.flatten(1) @ WEIGHTS.T).softmax(1)
    return probabilities[:, int((IMAGE.flatten() @ WEIGHTS.T).argmax())]


def test_deletion_and_insertion_are_those_of_the_reference():
    for name, measure in (("deletion", faithfulness.deletion), ("insertion", faithfulness.insertion)):
        curve = measure(predict, IMAGE, SALIENCY, REFERENCE["step"])
        assert curve.tolist() == pytest.approx(REFERENCE[name], abs=1e-6)
        assert faithfulness.area(curve) == pytest.approx(REFERENCE[f"{name}_area"], abs=1e-6)


def test_imputed_pixels_are_those_of_the_reference():
    kept = torch.tensor(REFERENCE["kept"]).bool()
    found = faithfulness.impute(IMAGE, kept, noise=0)
    assert found.flatten().tolist() == pytest.approx(np.ravel(REFERENCE["imputed"]).tolist(), abs=1e-6)
    assert torch.equal(found[:, kept], IMAGE[:, kept])


def test_a_plane_is_restored_and_noise_is_what_was_asked_for():
    """Inside a slope of constant steepness each pixel is the mean of its neighbours, so that nothing is lost."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
    image = torch.stack([y, x, 2 * y - x])
    kept = torch.ones(24, 30, dtype=torch.bool)
    kept[5:17, 4:25] = False
    assert faithfulness.impute(image, kept, noise=0) == pytest.approx(image, abs=1e-4)
    noise = (faithfulness.impute(image, kept, noise=0.5) - image)[:, ~kept]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.1)
    assert torch.isfinite(faithfulness.impute(image, kept & False)).all()


def test_the_order_that_matters_is_told_from_its_reverse():
    """A linear network whose weight falls with the saliency: its own order is best in every measure."""
    weights = torch.linspace(2, 0, 256).reshape(16, 16)
    image = torch.ones(1, 16, 16)

    def linear(images):
        return torch.sigmoid((images * weights).flatten(1).sum(1) - 128)

    right, wrong = weights, -weights
    for measure, sign in ((faithfulness.insertion, 1), (faithfulness.deletion, -1)):
        substrate = torch.zeros_like(image)
        areas = [faithfulness.area(measure(linear, image, s, 16, substrate)) for s in (right, wrong)]
        assert sign * (areas[0] - areas[1]) > 0.2


def test_equal_pixels_are_taken_in_no_order_of_place():
    """A flat saliency takes pixels from everywhere: the first tenth is not the top of the image."""
    first = faithfulness._order(torch.zeros(40, 40))[:160] // 40
    assert len(set(first.tolist())) > 30


def test_masked_shows_what_is_strong():
    image = torch.ones(3, 2, 2)
    assert faithfulness.masked(image, torch.tensor([[0.0, 1], [2, 4]]))[0].tolist() == [[0, 0.25], [0.5, 1]]
    assert torch.equal(faithfulness.masked(image, torch.zeros(2, 2)), image)
