"""The caller's module: what it returns, what it takes, and that it is never changed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import tiny_gap

SQUARE = Preprocessing((Resize(size=(64, 64)),))
GREY = Preprocessing((Resize(size=(64, 64)),), mean=(0.5,), std=(0.25,))
NAMES = ["cat", "dog", "fish"]
Named = namedtuple("Named", "animal colour")


class Returning(nn.Module):
    """Two heads on one body; what it returns of features and logits is said by a function."""

    def __init__(self, shape: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
        self.animal, self.colour = nn.Linear(8, 3), nn.Linear(8, 3)
        self.shape = shape

    def forward(self, image: Tensor) -> Any:
        features = self.body(image)
        pooled = features.mean((2, 3))
        return self.shape(features, self.animal(pooled), self.colour(pooled))


def logits(classifier: focam.Classifier) -> Tensor:
    batch = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    return classifier.network.forward(batch)[0]


def truth(name: str) -> Tensor:
    module = Returning(lambda features, animal, colour: {"animal": animal, "colour": colour}).eval()
    with torch.no_grad():
        return module(SQUARE.normalize(torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)))[name]


CHOSEN: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], str | int | None, str]] = {
    "a list": (lambda f, a, c: [a, c], 1, "colour"),
    "a dict": (lambda f, a, c: {"animal": a, "colour": c}, "colour", "colour"),
    "a named tuple": (lambda f, a, c: Named(a, c), "animal", "animal"),
    "features beside": (lambda f, a, c: (f, c), None, "colour"),
    "an out": (lambda f, a, c: {"out": a}, None, "animal"),
    "one by one cells": (lambda f, a, c: a[:, :, None, None], None, "animal"),
    "softmax beside": (lambda f, a, c: (c.softmax(1), c), None, "colour"),
    "Hugging Face's word": (lambda f, a, c: {"logits": c, "other": a}, None, "colour"),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_the_output_that_is_meant_is_taken(case):
    shape, output, name = CHOSEN[case]
    kwargs = {} if output is None else {"output": output}
    classifier = focam.load_classifier(Returning(shape), NAMES, preprocessing=SQUARE, **kwargs)
    torch.testing.assert_close(logits(classifier), truth(name))
    assert classifier.network.head.error < 1e-5


def test_two_heads_of_one_body_are_two_classifiers():
    """Of one fingerprint, a run with the one went on with the other."""
    module = Returning(lambda f, a, c: [a, c])
    first, second = (focam.load_classifier(module, NAMES, preprocessing=SQUARE, output=i) for i in (0, 1))
    assert first.fingerprint != second.fingerprint
    assert second.describe().details["output"] == 1
    assert first.fingerprint == focam.load_classifier(module, NAMES, preprocessing=SQUARE, output=0).fingerprint


@pytest.mark.parametrize(
    ("shape", "kwargs", "message"),
    [
        (lambda f, a, c: [a, c], {}, r"several things: 0: \(2, 3\), 1: \(2, 3\)\. Pass output=0"),
        (lambda f, a, c: {"a": a, "b": c}, {}, r"'a': \(2, 3\), 'b': \(2, 3\)\. Pass output='a'"),
        (lambda f, a, c: {"a": a, "b": c}, {"output": "d"}, "returns no 'd', but 'a'"),
        (lambda f, a, c: (f, a), {"output": 0}, r"expected logits .* from output 0, found \(2, 8, 16, 16\)"),
        (lambda f, a, c: a, {"output": 1}, "one tensor: leave out output=1"),
        (lambda f, a, c: f, {}, r"found \(2, 8, 16, 16\): not a classifier"),
        (lambda f, a, c: {}, {}, "found nothing"),
    ],
)
def test_nothing_is_taken_silently(shape, kwargs, message):
    with pytest.raises(focam.SourceError, match=message):
        focam.load_classifier(Returning(shape), NAMES, preprocessing=SQUARE, **kwargs)


def one_channel() -> nn.Module:
    module = tiny_gap()
    module[0] = nn.Conv2d(1, 8, 3, stride=2, padding=1)
    return module


def test_a_network_of_one_channel_reads_grey_pictures(tmp_path, rng):
    from PIL import Image

    path = tmp_path / "x.png"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    module = one_channel()
    result = focam.load_classifier(module, NAMES, preprocessing=GREY).explain(path)
    grey = torch.tensor(np.asarray(Image.open(path).convert("L")) / 255, dtype=torch.float32)
    with torch.no_grad():
        expected = module.eval()((grey[None, None] - 0.5) / 0.25).max()
    assert result.maps[0].logit == pytest.approx(float(expected), abs=1e-4)
    with pytest.raises(focam.SourceError, match=r"other channels, pass preprocessing=.*mean=\(0.5,\)"):
        focam.load_classifier(module, NAMES, preprocessing=SQUARE)


def test_timms_networks_of_one_channel_are_fed_grey():
    pytest.importorskip("timm")
    classifier = focam.load_classifier("timm:resnet10t", weights=None, in_chans=1)
    assert len(classifier.network.preprocessing.mean) == 1
    assert "timm does not say" in classifier.checks["pixels"].detail


class TwoInputs(nn.Module):
    """Takes an image and something else."""

    def forward(self, image: Tensor, age: Tensor) -> Tensor:
        return image.mean((2, 3)) + age


class NeedsText(nn.Module):
    """As CLIP, whose text is None by default."""

    def forward(self, image: Tensor, text: Tensor | None = None) -> Tensor:
        return image.mean((2, 3)) @ text.T  # type: ignore[union-attr]


def test_what_a_forward_cannot_take_is_said_in_words():
    for module in (TwoInputs(), NeedsText()):
        with pytest.raises(focam.SourceError, match="whose forward takes the image alone"):
            focam.load_classifier(module, NAMES, preprocessing=SQUARE)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(focam.SourceError, match=r"fails on an input of shape \(2, 3, 64, 64\)"):
        focam.load_classifier(fixed, NAMES, preprocessing=SQUARE)


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_the_callers_module_is_never_changed(wrap):
    """FIELD_REPORTS 23: it was cast to float32 in place, and moved with the run."""
    module = tiny_gap().bfloat16().train()
    wrapped = wrap(module)  # DataParallel moves it to a GPU
    before = {name: value.clone() for name, value in module.state_dict().items()}
    classifier = focam.load_classifier(wrapped, NAMES, preprocessing=SQUARE)
    assert classifier.network.module[-1].weight.dtype == torch.float32
    assert all(value.dtype == module.state_dict()[name].dtype for name, value in before.items())
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert all(part.training for part in module.modules())
    with torch.no_grad():
        classifier.network.module[-1].weight.zero_()
    assert module[-1].weight.abs().max() > 0


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
@pytest.mark.parametrize("how", [nn.utils.weight_norm, lambda part: prune.l1_unstructured(part, "weight", 0.5)])
def test_weights_that_are_computed_are_copied_too(how):
    """They were used themselves: cast in place, and moved with the run."""
    module = tiny_gap().bfloat16()
    for index in (0, 3, 8):
        how(module[index])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    network = focam.load_classifier(module, NAMES, preprocessing=SQUARE).network
    assert all(value.dtype == before[name].dtype for name, value in module.state_dict().items())
    assert network.for_inference() is not network
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = module.float().eval()(SQUARE.normalize(batch))
    for each in (network, network.for_inference()):
        with each.evaluating():
            torch.testing.assert_close(each.forward(batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_classes_of_one_name_are_told_apart():
    """FIELD_REPORTS 25: the second crane could never be explained."""
    classifier = focam.load_classifier(tiny_gap(), ["crane", "heron", "crane"], preprocessing=SQUARE)
    assert classifier.classes == ("crane (0)", "heron", "crane (2)")
    assert classifier.index("crane (2)") == 2
    clashing = focam.load_classifier(tiny_gap(), ["crane", "crane", "crane (0)"], preprocessing=SQUARE)
    assert len(set(clashing.classes)) == 3
    with pytest.raises(focam.SourceError, match=r"did you mean crane \(\d\), crane \(\d\)"):
        classifier.index("crane")


def hugging_face(**config: Any) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    made = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, **config)
    return transformers.ResNetForImageClassification(made), transformers.ViTImageProcessor(
        size={"height": 64, "width": 64}
    )


def test_a_pipeline_a_subclass_and_a_model_are_the_same_classifier():
    transformers = pytest.importorskip("transformers")
    model, processor = hugging_face()

    class Mine(transformers.ResNetForImageClassification):
        pass

    mine = Mine(model.config)
    mine.load_state_dict(model.state_dict())
    pipeline = transformers.pipeline("image-classification", model=model, image_processor=processor)
    first = focam.load_classifier(model, processor=processor)
    for other in (focam.load_classifier(mine, processor=processor), focam.load_classifier(pipeline)):
        assert other.fingerprint == first.fingerprint
        assert other.network.preprocessing == first.network.preprocessing
        assert other.checks["pixels"].passed
    assert first.network.activation == "softmax"


def test_multi_label_models_are_read_as_such():
    """FIELD_REPORTS 10."""
    model, processor = hugging_face(problem_type="multi_label_classification")
    assert focam.load_classifier(model, processor=processor).network.activation == "sigmoid"
    assert focam.load_classifier(model, processor=processor, activation="softmax").network.activation == "softmax"


def test_peft_models_are_read_as_the_model_inside():
    peft = pytest.importorskip("peft")
    model, processor = hugging_face()
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["convolution"]))
    classifier = focam.load_classifier(wrapped, processor=processor)
    assert classifier.classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert classifier.network.head.error < 1e-5


def test_fiftyones_wrapper_of_a_hugging_face_model_is_read_through(tmp_path):
    """FIELD_REPORTS 4: twelve classifiers of the zoo were offered and could not be loaded."""
    pytest.importorskip("transformers")
    import fiftyone.utils.transformers as fout

    model, processor = hugging_face()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    zoo = fout.convert_transformers_model(type(model).from_pretrained(tmp_path), task="image-classification")
    classifier = focam.load_classifier(zoo)
    assert classifier.checks["pixels"].passed
    assert classifier.network.preprocessing.input_size() == (64, 64)


def test_torchvisions_weights_go_by_name_enum_or_the_old_word(monkeypatch, tmp_path):
    import torchvision

    enum = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    module = torchvision.models.squeezenet1_1()
    monkeypatch.setattr(enum.__class__, "get_state_dict", lambda self, *args, **kwargs: module.state_dict())
    expected = focam.load_classifier("squeezenet1_1").fingerprint
    for weights in (enum, "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        assert focam.load_classifier("squeezenet1_1", weights=weights).fingerprint == expected
    assert focam.load_classifier("squeezenet1_1", pretrained=True).fingerprint == expected
    assert focam.load_classifier("squeezenet1_1", pretrained=False).fingerprint != expected
    with pytest.raises(focam.SourceError, match="has no weights"):
        focam.load_classifier("squeezenet1_1", weights=torchvision.models.ResNet18_Weights.DEFAULT)


class Squeezed(nn.Module):
    """One logit, as (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_gap(classes=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image).squeeze(1)


@pytest.mark.parametrize("squeezed", [False, True])
def test_one_logit_names_the_class_that_it_says(tmp_path, rng, squeezed):
    """FIELD_REPORTS 2: every picture was of the one class, with a confidence of one."""
    from PIL import Image

    module = Squeezed() if squeezed else tiny_gap(classes=1)
    last = (module.body if squeezed else module)[-1]
    paths = []
    for index in range(12):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) // (1 + index % 4)).save(paths[-1])
    batch = torch.stack([torch.tensor(np.asarray(Image.open(path))).permute(2, 0, 1) for path in paths])
    with torch.no_grad():
        last.bias -= module.eval()(SQUARE.normalize(batch)).median()
        truth = module(SQUARE.normalize(batch)).flatten()
    assert (truth > 0).any()
    assert (truth < 0).any()
    classifier = focam.load_classifier(module, ["ok", "defect"], preprocessing=SQUARE)
    assert classifier.network.activation == "sigmoid"
    for path, logit in zip(paths, truth.tolist(), strict=True):
        [found] = classifier.explain(path).maps
        assert found.label == ("defect" if logit > 0 else "ok")
        assert found.logit == pytest.approx(abs(logit), abs=1e-5)
        assert found.confidence == pytest.approx(1 / (1 + np.exp(-abs(logit))), abs=1e-5)
        assert found.grid.mean() + found.bias == pytest.approx(abs(logit), abs=1e-5)
        [other] = classifier.explain(path, labels=["ok" if logit > 0 else "defect"]).maps
        np.testing.assert_array_equal(other.grid, -found.grid)


def test_one_logit_needs_two_names():
    for names in (["defect"], NAMES):
        with pytest.raises(focam.SourceError, match=r"one logit, and \d classes were given: pass two names"):
            focam.load_classifier(tiny_gap(classes=1), names, preprocessing=SQUARE)


def test_one_probability_is_no_logit():
    module = nn.Sequential(tiny_gap(classes=1), nn.Sigmoid())
    with pytest.raises(focam.SourceError, match="let it return the logit"):
        focam.load_classifier(module, ["ok", "defect"], preprocessing=SQUARE)


def test_weights_of_one_logit_are_loaded_and_saved_as_such(tmp_path):
    from fiftyone_cam.networks import build

    torch.manual_seed(0)
    torch.save(build("cifar_resnet20", 1).state_dict(), tmp_path / "w.pth")
    classifier = focam.load_classifier(tmp_path / "w.pth", ["ok", "defect"], arch="cifar_resnet20")
    again = focam.load_classifier(classifier.save(tmp_path / "saved"))
    assert again.fingerprint == classifier.fingerprint
    batch = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    logits = again.network.forward(batch)[0]
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])
    torch.testing.assert_close(logits, classifier.network.forward(batch)[0])
