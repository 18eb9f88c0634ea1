"""Boxes within boxes, and the cells that tile them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.boxes import WHOLE, cell_edges, to_image_coordinates


@given(
    st.floats(-0.5, 0.5), st.floats(0.1, 2), st.floats(0, 0.5), st.floats(0.05, 0.5), st.integers(1, 20)
)  # fmt: skip
def test_cells_tile_exactly_what_was_seen(start, length, seen_start, seen_length, cells):
    edges = cell_edges(start, length, seen_start, seen_length, cells)
    assert len(edges) == cells + 1
    assert (np.diff(edges) >= 0).all()
    np.testing.assert_allclose(np.diff(edges).sum(), seen_length)
    assert edges[0] == seen_start
    assert edges[-1] == seen_start + seen_length


def test_boxes_nest():
    assert to_image_coordinates(WHOLE, (0.1, 0.2, 0.3, 0.4)) == (0.1, 0.2, 0.3, 0.4)
    outer, inner = (0.2, 0.1, 0.5, 0.25), (0.5, 0.5, 0.5, 0.5)
    assert to_image_coordinates(outer, inner) == pytest.approx((0.45, 0.225, 0.25, 0.125))
