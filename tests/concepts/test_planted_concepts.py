"""What a network rests on in both of its classes is among the concepts that hold most evidence; net repair misses it.

Without a planted sign as many hits are lost as errors put right, and where it is in all pictures of a class there is no
error at all. Only what a network really learnt counts: that is measured first.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch

from fiftyone_cam.concepts import rows
from fiftyone_cam.concepts.find_concepts import some_cells
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.concept_reader import CellReader, affine
from fiftyone_cam.core.concept_sums import CellFeatures, summarise
from fiftyone_cam.core.concepts import fit
from fiftyone_cam.core.explain import Prepared
from fiftyone_cam.core.results import Item
from fiftyone_cam.runs.concept_record import Concept
from fiftyone_cam.runs.concept_sums import Sums
from tests.helpers import shortcuts

pytestmark = pytest.mark.slow

COUNT, SEED = 400, 51


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers this small are slower in many threads
    yield
    torch.set_num_threads(threads)


class Asked(NamedTuple):
    """Concepts by their share of the evidence, beside what nobody told them.

    Attributes:
        listed: the concepts.
        precision: P@10 of each by its number: of the ten pictures in which it holds most, the share that is marked.
        inside: the share of its energy where the planted thing is or, of a ground, off the cat or cup.
        caught: accuracy where the planted thing is not on its own class; 1 where that never is.
    """

    listed: list[Concept]
    precision: np.ndarray
    inside: np.ndarray
    caught: float


def ask(rng: np.random.Generator, classifier, things, kind: str, usual: float) -> Asked:
    """What find_concepts does once pictures are read, of pictures that the network has not learnt from."""
    pictures = list(shortcuts.pictures(rng, things, COUNT, kind, usual))
    network = classifier.network.for_inference()
    prepared = []
    for i, picture in enumerate(pictures):
        pixels = torch.from_numpy(np.repeat(picture.image[None], 3, 0)).contiguous()
        item = Item(f"{i:03d}", "", (shortcuts.CLASSES.index(picture.label),))
        prepared.append(Prepared(item, pixels, WHOLE, picture.image.shape))
    reader = CellReader(network)
    cells = [each for start in range(0, COUNT, 50) for each in reader(prepared[start : start + 50])]
    assert all(isinstance(each, CellFeatures) for each in cells)
    clusters = fit(some_cells(cells, SEED), seed=SEED)
    summed = [summarise(each, clusters, affine(network.head)) for each in cells]
    sums = Sums.new()
    sums.add(summed, len(clusters))
    ids, effects = sums.effects(len(clusters))
    sums.delete()
    listed = [Concept(name=f"{number}", number=number) for number in range(len(clusters))]
    listed = rows.measured(listed, effects, rows.held_out(ids.tolist(), SEED), SEED)

    marked = np.array([picture.marked for picture in pictures])
    places = np.stack([picture.off if kind == "ground" else picture.where for picture in pictures]).astype(np.float32)
    grid = summed[0].assigned.shape
    places = np.stack([cv2.resize(place, grid[::-1], interpolation=cv2.INTER_AREA) for place in places])
    places = places > (0.5 if kind == "ground" else 0)
    assigned, evidence = (np.stack([getattr(each, name) for each in summed]) for name in ("assigned", "evidence"))
    precision, inside = np.zeros(len(clusters)), np.zeros(len(clusters))
    chosen = np.ones(COUNT, bool) if kind == "ground" else marked
    for number in range(len(clusters)):
        most = np.lexsort((-effects.evidence[:, number], -effects.held[:, number]))[:10]
        precision[number] = marked[most].mean()
        energy = np.where(assigned == number, np.abs(evidence), 0)[chosen]
        inside[number] = energy[places[chosen]].sum() / max(float(energy.sum()), 1e-12)
    lured = marked != np.array([picture.label == "cat" for picture in pictures])
    caught = 1 - float(effects.wrong[lured].mean()) if lured.any() else 1.0
    return Asked(sorted(listed, key=lambda concept: -concept.share), precision, inside, caught)


@pytest.mark.parametrize("draw", range(2))
@pytest.mark.parametrize("usual", [0.95, 1.0])
@pytest.mark.parametrize("kind", shortcuts.KINDS)
def test_what_both_classes_rest_on_holds_most_evidence(kind, usual, draw):
    things, rng = shortcuts.material(), np.random.default_rng(draw)
    classifier = shortcuts.trained(rng, list(shortcuts.pictures(rng, things, COUNT, kind, usual)), 5)

    even = ask(rng, classifier, things, kind, 0.5)  # on both classes alike, so that being marked says nothing of them
    assert even.caught < 0.5, "the network has not learnt it"
    first = even.listed[0].number
    alike = max(even.precision[first], 1 - even.precision[first] if kind == "ground" else 0)  # both grounds are planted
    assert alike >= 0.9

    usually = ask(rng, classifier, things, kind, usual)  # as it was learnt, with few errors or none
    if kind in ("sticker", "watermark"):  # of a border there is too little in a cell, and a ground is everywhere
        assert usually.inside[usually.listed[0].number] >= 0.75
        assert usually.precision[usually.listed[0].number] >= 0.9
