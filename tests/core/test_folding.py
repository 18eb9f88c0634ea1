"""Folding changes how a network is computed, never what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fiftyone_cam.core.folding import folded
from fiftyone_cam.core.heads import find_head, read_logits
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.networks import build


def norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d))]


def lived_in(module: nn.Module) -> nn.Module:
    """As after a training: what batch normalisation does is far from nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in norms(module):
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2.0, generator=generator)
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(generator=generator)
    return module.eval()


@pytest.mark.parametrize(
    ("arch", "left"),
    [
        ("resnet18", 0), ("densenet121", 62), ("googlenet", 2), ("mobilenet_v2", 0), ("mnasnet0_5", 0),
        ("shufflenet_v2_x0_5", 0), ("efficientnet_b0", 0), ("regnet_y_400mf", 0), ("squeezenet1_1", 0), ("swin_t", 0),
        ("efficientnet_lite0", 0), ("cifar_resnet20", 0), ("small_gap_net", 0),
    ],
)  # fmt: skip
def test_the_same_function_in_fewer_steps(arch, left):
    """DenseNet's first normalisation of a layer reads what many read; GoogLeNet's two are in its auxiliary heads."""
    torch.manual_seed(0)
    module = lived_in(build(arch, 7))
    batch = torch.randn(2, 3, 96, 96)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fast = folded(module, batch[:1])
    assert len(norms(fast)) == left
    with torch.no_grad():
        expected, found = read_logits(module(batch)), read_logits(fast(batch))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert find_head(fast, batch).error < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in [*module.modules(), *fast.modules()])


class Twice(nn.Module):
    """A convolution whose output is also read elsewhere, one that is called twice, and one pair that may be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 4, 3)
        self.shared_norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.again_norm = nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 4, 3)
        self.plain_norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, batch: Tensor) -> Tensor:
        x = self.shared(batch)
        x = self.shared_norm(x) + x
        for _ in range(2):
            x = self.again_norm(self.again(x))
        x = self.plain_norm(self.plain(x)).relu()
        return self.fc(x.mean((2, 3)))


def test_what_is_read_twice_or_called_twice_is_left_alone():
    torch.manual_seed(0)
    module, batch = lived_in(Twice()), torch.randn(2, 3, 20, 20)
    fast = folded(module, batch)
    assert [type(part) for part in (fast.shared_norm, fast.again_norm, fast.plain_norm)] == [
        nn.BatchNorm2d, nn.BatchNorm2d, nn.Identity,
    ]  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(fast(batch), module(batch))


class Standardised(nn.Conv2d):
    """Its weights are not those that it multiplies with."""

    def forward(self, batch: Tensor) -> Tensor:
        spread = self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(batch, self.weight / spread, self.bias, self.stride, self.padding)


class Doubling(nn.BatchNorm2d):
    def forward(self, batch: Tensor) -> Tensor:
        return 2 * super().forward(batch)


class ByType(nn.Sequential):
    """Leaves out what is no normalisation any more."""

    def forward(self, batch: Tensor) -> Tensor:
        for part in self:
            batch = part(batch) if not isinstance(part, nn.Identity) else 2 * batch
        return batch


@pytest.mark.parametrize(("kind", "left"), [("a convolution", 1), ("a hook", 1), ("a norm", 1), ("a forward", 2)])
def test_what_a_layer_does_beyond_its_class_is_not_folded_away(kind, left):
    """Such a fold is another function: its run was refused."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    module = (ByType if kind == "a forward" else nn.Sequential)(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    if kind == "a convolution":
        module[0] = Standardised(3, 4, 3)
    elif kind == "a hook":
        module[1].register_forward_hook(lambda part, args, output: output * 2)
    elif kind == "a norm":
        module[1] = Doubling(4)
    module, batch = lived_in(module), torch.randn(2, 3, 20, 20)
    fast = folded(module, batch[:1])
    assert len(norms(fast)) == left
    with torch.no_grad():
        torch.testing.assert_close(fast(batch), module(batch))


def test_a_network_for_inference_is_a_copy_and_training_goes_on_in_the_other():
    torch.manual_seed(0)
    network = GapNetwork(lived_in(build("resnet18", 3)), "abc", Preprocessing((Resize(size=(64, 64)),)))
    network.module.train()
    batch = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    fast = network.for_inference()
    assert network.module.training
    assert len(norms(network.module)) == 20
    assert fast.grid_frame == network.grid_frame
    with network.evaluating():
        expected = network.forward(batch)
    for found, wanted in zip(fast.forward(batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_a_module_that_cannot_be_copied_runs_as_it_is():
    class Lock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build("small_gap_net", 3)

        def forward(self, batch: Tensor) -> Tensor:
            return self.net(batch)

        def __deepcopy__(self, memo: object) -> nn.Module:
            raise TypeError("cannot be copied")

    network = GapNetwork(Lock().eval(), "abc", Preprocessing((Resize(size=(32, 32)),)))
    assert network.for_inference() is network
