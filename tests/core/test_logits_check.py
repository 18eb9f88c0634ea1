"""What really runs is held against one plain forward of the caller's module: wrong pixels and folds are found."""

from __future__ import annotations

import pickle
import time

import pytest
import torch
from torch import nn

from fiftyone_cam.core import folding
from fiftyone_cam.core.checks import Check, worst
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.explain import Explainer, Prepared, prepare
from fiftyone_cam.core.logits_check import IMAGES, Reference, tolerance
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.results import Explanation, Failure, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.engines import local
from tests.helpers.heads import After
from tests.helpers.networks import NAMES, SQUARE, tiny_gap, write_photos


def trained(seed: int = 0) -> nn.Module:
    """As :func:`tiny_gap`, with the statistics of its batch normalisation as a training leaves them."""
    module = tiny_gap(seed=seed)
    module[1].running_mean.uniform_(-1, 1)
    module[1].running_var.uniform_(0.5, 2)
    return module


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> list[Prepared]:
    paths = write_photos(tmp_path_factory.mktemp("photos"), 9)
    return [prepare(Item(str(i), path), SQUARE) for i, path in enumerate(paths)]


def checked(network: GapNetwork, prepared: list[Prepared], precision: str = "float32") -> Explainer:
    explainer = Explainer(network.for_inference(), precision=precision, reference=Reference(network))
    explainer(prepared)
    return explainer


def test_the_reference_is_the_bare_module(prepared):
    module = trained().eval()
    network = GapNetwork(module, NAMES, SQUARE)
    batch = torch.stack([entry.pixels for entry in prepared])
    with torch.no_grad():
        expected = module(SQUARE.normalize(batch))
    assert torch.equal(Reference(network).logits(batch), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_sound_run_says_how_near_it_is(prepared, precision):
    check = checked(GapNetwork(trained(), NAMES, SQUARE), prepared, precision).logits_check
    assert check.passed
    assert 0 < check.difference < tolerance(torch.device("cpu"), precision)
    assert check.difference < 1e-5 or precision == "bfloat16"
    assert check.detail == f"{precision} on cpu, {IMAGES} images of the run"


def test_logits_under_a_softmax_are_compared(prepared):
    module = After(lambda self, f: self.fc(f.mean((2, 3))).softmax(1), fc=nn.Linear(6, 3))
    network = GapNetwork(module, NAMES, SQUARE)
    assert network.head.logits_at.on_top == "softmax"
    assert checked(network, prepared).logits_check.difference < 1e-5


def test_a_wrong_fold_is_refused(prepared, monkeypatch):
    """Its own maps add up to its own logits, so that no other check sees it."""

    def wrong(module, example):
        fast = folding.folded(module, example)
        next(part for part in fast.modules() if isinstance(part, nn.Conv2d)).bias.data += 0.1
        return fast

    monkeypatch.setattr("fiftyone_cam.core.network.folded", wrong)
    network = GapNetwork(trained(), NAMES, SQUARE)
    assert all(isinstance(result, Explanation) for result in Explainer(network.for_inference())(prepared))
    with pytest.raises(RunError, match=r"not the network that was loaded: its logits differ by 0\.\d+ .*expected at"):
        checked(network, prepared)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pixels_that_do_not_arrive_are_refused(prepared, monkeypatch, precision):
    """As where a device reads a copy before it is done."""
    monkeypatch.setattr(GapNetwork, "_input", lambda self, batch: self.preprocessing.normalize(torch.zeros_like(batch)))
    with pytest.raises(RunError, match="not the network that was loaded"):
        checked(GapNetwork(trained(), NAMES, SQUARE), prepared, precision)


def test_a_wrong_run_gives_no_result_of_any_stream(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(GapNetwork, "_input", lambda self, batch: self.preprocessing.normalize(batch.flip(1)))
    network = GapNetwork(trained(), NAMES, SQUARE)
    explainer = Explainer(network.for_inference(), reference=Reference(network))
    items = [Item(str(i), path) for i, path in enumerate(write_photos(tmp_path, 12))]
    with pytest.raises(RunError, match="load it anew"):
        next(local.explain_all(items, explainer, 2, None, Timing()))


def test_what_is_compiled_later_is_compared_again(prepared, monkeypatch):
    network = GapNetwork(trained(), NAMES, SQUARE)
    explainer = checked(network, prepared)
    before = explainer.logits_check

    def compile(self, batch):
        with torch.no_grad():
            self.module[0].weight += 1  # a compiler that is wrong
        return True

    monkeypatch.setattr(GapNetwork, "compile", compile)
    explainer(prepared)
    assert explainer.logits_check == before  # once is enough
    assert explainer.compile(prepared)
    with pytest.raises(RunError, match="not the network that was loaded"):
        explainer(prepared)


def test_images_that_fail_by_themselves_say_nothing(prepared):
    class Sick(nn.Module):
        """Turns white images into NaN."""

        def __init__(self) -> None:
            super().__init__()
            self.body = trained()

        def forward(self, input):
            return self.body(input / (1 - (input.amin((1, 2, 3)) > 2).float())[:, None, None, None])

    network = GapNetwork(Sick(), NAMES, SQUARE)
    white = Prepared(Item("w", ""), torch.full((3, 64, 64), 255, dtype=torch.uint8), (0, 0, 1, 1), (64, 64))
    explainer = Explainer(network.for_inference(), reference=Reference(network))
    assert isinstance(explainer([white])[0], Failure)
    assert explainer.logits_check is None
    explainer([white, *prepared])
    assert explainer.logits_check.passed
    assert "3 images" in explainer.logits_check.detail


def test_what_cannot_be_compared_is_said_to_be_so(prepared):
    network = GapNetwork(trained(), NAMES, SQUARE)
    reference = Reference(network)
    explainer = Explainer(network.for_inference(), reference=reference)
    network.module.forward = lambda input: 1 / 0
    assert all(isinstance(result, Explanation) for result in explainer(prepared))
    assert str(explainer.logits_check) == "logits: not compared: the module fails on the CPU: division by zero"


def test_it_travels_to_an_actor(prepared):
    network = GapNetwork(trained(), NAMES, SQUARE)
    explainer = pickle.loads(pickle.dumps(Explainer(network.for_inference(), reference=Reference(network))))
    explainer(prepared)
    assert explainer.logits_check.passed


def test_it_costs_one_forward_of_a_few_images(prepared):
    module = trained()
    network = GapNetwork(module, NAMES, SQUARE)
    seen = []
    explainer = Explainer(network.for_inference(), reference=Reference(network))
    module.register_forward_hook(lambda part, args, output: seen.append(len(args[0])))
    began = time.monotonic()
    for _ in range(3):
        explainer(prepared)
    assert seen == [IMAGES]
    assert time.monotonic() - began < 30


def test_the_worst_of_several_is_kept():
    near, far, wrong = Check("logits", True, 1e-6), Check("logits", True, 1e-4), Check("logits", False, 0.5)
    missing = Check.not_made("logits", "why")
    assert worst(None, near) == near
    assert worst(near, far) == worst(far, near) == far
    assert worst(far, wrong) == worst(wrong, far) == wrong
    assert worst(missing, near) == worst(near, missing) == near


def test_every_device_has_a_tolerance_below_what_a_black_picture_does():
    for device in ("cpu", "cuda", "mps"):
        for precision in ("float32", "bfloat16", "float16"):
            assert 0 < tolerance(torch.device(device), precision) < 0.5
