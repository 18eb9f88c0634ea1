"""The way of one image: results in order, failures of one image only, memory that runs out."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.explain import Explainer, Prepared, prepare
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.core.results import Explanation, Failure, Item
from tests.helpers.networks import tiny_gap, write_photos

CLASSES = ["cat", "dog", "fish"]
SQUARE = Preprocessing((Resize(size=(64, 64)),))


@pytest.fixture(scope="module")
def network() -> GapNetwork:
    return GapNetwork(tiny_gap(), CLASSES, SQUARE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> list[Prepared]:
    paths = write_photos(tmp_path_factory.mktemp("photos"), 9)
    return [prepare(Item(str(i), path), SQUARE) for i, path in enumerate(paths)]


def test_a_map_is_its_logit_laid_out(network, prepared):
    for result in Explainer(network, top_k=3)(prepared):
        assert isinstance(result, Explanation)
        logits = [entry.logit for entry in result.maps]
        assert logits == sorted(logits, reverse=True)
        assert sum(entry.confidence for entry in result.maps) == pytest.approx(1)
        for entry in result.maps:
            assert entry.grid.dtype == np.float32
            assert entry.grid.mean(dtype=float) + entry.bias == pytest.approx(entry.logit, rel=1e-5, abs=1e-6)


def test_images_at_the_boundary_are_certified_like_others():
    """FIELD_REPORTS 9: of two mirrored logits both are near zero just where the image is ambiguous."""
    module = tiny_gap(2)
    with torch.no_grad():
        module[-1].weight[1], module[-1].bias[:] = -module[-1].weight[0], 0
        images = torch.randint(0, 256, (600, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images[:, :, :32] //= torch.arange(1, 601)[:, None, None, None] % 4 + 1
        logits = module.eval()(SQUARE.normalize(images))[:, 0]
        module[-1].bias[:] = torch.stack([-logits.median(), logits.median()])
    network = GapNetwork(module, CLASSES[:2], SQUARE)
    batch = [Prepared(Item(str(i), ""), image, WHOLE, (64, 64)) for i, image in enumerate(images)]
    results = Explainer(network)(batch)
    assert all(isinstance(result, Explanation) for result in results)
    assert {result.maps[0].label for result in results} == {"cat", "dog"}
    assert min(abs(result.maps[0].logit) for result in results) < 1e-5


def test_results_do_not_depend_on_the_batch(network, prepared):
    whole = Explainer(network)(prepared)
    single = [Explainer(network)([entry])[0] for entry in prepared]
    assert [result.id for result in whole] == [entry.item.id for entry in prepared]
    for one, other in zip(whole, single, strict=True):
        assert one.maps[0].label == other.maps[0].label
        np.testing.assert_allclose(one.maps[0].grid, other.maps[0].grid, rtol=1e-4, atol=1e-6)


def test_contrast_is_the_logit_gap_to_the_strongest_true_class(network, prepared):
    explainer = Explainer(network, top_k=3)
    for entry in prepared:
        [plain] = explainer([entry])
        order = [CLASSES.index(m.label) for m in plain.maps]
        [right] = explainer([Prepared(Item("r", "", (order[0], order[2])), entry.pixels, WHOLE, entry.size)])
        [wrong] = explainer([Prepared(Item("w", "", (order[2], order[1])), entry.pixels, WHOLE, entry.size)])
        assert plain.contrast is None
        assert right.contrast is None
        contrast = wrong.contrast
        assert (contrast.label, contrast.versus) == (plain.maps[0].label, plain.maps[1].label)
        assert contrast.logit == pytest.approx(plain.maps[0].logit - plain.maps[1].logit)
        assert contrast.grid.mean(dtype=float) + contrast.bias == pytest.approx(contrast.logit, abs=1e-5)


def test_any_class_can_be_explained(network, prepared):
    [everything] = Explainer(network, top_k=3)(prepared[:1])
    by_label = {entry.label: entry for entry in everything.maps}
    for index, label in enumerate(CLASSES):
        [result] = Explainer(network, classes=[index])(prepared[:1])
        assert result.maps[0].label == label
        np.testing.assert_allclose(result.maps[0].grid, by_label[label].grid, rtol=1e-4, atol=1e-6)


def test_images_of_different_sizes_share_a_call(tmp_path):
    network = GapNetwork(tiny_gap(), CLASSES, Preprocessing())
    paths = write_photos(tmp_path, 2) + write_photos(tmp_path, 2, (40, 100), seed=1) + write_photos(tmp_path, 1, seed=2)
    items = [prepare(Item(str(i), path), network.preprocessing) for i, path in enumerate(paths)]
    results = Explainer(network)(items)
    assert [result.id for result in results] == list("01234")
    assert results[0].maps[0].grid.shape == (12, 16)
    assert results[2].maps[0].grid.shape == (10, 25)


def test_a_sick_output_costs_its_own_sample(network, prepared):
    class Sick(torch.nn.Module):
        """Turns the images that are entirely white into NaN."""

        def __init__(self) -> None:
            super().__init__()
            self.body = tiny_gap()

        def forward(self, input):
            white = (input.amin((1, 2, 3)) > 2).float()
            return self.body(input / (1 - white)[:, None, None, None])

    sick = GapNetwork(Sick(), CLASSES, SQUARE)
    white = Prepared(Item("white", ""), torch.full((3, 64, 64), 255, dtype=torch.uint8), WHOLE, (64, 64))
    results = Explainer(sick)([*prepared[:3], white, *prepared[3:6]])
    assert results[3] == Failure("white", "the network returned NaN or infinity")
    expected = Explainer(network)(prepared[:6])
    for result, other in zip(results[:3] + results[4:], expected, strict=True):
        assert result.maps[0].label == other.maps[0].label


def test_memory_that_runs_out_halves_the_batch_and_is_remembered(prepared):
    class Hungry(torch.nn.Module):
        """Really asks for more memory than there is when a batch is larger than two."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.sizes, self.probed = tiny_gap(), [], False

        def forward(self, input):
            self.sizes.append(len(input))
            if len(input) > 2 and self.probed:
                torch.empty(1 << 60, dtype=torch.uint8)
            return self.body(input)

    network = GapNetwork(Hungry(), CLASSES, SQUARE)
    network.module.probed = True
    explainer = Explainer(network)
    results = explainer(prepared)
    assert all(isinstance(result, Explanation) for result in results)
    assert explainer.batch_limit == 2
    network.module.sizes.clear()
    explainer(prepared)
    assert max(network.module.sizes) == 2, "the smaller batch was forgotten"


