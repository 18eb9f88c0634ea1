"""Concepts beside two other ways to find what errors have in common, on a shortcut whose truth is known.

python -m benchmarks.concepts                      # ImageNet-W's watermark on some of 800 ImageNet photos, five draws
python -m benchmarks.concepts --shares 0.1 --draws 2

Needs `pip install --no-deps imagenet-w` and the photos that FIFTYONE_CAM_DATA names. None of the three uses a label of
the watermark:

- concepts: what `find_concepts` does once the network has run;
- Domino's mixture (Eyuboglu et al., ICLR 2022): a mixture of Gaussians over pooled features and errors together, here
  with the pooled features of the network itself in the place of CLIP's; slices ordered by error rate;
- SpRAy (Lapuschkin et al., 2019): clusters of heatmaps, ordered by error rate; spectral clustering of 7x7 maps of the
  predicted class.

P@10: the share of truly marked photos among the ten that belong most to a group. A group is right from 0.9 on. *Any* is
what an oracle would choose of all groups: Domino is judged so by its authors.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from fiftyone_cam.concepts.find_concepts import some_cells
from fiftyone_cam.core.concept_effects import Effects, smoothed_gain
from fiftyone_cam.core.concept_reader import affine
from fiftyone_cam.core.concept_sums import CellFeatures, summarise
from fiftyone_cam.core.concepts import fit
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.runs.concept_sums import Sums

SEED = 51
SLICES = 25
"""Groups of the two others: Domino's own number; SpRAy's authors have a few to some dozen."""

Groups = list[NDArray[np.float64]]
"""For each group, the most suspicious first, how much each photo belongs to it, ``(n,)``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.5])
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    from tests.helpers import watermark

    folder = Path(os.environ.get("FIFTYONE_CAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    data = watermark.photos(folder)
    network = data.classifier.network.for_inference()
    print("| marked | method | P@10 of the first | the first is right | one of three is | any is | s |")
    print("|---|---|---|---|---|---|---|")
    for share in options.shares:
        for name, method in METHODS.items():
            firsts, threes, alls, began = [], [], [], time.perf_counter()
            for draw in range(options.draws):
                cells, marked = watermark.mixed(data, share, draw)
                found = [precision(group, marked) for group in method(cells, network)]
                firsts.append(found[0])
                threes.append(max(found[:3]))
                alls.append(max(found))
            seconds = (time.perf_counter() - began) / options.draws
            right = [sum(value >= 0.9 for value in values) for values in (firsts, threes, alls)]
            each = ", ".join(f"{value:.1f}" for value in firsts)
            counts = " | ".join(f"{count} of {options.draws}" for count in right)
            print(f"| {share:.0%} | {name} | {each} | {counts} | {seconds:.1f} |", flush=True)


def precision(group: NDArray[np.float64], marked: NDArray[np.bool_]) -> float:
    """P@10 of one group."""
    return float(marked[np.argsort(-group, kind="stable")[:10]].mean())


def by_concepts(cells: Sequence[CellFeatures], network: GapNetwork) -> Groups:
    """In the order of `find_concepts`; a photo belongs to a concept by how many cells it holds, then by evidence."""
    head = affine(network.head)
    clusters = fit(some_cells(cells, SEED), seed=SEED)
    summed = [summarise(each, clusters, head) for each in cells]
    sums = Sums.new()
    sums.add(summed, len(clusters))
    ids, effects = sums.effects(len(clusters))
    sums.delete()
    place = {id: i for i, id in enumerate(ids.tolist())}
    effects = effects.take(np.array([place[each.id] for each in cells]))
    order = np.argsort(-smoothed_gain(effects).sum(0), kind="stable")
    return [belonging(effects, int(number)) for number in order]


def belonging(effects: Effects, number: int) -> NDArray[np.float64]:
    evidence = effects.evidence[:, number]
    return np.asarray(effects.held[:, number] + 1e-6 * evidence / max(1e-9, float(np.abs(evidence).max())), np.float64)


def by_mixture(cells: Sequence[CellFeatures], network: GapNetwork) -> Groups:
    """Domino's error-aware mixture; errors weigh ten times, as is its default.

    Its likelihoods of class and prediction are here whether a prediction is right, and how sure it is: classes are a
    thousand and photos some hundred.
    """
    pooled = np.stack([each.features.mean((1, 2)) for each in cells])
    reduced = PCA(64, random_state=SEED).fit_transform(pooled)
    reduced /= reduced.std()
    wrong = np.array([each.rival is not None for each in cells], np.float64)
    sure = np.array([each.confidence for each in cells])
    errors = 10 * np.stack([wrong, wrong * sure], 1)
    mixture = GaussianMixture(SLICES, covariance_type="diag", reg_covar=1e-3, random_state=SEED)
    belongs = mixture.fit(np.concatenate([reduced, errors], 1)).predict_proba(np.concatenate([reduced, errors], 1))
    return by_error_rate(belongs, wrong)


def by_heatmaps(cells: Sequence[CellFeatures], network: GapNetwork) -> Groups:
    """SpRAy: spectral clustering of normalised heatmaps; a photo belongs by how near its map is to the group's mean."""
    maps = np.stack([np.maximum(each.evidence, 0).ravel() for each in cells])
    maps /= np.maximum(maps.sum(1, keepdims=True), 1e-9)
    spectral = SpectralClustering(
        SLICES, affinity="nearest_neighbors", n_neighbors=10, assign_labels="kmeans", random_state=SEED
    )
    labels = spectral.fit_predict(maps)
    belongs = np.zeros((len(cells), SLICES))
    for group in range(SLICES):
        mine = labels == group
        if mine.any():
            distance = np.linalg.norm(maps - maps[mine].mean(0), axis=1)
            belongs[:, group] = np.where(mine, 1 / (1 + distance), 0)
    return by_error_rate(belongs, np.array([each.rival is not None for each in cells], np.float64))


def by_error_rate(belongs: NDArray[np.float64], wrong: NDArray[np.float64]) -> Groups:
    """Groups of at least ten photos, ordered by their error rate."""
    members = belongs > 0.5 if belongs.max() <= 1 else belongs > 0
    sizes = members.sum(0)
    rate = np.where(sizes >= 10, (members * wrong[:, None]).sum(0) / np.maximum(sizes, 1), -1.0)
    return [belongs[:, group] for group in np.argsort(-rate, kind="stable")]


METHODS: dict[str, Callable[[Sequence[CellFeatures], GapNetwork], Groups]] = {
    "concepts": by_concepts,
    "Domino's mixture": by_mixture,
    "SpRAy": by_heatmaps,
}

if __name__ == "__main__":
    main()
