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
