"""Modules that load and would lie: they are refused, with what is wrong; and those that only look odd are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import fiftyone_cam as focam
from fiftyone_cam.core.explain import Explainer, prepare
from fiftyone_cam.core.logits_check import Reference
from fiftyone_cam.core.results import Explanation, Item
from tests.helpers.networks import NAMES, SQUARE, tiny_gap, write_photos


class Around(nn.Module):
    """A forward around a network."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.network, self.wrapped = tiny_gap(), forward

    def forward(self, input):
        return self.wrapped(self.network, input)


def hooked(hook, kind: str = "register_forward_hook") -> nn.Module:
    module = tiny_gap()
    getattr(module, kind)(hook)
    return module


def with_weights(index: int, value: float) -> nn.Module:
    module = tiny_gap()
    [*module.parameters()][index].data.fill_(value)
    return module


def of_batch_statistics() -> nn.Module:
    module = tiny_gap()
    module[1] = nn.BatchNorm2d(8, track_running_stats=False)
    return module


def fails(*_):
    raise KeyError("x")


REFUSED = {
    "noise on the input": (Around(lambda net, x: net(x + torch.randn_like(x))), "other logits each time"),
    "dropout always": (Around(lambda net, x: nn.functional.dropout(net(x), 0.5, True)), "other logits each time"),
    "statistics of the batch": (of_batch_statistics(), r"other images in its batch.*track_running_stats"),
    "the batch mixed": (Around(lambda net, x: net(x) + net(x).mean(0, keepdim=True)), "other images in its batch"),
    "NaN weights": (with_weights(0, float("nan")), r"NaN or infinity: its weights 0\.weight"),
    "an infinite bias": (with_weights(-1, float("inf")), r"NaN or infinity: its weights 8\.bias"),
    "too large weights": (with_weights(0, 3e38), "NaN or infinity"),
    "no weights yet": (tiny_gap().to("meta"), "device 'meta', which holds no values"),
    "a hook that fails": (hooked(fails), "the network fails on an input .* KeyError"),
    "inference mode inside": (Around(torch.inference_mode()(lambda net, x: net(x))), "cannot be looked into"),
    "through NumPy": (
        Around(lambda net, x: torch.from_numpy(net(x).numpy())),
        "do not depend on the image by functions",
    ),
    "complex logits": (Around(lambda net, x: net(x).to(torch.complex64)), "expected logits"),
    "the class alone": (Around(lambda net, x: nn.functional.one_hot(net(x).argmax(1), 3).float()), "in cells"),
    "probabilities in another order": (
        Around(lambda net, x: net(x).softmax(1)[:, [2, 0, 1]]),
        "softmax, getitem. Let the network return its logits, before the softmax",
    ),
    "a softmax by hand": (
        Around(lambda net, x: (e := net(x).exp()) / e.sum(1, keepdim=True)),
        "returns probabilities, expected logits",
    ),
    "a sigmoid within limits": (Around(lambda net, x: net(x).sigmoid().clamp(1e-6, 1 - 1e-6)), "returns probabilities"),
    "sigmoids in another order": (Around(lambda net, x: net(x).sigmoid()[:, [2, 0, 1]]), "returns probabilities"),
    "a mean of probabilities": (
        Around(lambda net, x: net[:4](x)[:, :3].softmax(1).mean((2, 3))),
        "Pass activation='softmax' if they are logits",
    ),
    "none of them": (Around(lambda net, x: 1 - (1 - (net[:4](x)[:, :3] - 6).sigmoid()).flatten(2).prod(2)), "in cells"),
    "a cast inside": (Around(lambda net, x: net(x.half()).float()), "casts inside its forward.*run in float32"),
    "whole numbers": (
        torch.ao.quantization.quantize_dynamic(tiny_gap().eval(), {nn.Linear}),
        r"is quantised, with torch\.ao.*: load the float module",
    ),
    "lazy layers": (nn.Sequential(tiny_gap()[:7], nn.LazyLinear(3)), "lazy layers that never ran"),
    "the first of the batch": (Around(lambda net, x: net(x[:1])), "not a classifier"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_function_of_one_image_is_refused(kind):
    module, message = REFUSED[kind]
    with pytest.raises(focam.CamError, match=message):
        focam.load_classifier(module, NAMES, preprocessing=SQUARE)


RIGHT = {
    "in train mode": (tiny_gap().train(), 1.0),
    "frozen": (tiny_gap().requires_grad_(False), 1.0),
    "half precision": (tiny_gap().half(), 1.0),
    "double precision": (tiny_gap().double(), 1.0),
    "a hook that doubles": (hooked(lambda _, __, logits: 2 * logits), 2.0),
    "a hook for gradients": (hooked(lambda *_: None, "register_full_backward_hook"), 1.0),
    "no gradients inside": (Around(torch.no_grad()(lambda net, x: net(x))), 1.0),
    "a temperature": (Around(lambda net, x: net(x) / 4), 0.25),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_only_looks_odd_has_the_right_logit(kind, tmp_path, classifier):
    [path] = write_photos(tmp_path, 1)
    module, factor = RIGHT[kind]
    flags, types = [part.training for part in module.modules()], {p.dtype for p in module.parameters()}
    expected = classifier.explain(path).maps[0]
    found = focam.load_classifier(module, NAMES, preprocessing=SQUARE).explain(path).maps[0]
    assert found.label == expected.label
    assert found.logit == pytest.approx(factor * expected.logit, rel=3e-3)  # half precision rounds the weights
    assert found.grid.mean() + found.bias == pytest.approx(found.logit, abs=1e-6)
    assert ([part.training for part in module.modules()], {p.dtype for p in module.parameters()}) == (flags, types)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_confidences_are_those_that_the_module_itself_returns(tmp_path, name, beside):
    """A network that ends in a sigmoid got a softmax's confidences."""
    made = {"softmax": lambda logits: logits.softmax(1), "sigmoid": torch.sigmoid}[name]
    module = Around(lambda net, x: (made(net(x)), net(x)) if beside else made(net(x)))
    network = focam.load_classifier(module, NAMES, preprocessing=SQUARE).network
    batch = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    with network.evaluating(), torch.no_grad():
        own = module.eval()(SQUARE.normalize(batch))
        torch.testing.assert_close(network.confidences(network.forward(batch)[0]), own[0] if beside else own)
    assert network.activation == name
    asked = focam.load_classifier(module, NAMES, preprocessing=SQUARE, activation="softmax")
    assert asked.network.activation == "softmax"


FORWARDS = {
    "squeeze": lambda m, f: m[1](m[0](f).squeeze()),
    "squeeze and an MLP": lambda m, f: m[1](torch.relu(m[0](f).squeeze())),
    "squeeze and softmax": lambda m, f: m[1](m[0](f).squeeze()).softmax(1),
    "logits squeezed": lambda m, f: m[1](m[0](f).flatten(1))[..., None, None].squeeze(),
    "view": lambda m, f: m[2](f.view(len(f), -1)),
    "view by a number": lambda m, f: m[2](f.view(-1, 256)),
}


@pytest.mark.parametrize("spelling", FORWARDS)
def test_one_image_and_channels_last_are_taken_as_a_forward_can_take_them(tmp_path, spelling):
    """``squeeze()`` drops the batch's axis of a single image, ``view`` wants channels first: an IndexError ended a run
    whose last batch had one image, and every image failed."""
    torch.manual_seed(0)
    parts = nn.ModuleList([nn.AdaptiveAvgPool2d(1), nn.Linear(16, 3), nn.Linear(256, 3)])
    module = Around(lambda net, x: FORWARDS[spelling](parts, nn.functional.max_pool2d(net[:5](x), 4)))
    module.parts = parts
    classifier = focam.load_classifier(module, NAMES, preprocessing=SQUARE)
    paths = write_photos(tmp_path, 3, size=(64, 64))
    pictures = torch.stack([torch.from_numpy(SQUARE.pixels(path)).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        expected = module.eval()(SQUARE.normalize(pictures))
    if spelling.endswith("softmax"):
        expected = expected.log() - expected.log().mean(1, keepdim=True)
    for network in (classifier.network, classifier.network.for_inference()):
        for batch in (pictures, pictures[:1]):
            with network.evaluating():
                reading = network.read(batch)
            logits = reading.logits - (reading.logits.mean(1, keepdim=True) if spelling.endswith("softmax") else 0)
            torch.testing.assert_close(logits, expected[: len(batch)], rtol=1e-4, atol=1e-5)
            maps, bias = reading.maps(torch.arange(3).expand(len(batch), -1))
            torch.testing.assert_close(maps.mean((2, 3)) + bias, reading.logits, rtol=1e-4, atol=1e-5)
        batch = [prepare(Item(path, path), SQUARE) for path in paths[:1]]
        explainer = Explainer(network, reference=Reference(classifier.network))
        assert isinstance(explainer(batch)[0], Explanation)
        assert explainer.logits_check.passed


class Default64:
    """As many a notebook begins."""

    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(torch.float32)


AROUND = {
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": Default64,
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("layers", [(nn.Linear(16, 3),), (nn.LayerNorm(16), nn.Linear(16, 3))], ids=["exact", "other"])
def test_what_the_caller_is_in_the_middle_of_changes_nothing(tmp_path, around, layers):
    [path] = write_photos(tmp_path, 1)
    module = nn.Sequential(tiny_gap()[:7], *layers)
    expected = focam.load_classifier(module, NAMES, preprocessing=SQUARE).explain(path).maps[0]
    with AROUND[around]():
        found = focam.load_classifier(module, NAMES, preprocessing=SQUARE).explain(path).maps[0]
    np.testing.assert_allclose(found.grid, expected.grid, rtol=1e-4, atol=1e-5)
    assert (found.logit, found.bias) == pytest.approx((expected.logit, expected.bias), abs=1e-5)


def test_colours_said_in_bytes_are_refused():
    """All inputs would be near -2, whatever the picture."""
    for mean, std in (((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), ((0.5,) * 3, (58.4, 57.1, 57.4))):
        said = focam.Preprocessing(SQUARE.steps, mean, std)
        with pytest.raises(focam.SourceError, match="divide both by 255"):
            focam.load_classifier(tiny_gap(), NAMES, preprocessing=said)


def test_a_regression_is_no_classifier():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(num_labels=3, embedding_size=8, hidden_sizes=[8], depths=[1])
    config.problem_type = "regression"
    with pytest.raises(focam.SourceError, match="numbers have no classes"):
        focam.load_classifier(
            transformers.ResNetForImageClassification(config), processor=transformers.ViTImageProcessor()
        )


def test_timms_feature_extractors_are_no_classifiers():
    pytest.importorskip("timm")
    with pytest.raises(focam.SourceError, match="FeatureListNet, which gives features and no logits"):
        focam.load_classifier("timm:resnet10t", weights=None, features_only=True)


def test_processors_and_transforms_that_are_none_are_said(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(num_labels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    model = transformers.ResNetForImageClassification(config)
    for wrong in (3, transformers.ResNetConfig, "imagenet"):
        with pytest.raises(focam.SourceError, match="expected an image processor"):
            focam.load_classifier(model, processor=wrong)
    model.save_pretrained(tmp_path)
    with pytest.raises(focam.SourceError, match=f"As a model of Hugging Face: hf:{tmp_path}"):
        focam.load_classifier(tmp_path)
    dividing = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.0] * 3)])
    with pytest.raises(focam.SourceError, match=r"the transforms make no sense: .*positive deviations"):
        focam.load_classifier(tiny_gap(), NAMES, preprocessing=dividing)


@pytest.mark.parametrize(
    "classes",
    [
        {0: "cat", 1: "dog", 2: "fish"},
        {2: "fish", 0: "cat", 1: "dog"},
        {"2": "fish", "0": "cat", "1": "dog"},
        {"dog": 1, "cat": 0, "fish": 2},
        np.array(["cat", "dog", "fish"]),
        [b"cat", b"dog", b"fish"],
        (name for name in ["cat", "dog", "fish"]),
    ],
    ids=["by number", "by number, in disorder", "as in JSON", "class_to_idx", "an array", "bytes", "a generator"],
)
def test_names_are_those_of_their_logits(classes):
    assert focam.load_classifier(tiny_gap(), classes, preprocessing=SQUARE).classes == ("cat", "dog", "fish")


@pytest.mark.parametrize(
    "classes",
    [
        {"cat", "dog", "fish"},
        {1: "cat", 2: "dog", 3: "fish"},
        {"a": "cat", "b": "dog", "c": "fish"},
        ["cat", " ", "dog"],
    ],
    ids=["a set", "from one", "no numbers", "a blank"],
)
def test_names_without_an_order_are_refused(classes):
    with pytest.raises(focam.SourceError, match="expected"):
        focam.load_classifier(tiny_gap(), classes, preprocessing=SQUARE)


@pytest.mark.parametrize(
    "path", [3, None, np.zeros((4, 4, 3), np.uint8), b"a.jpg"], ids=["3", "None", "pixels", "bytes"]
)
def test_what_is_no_path_is_said(path, classifier):
    with pytest.raises(focam.CamError, match="expected the path of an image file"):
        classifier.explain(path)
