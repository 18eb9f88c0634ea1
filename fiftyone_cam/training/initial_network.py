"""The network that a training begins with: an architecture with a new last layer, given weights before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from fiftyone_cam.classifiers import sources
from fiftyone_cam.core.errors import HeadError, SourceError
from fiftyone_cam.core.heads import ConstantHead
from fiftyone_cam.core.names import LITE, SMALL
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.networks import build
from fiftyone_cam.training.pictures import SMALL_INPUT

_MEAN, _STD = (0.5,) * 3, (0.25,) * 3


def new_network(arch: str, weights: str | None, classes: Sequence[str], size: int | None, seed: int) -> GapNetwork:
    """The architecture with a new last layer, everything before it from the weights.

    Raises:
        HeadError: its head is not one matrix after average pooling.
    """
    network = _new_network(arch, weights, classes, size, seed)
    if not isinstance(network.head, ConstantHead):
        raise HeadError(
            f"{arch} has no exact head to train: found {network.head.kind} ({network.head.grade}), expected average "
            "pooling and affine steps after it. Use ResNet, DenseNet, EfficientNet, RegNet, MobileNetV2, Swin, …"
        )
    return network


def _new_network(arch: str, weights: str | None, classes: Sequence[str], size: int | None, seed: int) -> GapNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build(arch, len(classes))
    if arch in SMALL:
        if weights not in (None, "DEFAULT"):
            raise SourceError(f"there are no weights {weights!r} for {arch}, expected None")
        return GapNetwork(module, classes, _preprocessing(Preprocessing(mean=_MEAN, std=_STD), size or 32))
    if weights is None:
        return GapNetwork(module, classes, _preprocessing(sources.default_preprocessing(arch), size))
    try:
        source = sources.from_lite(arch) if arch in LITE else sources.from_torchvision(arch, weights)
    except SourceError as error:
        raise SourceError(f"{error}. To begin with random weights: weights=None") from error
    network = GapNetwork(module, classes, _preprocessing(source.fed[0], size))
    _transfer(source.module, network)
    # the head was certified with random weights before it: probe again what will be trained
    return GapNetwork(module, classes, network.preprocessing)


def _preprocessing(usual: Preprocessing, size: int | None) -> Preprocessing:
    if size is None:
        return usual
    margin = 1.0 if size < SMALL_INPUT else 0.875  # a small image has no border to spare
    steps = (Resize(short=round(size / margin)), CenterCrop((size, size)))
    return replace(usual, steps=steps)


def _transfer(given: nn.Module, network: GapNetwork) -> None:
    """Copy every weight that fits, by name, but the last layer's."""
    last = last_layer(network)
    kept = set() if last is None else {f"{last[0]}.weight", f"{last[0]}.bias"}
    state, own = given.state_dict(), network.module.state_dict()
    fitting = {name: state[name] for name in own if name in state and state[name].shape == own[name].shape}
    missing = [name for name in own if name not in state and not name.lower().startswith("aux")]
    if missing:
        raise SourceError(f"the weights do not fit the architecture: they have no {', '.join(missing[:3])}, …")
    network.module.load_state_dict({name: fitting[name] for name in fitting if name not in kept}, strict=False)


def last_layer(network: GapNetwork) -> tuple[str, nn.Linear | nn.Conv2d] | None:
    """The layer that is the head's linear map, with its name; None where it is no single layer."""
    if not isinstance(network.head, ConstantHead):
        return None
    for name, layer in network.module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.numel() == network.head.weight.numel():
            weight = layer.weight.detach().flatten(1)
            if weight.shape == network.head.weight.shape and torch.equal(weight, network.head.weight):
                return name, layer
    return None
