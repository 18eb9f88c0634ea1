"""What a training begins with: given weights, frozen backbones, architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights

import fiftyone_cam as focam
from fiftyone_cam.core.errors import HeadError, SourceError
from fiftyone_cam.networks import build
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import striped, weights


def test_a_frozen_backbone_keeps_every_weight_but_the_last_layers(dataset, tmp_path):
    """Batch normalisation's statistics included; and what was learned on features is what the whole network does."""
    dataset.add_samples(striped(tmp_path / "photos", {"narrow": 10, "wide": 10}, size=(60, 60)))
    classifier = train_classifier(
        dataset, "ground_truth", tmp_path / "out", size=64, split=0.4, recipe=focam.Recipe(freeze="backbone", epochs=4)
    )
    given = focam.load_classifier("efficientnet_lite0").network.module.state_dict()
    found = weights(tmp_path / "out")
    changed = {name for name in found if found[name].shape != given[name].shape or not found[name].equal(given[name])}
    assert changed == {"_fc.weight", "_fc.bias"}
    run = catalog.load_training(dataset, "out")
    assert run.metrics.accuracy == run.history[run.record.epoch - 1].validation_accuracy
    assert run.metrics.accuracy >= 0.75  # stripes are easy
    assert classifier.network.preprocessing.mean == pytest.approx((127 / 255,) * 3)


@pytest.mark.parametrize("classes", [3, 1000])
def test_given_weights_go_everywhere_but_into_the_last_layer(tmp_path, monkeypatch, classes):
    """Torchvision's weights, as from its cache; 1000 classes of one's own are not ImageNet's."""
    from fiftyone_cam.training.initial_network import new_network

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    given = build("resnet18", 1000).state_dict()
    cache = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    cache.parent.mkdir(parents=True)
    torch.save(given, cache)
    network = new_network("resnet18", "DEFAULT", [str(i) for i in range(classes)], 64, seed=0)
    found = network.module.state_dict()
    changed = {name for name in found if found[name].shape != given[name].shape or not found[name].equal(given[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert torch.equal(network.head.weight, found["fc.weight"])
    assert network.preprocessing.input_size() == (64, 64)


@pytest.mark.parametrize(
    ("arch", "error", "word"),
    [
        ("mobilenet_v3_small", HeadError, "no exact head"),
        ("alexnet", HeadError, "no exact head"),
        ("resnet8", SourceError, "did you mean resnet"),
        ("timm:resnet18", SourceError, "load_classifier"),
    ],
)
def test_an_architecture_that_will_not_do_is_refused_before_anything_is_written(stripes, tmp_path, arch, error, word):
    with pytest.raises(error, match=word):
        train_classifier(stripes, "ground_truth", tmp_path / "out", arch=arch, weights=None)
    assert stripes.list_runs() == []
    assert not (tmp_path / "out").exists()
