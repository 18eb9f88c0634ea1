"""A report of a repair: it counts every group, and its first line says what became worse."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_cam.core.group_effects import group_effects, worst_group
from fiftyone_cam.repair.report import RepairReport


def masks(sizes):
    """Groups of these sizes, one behind the other."""
    names = np.repeat(np.arange(len(sizes)), sizes)
    return {f"group {i}": names == i for i in range(len(sizes))}


def test_accuracy_changes_by_what_is_repaired_and_broken():
    rng = np.random.default_rng(0)
    before, after = rng.random(200) < 0.7, rng.random(200) < 0.8
    for group in group_effects(before, after, masks([120, 80])):
        assert group.change == pytest.approx((group.repaired - group.broken) / group.samples)
        assert group.interval[0] <= group.change <= group.interval[1]
    [whole] = group_effects(before, after, {"all": np.ones(200, bool), "none": np.zeros(200, bool)})
    assert (whole.before, whole.after) == (before.mean(), after.mean())


def test_an_interval_holds_the_true_change_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for draw in range(300):
        before = rng.random(150) < 0.6
        after = np.where(before, rng.random(150) > 0.05, rng.random(150) < 0.25)  # true change: -0.03 + 0.1
        [group] = group_effects(before, after, {"all": np.ones(150, bool)}, seed=draw)
        held += group.interval[0] <= 0.07 <= group.interval[1]
    assert 0.91 <= held / 300 <= 0.98


def test_the_worst_group_need_not_be_the_same():
    before = np.repeat([True, False, True], [50, 50, 20])
    after = np.repeat([True, False, True, True], [40, 10, 50, 20])
    worst = worst_group(group_effects(before, after, masks([50, 50, 20])))
    assert (worst.before, worst.after) == (0, 0.8)
    assert worst.interval_after[0] < 0.8 < worst.interval_after[1]


def test_the_first_line_says_which_group_became_worse():
    before, after = np.repeat([True, False], [50, 50]), np.repeat([True, False, True], [45, 5, 50])
    report = RepairReport.of("Edited", [], before, after, masks([50, 50]), {"cat": np.ones(100, bool)})
    first, *_ = str(report).splitlines()
    assert first == "Edited: 50.0% right before, 95.0% after; WORSE: group 0 (100.0% to 90.0%)"
    better = RepairReport.of("Edited", [], before, np.ones(100, bool), masks([50, 50]), {})
    assert str(better).splitlines()[0].endswith("; no group is worse")


def test_a_group_of_few_samples_is_listed_and_not_judged():
    before = np.ones(60, bool)
    after = before.copy()
    after[-2:] = False
    report = RepairReport.of("Edited", [], before, after, masks([55, 5]), {})
    assert [group.samples for group in report.groups] == [55, 5]
    assert report.worst is not None
    assert report.worst.after == 1
