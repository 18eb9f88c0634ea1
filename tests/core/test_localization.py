"""Measures of localization: equal to the reference's figures, and laws that any measure of a place must keep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fiftyone_cam.core import localization

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "wsol_reference.json").read_text(encoding="utf-8"))
"""What the code of Choe et al. gives for fixed grids and boxes; ``source`` in the file says which."""

WHOLE = (0.0, 0.0, 1.0, 1.0)
THRESHOLDS = np.arange(0, 1, 0.001).tolist()


def read(case):
    scores = localization.score_map(np.float32(case["grid"]), WHOLE, WHOLE)
    return scores, np.array([localization.to_pixels(box) for box in case["boxes"]])


def mask_of(boxes, side=224):
    mask = np.zeros((side, side), bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def test_boxes_overlap_as_in_the_reference():
    """The best overlap at each threshold, of the largest part and of all parts."""
    some = THRESHOLDS[:: REFERENCE["every_nth"]]
    for case in REFERENCE["cases"]:
        scores, objects = read(case)
        largest, every = localization.Outlines.of(scores, some).best_ious(objects)
        assert largest == pytest.approx(case["largest"], abs=1e-6)
        assert every == pytest.approx(case["every"], abs=1e-6)


def test_pixel_precision_is_that_of_the_reference():
    counts = sum(
        localization.pixel_counts(scores, mask_of(boxes), THRESHOLDS) for scores, boxes in map(read, REFERENCE["cases"])
    )
    assert localization.pixel_average_precision(counts) == pytest.approx(REFERENCE["pxap"], abs=1e-6)


def test_maxboxacc_is_that_of_the_reference():
    cases = [read(case) for case in REFERENCE["cases"]]
    every = np.stack([localization.Outlines.of(scores, THRESHOLDS).best_ious(boxes)[1] for scores, boxes in cases])
    found = np.mean([(every >= iou).mean(0).max() for iou in localization.IOUS])
    assert found == pytest.approx(REFERENCE["maxboxacc_v2"], abs=1e-6)


def test_a_map_that_is_the_object_is_found_wholly():
    """A map that is high on whole cells of a box: every threshold finds it, and so do all measures of pixels."""
    grid = np.zeros((8, 8), np.float32)
    grid[2:5, 3:7] = 1
    sharp = np.kron(grid, np.ones((28, 28)))
    mask = sharp > 0
    objects = np.array([[3 * 28, 2 * 28, 7 * 28, 5 * 28]])
    for ious in localization.Outlines.of(sharp, [0.1, 0.9]).best_ious(objects):
        assert ious == pytest.approx([1, 1])
    assert localization.rank_accuracy(sharp, mask) == 1
    assert localization.pixel_average_precision(localization.pixel_counts(sharp, mask, THRESHOLDS)) == 1
    assert localization.rank_accuracy(1 - sharp, mask) == 0


def test_rank_accuracy_of_a_flat_map_is_the_area():
    """Ties are taken in part: the order of pixels says nothing."""
    mask = np.zeros((10, 10), bool)
    mask[:3] = True
    assert localization.rank_accuracy(np.ones((10, 10)), mask) == pytest.approx(0.3)
    assert localization.rank_accuracy(np.ones((10, 10)), mask & False) is None


def test_scores_do_not_depend_on_shift_and_scale():
    grid = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)
    first = localization.score_map(grid, WHOLE, WHOLE)
    assert (first.min(), first.max()) == (0, 1)
    assert localization.score_map(grid * 4 - 8, WHOLE, WHOLE) == pytest.approx(first, abs=1e-5)


def test_what_was_not_seen_scores_nothing():
    scores = localization.score_map(np.float32([[-5, -1]]), (0.25, 0, 0.5, 1), (0.25, 0, 0.5, 1))
    assert not scores[:, :56].any()
    assert not scores[:, 168:].any()
    assert scores.max() == 1


@pytest.mark.parametrize("tolerance", [0, 1, 15])
def test_near_is_what_a_disc_around_the_point_meets(tolerance):
    """By the pointing game's own words: a disc around the point that holds a pixel of the object."""
    mask = np.zeros((40, 50), bool)
    mask[5, 30] = mask[20:25, 3:9] = True
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[:40, :50]
    away = np.hypot(y[..., None] - rows, x[..., None] - columns).min(-1)
    assert (localization.near(mask, tolerance) == (away <= tolerance)).all()
    assert not localization.near(mask & False, tolerance).any()


def test_ious_by_counting_pixels():
    boxes = np.array([[0, 0, 9, 9], [3, 4, 12, 6]])
    objects = np.array([[5, 5, 14, 14], [0, 0, 0, 0]])

    def pixels(box):
        return {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)}

    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in objects] for a in boxes]
    assert localization.box_ious(boxes, objects) == pytest.approx(np.array(expected))