@pytest.mark.parametrize("room", [1, 3])
def test_memory_that_another_stream_has_is_waited_for(prepared, room):
    """There is room for so many images: a stream whose own batch would fit must not lose it to the other's."""

    class Crowded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.taken, self.room, self.guard = tiny_gap(), 0, math.inf, threading.Lock()

        def forward(self, input):
            with self.guard:
                if self.taken + len(input) > self.room:
                    torch.empty(1 << 60, dtype=torch.uint8)  # really more than there is
                self.taken += len(input)
            time.sleep(0.003)
            with self.guard:
                self.taken -= len(input)
            return self.body(input)

    network = GapNetwork(Crowded(), CLASSES, SQUARE)
    network.module.room = room
    explainer = Explainer(network)
    # eval mode around both, as the local engine does it: else one would set the training flags back under the other
    with network.evaluating(), ThreadPoolExecutor(2) as pool:
        results = [
            result for batch in pool.map(explainer, [prepared[i : i + 3] for i in (0, 3, 6)] * 5) for result in batch
        ]
    assert [type(result) for result in results] == [Explanation] * 45


def test_an_image_that_breaks_the_network_loses_only_itself(tmp_path):
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = tiny_gap()

        def forward(self, input):
            if (input.mean((1, 2, 3)) > 2).any():
                raise ValueError("too bright for me")
            return self.body(input)

    network = GapNetwork(Picky(), CLASSES, SQUARE)
    dark = [
        Prepared(Item(str(i), ""), torch.full((3, 64, 64), 9 * i, dtype=torch.uint8), WHOLE, (64, 64)) for i in range(5)
    ]
    bright = Prepared(Item("x", ""), torch.full((3, 64, 64), 255, dtype=torch.uint8), WHOLE, (64, 64))
    results = Explainer(network)([*dark[:2], bright, *dark[2:]])
    assert results[2] == Failure("x", "the network fails on it: too bright for me")
    assert all(isinstance(result, Explanation) for result in results[:2] + results[3:])


def test_files_that_cannot_be_read_are_failures_with_a_reason(tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    crop = Preprocessing((Resize(short=64), CenterCrop((64, 64))))
    missing = prepare(Item("1", str(tmp_path / "missing.jpg")), crop)
    assert missing == Failure("1", "file not found")
    assert isinstance(prepare(Item("2", str(text)), crop), Failure)


def test_top_k_is_checked(network):
    with pytest.raises(CamError, match="top_k is 4, expected 1 to 3"):
        Explainer(network, top_k=4)
