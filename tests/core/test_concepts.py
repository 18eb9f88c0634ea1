"""Concepts are a partition of cells: parts add up to the logits, and removing one does what removing its cells does."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.concept_places import find_places, outline
from fiftyone_cam.core.concept_reader import blurred
from fiftyone_cam.core.concept_sums import Affine, CellFeatures, margins, summarise
from fiftyone_cam.core.concepts import FEWEST, MOST, count_for, fit, layout
from fiftyone_cam.core.errors import CamError

K, C, GRID = 12, 5, (4, 6)


def made(rng: np.random.Generator, truth: tuple[int, ...] = (0,)) -> tuple[CellFeatures, Affine]:
    """Features of one image, and a head, at random; negative features too, as after any activation function."""
    features = rng.normal(size=(K, *GRID)).astype(np.float32)
    head = Affine(rng.normal(size=(C, K)).astype(np.float32), rng.normal(size=C).astype(np.float32))
    maps = np.einsum("ck,khw->chw", head.weight, features)
    logits = maps.mean((1, 2)) + head.bias
    predicted = int(logits.argmax())
    best = max(truth, key=lambda c: logits[c], default=predicted)
    rival = None if not truth or predicted in truth else maps[best]
    return CellFeatures("1", features, logits, 0.5, maps[predicted], rival, truth, WHOLE, WHOLE), head


@pytest.fixture(scope="module")
def clusters():
    return fit(np.random.default_rng(3).normal(size=(600, K)), count=7, seed=1)


@given(st.integers(0, 10_000), st.sampled_from([(0,), (1, 3), (), (0, 1, 2, 3, 4)]))
def test_parts_add_up_and_removing_one_is_removing_its_cells(clusters, seed, truth):
    cells, head = made(np.random.default_rng(seed), truth)
    sums = summarise(cells, clusters, head)
    np.testing.assert_allclose((sums.parts @ head.weight.T).sum(0) + head.bias, cells.logits, atol=1e-5)
    np.testing.assert_allclose(sums.evidence.sum() + head.bias[sums.predicted], cells.logits.max(), atol=1e-5)
    assert sums.assigned.shape == GRID
    assert set(sums.concept) == set(sums.assigned.ravel())
    for row, concept in enumerate(sums.concept):
        removed = np.where(sums.assigned == concept, 0, cells.features).mean((1, 2)) @ head.weight.T + head.bias
        assert sums.predicted_without[row] == removed.argmax()
        right = np.isin(np.arange(C), truth)
        np.testing.assert_allclose(sums.margin_without[row], margins(removed[None], right)[0], atol=1e-5)


@given(st.integers(0, 10_000))
def test_blame_and_the_biases_share_make_up_the_gap(clusters, seed):
    cells, head = made(np.random.default_rng(seed), (2,))
    sums = summarise(cells, clusters, head)
    if sums.predicted == 2:
        assert sums.gap == 0
        assert not sums.blame.any()
    else:
        assert sums.gap == pytest.approx(cells.logits[sums.predicted] - cells.logits[2], rel=1e-5)
        biases = (head.bias[sums.predicted] - head.bias[2]) / sums.gap
        assert sums.blame.sum() + biases == pytest.approx(1, abs=1e-4 / sums.gap)


def test_a_head_whose_weights_are_those_of_the_image_says_nothing_of_removal(clusters, rng):
    cells, head = made(rng, (2,))
    sums, exact = summarise(cells, clusters, None), summarise(cells, clusters, head)
    assert (sums.predicted_without == -1).all()
    assert np.isnan(sums.margin_without).all()
    np.testing.assert_array_equal(sums.blame, exact.blame)
    np.testing.assert_array_equal(sums.assigned, exact.assigned)


def test_the_margin_is_that_of_the_best_right_class():
    logits = np.float32([[1, 5, 3, 4]])
    assert margins(logits, np.array([True, False, True, False])) == [-2]
    assert margins(logits, np.array([False, True, False, False])) == [1]
    assert np.isnan(margins(logits, np.zeros(4, bool)))
    assert np.isnan(margins(logits, np.ones(4, bool)))


def test_the_same_seed_gives_the_same_concepts_and_length_does_not_matter(rng):
    cells = rng.normal(size=(900, K))
    first, second = fit(cells, 9, seed=4), fit(cells, 9, seed=4)
    for a, b in zip(first.to_arrays().values(), second.to_arrays().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.centres, fit(cells, 9, seed=5).centres)
    np.testing.assert_array_equal(first.assign(cells), first.assign(cells * rng.uniform(0.1, 9, (900, 1))))


def test_each_cell_belongs_to_the_nearest_centre(clusters, rng):
    cells = rng.normal(size=(50, K))
    distance = np.linalg.norm(clusters.project(cells)[:, None] - clusters.centres, axis=2)
    np.testing.assert_array_equal(clusters.assign(cells), distance.argmin(1))
    assert type(clusters).from_arrays(clusters.to_arrays()).assign(cells).tolist() == clusters.assign(cells).tolist()


def test_separate_directions_come_apart(rng):
    directions = np.eye(K)[:5]
    true = rng.integers(0, 5, 2000)
    found = fit(directions[true] * rng.uniform(1, 9, (2000, 1)) + rng.normal(0, 0.02, (2000, K)), 5, seed=0)
    assigned = found.assign(directions[true])
    assert len({(a, b) for a, b in zip(true.tolist(), assigned.tolist(), strict=True)}) == 5


def test_how_many_concepts_there_are(rng):
    assert count_for(10) == FEWEST
    assert count_for(10**7) == MOST
    assert len(fit(rng.normal(size=(2000, K)))) == FEWEST
    with pytest.raises(CamError, match="5 cells cannot be 16 concepts"):
        fit(rng.normal(size=(5, K)))


@pytest.mark.parametrize("k", [2, 3, 20])
def test_centres_have_a_place_on_a_plane(k, rng):
    assert layout(rng.normal(size=(k, 2 if k < 4 else 8)).astype(np.float32)).shape == (k, 2)


@given(st.integers(0, 10_000))
def test_places_are_connected_and_share_the_evidence(seed):
    """On several images at once, held against OpenCV's components of one concept on one image at a time."""
    rng = np.random.default_rng(seed)
    assigned, evidence = rng.integers(0, 3, (3, 5, 6)), rng.normal(size=(3, 5, 6))
    found = find_places(assigned, evidence, least=0, most=100)
    places = zip(found.image, found.concept, found.cells, found.evidence, found.share, strict=True)
    by_hand = []
    for image in range(3):
        positive = np.maximum(evidence[image], 0)
        for concept in range(3):
            count, labels = cv2.connectedComponents((assigned[image] == concept).astype(np.uint8), connectivity=8)
            for cells in (labels == label for label in range(1, count)):
                if evidence[image][cells].sum() > 0:
                    share = positive[cells].sum() / positive.sum()
                    by_hand.append((image, -share, concept, cells.tobytes(), evidence[image][cells].sum()))
    by_hand.sort()
    for (image, concept, cells, held, share), expected in zip(places, by_hand, strict=True):
        assert (image, concept, cells.tobytes()) == (expected[0], expected[2], expected[3])
        assert (held, share) == pytest.approx((expected[4], -expected[1]))
    np.testing.assert_allclose(found.sums(evidence), found.evidence)


