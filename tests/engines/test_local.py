"""How the local engine shares images among the cores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fiftyone_cam.core.explain import Explainer
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.results import Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.engines import local
from tests.helpers.networks import tiny_gap, write_photos

SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def network() -> GapNetwork:
    torch.manual_seed(0)
    return GapNetwork(tiny_gap(), ["a", "b", "c"], Preprocessing((Resize(size=SHAPE[1:]),)))


class Watched(Explainer):
    """Writes down which images come together."""

    def __init__(self, network: GapNetwork) -> None:
        super().__init__(network)
        self.batches: list[list[int]] = []

    def __call__(self, images, timing=None):
        self.batches.append([int(image.item.id) for image in images])
        return super().__call__(images, timing)


@pytest.fixture()
def cores(request) -> Iterator[int]:
    """As many as PyTorch takes itself to have, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 2, 4], indirect=True)
@pytest.mark.parametrize("images", [1, 7, 100, 1000])
def test_batches_begin_small_and_end_even(network, tmp_path, cores, images):
    explainer, [path] = Watched(network), write_photos(tmp_path, 1)
    streams = min(local._MOST_STREAMS, cores, images)
    piece = network.slice_size(SHAPE, cores // streams)
    most = 8 * piece
    list(local.explain_all([Item(str(i), path) for i in range(images)], explainer, most, None, Timing()))
    batches = sorted(explainer.batches)  # as they were submitted
    assert [image for batch in batches for image in batch] == list(range(images))
    sizes = [len(batch) for batch in batches]
    if streams == 1:
        assert sizes == [len(batch) for batch in torch.arange(images).split(most)]
    else:
        assert sizes[0] <= piece
        assert max(sizes) <= most
        assert all(size % piece == 0 for size in sizes[:-1])  # whole slices: rounding is the same for all
        loads = [0] * streams
        for size in sizes:  # whoever is free takes the next
            loads[loads.index(min(loads))] += size
        assert max(loads) - min(loads) <= piece


@pytest.mark.parametrize("images", [1, 2, 5, 83])
def test_every_image_has_one_result_in_order(network, tmp_path, images):
    paths = write_photos(tmp_path, images)
    items = [Item(str(i), path if i % 9 != 4 else str(tmp_path / "gone.png")) for i, path in enumerate(paths)]
    timing = Timing()
    network.module.train()  # as a network is that nobody has put into eval mode
    results = list(local.explain_all(items, Explainer(network), 16, None, timing))
    explained = [int(result.id) for result in results if hasattr(result, "maps")]
    assert explained == [i for i in range(images) if i % 9 != 4]
    assert sorted(int(result.id) for result in results) == list(range(images))
    assert timing.images == len(explained)
    assert network.module.training
