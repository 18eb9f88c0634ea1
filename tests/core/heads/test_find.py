"""Every family of torchvision has a head of its grade; what has none is refused with what was found."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from fiftyone_cam.core.cam import CERTIFICATE_TOLERANCE, class_activation_maps
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads import evaluating, find_head, read_logits, tapped_forward
from tests.helpers.heads import identity_error
from tests.helpers.networks import tiny_gap

EXACT = {
    "resnet18": {},
    "resnext50_32x4d": {},
    "wide_resnet50_2": {},
    "densenet121": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "googlenet with aux": {"aux_logits": True, "init_weights": False},
    "inception_v3": {"aux_logits": True, "init_weights": False},
    "mobilenet_v2": {},
    "mnasnet0_5": {},
    "shufflenet_v2_x0_5": {},
    "efficientnet_b0": {},
    "efficientnet_v2_s": {},
    "regnet_x_400mf": {},
    "regnet_y_400mf": {},
    "squeezenet1_0": {},
    "squeezenet1_1": {},
    "swin_t": {},
    "swin_v2_t": {},
}
OTHERS = {
    "alexnet": ("exact for this image", "linear, relu, linear, relu, linear"),
    "mobilenet_v3_small": ("exact for this image", "average pooling, linear, hardswish, linear"),
    "convnext_tiny": ("exact for this image", "average pooling, layer_norm, linear"),
    "maxvit_t": ("exact for this image", "average pooling, layer_norm, linear, tanh, linear"),
    "vgg11_bn": ("exact for this image", "linear, relu, linear, relu, linear"),
    "vit_b_32": ("exact with remainder", "class token after 12 blocks, linear"),
}
LARGE = ("wide_resnet50_2", "efficientnet_v2_s", "swin_v2_t", "googlenet", "vgg11_bn", "maxvit_t", "vit_b_32")
"""Slow to trace: run with the slow tests."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in EXACT])
def test_torchvision_families_are_exact(name):
    torch.manual_seed(0)
    module = torchvision.models.get_model(name.split()[0], weights=None, num_classes=12, **EXACT[name]).eval()
    size = 128 if name.startswith("inception") else 64  # the smallest that leave more than one cell
    head = find_head(module, torch.randn(2, 3, size, size))
    assert head.error <= CERTIFICATE_TOLERANCE

    # and again on other inputs, of another size where the network takes one, against the network's own logits
    with torch.no_grad():
        batch = torch.randn(3, 3, size, size + 32)
        logits, features = tapped_forward(module, batch, head.tap)
        maps = class_activation_maps(features, head.weight.expand(3, -1, -1))
        torch.testing.assert_close(logits, module(batch), rtol=0, atol=0)
    error = (maps.double().mean((2, 3)) + head.bias - logits).abs().max() / logits.abs().max()
    assert error <= CERTIFICATE_TOLERANCE
    assert maps[0, 0].numel() > 1


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in OTHERS])
def test_torchvision_families_of_other_grades(name):
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, num_classes=12).eval()
    if name.startswith("vit"):
        nn.init.normal_(module.heads.head.weight)  # it begins at zero
    head, maps, error = identity_error(module, torch.randn(2, 3, 224, 224))
    assert (head.grade, head.kind) == OTHERS[name]
    assert error <= CERTIFICATE_TOLERANCE
    assert maps[0, 0].numel() > 1
    assert maps.abs().amax() > 0


class NHWC(nn.Module):
    """Pools channels-last feature maps, as Swin in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)

    def forward(self, input):
        return self.fc(self.conv(input).permute(0, 2, 3, 1).mean((1, 2)))


class Tokens(nn.Module):
    """Pools a sequence of positions, as Swin in transformers; the grid has to be found again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 8, stride=8), nn.Linear(6, 4)

    def forward(self, input):
        tokens = self.conv(input).flatten(2).transpose(1, 2)
        return {"logits": self.fc(nn.functional.adaptive_avg_pool1d(tokens.transpose(1, 2), 1).flatten(1))}


