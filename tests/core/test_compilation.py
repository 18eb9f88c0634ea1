"""A compiled network gives what it gave before, for its shape of batches, and everything else runs as before."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fiftyone_cam.core import compilation
from fiftyone_cam.core import network as core_network
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.explain import Explainer, Prepared
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.results import Item
from fiftyone_cam.networks import build


def made(arch: str, size: int) -> GapNetwork:
    torch.manual_seed(0)
    return GapNetwork(build(arch, 4), "abcd", Preprocessing((Resize(size=(size, size)),))).for_inference()


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network() -> GapNetwork:
    return made("small_gap_net", 32)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("small_gap_net", 32),
        pytest.param("cifar_resnet20", 32, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", 96, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", 96, marks=pytest.mark.slow),
        pytest.param("densenet121", 64, marks=pytest.mark.slow),
    ],
)
def test_the_same_values_for_its_shape_and_for_others(arch, size, monkeypatch):
    network = made(arch, size)
    asked: list[int] = []

    def watched(*args):
        forward = compilation.compile_forward(*args)
        return forward and (lambda pixels: asked.append(len(pixels)) or forward(pixels))

    monkeypatch.setattr(core_network, "compile_forward", watched)
    most = network.slice_size((3, size, size), torch.get_num_threads())
    shape = min(most, 8)  # what it is compiled for
    batches = {n: pictures(n, size) for n in (8, 5)}
    with network.evaluating():
        expected = {n: network.forward(batch) for n, batch in batches.items()}
        assert network.compile(batches[8])
        for n, batch in batches.items():
            asked.clear()
            for found, wanted in zip(network.forward(batch), expected[n], strict=True):
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))
            assert asked == [len(piece) for piece in batch.split(most) if len(piece) == shape]
        assert network.forward(batches[8])
        assert asked, "what was compiled was not used"
        logits, features = network.forward(batches[8])
    weight, bias = network.head.weight, network.head.bias
    certified = features.mean((2, 3)) @ weight.T + bias
    torch.testing.assert_close(certified, logits, rtol=1e-5, atol=1e-5 * float(logits.abs().max()))


def test_threads_do_not_disturb_each_other(network):
    batches = [pictures(8, 32) for _ in range(24)]
    with network.evaluating():
        assert network.compile(batches[0])
        alone = [network.forward(batch) for batch in batches]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(network.forward, batches))
    for found, expected in zip(together, alone, strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_beside_other_threads_nothing_is_compiled(network):
    """Tracing takes the calls of all threads for its own."""
    found = []
    thread = threading.Thread(target=lambda: found.append(network.compile(pictures(2, 32))))
    thread.start()
    thread.join()
    assert found == [False]


def test_a_session_that_fails_costs_no_image(monkeypatch):
    """Smaller batches than the one that it was compiled for run as they are."""
    network = made("small_gap_net", 32)
    batch = [Prepared(Item(str(i), ""), picture, WHOLE, (32, 32)) for i, picture in enumerate(pictures(4, 32))]
    with network.evaluating():
        expected = Explainer(network)(batch)
        monkeypatch.setattr(core_network, "compile_forward", lambda *_: compilation._Sessions(b"no model"))
        assert network.compile(torch.stack([prepared.pixels for prepared in batch]))
        with pytest.raises(RuntimeError, match="ONNX Runtime: "):
            network.forward(torch.stack([prepared.pixels for prepared in batch]))
        found = Explainer(network)(batch)
    assert [(result.id, result.maps[0].label) for result in found] == [(r.id, r.maps[0].label) for r in expected]


def test_what_cannot_be_compiled_runs_as_it_is(network, monkeypatch, caplog):
    batch = pictures(8, 32)
    with network.evaluating():
        expected = network.forward(batch)
        monkeypatch.setattr(compilation, "_MATCH", -1.0)  # as if it gave other values
        with caplog.at_level(logging.INFO, "fiftyone_cam"):
            assert not network.compile(batch)
        assert "other values" in caplog.text
        monkeypatch.setattr(compilation, "find_spec", lambda name: None)  # as if it were not installed
        assert not network.compile(batch)
        for found, wanted in zip(network.forward(batch), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


# what an earlier run compiled


@pytest.fixture()
def kept(tmp_path, monkeypatch):
    """The folder of what was compiled, with one network in it; nothing can be traced from now on."""
    monkeypatch.setenv("FIFTYONE_CAM_CACHE", str(tmp_path))
    assert made("small_gap_net", 32).compile(pictures(8, 32))
    monkeypatch.setattr(compilation, "make_fx", None)
    return tmp_path / "compiled"


def in_a_thread(call):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result()


def test_the_next_run_of_the_same_network_begins_compiled_in_any_thread(kept):
    batch = pictures(8, 32)
    network = made("small_gap_net", 32)
    with network.evaluating():
        expected = network.forward(batch)
        assert in_a_thread(lambda: network.compile(batch))
        assert network.compiled
        for found, wanted in zip(network.forward(batch), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert not network.load_compiled(pictures(3, 32)), "another shape of batches"
    with torch.no_grad():
        other = made("small_gap_net", 32)
        next(other.module.parameters()).mul_(1.001)
    assert not other.load_compiled(batch), "other weights"
    assert len(list(kept.iterdir())) == 1


@pytest.mark.parametrize("content", ["broken", "another network"])
def test_a_file_that_is_not_that_network_is_deleted(kept, monkeypatch, content):
    [file] = kept.iterdir()
    if content == "another network":
        monkeypatch.undo()
        monkeypatch.setenv("FIFTYONE_CAM_CACHE", str(kept.parent / "other"))
        other = made("small_gap_net", 32)
        with torch.no_grad():
            next(other.module.parameters()).mul_(1.5)
        assert other.compile(pictures(8, 32))
        [file_of_other] = (kept.parent / "other" / "compiled").iterdir()
        file.write_bytes(file_of_other.read_bytes())
        monkeypatch.setenv("FIFTYONE_CAM_CACHE", str(kept.parent))
    else:
        file.write_bytes(b"no model")
    network = made("small_gap_net", 32)
    assert not network.load_compiled(pictures(8, 32))
    assert not file.exists()
    with network.evaluating():
        network.forward(pictures(8, 32))


def test_the_folder_does_not_grow_for_ever(kept, monkeypatch):
    """The one that was used last stays."""
    for i in range(12):
        (kept / f"{i}.onnx").write_bytes(b"old")
        os.utime(kept / f"{i}.onnx", (i, i))
    monkeypatch.undo()
    monkeypatch.setenv("FIFTYONE_CAM_CACHE", str(kept.parent))
    network = made("small_gap_net", 32)
    assert network.compile(pictures(7, 32))
    assert len(list(kept.iterdir())) == 8
    assert network.load_compiled(pictures(7, 32))
    assert network.load_compiled(pictures(8, 32))
