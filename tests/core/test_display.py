"""Maps laid out over the image, and what of them is drawn."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.color import rgb2lab

from fiftyone_cam.core.boxes import WHOLE, clip_to_image
from fiftyone_cam.core.display import (
    HEAT,
    OPACITY,
    SIGNED,
    blue_noise,
    display_size,
    draw_evidence,
    fade_width,
    lay_out,
)
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


# what is drawn

finite = st.floats(-(2.0**100), 2.0**100, width=32)
maps = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=finite)
thresholds = st.sampled_from([0.0, 0.05, 0.15, 0.4, 1.0])


@given(maps, st.booleans(), thresholds, st.none() | st.floats(2.0**-60, 2.0**60, width=32))
def test_what_is_drawn_is_the_evidence_within_half_a_step(evidence, both_signs, threshold, scale):
    drawn, ceiling = draw_evidence(evidence, scale, threshold, both_signs=both_signs)
    steps = drawn[drawn != 0] / ceiling
    clipped = np.clip(evidence.astype(float), -ceiling if both_signs else 0, ceiling)
    strength = np.abs(clipped) / ceiling
    assert len(np.unique(np.abs(steps))) <= 39
    shown = drawn != 0
    np.testing.assert_allclose(drawn[shown] / ceiling, clipped[shown] / ceiling, atol=0.5001 / 32)
    slack = 1e-6
    assert (strength[shown] >= threshold - slack).all()
    least = max(threshold + fade_width(threshold), 0.5 / 32)  # what is less than half a step has no level
    assert shown[strength > least + slack].all()


@given(maps, thresholds, st.integers(-9, 9))
def test_signs_and_units_do_not_matter(evidence, threshold, power):
    drawn, ceiling = draw_evidence(evidence, 8.0, threshold, both_signs=True)
    np.testing.assert_array_equal(draw_evidence(-evidence, 8.0, threshold, both_signs=True)[0], -drawn)
    np.testing.assert_array_equal(draw_evidence(evidence, 8.0, threshold)[0], np.maximum(drawn, 0))
    other = draw_evidence(evidence * np.float32(2.0**power), 8.0 * 2.0**power, threshold, both_signs=True)
    np.testing.assert_array_equal(other[0], drawn * np.float32(2.0**power))
    assert other[1] == ceiling * 2.0**power


def test_a_weak_map_stays_weak_against_a_common_scale():
    for evidence in (np.float32([[0, 8.0]]), np.float32([[0, 4.0]])):
        np.testing.assert_array_equal(draw_evidence(evidence, 8.0)[0], evidence)
    assert draw_evidence(np.float32([[1.0]]), 8.0)[0].max() == 0  # below the threshold: the picture stays clear
    assert draw_evidence(np.float32([[1.0]]), 8.0, 0.0)[0].max() == 1
    assert draw_evidence(np.float32([[80.0]]), 8.0) == (np.float32([[8.0]]), 8.0)


@pytest.mark.parametrize("threshold", [0.05, 0.15, 0.6])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_weak_evidence_fades_evenly(threshold, place):
    """Of evidence halfway through the fade half of the pixels are drawn, everywhere: also of any 8 x 8 of them."""
    share = threshold + place * fade_width(threshold)
    shown = draw_evidence(np.full((128, 192), 16 * share, np.float32), 16.0, threshold)[0] != 0
    assert shown.mean() == pytest.approx(place, abs=1e-3)
    blocks = shown.reshape(16, 8, 24, 8).mean(axis=(1, 3))
    assert np.abs(blocks - place).max() < 0.08  # of white noise it would be three times that


@pytest.mark.parametrize("colors", [HEAT, SIGNED])
def test_neighbouring_levels_look_alike(colors):
    """Whatever the scale, on a photo: a step that is seen would be a contour where the evidence has none."""
    stops = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors])
    for scale in np.geomspace(1, 2, 20):
        evidence = np.linspace(-1 if colors is SIGNED else 0, 1, 4001, dtype=np.float32)[None] * np.float32(scale)
        drawn, top = draw_evidence(evidence, scale, 0.0, both_signs=colors is SIGNED)
        levels = np.unique(drawn) / top
        assert 32 <= (levels > 0).sum() < 40
        place = (levels + 1) / 2 if colors is SIGNED else levels
        rgb = np.stack([np.interp(place, np.linspace(0, 1, len(stops)), channel) for channel in stops.T], axis=1)
        photo = np.float64([0.5, 0.5, 0.5])
        lightness = rgb2lab((OPACITY * rgb + (1 - OPACITY) * photo)[None])[0, :, 0]
        assert np.abs(np.diff(lightness)).max() < 1.8


def test_the_noise_is_blue():
    noise = blue_noise()
    assert len(np.unique(noise)) == 64 * 64
    for density in (0.1, 0.3, 0.5, 0.8):
        points = (noise < density) - density
        power = np.abs(np.fft.fft2(points)) ** 2
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
        coarse = power[(frequency > 0) & (frequency < 0.15)].mean()
        assert coarse < 0.12 * power.mean(), density


def test_a_drawn_map_is_small():
    """As compressed as it is stored; a blob on a landscape photo, as networks make them."""
    y, x = np.mgrid[:7, :7]
    sizes = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        centre, width = rng.uniform(1, 5, 2), rng.uniform(1, 2)
        grid = 20 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * width**2)) + rng.normal(0, 2, (7, 7))
        shown = lay_out(grid.astype(np.float32), (0.12, 0, 0.76, 1), (0.12, 0, 0.76, 1), *display_size(480, 640))
        sizes.append(len(zlib.compress(draw_evidence(shown, 24.0)[0].tobytes(), 3)))
    assert np.mean(sizes) < 6000
