"""Many images at once have the shares that each has alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fiftyone_cam.core.many_regions import partitions
from fiftyone_cam.core.regions import Cells, Mask, Polygon, partition

law = settings(deadline=None, max_examples=60)

# a 64th grid makes shared edges and corners common
coordinates = st.integers(-16, 80).map(lambda n: n / 64) | st.floats(-0.3, 1.3)
boxes = st.tuples(coordinates, coordinates, st.floats(0.01, 1), st.floats(0.01, 1)).map(Polygon.box)
others = st.sampled_from(
    [Polygon((np.array([[0.1, 0.2], [0.9, 0.3], [0.4, 1.1]]),)), Mask(np.eye(3, dtype=bool), (0.2, 0.1, 0.5, 0.7))]
)
images = st.lists(st.lists(boxes, max_size=3), max_size=3) | st.lists(st.lists(boxes | others, max_size=2), max_size=3)


@law
@given(regions=st.lists(images, min_size=1, max_size=5), size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
       seed=st.integers(0, 2**31))  # fmt: skip
def test_many_images_have_the_shares_of_each(regions, size, seed):
    rng = np.random.default_rng(seed)
    cells, priorities = [], []
    for image in regions:
        x, y, across, down = rng.uniform((0, 0, 0.3, 0.3), (0.4, 0.4, 0.6, 0.6))
        seen = [(0.0, 0.0, 1.0, 1.0), (x, y, across, down)][rng.integers(2)]
        cells.append(Cells.of(size, [seen, (-0.5, -0.25, 2.0, 1.5)][rng.integers(2)], seen))
        priorities.append(rng.permutation(len(image)).tolist())  # sizes that are equal but for rounding decide nothing
    found = partitions(regions, cells, priorities)
    assert found.shape == (len(regions), max(map(len, regions)), *size)
    for image, alone in zip(found, map(partition, regions, cells, priorities), strict=True):
        np.testing.assert_allclose(image[: len(alone)], alone, atol=1e-12)
        assert not image[len(alone) :].any()


def test_the_smaller_of_two_boxes_owns_the_place_and_of_equals_the_first():
    cells = Cells.of((1, 4), (0, 0, 1, 1), (0, 0, 1, 1))
    dog, collar = [Polygon.box((0, 0, 0.75, 1))], [Polygon.box((0.25, 0, 0.25, 1))]
    found = partitions([[dog, collar], [collar, dog], [dog, dog]], [cells] * 3, [[0, 0]] * 3)[:, :, 0]
    np.testing.assert_array_equal(found[0], [[1, 0, 1, 0], [0, 1, 0, 0]])
    np.testing.assert_array_equal(found[1], [[0, 1, 0, 0], [1, 0, 1, 0]])
    np.testing.assert_array_equal(found[2], [[1, 1, 1, 0], [0, 0, 0, 0]])


def test_an_image_with_many_boxes_takes_its_way_alone(rng):
    """More boxes than are put into one array with others."""
    cells = Cells.of((7, 7), (0, 0, 1, 1), (0, 0, 1, 1))
    crowd = [[Polygon.box((x, y, 0.2, 0.2))] for x, y in rng.uniform(0, 0.8, (12, 2))]
    order = list(range(12))
    found = partitions([crowd, crowd[:2]], [cells] * 2, [order, order[:2]])
    np.testing.assert_allclose(found[0], partition(crowd, cells, order), atol=1e-12)
    np.testing.assert_allclose(found[1, :2], partition(crowd[:2], cells, order), atol=1e-12)
