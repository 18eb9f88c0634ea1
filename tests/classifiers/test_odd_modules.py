"""Modules that load and would lie: they are refused, with what is wrong; and those that only look odd are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

import fiftyone_cam as focam
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
        (name for name in ["cat", "dog", "fish"]),
    ],
    ids=["by number", "by number, in disorder", "as in JSON", "class_to_idx", "an array", "a generator"],
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
