"""Coverage of cells is area: compared with exact clipping, with dense sampling, and with set algebra."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from skimage.measure import points_in_poly

from fiftyone_cam.core.regions import Cells, Mask, Polygon, contains, partition

law = settings(deadline=None, max_examples=60)

WHOLE = (0.0, 0.0, 1.0, 1.0)
WHOLE_BOX = Polygon.box(WHOLE)

# a 64th grid makes shared edges and corners common, where algorithms of this kind break; the rest is anywhere
coordinates = st.one_of(st.integers(-16, 80).map(lambda n: n / 64), st.floats(-0.3, 1.3))
points = st.tuples(coordinates, coordinates)
rings = st.lists(points, min_size=3, max_size=9).map(lambda ring: np.array(ring))
polygons = st.lists(rings, min_size=1, max_size=2).map(lambda rings: Polygon(tuple(rings)))
boxes = st.tuples(coordinates, coordinates, st.floats(0.01, 1), st.floats(0.01, 1)).map(Polygon.box)


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    x, y = draw(points)
    return Mask(np.array(bits).reshape(height, width), (x, y, draw(st.floats(0.05, 1)), draw(st.floats(0.05, 1))))


@st.composite
def grids(draw):
    """Cells of a grid that reaches beyond the image or not, on an image of which all or a part was seen."""
    x, y = draw(st.floats(0, 0.4)), draw(st.floats(0, 0.4))
    seen = (x, y, draw(st.floats(0.3, 1 - x)), draw(st.floats(0.3, 1 - y)))
    shift = draw(st.floats(-0.1, 0.1))
    box = draw(st.sampled_from([WHOLE, seen, (shift, -shift, 1.0, 1.0), (-0.5, -0.25, 2.0, 1.5)]))
    return Cells.of((draw(st.integers(1, 5)), draw(st.integers(1, 5))), box, seen)


def covered(shapes, cells):
    return partition([shapes], cells)[0]


def clipped_area(ring, left, top, right, bottom):
    """Area of a polygon within a rectangle: Sutherland and Hodgman's clipping, then the shoelace formula."""
    for axis, bound, sign in ((0, left, 1), (0, right, -1), (1, top, 1), (1, bottom, -1)):
        kept = []
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            inside_a, inside_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if inside_a:
                kept.append(a)
            if inside_a != inside_b:
                kept.append(a + (b - a) * (bound - a[axis]) / (b[axis] - a[axis]))
        if not kept:
            return 0.0
        ring = np.array(kept)
    x, y = ring.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def star(rng, corners, centre=(0.5, 0.5)):
    """A simple polygon with concave corners."""
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(0, 0.9, corners)) / corners
    radii = rng.uniform(0.05, 0.7, corners)
    return np.array(centre) + np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


@law
@given(cells=grids(), corners=st.integers(3, 40), seed=st.integers(0, 2**31))
def test_a_polygon_covers_what_exact_clipping_says(cells, corners, seed):
    rng = np.random.default_rng(seed)
    ring = star(rng, corners, rng.uniform(0, 1, 2))
    areas = [
        [clipped_area(ring, left, top, right, bottom) for left, right in pairwise(cells.columns)]
        for top, bottom in pairwise(cells.rows)
    ]
    found = covered([Polygon((ring,))], cells) * cells.areas
    np.testing.assert_allclose(found, areas, atol=5e-12)


@law
@given(cells=grids(), box=boxes)
def test_a_box_covers_the_product_of_its_overlaps(cells, box):
    (x0, y0), (x1, y1) = box.rings[0].min(0), box.rings[0].max(0)
    rows, columns = (
        np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        for edges, low, high in ((cells.rows, y0, y1), (cells.columns, x0, x1))
    )
    np.testing.assert_allclose(covered([box], cells) * cells.areas, np.outer(rows, columns), atol=5e-12)


