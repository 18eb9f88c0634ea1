"""The identity: a map's mean plus the bias is the logit."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.cam import CERTIFICATE_TOLERANCE, certificate, class_activation_maps

shapes = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))


@given(shape=shapes, classes=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_mean_plus_bias_is_what_a_linear_layer_after_pooling_gives(shape, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(shape, generator=generator)
    linear = torch.nn.Linear(shape[1], classes)
    logits = linear(features.double().mean((2, 3)).float())  # pooled first: the other order of the same sums
    maps = class_activation_maps(features, linear.weight.expand(shape[0], -1, -1))
    errors = certificate(maps, linear.bias.expand(shape[0], -1), logits, logits.abs().amax(1, keepdim=True) + 1)
    assert maps.shape == (shape[0], classes, *shape[2:])
    assert errors.max() <= CERTIFICATE_TOLERANCE


def test_a_wrong_head_fails_its_certificate(rng):
    features = torch.from_numpy(rng.normal(size=(2, 8, 7, 7)))
    weight, other = torch.from_numpy(rng.normal(size=(2, 1, 3, 8)))
    logits = torch.einsum("nkhw,mck->nc", features, weight) / 49
    scale = logits.abs().amax(1, keepdim=True)
    bias = torch.zeros(2, 3)
    right = class_activation_maps(features, weight.expand(2, -1, -1))
    wrong = class_activation_maps(features, other.expand(2, -1, -1))
    assert certificate(right, bias, logits, scale).max() <= CERTIFICATE_TOLERANCE
    assert certificate(wrong, bias, logits, scale).max() > 0.01


def test_nothing_sick_is_certified():
    for sick in (torch.nan, torch.inf, -torch.inf):
        maps = torch.full((1, 1, 2, 2), sick)
        logits = torch.tensor([[sick]])
        assert certificate(maps, torch.zeros(1, 1), logits, logits.abs()).max() == torch.inf


def test_maps_are_float32_whatever_the_features_were():
    features = torch.full((1, 4, 3, 3), 1 / 3, dtype=torch.bfloat16)
    maps = class_activation_maps(features, torch.full((1, 1, 4), 1 / 3))
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.mean(), features.float().mean() * 4 / 3)
