"""Files of weights as people have them: through any wrapper, and what does not fit says why."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fiftyone_cam as focam
from fiftyone_cam.networks import build

NAMES = ["cat", "dog", "fish"]
State = dict[str, torch.Tensor]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled and parallel": prefixed("_orig_mod.module."),
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3},
    "net": prefixed("net."),
    "backbone": prefixed("backbone."),
    "beside an accuracy": lambda state: {"net": state, "acc": 91},
    "with its arguments": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
    "nested twice": lambda state: {"checkpoint": {"model": state}},
    "only the average": lambda state: {"state_dict_ema": state},
    "Lightning, with its loss and a metric": lambda state: {
        "state_dict": {**prefixed("net.")(state), "criterion.weight": torch.ones(3), "val_acc.tp": torch.zeros(1)}
    },
    "twice the same": lambda state: {"a": state, "b": dict(state)},
    "half precision": lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_weights_are_found_in_what_they_were_saved_in(tmp_path, wrapper):
    state = build("cifar_resnet20", 3).state_dict()
    torch.save(WRAPPED[wrapper](state), tmp_path / "w.pth")
    classifier = focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20")
    loaded = classifier.network.module.state_dict()
    tolerance = 1e-3 if wrapper == "half precision" else 0
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, atol=tolerance, rtol=tolerance)


def changed(state: State) -> State:
    return {name: 2 * value for name, value in state.items()}


REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two of them": (lambda state: {"a": state, "b": changed(state)}, "several weights that fit .*: a, b. Save the"),
    "a student and its teacher": (
        lambda state: {**prefixed("student.")(state), **prefixed("teacher.")(changed(state))},
        r"several weights that fit .*: student\., teacher\.",
    ),
    "something else beside": (lambda state: {**prefixed("net.")(state), "scale": torch.ones(1)}, "does not fit"),
    "whole numbers": (lambda state: {k: v.to(torch.int8) for k, v in state.items()}, "is of type torch.int8, expected"),
    "no values": (lambda state: {k: v.to("meta") for k, v in state.items()}, "is without values, expected"),
    "sparse": (lambda state: {k: v.to_sparse() for k, v in state.items()}, "is of layout torch.sparse_coo"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_that_could_be_misread_are_refused(tmp_path, kind):
    made, message = REFUSED[kind]
    torch.save(made(build("small_gap_net", 3).state_dict()), tmp_path / "w.pth")
    with pytest.raises(focam.SourceError, match=message):
        focam.load_classifier(tmp_path / "w.pth", NAMES, arch="small_gap_net")


def test_averaged_models_and_the_weights_before_the_average(tmp_path):
    module, average = build("cifar_resnet20", 3), build("cifar_resnet20", 3)
    torch.save(AveragedModel(module).state_dict(), tmp_path / "averaged.pth")
    torch.save({"model_ema": average.state_dict(), "model": module.state_dict()}, tmp_path / "both.pth")
    for name in ("averaged.pth", "both.pth"):
        classifier = focam.load_classifier(tmp_path / name, NAMES, arch="cifar_resnet20")
        assert torch.equal(next(classifier.network.module.parameters()), next(module.parameters()))
    assert classifier.origin["part"] == "model"


def test_torchvisions_old_names_of_densenet(tmp_path):
    state = torchvision.models.densenet121(num_classes=3).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value for name, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "old.pth")
    classifier = focam.load_classifier(tmp_path / "old.pth", NAMES, arch="densenet121")
    assert classifier.network.module.state_dict().keys() == state.keys()


def test_what_does_not_fit_says_what_all_names_begin_with(tmp_path):
    state = build("cifar_resnet20", 4).state_dict()
    torch.save(prefixed("student.")(state), tmp_path / "w.pth")
    with pytest.raises(focam.SourceError, match=r"size mismatch.*without the prefix 'student\.'"):
        focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20")
    other = nn.Sequential(nn.Conv2d(3, 4, 3)).state_dict()
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(focam.SourceError, match=r"Missing key.*names begin as in '0\.weight'"):
        focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(focam.SourceError, match=r"holds no state dict.*a dict of epoch, lr"):
        focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20")


def test_a_trusted_pickle_that_holds_weights_is_read_as_weights(tmp_path):
    state = build("cifar_resnet20", 3).state_dict()
    torch.save({"state_dict": state, "formatter": argparse.HelpFormatter}, tmp_path / "w.pth")
    with pytest.raises(focam.SourceError, match="trust_pickle=True"):
        focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20")
    classifier = focam.load_classifier(tmp_path / "w.pth", NAMES, arch="cifar_resnet20", trust_pickle=True)
    loaded = classifier.network.module.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    with pytest.raises(focam.SourceError, match="cannot be unpickled"):
        focam.load_classifier(tmp_path / "broken.pth", NAMES, arch="cifar_resnet20", trust_pickle=True)


def test_weights_of_a_timm_architecture_are_fed_as_timm_feeds_it(tmp_path):
    timm = pytest.importorskip("timm")
    module = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    classifier = focam.load_classifier(tmp_path / "w.pth", NAMES, arch="timm:tf_efficientnet_lite0")
    assert classifier.network.preprocessing.mean == (0.5,) * 3  # not ImageNet's
    assert classifier.network.preprocessing.interpolation == "bicubic"
    assert "does not say how they were fed" in classifier.checks["pixels"].detail
