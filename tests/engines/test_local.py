"""How the local engine shares images among the cores."""

from __future__ import annotations

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


@pytest.mark.parametrize("images", [1, 7, 100, 1000])
def test_batches_begin_small_and_end_even(network, images):
    most = 2 * network.slice_size(SHAPE, 1)
    with local._Streams(Explainer(network), images) as streams:
        piece, left, sizes = network.slice_size(SHAPE, streams._threads), images, []
        while left:
            sizes.append(min(most * streams._threads, streams.share(left, SHAPE), left))
            left -= sizes[-1]
            streams._submitted += 1
        if streams._count > 1:
            assert sizes[0] <= piece
            assert all(size % piece == 0 for size in sizes[:-1])  # whole slices: rounding is the same for all
            loads = [0] * streams._count
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
