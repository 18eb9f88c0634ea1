"""Maps laid out over the image."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.boxes import WHOLE, clip_to_image
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize


def test_outside_a_crop_there_is_exactly_no_heat(rng):
    grid = rng.normal(1, 0.1, (7, 7)).astype(np.float32)
    box = clip_to_image(Preprocessing((Resize(short=256), CenterCrop((128, 96)))).frame(300, 600))
    shown = lay_out(grid, box, box, 300, 600)
    rows = np.abs(np.arange(300) + 0.5 - 150) < 150 * box[3]
    columns = np.abs(np.arange(600) + 0.5 - 300) < 300 * box[2]
    within = np.outer(rows, columns)
    assert (shown[~within] == 0).all()
    assert (shown[within] != 0).all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**31))
def test_laying_out_keeps_the_mean_and_agrees_with_torch(rows, columns, factor, seed):
    grid = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    size = (rows * factor, columns * factor)
    shown = lay_out(grid, WHOLE, WHOLE, *size)
    expected = torch.nn.functional.interpolate(torch.from_numpy(grid)[None, None], size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    np.testing.assert_allclose(shown.mean(dtype=float), grid.mean(dtype=float), atol=1e-5)
