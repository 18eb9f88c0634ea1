"""Whatever numbers a network or an annotation holds: a finite result, or a reason; no warning, and nothing sick."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fiftyone_cam.core import evidence
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.display import draw_evidence, lay_out
from fiftyone_cam.core.explain import Explainer, Prepared
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.overlay import blend
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.regions import Cells, Polygon, partition
from fiftyone_cam.core.results import Explanation, Failure, Item
from tests.helpers.networks import Brightness

law = settings(deadline=None, max_examples=100)

HUGE = float(np.finfo(np.float32).max)
floats = st.one_of(
    st.floats(-HUGE, HUGE, width=32, allow_nan=False),
    st.sampled_from([0.0, -0.0, HUGE, -HUGE, 1e-45, -1e-45, 1.2e-38, 1.0]),
)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
grids = sizes.flatmap(lambda size: hnp.arrays(np.float32, size, elements=floats))
places = st.tuples(*[st.floats(-2, 2)] * 2, *[st.floats(1e-6, 3)] * 2)


@law
@given(grid=grids, both_signs=st.booleans(), scale=st.none() | st.floats(2.0**-140, HUGE, width=32))
def test_any_map_can_be_displayed(grid, both_signs, scale):
    drawn, ceiling = draw_evidence(grid, scale, both_signs=both_signs)
    assert np.isfinite(drawn).all()
    assert 0 < ceiling <= HUGE
    assert np.abs(drawn.astype(float)).max() <= ceiling
    assert drawn.min() >= (-ceiling if both_signs else 0)
    strength = np.abs(grid) if both_signs else np.maximum(grid, 0)
    top = float(strength.max())
    if top > 1e-30 and (scale is None or top >= scale):
        assert np.abs(drawn.astype(float)).max() == ceiling  # the strongest is drawn in full


@law
@given(grid=grids, box=places, seen=places, height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_map_laid_out_stays_within_its_own_values(grid, box, seen, height, width):
    laid = lay_out(grid, box, seen, height, width)
    assert laid.shape == (height, width)
    assert np.isfinite(laid).all()
    slack = 1e-5 * np.abs(grid).max().astype(float)
    assert laid.max() <= max(0.0, float(grid.max())) + slack
    assert laid.min() >= min(0.0, float(grid.min())) - slack


@law
@given(grid=grids)
def test_the_numbers_of_any_map_are_finite_or_none(grid):
    cells = Cells.of(grid.shape, WHOLE, WHOLE)
    half = partition([[Polygon.box((0.0, 0.0, 0.5, 1.0))]], cells)
    inside, outside = evidence.split(grid, half[0])
    assert math.isfinite(inside)
    assert math.isfinite(outside)
    [share] = evidence.shares(grid, half)
    if grid.max() > 0:
        assert np.isfinite([evidence.spread(grid), evidence.half_cells(grid)]).all()
        assert all(-1e-9 <= part <= 1 + 1e-9 for part in (evidence.border(grid), share))
    else:
        assert np.isnan([evidence.spread(grid), evidence.border(grid), share]).all()
    for number in evidence.agreement(grid, cells, grid[::-1], cells):
        assert number is None or math.isfinite(number)
    box = evidence.evidence_box(grid, WHOLE, WHOLE)
    assert box is None or (np.isfinite(box).all() and min(box[2:]) >= 0)


@law
@given(grid=grids, scale=st.floats(2.0**-126, HUGE, width=32) | st.just(0.0), alpha=st.floats(0, 1))
def test_any_map_can_be_laid_over_a_photo(grid, scale, alpha):
    photo = np.full((*grid.shape, 3), 128, np.uint8)
    picture = blend(photo, grid, WHOLE, scale, "jet", alpha)
    assert picture.shape == photo.shape
    assert picture.dtype == np.uint8


SQUARE = Preprocessing((Resize(size=(32, 32)),), mean=(0.0,) * 3, std=(1.0,) * 3)


class Amplified(torch.nn.Module):
    """The brightness, multiplied and added to until floats end; by the corner's value, each image on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = Brightness(8), torch.zeros(256, 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits = self.body(input)
        scale, offset = self.table[(input[:, 0, 0, 0] * 255).round().clamp(0, 255).long()].T
        return logits * (1 + scale[:, None]) + offset[:, None]


@pytest.fixture(scope="module")
def amplified() -> GapNetwork:
    return GapNetwork(Amplified(), ["light", "dark"], SQUARE)


sick = st.one_of(floats, st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))


@law
@given(
    table=st.lists(st.tuples(sick | st.just(0.0), sick | st.just(0.0)), min_size=1, max_size=8), sigmoid=st.booleans()
)
def test_a_sick_network_gives_maps_that_are_the_logits_or_reasons(amplified, table, sigmoid):
    """Each image is judged alone: what is healthy beside the sick gets the map that it gets without them."""
    amplified.activation = "sigmoid" if sigmoid else "softmax"
    amplified.module.table[:] = 0
    images = []
    for number, entry in enumerate([(0.0, 0.0), *table]):
        amplified.module.table[number] = torch.tensor(entry)
        pixels = torch.full((3, 32, 32), 200, dtype=torch.uint8)
        pixels[0, 0, 0] = number
        images.append(Prepared(Item(str(number), ""), pixels, WHOLE, (32, 32)))
    results = Explainer(amplified, top_k=2)(images)
    assert [result.id for result in results] == [image.item.id for image in images]
    assert isinstance(results[0], Explanation)
    for result in results:
        if isinstance(result, Failure):
            assert "NaN or infinity" in result.reason or "certificate" in result.reason, result.reason
            continue
        terms = [(abs(entry.logit), abs(entry.bias), np.abs(entry.grid).mean(dtype=float)) for entry in result.maps]
        for entry in result.maps:
            assert np.isfinite(entry.grid).all()
            assert np.isfinite([entry.logit, entry.bias, entry.confidence]).all()
            mean = entry.grid.mean(dtype=float) + entry.bias
            assert mean == pytest.approx(entry.logit, rel=1e-5, abs=1.01e-5 * np.max(terms))


def test_a_scale_beyond_float32_certifies_nothing_wrong(amplified):
    """1,024 cells of 3e35 add up to more than float32 holds: over an infinite scale, every error was 0."""
    amplified.module.table[1] = torch.tensor((4.2e35, 4.4e33))
    pixels = torch.full((3, 32, 32), 200, dtype=torch.uint8)
    pixels[0, 0, 0] = 1
    [result] = Explainer(amplified, top_k=2)([Prepared(Item("1", ""), pixels, WHOLE, (32, 32))])
    assert isinstance(result, Failure)
    assert "the map fails its certificate" in result.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_sick_features_behind_a_healthy_logit_are_no_map(value):
    """A NaN or two infinities of opposite sign in the feature maps, which a last layer hides."""

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.sick = Brightness(8), False

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            light = torch.nn.functional.avg_pool2d(input.mean(1, keepdim=True), 8)
            features = torch.cat([light.clamp_min(0), (-light).clamp_min(0)], 1)
            if self.sick:
                features = features.clone()
                features[:, :, 0, 0] = value
            logits = self.body.fc(torch.nn.functional.adaptive_avg_pool2d(features, 1).flatten(1))
            return logits.nan_to_num(0.5, 0.5, 0.5) if self.sick else logits

    network = GapNetwork(Hidden(), ["light", "dark"], SQUARE)
    network.module.sick = True
    image = Prepared(Item("1", ""), torch.full((3, 32, 32), 200, dtype=torch.uint8), WHOLE, (32, 32))
    [result] = Explainer(network)([image])
    assert isinstance(result, Failure)