def test_places_that_hold_little_are_left_out():
    assigned, evidence = np.arange(10)[None, None], np.float32([[[40, 20, 10, 10, 10, 5, 2, 2, 1, -5]]])
    assert find_places(assigned, evidence, least=0.04).concept.tolist() == [0, 1, 2, 3, 4, 5]
    assert find_places(assigned, evidence, most=2).concept.tolist() == [0, 1]
    assert len(find_places(assigned, -np.abs(evidence))) == 0
    both = find_places(assigned.repeat(2, 0), np.concatenate([-np.abs(evidence), evidence]), most=2)
    assert both.image.tolist() == [1, 1]  # each image by itself


def test_an_outline_is_where_its_cells_are():
    cells = np.zeros((4, 4), bool)
    cells[1, 2] = cells[2, 1] = cells[2, 2] = True
    box, mask = outline(cells, (0.1, 0, 0.8, 1), (0.1, 0, 0.8, 1))
    assert box == pytest.approx((0.3, 0.25, 0.4, 0.5))
    assert mask[: len(mask) // 2].mean() == 0.5
    assert mask[len(mask) // 2 :].all()
    assert outline(cells, (2.0, 0, 1, 1), WHOLE) is None  # beyond what the network saw


def test_only_the_cells_are_blurred(rng):
    pixels = rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)
    cells = np.zeros((4, 4), bool)
    cells[1, 1] = True
    found = blurred(pixels, cells, WHOLE)
    assert found[25:35, 25:35].std() < pixels[25:35, 25:35].std() / 4
    np.testing.assert_array_equal(found[50:], pixels[50:])
    np.testing.assert_array_equal(found[:, 50:], pixels[:, 50:])
    np.testing.assert_array_equal(blurred(pixels, np.zeros((4, 4), bool), WHOLE), pixels)
