"""The numbers of the audit: what they add up to, what they do not depend on, and their extremes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fiftyone_cam.core.evidence import agreement, border, focus, half_cells, peak, shares, split, spread
from fiftyone_cam.core.regions import Cells, Polygon, partition

law = settings(deadline=None, max_examples=100)

WHOLE = (0.0, 0.0, 1.0, 1.0)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
values = st.floats(-50, 50, width=32).map(lambda v: 0.0 if abs(v) < 1e-6 else v)
grids = sizes.flatmap(lambda size: hnp.arrays(np.float32, size, elements=values))
positive_grids = grids.filter(lambda grid: grid.max() > 0)
seeds = st.integers(0, 2**31)


def random_parts(rng, grid, regions=3):
    """A partition of the cells among regions, with a rest."""
    parts = rng.dirichlet(np.ones(regions + 1), grid.shape)
    return np.moveaxis(parts, -1, 0)[:-1]


@law
@given(grid=grids, bias=st.floats(-5, 5), seed=seeds)
def test_evidence_in_and_out_and_the_bias_are_the_logit(grid, bias, seed):
    coverage = random_parts(np.random.default_rng(seed), grid, 1)[0]
    inside, outside = split(grid, coverage)
    logit = grid.astype(np.float64).mean() + bias
    assert inside + outside + bias == pytest.approx(logit, rel=1e-12, abs=1e-12)


@law
@given(grid=grids, seed=seeds)
def test_over_any_partition_the_signed_evidence_adds_up_to_the_map(grid, seed):
    parts = random_parts(np.random.default_rng(seed), grid)
    parts = np.concatenate([parts, 1 - parts.sum(0, keepdims=True)])
    total = sum(split(grid, part)[0] for part in parts)
    assert total == pytest.approx(grid.astype(np.float64).mean(), rel=1e-9, abs=1e-9)


@law
@given(grid=grids, seed=seeds)
def test_shares_of_a_partition_add_up_to_one(grid, seed):
    parts = random_parts(np.random.default_rng(seed), grid)
    found = shares(grid, np.concatenate([parts, 1 - parts.sum(0, keepdims=True)]))
    if grid.max() <= 0:
        assert np.isnan(found).all()
    else:
        assert (found >= 0).all()
        assert found.sum() == pytest.approx(1, abs=1e-12)


@law
@given(grid=positive_grids, factor=st.floats(0.01, 100))
def test_shares_and_shape_do_not_depend_on_the_scale(grid, factor):
    scaled = grid.astype(np.float64) * factor
    coverage = np.linspace(0, 1, grid.size).reshape(1, *grid.shape)
    assert shares(scaled, coverage) == pytest.approx(shares(grid, coverage), abs=1e-12)
    assert spread(scaled) == pytest.approx(spread(grid), abs=1e-9)
    assert border(scaled) == pytest.approx(border(grid), abs=1e-12)
    assert half_cells(scaled) == half_cells(grid)
    assert peak(scaled) == peak(grid)


@law
@given(grid=positive_grids)
def test_evidence_against_the_class_is_no_evidence_for_it(grid):
    lower = np.where(grid < 0, grid * 3 - 1, grid)
    assert spread(lower) == spread(grid)
    assert border(lower) == border(grid)
    assert half_cells(lower) == half_cells(grid)


@law
@given(inside=st.floats(0, 1), area=st.floats(0.001, 0.999))
def test_focus_is_a_ratio_of_densities(inside, area):
    found = focus(inside, area)
    dense, thin = inside / area, (1 - inside) / (1 - area)
    assert found == pytest.approx(dense / (dense + thin), rel=1e-9, abs=1e-12)
    assert 0 <= found <= 1
    # seen from the other side it is the rest: object and surroundings are treated alike
    assert focus(1 - inside, 1 - area) == pytest.approx(1 - found, abs=1e-9)


@law
@given(area=st.floats(0.001, 0.999))
def test_evidence_that_ignores_the_region_has_the_focus_of_chance(area):
    assert focus(area, area) == pytest.approx(0.5)
    assert focus(1, area) == 1
    assert focus(0, area) == 0


def test_there_is_no_focus_on_nothing_or_on_everything():
    assert np.isnan(focus(np.array([0, 1]), np.array([0, 1]))).all()


@pytest.mark.parametrize("size", [(7, 7), (1, 12), (4, 5)])
def test_the_extremes_of_spread(size):
    one = np.zeros(size, np.float32)
    one[0, -1] = 5
    assert spread(one) == 0
    assert spread(np.full(size, 2.5, np.float32)) == pytest.approx(1)
    assert (half_cells(one), half_cells(np.ones(size))) == (1, -(-size[0] * size[1] // 2))


@law
@given(grid=positive_grids)
def test_half_of_the_evidence_and_no_cell_more_than_needed(grid):
    held = np.sort(grid.clip(0).astype(np.float64), axis=None)[::-1]
    count = half_cells(grid)
    assert held[:count].sum() >= held.sum() / 2 * (1 - 1e-9)
    assert held[: count - 1].sum() < held.sum() / 2


def test_the_border_is_the_outermost_ring(rng):
    grid = rng.random((6, 9))
    ring = grid[0].sum() + grid[-1].sum() + grid[1:-1, 0].sum() + grid[1:-1, -1].sum()
    assert border(grid) == pytest.approx(ring / grid.sum())
    assert border(np.ones((2, 7))) == 1  # there is nothing within


def test_the_peak_is_the_strongest_cell():
    grid = np.full((3, 4), -1.0)
    grid[2, 1] = 0.5
    assert peak(grid) == (2, 1)


@pytest.mark.parametrize("size", [(3, 3), (2, 2), (1, 1)])
def test_without_evidence_there_is_no_number(size):
    nothing = np.zeros(size, np.float32)
    assert np.isnan([spread(nothing), border(nothing)]).all()
    assert half_cells(nothing) == 0


@law
@given(size=sizes, count=st.integers(1, 6), seed=seeds)
def test_a_stack_of_maps_has_the_numbers_of_each_map(size, count, seed):
    """Bit for bit, with and without evidence, so that it does not matter which maps are measured together."""
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(count, *size)).astype(np.float32) - rng.integers(0, 4, (count, 1, 1)).astype(np.float32)
    parts = np.stack([random_parts(rng, grid) for grid in stack])
    for number in (spread, border, half_cells):
        np.testing.assert_array_equal(number(stack), [number(grid) for grid in stack])
    np.testing.assert_array_equal(np.stack(peak(stack), -1), [peak(grid) for grid in stack])
    np.testing.assert_array_equal(shares(stack, parts), [shares(*pair) for pair in zip(stack, parts, strict=True)])
    one = [split(grid, part[0]) for grid, part in zip(stack, parts, strict=True)]
    np.testing.assert_array_equal(np.stack(split(stack, parts[:, 0]), -1), one)


# two grids


def cells_of(grid, box=WHOLE, seen=WHOLE):
    return Cells.of(grid.shape, box, seen)


@law
@given(grid=positive_grids)
def test_a_grid_agrees_with_itself(grid):
    correlation, overlap = agreement(grid, cells_of(grid), grid, cells_of(grid))
    assert overlap == pytest.approx(1)
    if np.ptp(grid) > 1e-3:
        assert correlation == pytest.approx(1)
    flat, _ = agreement(grid * 0 + 1, cells_of(grid), grid, cells_of(grid))
    assert flat is None


@law
@given(a=grids, b=grids)
def test_agreement_is_mutual_and_blind_to_scale(a, b):
    one = agreement(a, cells_of(a), b, cells_of(b))
    assert agreement(b, cells_of(b), a, cells_of(a)) == pytest.approx(one, nan_ok=True)
    scaled, overlap = agreement(a.astype(np.float64) * 7, cells_of(a), b, cells_of(b))
    assert (scaled, overlap) == pytest.approx(one)
    assert one[1] is None or 0 <= one[1] <= 1
    opposite = agreement(-a, cells_of(a), b, cells_of(b))[0]
    assert opposite == pytest.approx(None if one[0] is None else -one[0])


@law
@given(a=grids, b=grids, rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_cutting_the_cells_of_a_grid_changes_nothing(a, b, rows, columns):
    finer = np.repeat(np.repeat(a, rows, axis=0), columns, axis=1)
    found = agreement(finer, cells_of(finer), b, cells_of(b))
    assert found == pytest.approx(agreement(a, cells_of(a), b, cells_of(b)), abs=1e-9)


def test_agreement_is_pearsons_on_equal_cells(rng):
    a, b = rng.normal(size=(2, 7, 7))
    b = b + a
    correlation, overlap = agreement(a, cells_of(a), b, cells_of(b))
    assert correlation == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    p, q = a.clip(0) / a.clip(0).sum(), b.clip(0) / b.clip(0).sum()
    assert overlap == pytest.approx(1 - np.abs(p - q).sum() / 2)  # total variation


def test_evidence_where_only_one_of_them_looked_is_not_shared():
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
    ones = np.ones((2, 2))
    assert agreement(ones, cells_of(ones, left, left), ones, cells_of(ones, right, right)) == (None, 0.0)
    assert agreement(ones, cells_of(ones, left, left), ones, cells_of(ones))[1] == pytest.approx(0.5)


def test_flipping_grid_and_regions_together_changes_no_number(rng):
    grid = rng.normal(size=(7, 7)).astype(np.float32)
    box, seen = (-0.004, 0.0135, 1.0, 1.0), (0.0, 0.0, 1.0, 1.0)
    flipped_box = (1 - box[0] - box[2], *box[1:])
    ring = rng.random((9, 2))
    coverage = partition([[Polygon((ring,))]], Cells.of(grid.shape, box, seen))
    mirrored = partition([[Polygon((ring * [-1, 1] + [1, 0],))]], Cells.of(grid.shape, flipped_box, seen))
    flipped = grid[:, ::-1]
    assert shares(flipped, mirrored) == pytest.approx(shares(grid, coverage), abs=1e-12)
    assert split(flipped, mirrored[0]) == pytest.approx(split(grid, coverage[0]), abs=1e-9)
    assert (spread(flipped), border(flipped), half_cells(flipped)) == pytest.approx(
        (spread(grid), border(grid), half_cells(grid))
    )
