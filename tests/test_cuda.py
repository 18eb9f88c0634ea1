"""On a GPU the same code gives the same maps. Skipped, saying so, where there is none."""

from __future__ import annotations

from collections import defaultdict

import fiftyone as fo
import numpy as np
import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.explain import Explainer, Explanation, Item, prepare
from fiftyone_cam.core.geometry import Preprocessing, Resize
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.engines import local
from fiftyone_cam.models import build
from tests.toys import write_photos

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

CLASSES = [f"class {i}" for i in range(10)]


@pytest.fixture()
def network() -> GapNetwork:
    torch.manual_seed(0)
    return GapNetwork(build("resnet18", 10), CLASSES, Preprocessing((Resize(size=(96, 96)),)))


@pytest.fixture()
def prepared(tmp_path, network) -> list[object]:
    return [prepare(Item(str(i), path), network.preprocessing) for i, path in enumerate(write_photos(tmp_path, 8))]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.02)])
def test_maps_are_those_of_the_cpu_and_exact(network, prepared, precision, tolerance):
    expected = Explainer(network)(prepared)
    found = Explainer(network.to("cuda").for_inference(), precision=precision)(prepared)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Explanation)
        assert one.error <= 1e-5
        assert one.maps[0].grid.dtype == np.float32
        scale = np.abs(other.maps[0].grid).max()
        if one.maps[0].label == other.maps[0].label:
            np.testing.assert_allclose(one.maps[0].grid, other.maps[0].grid, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_batches_on_streams_of_their_own_are_what_one_after_the_other_is(tmp_path, network, precision):
    """Of copies and kernels that did not wait for each other, some of so many batches would show it."""
    explainer = Explainer(network.to("cuda").for_inference(), precision=precision)
    items = [Item(str(i), path) for i, path in enumerate(write_photos(tmp_path, 40) * 10)]
    expected = [
        result
        for start in range(0, 400, 8)
        for result in explainer([prepare(item, network.preprocessing) for item in items[start : start + 8]])
    ]
    found = list(local.explained(items, explainer, 8, None, defaultdict(float)))
    assert local._cuda_stream.cache_info().currsize == 2
    assert [result.id for result in found] == [item.id for item in items]
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Explanation)
        np.testing.assert_allclose(one.maps[0].grid, other.maps[0].grid, rtol=1e-4, atol=1e-5)


def test_a_run_takes_the_gpu_by_itself_and_a_batch_that_keeps_it_busy(dataset, tmp_path, network):
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 40)])
    classifier = focam.load_classifier(network.module, CLASSES, preprocessing=network.preprocessing)
    run = focam.compute_cam(dataset, classifier)
    assert run.counts["computed"] == 40
    assert run.record["timing"]["device"].startswith("cuda")
    assert classifier.network.batch_size() > 32


def test_a_batch_that_does_not_fit_is_halved(network, prepared):
    network.to("cuda")
    free, _ = torch.cuda.mem_get_info()
    hold = torch.empty(max(1, free - (64 << 20)), dtype=torch.uint8, device="cuda")
    explainer = Explainer(network)
    results = explainer(prepared * 16)
    del hold
    assert len(results) == 128
    assert explainer.batch_limit is None or explainer.batch_limit < 128
