"""A compiled network gives what it gave before, for its shape of batches, and everything else runs as before."""

from __future__ import annotations

import shutil
import threading

import pytest
import torch

from fiftyone_cam.core.geometry import Preprocessing, Resize
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.models import build

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network() -> GapNetwork:
    if not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("there is no C++ compiler")
    torch.manual_seed(0)
    return GapNetwork(build("small_gap_net", 4), "abcd", Preprocessing((Resize(size=(32, 32)),))).for_inference()


def test_the_same_values_for_its_shape_and_for_others(network):
    batches = {n: torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8) for n in (8, 5)}
    with network.evaluating():
        expected = {n: network.forward(batch) for n, batch in batches.items()}
        assert network.compile(batches[8])
        for n, batch in batches.items():
            for found, wanted in zip(network.forward(batch), expected[n], strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        logits, features = network.forward(batches[8])
    weight, bias = network.head.weight, network.head.bias
    torch.testing.assert_close(features.mean((2, 3)) @ weight.T + bias, logits, rtol=1e-5, atol=1e-6)


def test_beside_other_threads_nothing_is_compiled(network):
    """Tracing takes the calls of all threads for its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(network.compile(torch.zeros(2, 3, 32, 32).byte())))
    thread.start()
    thread.join()
    assert found == [False]