@law
@given(a=polygons, b=st.one_of(polygons, boxes), seed=st.integers(0, 2**31))
def test_any_polygons_cover_what_dense_sampling_finds(a, b, seed):
    """Self-crossing rings, holes and overlaps: even-odd within a polygon, union between polygons."""
    cells = Cells.of((2, 2), WHOLE, WHOLE)
    rng = np.random.default_rng(seed)
    n = 60
    y, x = (np.indices((n, n)) + rng.uniform(0.2, 0.8, (2, n, n))).reshape(2, -1) / n  # one random point in each square
    samples = np.stack([x, y], 1)
    within = np.zeros(len(samples), bool)
    for polygon in (a, b):
        within |= np.logical_xor.reduce([points_in_poly(samples, ring) for ring in polygon.rings])
    sampled = within.reshape(2, n // 2, 2, n // 2).mean((1, 3))
    # A sample errs only in a square that an outline passes; the errors are independent, one standard deviation at most
    # half a square each. Six of them for the outlines' length leave room for all examples.
    length = sum(np.abs(np.diff(np.vstack([r, r[:1]]), axis=0)).sum() for p in (a, b) for r in p.rings)
    squares = min(n * length + 8, n * n / 4)
    np.testing.assert_allclose(covered([a, b], cells), sampled, atol=6 * 0.5 * np.sqrt(squares) / (n / 2) ** 2)


@law
@given(cells=grids(), mask=masks())
def test_a_mask_is_the_union_of_its_pixels(cells, mask):
    height, width = mask.pixels.shape
    x, y, w, h = mask.box
    pixels = [
        Polygon.box((x + w * column / width, y + h * row / height, w / width, h / height))
        for row, column in zip(*np.nonzero(mask.pixels), strict=True)
    ]
    np.testing.assert_allclose(covered([mask], cells), covered(pixels, cells), atol=1e-9)


@law
@given(cells=grids(), a=st.lists(polygons | boxes, max_size=3), b=st.lists(polygons | boxes, max_size=3))
def test_inclusion_and_exclusion(cells, a, b):
    """|A ∪ B| = |A| + |B| − |A ∩ B|, with the intersection from either side: exact only if every overlap is."""
    union, of_a, of_b = (covered(shapes, cells) for shapes in ([*a, *b], a, b))
    first_a, rest_b = partition([a, b], cells, priority=[0, 1])
    rest_a, first_b = partition([a, b], cells, priority=[1, 0])
    np.testing.assert_allclose(first_a, of_a, atol=1e-9)
    np.testing.assert_allclose(first_b, of_b, atol=1e-9)
    np.testing.assert_allclose(of_a + rest_b, union, atol=1e-9)
    np.testing.assert_allclose(of_b - rest_b, of_a - rest_a, atol=1e-9)
    np.testing.assert_allclose(first_a + rest_b, rest_a + first_b, atol=1e-9)


@law
@given(cells=grids(), regions=st.lists(st.lists(polygons | boxes | masks(), max_size=3), max_size=4))
def test_every_place_has_one_owner_whatever_the_order(cells, regions):
    parts = partition(regions, cells)
    assert parts.shape == (len(regions), len(cells.rows) - 1, len(cells.columns) - 1)
    assert (parts >= 0).all()
    assert (parts.sum(0) <= 1 + 1e-9).all()
    np.testing.assert_allclose(parts.sum(0), covered([s for region in regions for s in region], cells), atol=1e-9)
    shuffled = [region[::-1] for region in regions]
    np.testing.assert_allclose(partition(shuffled, cells), parts, atol=1e-9)
    doubled = [[*region, *region] for region in regions]
    np.testing.assert_allclose(partition(doubled, cells), parts, atol=1e-9)


@law
@given(cells=grids(), shapes=st.lists(polygons | boxes | masks(), min_size=1, max_size=3))
def test_flipping_image_and_regions_together_flips_the_coverage(cells, shapes):
    def flip(shape):
        if isinstance(shape, Mask):
            x, y, w, h = shape.box
            return Mask(shape.pixels[:, ::-1], (1 - x - w, y, w, h))
        return Polygon(tuple(ring * [-1, 1] + [1, 0] for ring in shape.rings))

    def turn(shape):  # rows become columns
        if isinstance(shape, Mask):
            x, y, w, h = shape.box
            return Mask(shape.pixels.T, (y, x, h, w))
        return Polygon(tuple(ring[:, ::-1] for ring in shape.rings))

    found = covered(shapes, cells)
    flipped = covered([flip(shape) for shape in shapes], Cells(cells.rows, (1 - cells.columns)[::-1]))
    np.testing.assert_allclose(flipped[:, ::-1], found, atol=1e-9)
    for shape in shapes:
        turned = covered([turn(shape)], Cells(cells.columns, cells.rows))
        np.testing.assert_allclose(turned.T, covered([shape], cells), atol=1e-9)


@law
@given(cells=grids())
@example(
    cells=Cells(np.array([0.4, np.nextafter(0.4, 1), np.nextafter(np.nextafter(0.4, 1), 1), 0.6]), np.array([0.0, 1]))
)
def test_the_whole_image_covers_every_cell_that_was_seen(cells):
    expected = (cells.areas > 0).astype(float)
    for shape in (WHOLE_BOX, Polygon.box((-1, -1, 3, 3)), Mask(np.ones((3, 5), bool))):
        np.testing.assert_allclose(covered([shape], cells), expected, atol=5e-12)


def test_the_smaller_of_two_regions_owns_the_place_and_priority_goes_before_size():
    cells = Cells.of((1, 4), WHOLE, WHOLE)
    dog, collar = [Polygon.box((0, 0, 0.75, 1))], [Polygon.box((0.25, 0, 0.25, 1))]
    np.testing.assert_array_equal(partition([dog, collar], cells)[:, 0], [[1, 0, 1, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(partition([dog, collar], cells, [0, 1])[:, 0], [[1, 1, 1, 0], [0, 0, 0, 0]])


def test_a_ring_within_a_ring_is_a_hole_and_two_polygons_are_a_union():
    outer, inner = Polygon.box((0, 0, 1, 1)).rings[0], Polygon.box((0.25, 0.25, 0.5, 0.5)).rings[0]
    cells = Cells.of((1, 1), WHOLE, WHOLE)
    for hole in (inner, inner[::-1]):
        assert covered([Polygon((outer, hole))], cells) == 0.75
    assert covered([Polygon((outer,)), Polygon((inner,))], cells) == 1


def test_the_bound_where_a_polygon_crosses_a_mask(rng):
    """A disc over a checkerboard of 32 x 32 pixels: within a pixel for each pixel that the outline passes."""
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    disc = Polygon((0.5 + 0.4 * np.stack([np.cos(angle), np.sin(angle)], 1),))
    board = Mask(np.indices((32, 32)).sum(0) % 2 == 0)
    pixels = [Polygon.box((x / 32, y / 32, 1 / 32, 1 / 32)) for y, x in zip(*np.nonzero(board.pixels), strict=True)]
    cells = Cells.of((7, 7), WHOLE, WHOLE)
    exact = covered([disc, *pixels], cells)
    error = np.abs(covered([disc, board], cells) - exact) * cells.areas
    assert error.max() < 0.1 / 32**2
    assert error.max() > 0  # else the pixels and the mask are one path, and this compares nothing


def test_nothing_covers_nothing_and_a_place_without_area_is_not_divided_by():
    cells = Cells.of((6, 4), (0, -0.5, 1, 2), WHOLE)  # letterboxed: the first and last row saw padding only
    np.testing.assert_array_equal(cells.areas[:, 0] > 0, [False, True, True, True, True, False])
    np.testing.assert_array_equal(covered([WHOLE_BOX], cells)[:, 0], [0, 1, 1, 1, 1, 0])
    assert partition([], cells).shape == (0, 6, 4)
    assert not partition([[]], cells).any()
    assert not covered([Polygon.box((2, 2, 1, 1))], cells).any()
    assert not covered([Mask(np.zeros((3, 3), bool))], cells).any()


def test_a_strip_of_roundings_height_at_the_lower_edge_stays_on_the_grid():
    """Two outlines that cross within rounding of the image's lower edge; found by Hypothesis."""
    ring = np.array([[0.0, 1.015625], [0.015625, 0.0], [0.0, 0.015625], [0.015625, 1.0], [-0.015625, 0.0]])
    cells = Cells.of((2, 2), WHOLE, WHOLE)
    assert covered([Polygon((ring,))], cells).max() < 0.1


@law
@given(shapes=st.lists(polygons | boxes | masks(), min_size=1, max_size=3), x=coordinates, y=coordinates)
def test_a_point_lies_within_if_a_small_cell_around_it_does(shapes, x, y):
    around = Cells(y + np.array([-1e-9, 1e-9]), x + np.array([-1e-9, 1e-9]))
    share = float(covered(shapes, around)[0, 0])
    assume(share < 1e-6 or share > 1 - 1e-6)  # not on an outline, and not at the tip of the sharpest corner
    assert contains(shapes, x, y) == (share > 0.5)


@pytest.mark.parametrize("corners", [3000])
def test_an_outline_of_thousands_of_corners_stays_exact(rng, corners):
    ring = star(rng, corners)
    cells = Cells.of((7, 7), WHOLE, WHOLE)
    expected = [
        [clipped_area(ring, left, top, right, bottom) for left, right in pairwise(cells.columns)]
        for top, bottom in pairwise(cells.rows)
    ]
    np.testing.assert_allclose(covered([Polygon((ring,))], cells) * cells.areas, expected, atol=5e-12)


@law
@given(box=st.tuples(coordinates, coordinates, st.floats(0.01, 1), st.floats(0.01, 1)), cells=grids())
def test_a_box_alone_has_the_shares_that_any_outline_has(box, cells):
    """Bit for bit: the same outline with a corner more goes the way of all shapes."""
    [ring] = Polygon.box(box).rings
    plain, general = partition([[Polygon((ring,))]], cells), partition([[Polygon((ring[[0, 1, 1, 2, 3]],))]], cells)
    np.testing.assert_array_equal(plain, general)
