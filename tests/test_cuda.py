"""On a GPU the same code gives the same maps. Skipped, saying so, where there is none."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.explain import Explainer, prepare
from fiftyone_cam.core.last_layer import last_layer
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.results import Explanation, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.engines import local
from fiftyone_cam.networks import build
from tests.helpers.networks import write_photos

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


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 5e-3), ("bfloat16", 0.1), ("float16", 0.02)])
def test_maps_are_those_of_the_cpu_and_exact(network, prepared, precision, tolerance):
    """In float32 to TensorFloat-32's ten bits, in which a GPU may compute convolutions."""
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
    local._cuda_stream.cache_clear()
    explainer = Explainer(network.to("cuda").for_inference(), precision=precision)
    items = [Item(str(i), path) for i, path in enumerate(write_photos(tmp_path, 40) * 10)]
    expected = [
        result
        for start in range(0, 400, 8)
        for result in explainer([prepare(item, network.preprocessing) for item in items[start : start + 8]])
    ]
    found = list(local.explain_all(items, explainer, 8, None, Timing()))
    assert local._cuda_stream.cache_info().currsize == 2
    assert [result.id for result in found] == [item.id for item in items]
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Explanation)
        np.testing.assert_allclose(one.maps[0].grid, other.maps[0].grid, rtol=1e-4, atol=1e-5)


def test_a_run_takes_the_gpu_by_itself_and_a_batch_that_keeps_it_busy(dataset, tmp_path, network):
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 40)])
    classifier = focam.load_classifier(network.module, CLASSES, preprocessing=network.preprocessing)
    run = focam.compute_cam(dataset, classifier)
    assert run.counts.computed == 40
    assert run.record.timing.device.startswith("cuda")
    assert classifier.network.to("cuda").batch_size() > 32


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "densenet121",
        "efficientnet_b0",
        "mobilenet_v3_small",
        "convnext_tiny",
        "swin_t",
        "vgg11",
        "vit_b_16",
    ],
)
def test_a_module_that_is_on_the_gpu_already_is_read_as_on_the_cpu(dataset, tmp_path, name):
    """As FiftyOne's zoo loads them. Of TensorFloat-32 an image's logits seemed to depend on the others in its batch."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, num_classes=10)
    torch.nn.init.normal_(last_linear(module).weight, std=0.05)  # it may begin at zero
    steps = Preprocessing((Resize(size=(224, 224)),))
    on_cpu = focam.load_classifier(module, CLASSES, preprocessing=steps)
    on_gpu = focam.load_classifier(module.cuda(), CLASSES, preprocessing=steps)
    assert on_gpu.network.device.type == "cuda"
    one, other = (found.network.head.describe() for found in (on_gpu, on_cpu))
    assert one | {"probe_error": 0} == other | {"probe_error": 0}
    assert on_gpu.network.head.error < 1e-5
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 6)])
    for precision in ("float32", "bfloat16", "float16"):
        run = focam.compute_cam(dataset, on_gpu, f"gpu_{precision}", precision=precision)
        assert run.counts.computed == 6
        assert run.checks["logits"].passed
        assert run.certificate < 1e-5


def last_linear(module: nn.Module) -> nn.Linear:
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


def test_the_last_layer_of_a_network_on_the_gpu_is_found(network):
    assert last_layer(network.to("cuda")).name == "fc"


@pytest.mark.parametrize("head", ["linear", "convolution"])
def test_maps_are_exact_where_the_user_allows_tensorfloat(prepared, head):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        torch.manual_seed(0)
        module = build("resnet18", 10) if head == "linear" else squeezed()
        network = GapNetwork(module.cuda(), CLASSES, Preprocessing((Resize(size=(96, 96)),)))
        for result in Explainer(network.for_inference())(prepared):
            assert isinstance(result, Explanation), result
            assert result.error <= 1e-5
    finally:
        torch.set_float32_matmul_precision(before)


def squeezed() -> nn.Module:
    """Convolutions, the last of them the head."""
    layers = [nn.Conv2d(3, 256, 7, stride=8, padding=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(256, 10, 1)]
    return nn.Sequential(*layers, nn.Flatten())


def test_a_device_without_a_number_is_the_current_one(network):
    assert str(network.to("cuda").device) == f"cuda:{torch.cuda.current_device()}"


def test_a_batch_that_does_not_fit_is_halved(network, prepared):
    network.to("cuda")
    explainer = Explainer(network)
    explainer(prepared)  # libraries and kernels are loaded
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hold = torch.empty(max(1, free - (64 << 20)), dtype=torch.uint8, device="cuda")
    results = explainer(prepared * 16)  # the first layer's output alone is larger
    del hold
    assert [type(result) for result in results] == [Explanation] * 128
    assert explainer.batch_limit is not None
    assert explainer.batch_limit < 128