class OneByOne(nn.Module):
    """The last layer is a 1x1 convolution on what was pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 4, 1)

    def forward(self, input):
        return (self.last(torch.relu_(self.body(input)).mean((2, 3), keepdim=True)).flatten(1),)


class Unnamed(NHWC):
    """Logits under another name, as PP-LCNet in transformers."""

    def forward(self, input):
        return SimpleNamespace(last_hidden_state=super().forward(input))


@pytest.mark.parametrize("kind", [NHWC, Tokens, OneByOne, Unnamed])
def test_layouts_and_outputs_of_other_libraries(kind):
    torch.manual_seed(0)
    module = kind().eval()
    batch = torch.randn(2, 3, 64, 96)
    head = find_head(module, batch)
    with torch.no_grad():
        logits, features = tapped_forward(module, batch, head.tap)
        conv = module.conv if hasattr(module, "conv") else nn.Sequential(module.body, nn.ReLU())
        torch.testing.assert_close(features, conv(batch))  # rows and columns where the convolution had them
    torch.testing.assert_close(logits, read_logits(module(batch)))


def test_squeezenets_pooled_maps_are_the_logits():
    module = torchvision.models.squeezenet1_1(num_classes=5).eval()
    head = find_head(module, torch.randn(2, 3, 224, 224))
    assert torch.equal(head.weight, torch.eye(5))
    assert not head.bias.any()


def test_nothing_is_left_on_the_module():
    module = tiny_gap()
    batch = torch.randn(2, 3, 32, 32)
    before = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.forward.__func__) for m in module.modules()]
    module.train()
    module[1].eval()  # a frozen batch norm: its own flag must come back, not the whole network's
    flags = [m.training for m in module.modules()]
    with evaluating(module):
        head = find_head(module, batch)
        assert not any(m.training for m in module.modules())
    assert [m.training for m in module.modules()] == flags

    class Broken(RuntimeError):
        pass

    def explode(*_):
        raise Broken

    handle = module[3].register_forward_hook(explode)
    with pytest.raises(Broken), evaluating(module):
        tapped_forward(module, batch, head.tap)
    handle.remove()
    assert [m.training for m in module.modules()] == flags
    assert before == [(len(m._forward_hooks), len(m._forward_pre_hooks), m.forward.__func__) for m in module.modules()]
    with evaluating(module):  # and it still works, unchanged
        torch.testing.assert_close(tapped_forward(module, batch, head.tap)[0], module(batch))


def test_an_activation_in_place_does_not_touch_the_feature_maps():
    class InPlaceAfter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, 4)

        def forward(self, input):
            return self.fc(nn.functional.relu(self.conv(input), inplace=True).mean((2, 3)))

    torch.manual_seed(0)
    module = InPlaceAfter().eval()
    batch = torch.randn(2, 3, 32, 32)
    _, features = tapped_forward(module, batch, find_head(module, batch).tap)
    torch.testing.assert_close(features, module.conv(batch).relu())


def test_a_pooling_of_one_cell_is_refused():
    with pytest.raises(HeadError, match="larger input size"):
        find_head(tiny_gap().eval(), torch.randn(2, 3, 2, 2))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_modules_that_cannot_be_looked_into_say_so():
    with pytest.raises(HeadError, match="eager module"):
        find_head(torch.jit.trace(tiny_gap().eval(), torch.zeros(1, 3, 32, 32)), torch.randn(1, 3, 32, 32))
    with pytest.raises(HeadError, match="not a classifier"):
        find_head(nn.Conv2d(3, 4, 1), torch.randn(2, 3, 8, 8))


class MaxAndMean(nn.Module):
    """fastai's pooling."""

    def forward(self, input):
        return torch.cat([nn.functional.adaptive_max_pool2d(input, 1), nn.functional.adaptive_avg_pool2d(input, 1)], 1)


def test_fastais_learner_on_a_sliced_resnet():
    torch.manual_seed(0)
    body = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])
    layers = [nn.BatchNorm1d(1024), nn.Dropout(0.25), nn.Linear(1024, 32, bias=False), nn.ReLU(inplace=True)]
    layers += [nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 12, bias=False)]
    module = nn.Sequential(body, nn.Sequential(MaxAndMean(), nn.Flatten(), *layers)).eval()
    for buffer in module.buffers():  # as after training: where a spot answers best is then no guide to the axes
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    head, maps, error = identity_error(module, torch.randn(2, 3, 128, 128))
    assert (head.grade, head.tap.layout, maps.shape[2:]) == ("exact for this image", "NCHW", (4, 4))
    assert error <= CERTIFICATE_TOLERANCE


class TwoScales(nn.Module):
    """Logits of two places in the network, added: no single grid holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 6, 4, stride=4), nn.Conv2d(3, 5, 8, stride=8)
        self.fc = nn.Linear(11, 4)

    def forward(self, input):
        return self.fc(torch.cat([self.fine(input).mean((2, 3)), self.coarse(input).mean((2, 3))], 1))


class Distances(nn.Module):
    """What was pooled has one cell, as always; the feature maps have many."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, stride=4)
        self.centres = nn.Parameter(torch.randn(4, 6))

    def forward(self, input):
        pooled = nn.functional.adaptive_avg_pool2d(self.conv(input).relu(), 1)
        return -torch.cdist(pooled.flatten(1), self.centres)


def test_a_refusal_names_what_was_found():
    torch.manual_seed(0)
    batch = torch.randn(2, 3, 32, 32)
    with pytest.raises(HeadError, match=r"from several places of the network, by cat of 2 tensors \(6, 5\)") as found:
        find_head(TwoScales().eval(), batch)
    assert "single cell" not in str(found.value)
    with pytest.raises(HeadError, match="cdist") as found:
        find_head(Distances().eval(), batch)
    assert "single cell" not in str(found.value)
