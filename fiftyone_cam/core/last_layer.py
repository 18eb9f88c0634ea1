"""The linear layer that gives a classifier's logits, and the same classifier with other weights in it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.float32 import ieee_float32
from fiftyone_cam.core.heads import ConstantHead
from fiftyone_cam.core.network import GapNetwork


class LastLayer(NamedTuple):
    """A linear layer, or a convolution of one pixel, whose output is the logits; with its name in the module."""

    name: str
    layer: nn.Linear | nn.Conv2d

    @property
    def weight(self) -> Tensor:
        """``(C, D)``."""
        return self.layer.weight.detach().flatten(1)

    @property
    def bias(self) -> Tensor:
        """``(C,)``; zeros where the layer has none."""
        if self.layer.bias is None:
            return self.layer.weight.new_zeros(len(self.layer.weight)).detach()
        return self.layer.bias.detach()


@ieee_float32()
def last_layer(network: GapNetwork) -> LastLayer:
    """The layer whose output is the logits: it is listened to in one forward of noise.

    Raises:
        HeadError: there is none; the message names what was found.

    >>> last_layer(GapNetwork(torchvision.models.resnet18(), classes, preprocessing)).name
    'fc'
    """
    heard: dict[str, Tensor] = {}
    layers = {
        name: layer
        for name, layer in network.module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight[0].numel() == layer.weight.shape[1]
    }

    def listen(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, __: object, output: Tensor) -> None:
            heard[name] = output

        return layers[name].register_forward_hook(note)

    hooks = [listen(name) for name, layer in layers.items() if len(layer.weight) == network.head.classes]
    try:
        with network.evaluating(), network.no_gradients():
            logits = network.head.read(network.module, network.noise(2)).logits
    finally:
        for hook in hooks:
            hook.remove()
    for name, output in reversed(heard.items()):
        if output.flatten(1).shape == logits.shape and torch.allclose(output.flatten(1), logits, rtol=1e-4, atol=1e-5):
            return LastLayer(name, layers[name])
    raise HeadError(
        f"the logits are not the output of one linear layer: after the feature maps come {network.head.kind}. "
        "Expected a network that ends in nn.Linear or a convolution of one pixel"
    )


def constant_last_layer(network: GapNetwork) -> LastLayer:
    """The last layer of a head that is one weight for all images, if that weight is the layer's own.

    Raises:
        HeadError: the head's weights are those of each image, or several layers make them.

    >>> torch.equal(constant_last_layer(network).weight, network.head.weight)
    True
    """
    head = network.head
    if not isinstance(head, ConstantHead):
        raise HeadError(
            f"the head is {head.grade} ({head.kind}), so its weights differ from image to image: expected a head of "
            "the grade 'exact' that pools by the average"
        )
    found = last_layer(network)
    if found.weight.shape != head.weight.shape or not torch.allclose(found.weight, head.weight, rtol=1e-4, atol=1e-6):
        raise HeadError(
            f"several layers come between the pooled features and the logits ({head.kind}): expected one linear layer"
        )
    return found


def with_last_layer(network: GapNetwork, weight: Tensor, bias: Tensor) -> GapNetwork:
    """The same classifier with other weights in its last layer: a copy, whose maps are certified anew.

    Args:
        network: stays as it is.
        weight: ``(C, D)``.
        bias: ``(C,)``; a layer without a bias gets one, if this is not zero.

    Raises:
        HeadError: the layer is not to be found, or the copy is no classifier with exact maps.

    >>> again = with_last_layer(network, layer.weight, layer.bias)
    """
    try:
        module = copy.deepcopy(network.module)
    except Exception as error:
        raise HeadError(f"the network cannot be copied: {type(error).__name__}: {error}") from error
    name = last_layer(network).name
    layer = module.get_submodule(name)
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(bias)
        elif bool(bias.any()):
            raise HeadError(f"the last layer, {name!r}, has no bias, and the new one needs one")
    return GapNetwork(module, network.classes, network.preprocessing, network.activation)
