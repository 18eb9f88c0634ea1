"""The last layer trained alone: what its loss is, and what its weights of images and its penalty do."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_cam.core.concept_sums import Affine
from fiftyone_cam.core.last_layer_fit import fit, group_weights, loss_weights, off_object_evidence
from fiftyone_cam.core.pooled_reader import SecondMoment


@pytest.fixture()
def rng():
    return np.random.default_rng(0)


def test_the_penalty_is_the_measured_mean_squared_evidence_off_the_object(rng):
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    moment, squares, areas = SecondMoment(6), 0.0, 0.0
    for cells in (3, 0, 5, 1):
        off, area = rng.normal(size=(cells, 6)).astype(np.float32), rng.random(cells).astype(np.float32)
        moment.add(off, area)
        for cell, share in zip(off, area, strict=True):
            squares += share * sum(float(weight[c] @ cell) ** 2 for c in range(4))
            areas += share
    assert off_object_evidence(weight, moment.mean) == pytest.approx(squares / areas, rel=1e-5)


def test_a_moment_without_cells_is_nothing():
    assert not SecondMoment(3).mean.any()


def test_groups_count_the_same_however_large_they_are():
    groups = ["a"] * 7 + ["b"] * 2 + ["c"]
    weights = group_weights(groups)
    for name in "abc":
        assert weights[np.array(groups) == name].sum() == pytest.approx(1 / 3)


def test_without_groups_classes_count_the_same_and_errors_more():
    weights = loss_weights(np.float32([0.9, 0.1, 0.5, 0.5]), ["a", "a", "b", "b"])
    assert weights[:2].sum() == pytest.approx(0.5)
    assert weights[1] / weights[0] == pytest.approx(np.exp(4 * 0.8), rel=1e-4)
    assert weights[2] == pytest.approx(weights[3])


def separable(rng, n=400, width=5, classes=3):
    truth = rng.integers(0, classes, n)
    pooled = rng.normal(size=(n, width)).astype(np.float32)
    pooled[np.arange(n), truth] += 2
    return pooled, np.eye(classes, dtype=bool)[truth]


def test_where_the_loss_is_least_its_gradient_is_zero(rng):
    pooled, right = separable(rng)
    start = Affine(np.zeros((3, 5), np.float32), np.zeros(3, np.float32))
    weights = np.full(len(pooled), 1 / len(pooled), np.float32)
    moment, near, off = np.diag([4.0, 0, 0, 0, 1]), 0.1, 0.5
    start.weight[:, :2] = 0.3
    found = fit(pooled, right, weights, start, near=near, off_object=off, moment=moment)
    logits = pooled @ found.weight.T + found.bias
    chance = np.exp(logits - logits.max(1, keepdims=True))
    chance /= chance.sum(1, keepdims=True)
    residual = (chance - right) * weights[:, None]
    scale = float((pooled.astype(np.float64) ** 2).mean())
    penalty = 2 * off / off_object_evidence(start.weight, moment) * found.weight @ moment
    np.testing.assert_allclose(
        residual.T @ pooled + near * scale * (found.weight - start.weight) + penalty, 0, atol=1e-3
    )
    np.testing.assert_allclose(residual.sum(0) + near * (found.bias - start.bias), 0, atol=1e-3)


def test_very_near_to_the_start_nothing_changes(rng):
    pooled, right = separable(rng)
    start = Affine(rng.normal(size=(3, 5)).astype(np.float32), np.zeros(3, np.float32))
    found = fit(pooled, right, group_weights(["all"] * len(pooled)), start, near=1e6)
    np.testing.assert_allclose(found.weight, start.weight, atol=1e-4)


def test_more_cost_leaves_less_evidence_off_the_object(rng):
    pooled, right = separable(rng)
    start = Affine(rng.normal(size=(3, 5)).astype(np.float32), np.zeros(3, np.float32))
    moment = np.diag([0, 0, 0, 1.0, 1.0])
    left = [
        off_object_evidence(
            fit(pooled, right, group_weights(["all"] * 400), start, near=0.01, off_object=cost, moment=moment).weight,
            moment,
        )
        for cost in (0.0, 0.1, 10.0)
    ]
    assert left[0] > 2 * left[1] > 4 * left[2]


def test_several_right_classes_share_what_is_right(rng):
    pooled, right = separable(rng)
    right[:, 1] |= right[:, 0]  # whatever is of class 0 may be called 1 as well
    start = Affine(np.zeros((3, 5), np.float32), np.zeros(3, np.float32))
    found = fit(pooled, right, group_weights(["all"] * len(pooled)), start, near=1e-3)
    predicted = (pooled @ found.weight.T + found.bias).argmax(1)
    assert right[np.arange(len(right)), predicted].mean() > 0.9


@pytest.mark.parametrize("balanced", [True, False])
def test_balance_puts_the_worst_group_right(rng, balanced):
    """A feature agrees with the class in 95 of 100; another always does, with more noise."""
    n = 2000
    truth = rng.integers(0, 2, n)
    agrees = rng.random(n) < 0.95
    shortcut = np.where(agrees, truth, 1 - truth)
    pooled = np.stack([2 * truth - 1 + rng.normal(0, 1.2, n), 2.0 * shortcut - 1 + rng.normal(0, 0.1, n)], 1)
    pooled = pooled.astype(np.float32)
    right = np.eye(2, dtype=bool)[truth]
    start = Affine(np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
    even = np.full(n, 1 / n, np.float32)
    plain = fit(pooled, right, even, start, near=1e-4)
    if balanced:
        weights = group_weights([f"{t} {a}" for t, a in zip(truth, agrees, strict=True)])
    else:
        logits = pooled @ plain.weight.T + plain.bias
        chance = 1 / (1 + np.exp(-(logits[np.arange(n), truth] - logits[np.arange(n), 1 - truth])))
        weights = loss_weights(chance.astype(np.float32), [str(t) for t in truth])
    better = fit(pooled, right, weights, start, near=1e-4)

    def worst(head):
        hits = (pooled @ head.weight.T + head.bias).argmax(1) == truth
        return min(hits[(truth == t) & (agrees == a)].mean() for t in (0, 1) for a in (True, False))

    assert worst(plain) < 0.4
    assert worst(better) > (0.7 if balanced else 0.5)  # 80% is the best that the other feature allows


def test_independent_labels_are_fitted_one_by_one(rng):
    pooled, right = separable(rng)
    right[:, 2] = pooled[:, 3] > 0  # whatever the others are
    start = Affine(np.zeros((3, 5), np.float32), np.zeros(3, np.float32))
    found = fit(pooled, right, group_weights(["all"] * len(pooled)), start, near=1e-3, sigmoid=True)
    logits = pooled @ found.weight.T + found.bias
    assert ((logits[:, 2] > 0) == right[:, 2]).mean() > 0.95
    assert ((logits[:, 0] > 0) == right[:, 0]).mean() > 0.85
