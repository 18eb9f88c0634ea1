"""Whatever is passed, what comes back is a classifier or an error in this project's words, never a raw one."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
import torch
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from tests.helpers.networks import NAMES, SQUARE, tiny_gap


class Needs(nn.Module):
    """A forward of two arguments."""

    def forward(self, input, mask):
        return input.mean((2, 3)) * mask


class Returns(nn.Module):
    """A forward that returns whatever it was given."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value
        self.body = tiny_gap()

    def forward(self, input):
        self.body(input)
        return self.value


class Fails(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, input):
        raise self.error


MODULES = {
    "two arguments": Needs(),
    "nothing": Returns(None),
    "a number": Returns(3),
    "a string": Returns("cat"),
    "an empty list": Returns([]),
    "maps": Returns(torch.zeros(2, 3, 4, 4)),
    "a constant": Returns(torch.zeros(2, 3)),
    "integers": Returns(torch.zeros(2, 3, dtype=torch.long)),
    "a scalar": Returns(torch.zeros(())),
    "KeyError": Fails(KeyError("size")),
    "AttributeError": Fails(AttributeError("'NoneType' object has no attribute 'shape'")),
    "TypeError": Fails(TypeError("forward() missing 1 required positional argument")),
    "RuntimeError": Fails(RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
    "no layers": nn.Identity(),
    "no parameters": nn.Sequential(),
    "one channel": nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "flattened": nn.Sequential(nn.Flatten(), nn.Linear(7, 3)),
    "text": nn.Sequential(nn.Embedding(4, 3)),
    "a list of modules": nn.ModuleList([tiny_gap()]),
    "scripted": torch.jit.script(tiny_gap()),
}


@pytest.mark.parametrize("kind", MODULES)
def test_modules_that_are_no_classifiers(kind):
    with pytest.raises(focam.CamError) as found:
        focam.load_classifier(MODULES[kind], NAMES, preprocessing=SQUARE)
    assert str(found.value)


PREPROCESSINGS = {
    "a number": 224,
    "a string": "imagenet",
    "a list": [Resize(size=(64, 64))],
    "an empty list": [],
    "a dict": {"size": 224},
    "a class": Resize,
    "a function": lambda image: image,
    "a function of numbers": lambda image: 3,
    "a function that fails": lambda image: image.nothing,
    "a module": nn.Identity(),
    "a lone step": CenterCrop((8, 8)),
}


@pytest.mark.parametrize("kind", PREPROCESSINGS)
def test_preprocessings_that_are_none(kind):
    with pytest.raises(focam.CamError):
        focam.load_classifier(tiny_gap(), NAMES, preprocessing=PREPROCESSINGS[kind])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"classes": 3},
        {"classes": "cat"},
        {"classes": []},
        {"classes": ["cat"]},
        {"classes": ["cat", None, "dog"]},
        {"classes": NAMES, "activation": "relu"},
        {"classes": NAMES, "activation": 3},
        {"classes": NAMES, "output": "logits"},
        {"classes": NAMES, "output": 7},
        {"classes": NAMES, "arch": "resnet18"},
        {"classes": NAMES, "weights": "DEFAULT2"},
        {"classes": NAMES, "processor": None},
        {"classes": NAMES, "preprocess": SQUARE},
        {"classes": NAMES, "trust_pickle": True},
    ],
)
def test_arguments_that_make_no_sense(kwargs):
    with pytest.raises(focam.CamError):
        focam.load_classifier(tiny_gap(), preprocessing=SQUARE, **kwargs)


SOURCES = [
    *(None, 3, [], {}, object(), tiny_gap, b"resnet18", ""),
    *(
        "nothing",
        "resnet",
        "timm:",
        "timm:nothing",
        "hf:/nowhere",
        "ultralytics:nothing",
        "nothing-torch",
        "/nowhere/w.pt",
    ),
    *("~nobody/w.pt", "a" * 5000, "resnet18\0"),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: repr(source).partition(" at 0x")[0][:30])
def test_sources_that_are_none(source, monkeypatch):
    # The constant and not its environment variable, which a first import would keep for all tests after this one
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(focam.CamError):
        focam.load_classifier(source)


def write(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


CONTENTS = {
    "empty": b"",
    "text": b"not weights",
    "a list": [1, 2],
    "a tensor": torch.zeros(3),
    "an empty dict": {},
    "numbers": {"epoch": 3},
    "keys that are numbers": {1: torch.zeros(3)},
    "values that are none": {"fc.weight": None},
    "other shapes": {"fc.weight": torch.zeros(3, 3)},
    "a nest of nothing": {"state_dict": {}},
    "a cut archive": pickle.dumps({"a": 1})[:-3],
}


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_files_that_hold_no_weights(kind, ending, trusted, tmp_path):
    path = tmp_path / f"w.{ending}"
    write(path, CONTENTS[kind])
    with pytest.raises(focam.CamError):
        focam.load_classifier(path, NAMES, arch="small_gap_net", trust_pickle=trusted)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", '{"arch": "small_gap_net"}', '{"arch": 3, "classes": 4, "preprocessing": 5}', "{"]
)
def test_folders_that_are_no_checkpoints(text, tmp_path):
    (tmp_path / "classifier.json").write_text(text)
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(focam.CamError):
            focam.load_classifier(folder)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"key": 3},
        {"key": ""},
        {"key": "a b"},
        {"ground_truth": "nothing"},
        {"ground_truth": "filepath"},
        {"ground_truth": 3},
        {"class_map": 3},
        {"class_map": "nowhere.json"},
        {"class_map": {"lion": "cat"}},
        {"top_k": 0},
        {"top_k": 9},
        {"top_k": "3"},
        {"batch_size": -1},
        {"device": "tpu"},
        {"device": 3.5},
        {"precision": "int8"},
        {"engine": "spark"},
        {"engine": 3},
        {"threshold": 2},
        {"media_field": None},
        {"media_field": "ground_truth"},
    ],
)
def test_runs_that_make_no_sense(photos, classifier, kwargs):
    with pytest.raises(focam.CamError):
        focam.compute_cam(photos, classifier, **kwargs)
    assert photos.count("cam_heatmap" if photos.has_field("cam_heatmap") else "id") in (0, 12)


@pytest.mark.parametrize("samples", [None, 3, [], {}, "pets", fo.Sample(filepath="a.jpg")], ids=repr)
def test_collections_that_are_none(samples, classifier):
    with pytest.raises(focam.CamError):
        focam.compute_cam(samples, classifier)


def test_a_preprocessing_that_contradicts_itself_says_so():
    for wrong in ({"mean": (0.5,)}, {"std": (0, 0, 0)}, {"interpolation": "soft"}, {"full": -1}):
        with pytest.raises(ValueError, match=r"\w"):
            Preprocessing((), **wrong)
