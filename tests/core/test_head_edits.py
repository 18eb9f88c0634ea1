"""What a head loses when directions are taken out of it: exactly the part along them, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_cam.core.concept_sums import Affine
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.head_edits import HeadEdit, Known, choose, principal_directions


@pytest.fixture()
def rng():
    return np.random.default_rng(0)


def a_head(rng, classes=5, width=12):
    return Affine(*(rng.normal(size=shape).astype(np.float32) for shape in ((classes, width), (classes,))))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
def test_logits_lose_the_part_along_the_directions_and_nothing_else(rng, strength):
    head = a_head(rng)
    directions = principal_directions(rng.normal(size=(30, 12)).astype(np.float32), 3)
    edit = HeadEdit(directions, rng.normal(size=12).astype(np.float32), strength)
    pooled = rng.normal(size=(20, 12)).astype(np.float32)
    after = edit.applied(head)
    expected = pooled @ head.weight.T + head.bias - edit.lost(head.weight, pooled)
    np.testing.assert_allclose(pooled @ after.weight.T + after.bias, expected, atol=1e-5)
    by_hand = [strength * (head.weight @ d) * (d @ (pooled[7] - edit.mean)) for d in directions.T]
    np.testing.assert_allclose(edit.lost(head.weight, pooled)[7], np.sum(by_hand, axis=0), atol=1e-5)


def test_an_edited_head_does_not_hear_the_directions_and_keeps_the_logits_of_the_mean(rng):
    head = a_head(rng)
    directions = principal_directions(rng.normal(size=(30, 12)).astype(np.float32), 3)
    edit = HeadEdit(directions, rng.normal(size=12).astype(np.float32))
    after = edit.applied(head)
    np.testing.assert_allclose(after.weight @ directions, 0, atol=1e-5)
    np.testing.assert_allclose(after.weight @ edit.mean + after.bias, head.weight @ edit.mean + head.bias, atol=1e-5)


@pytest.mark.parametrize("rows", [4, 40])
def test_principal_directions_are_the_singular_vectors(rng, rows):
    values = rng.normal(size=(rows, 12)).astype(np.float32)
    found = principal_directions(values, 3)
    expected = np.linalg.svd(values)[2][:3].T
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.abs((found * expected).sum(0)), 1, atol=1e-4)


def test_there_are_no_more_directions_than_the_rows_have(rng):
    one = rng.normal(size=12).astype(np.float32)
    assert principal_directions(np.stack([one, 2 * one, -one]), 8).shape == (12, 1)
    assert principal_directions(np.zeros((0, 12), np.float32), 8).shape == (12, 0)


def planted(rng, n=300, along=1):
    """Two classes along the first feature; a mark along the second speaks for class 1, whatever the class.

    The concept's cells lie along the second feature, or another.
    """
    head = Affine(np.float32([[1, 0, 0], [-1, 3, 0]]), np.zeros(2, np.float32))
    truth, marked = rng.integers(0, 2, n), rng.random(n) < 0.3
    pooled = np.stack([1 - 2.0 * truth + rng.normal(0, 0.3, n), 1.0 * marked, rng.normal(0, 1, n)], 1)
    rows = np.zeros((int(marked.sum()), 3), np.float32)
    rows[:, along] = rng.uniform(0.5, 1.5, len(rows))
    return head, Known(pooled.astype(np.float32), [(int(c),) for c in truth], rows, np.flatnonzero(marked))


def test_what_repairs_is_chosen_and_costs_nothing_where_the_concept_is_not(rng):
    head, known = planted(rng)
    edit, choice = choose(known, head)
    assert edit.strength >= 0.75
    assert choice.repaired >= 0.9 * (known.margins(known.pooled @ head.weight.T) <= 0).sum()
    assert choice.broken == 0
    after = edit.applied(head)
    logits = known.pooled @ after.weight.T + after.bias
    assert (known.margins(logits) > 0).mean() > 0.99


def test_what_breaks_hits_where_the_concept_is_not_is_not_chosen(rng):
    """The concept lies along what tells the classes apart."""
    head, known = planted(rng, along=0)
    edit, choice = choose(known, head)
    assert choice.lost_elsewhere <= 0.005 * (~known.present).sum()
    assert edit.strength <= 0.5


def test_what_one_class_gains_another_does_not_pay(rng):
    """The concept is nearly everywhere, and what it adds lifts one class that is mostly wrong over all others."""
    n = 400
    head = Affine(np.float32([[1, 0, 0], [-1, 2, 0]]), np.zeros(2, np.float32))
    truth = np.arange(n) % 2
    mark = rng.normal(1.5, 0.5, n)  # speaks for class 1, on nearly every picture
    pooled = np.stack([np.where(truth == 0, 1.0, -0.2) + rng.normal(0, 0.2, n), mark, rng.normal(0, 1, n)], 1)
    there = rng.random(n) < 0.9
    rows = np.zeros((int(there.sum()), 3), np.float32)
    rows[:, 0], rows[:, 1] = 1.0, rng.uniform(0.5, 1.5, len(rows))  # the cells have what tells the classes in them, too
    known = Known(pooled.astype(np.float32), [(int(c),) for c in truth], rows, np.flatnonzero(there))
    before = known.margins(known.pooled @ head.weight.T) > 0
    edit, choice = choose(known, head)
    after = edit.applied(head)
    right = known.margins(known.pooled @ after.weight.T + after.bias) > 0
    for label in (0, 1):
        assert right[truth == label].mean() >= before[truth == label].mean() - 0.01
    assert (edit.strength == 0) == bool(choice.nothing)


def test_what_could_be_chance_is_not_chosen(rng):
    """Cells that lie anywhere: of many settings some repair more than they break."""
    chosen = 0
    for _ in range(40):
        n, width = 120, 12
        head = a_head(rng, classes=3, width=width)
        pooled = rng.normal(size=(n, width)).astype(np.float32)
        there = rng.random(n) < 0.4
        rows = rng.normal(size=(int(there.sum()), width)).astype(np.float32)
        truth = [(int(c),) for c in rng.integers(0, 3, n)]
        edit, choice = choose(Known(pooled, truth, rows, np.flatnonzero(there)), head)
        chosen += edit.strength > 0
        assert edit.strength == 0 or choice.p < 0.05
        assert bool(choice.nothing) == (edit.strength == 0)
    assert chosen <= 5  # 5% of 40 is 2


def test_images_are_judged_by_the_directions_of_others(rng):
    """Each image's cells are a direction of their own, and hold its class: its own directions would take all of it."""
    n, classes = 60, 3
    truth = rng.integers(0, classes, n)
    pooled = np.zeros((n, classes + n), np.float32)
    pooled[np.arange(n), truth] = 1
    there = np.arange(n) % 2 == 0
    rows = pooled[there].copy()
    rows[np.arange(len(rows)), classes + np.flatnonzero(there)] = 10
    pooled[there] = rows
    weight = np.zeros((classes, classes + n), np.float32)
    weight[:, :classes] = np.eye(classes)
    weight[(truth + 1) % classes, classes + np.arange(n)] = 1  # the cells of each speak for a wrong class
    known = Known(pooled, [(int(c),) for c in truth], rows, np.flatnonzero(there))
    _, choice = choose(known, Affine(weight, np.zeros(classes, np.float32)))
    assert choice.repaired == 0


def test_some_of_the_known_images_keep_their_rows(rng):
    _, known = planted(rng)
    chosen = rng.random(len(known.right)) < 0.5
    some = known.take(chosen)
    np.testing.assert_array_equal(some.pooled, known.pooled[chosen])
    np.testing.assert_array_equal(some.present, known.present[chosen])
    np.testing.assert_array_equal(some.rows, known.rows[chosen[known.owner]])
    assert some.right == [known.right[i] for i in np.flatnonzero(chosen)]


def test_a_choice_needs_images_with_the_concept(rng):
    head, known = planted(rng)
    nowhere = Known(known.pooled, known.right, known.rows[:0], known.owner[:0])
    with pytest.raises(CamError, match="too few to choose by"):
        choose(nowhere, head)
