"""A network ready to be asked: where its cells look, on which device, in which precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fiftyone_cam.core.errors import CamError, HeadError, SourceError
from fiftyone_cam.core.network import GapNetwork, largest_output
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import Brightness, tiny_gap

SQUARE = Preprocessing((Resize(size=(128, 128)),))


class Subsampling(nn.Module):
    """Each cell sees a single pixel: ``offset`` pixels from the corner of its nominal square of ``stride``."""

    def __init__(self, stride: int, offset: int) -> None:
        super().__init__()
        self.stride, self.offset, self.fc = stride, offset, nn.Linear(3, 2)

    def forward(self, input):
        return self.fc(input[..., self.offset :: self.stride, self.offset :: self.stride].mean((2, 3)))


@pytest.mark.parametrize("offset", [0, 2, 4, 6, 7])
def test_the_measured_centre_is_the_true_one(offset):
    """The law for the shift: of a network that sees one known pixel a cell, that pixel is the centre."""
    network = GapNetwork(Subsampling(8, offset), ["a", "b"], SQUARE)
    expected = (offset + 0.5 - 4) / 128
    assert network.grid_frame[0] == pytest.approx(expected, abs=1 / 128)
    assert network.grid_frame[1] == pytest.approx(expected, abs=1 / 128)


def test_a_symmetric_network_is_not_shifted():
    network = GapNetwork(Brightness(16), ["light", "dark"], SQUARE)
    assert network.grid_frame == pytest.approx((0, 0, 1, 1), abs=1 / 128)


class First(nn.Module):
    """A network behind a step of its own."""

    def __init__(self, step) -> None:
        super().__init__()
        self.step, self.network = step, tiny_gap()

    def forward(self, input):
        return self.network(self.step(input))


TURNED = {
    "mirrored": (lambda x: x.flip(-1), "mirrors its input"),
    "upside down": (lambda x: x.rot90(2, (2, 3)), "mirrors its input"),
    "rows for columns": (lambda x: x.transpose(2, 3), "exchanges rows and columns"),
    "cropped": (lambda x: x[..., 8:-8, 8:-8], "leaves out what lies at the top, bottom, left, right"),
    "its sides cut off": (lambda x: x[..., 8:-8], "leaves out what lies at the left, right of its input"),
    "a quarter": (lambda x: x[..., :64, :64], "leaves out what lies at the bottom, right of its input"),
}


@pytest.mark.parametrize("how", TURNED)
def test_a_network_that_looks_elsewhere_than_its_grid_lies_is_refused(how):
    """The sum of such a map is the logit; it would be drawn over other places than the network read."""
    step, message = TURNED[how]
    with pytest.raises(HeadError, match=message):
        GapNetwork(First(step), ["a", "b", "c"], SQUARE)


def test_a_network_that_changes_the_size_or_leaves_a_remainder_is_not():
    for step in (lambda x: nn.functional.interpolate(x, (96, 96)), lambda x: x[..., :-3, :-2], lambda x: -x):
        assert GapNetwork(First(step), ["a", "b", "c"], SQUARE).grid_frame == pytest.approx((0, 0, 1, 1), abs=0.05)
    strided = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    assert GapNetwork(strided, ["a", "b", "c"], Preprocessing((Resize(size=(127, 100)),))).head.error < 1e-5


def test_a_class_list_of_the_wrong_length_is_refused():
    with pytest.raises(SourceError, match="3 logits but 2 classes"):
        GapNetwork(tiny_gap(3), ["a", "b"], SQUARE)


def test_lower_precision_keeps_maps_and_logits_in_agreement():
    network = GapNetwork(tiny_gap(), ["a", "b", "c"], SQUARE)
    batch = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8)
    with network.evaluating():
        logits, features = network.forward(batch, "bfloat16")
        exact, _ = network.forward(batch)
    assert features.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    again = features.double().mean((2, 3)) @ network.head.weight.double().T + network.head.bias.double()
    torch.testing.assert_close(logits.double(), again, rtol=1e-5, atol=1e-6)
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max()


def test_slices_change_nothing_and_keep_a_layers_output_small():
    torch.manual_seed(0)
    network = GapNetwork(tiny_gap(), ["a", "b", "c"], Preprocessing())
    for count, side in ((19, 224), (600, 32), (1, 224), (0, 32)):
        batch = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        with network.evaluating(), torch.inference_mode():
            slices = network._slices(batch)
            expected = network.module(network._input(batch))
            found, features = network.forward(batch)
            largest = largest_output(network.module, network._input(slices[0]))
        assert sum(map(len, slices)) == len(features) == count
        assert len(slices[0]) <= 4 * torch.get_num_threads() or largest <= torch.get_num_threads() * 4 << 20
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [16, 224, 600, 1500])
def test_a_gpu_gets_as_many_images_as_half_a_gigabyte_of_a_layer_and_a_cpu_32(side):
    network = GapNetwork(tiny_gap(), ["a", "b", "c"], Preprocessing((Resize(size=(side, side)),)))
    assert network.batch_size() == 32
    network.device = torch.device("cuda")  # there need be none: nothing is computed
    size = network.batch_size()
    with network.evaluating():
        largest = largest_output(network.module, torch.zeros(1, 3, side, side))
    assert size in (32, 64, 128, 256, 512)
    assert size * largest <= 512 << 20 or size == 32
    assert 2 * size * largest > 512 << 20 or size == 512


def test_what_is_not_there_is_named():
    network = GapNetwork(tiny_gap(), ["a", "b", "c"], SQUARE)
    batch = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    with pytest.raises(CamError, match="unknown precision 'int4'"):
        network.forward(batch, "int4")
    with pytest.raises(CamError, match="float16 needs a GPU"):
        network.forward(batch, "float16")
    if not torch.cuda.is_available():
        with pytest.raises(CamError, match="device 'cuda' cannot be used"):
            network.to("cuda")
    with pytest.raises(SourceError, match="unknown activation"):
        GapNetwork(tiny_gap(), ["a", "b", "c"], SQUARE, activation="relu")


def test_a_network_comes_back_as_it_was_given():
    module = tiny_gap().train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    GapNetwork(module, ["a", "b", "c"], SQUARE)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_on_a_gpu_the_maps_are_the_same(precision):
    torch.manual_seed(0)
    batch = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8)
    network = GapNetwork(tiny_gap(), ["a", "b", "c"], SQUARE)
    with network.evaluating():
        expected, _ = network.forward(batch)
        logits, _ = network.to("cuda").forward(batch, precision)
    torch.testing.assert_close(logits.cpu(), expected, rtol=0.05, atol=0.05)
