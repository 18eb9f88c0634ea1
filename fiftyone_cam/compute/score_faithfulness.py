"""Does the network use what the maps point at? Pixels are taken away and put back, and the network is run again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import fiftyone.core.utils as fou
import numpy as np
import torch
from torch import Tensor, nn

from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.core import faithfulness
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.errors import CamError, expect_whole
from fiftyone_cam.core.explain import Prepared, prepare
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.results import Item
from fiftyone_cam.core.tables import Summary, Table, percent
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.media import read_files

STEPS = 20
"""Of insertion and deletion: a twentieth of the pixels at a time."""

WORDS = {
    "insertion": "insertion (high is good)",
    "deletion": "deletion (low is good)",
    "road_morf": "ROAD, most relevant first (low is good)",
    "road_lerf": "ROAD, least relevant first (high is good)",
    "average_drop": "average drop (low is good)",
    "average_increase": "average increase (high is good)",
}

FAULTS = (
    "Insertion and deletion show the network pictures of a kind that it has never seen.",
    "ROAD rewards maps that take away smooth parts, because these are restored best.",
    "Average drop rewards maps that are large everywhere.",
)
"""What is known against these measures. Read a figure beside its baselines, never alone."""


class FaithfulnessScores(NamedTuple):
    """The measures of one kind of map, means over images: areas under curves of probabilities, and shares.

    >>> report.baselines["random"].deletion
    0.31
    """

    insertion: float
    deletion: float
    road_morf: float
    road_lerf: float
    average_drop: float
    average_increase: float


@dataclass(frozen=True)
class FaithfulnessReport:
    """What :func:`score_faithfulness` found. ``print(report)`` gives the table.

    >>> report.scores.insertion, report.baselines["random"].insertion
    (0.61, 0.35)

    Attributes:
        scores: of the class activation maps of the predicted class.
        intervals: of each measure 95% of the bootstrap's draws of images.
        baselines: ``"centre"``, ``"random"`` and ``"class_free"`` (the mean of the feature maps).
        sanity: the rank correlation of maps before and after layers got random weights (Adebayo et al., NeurIPS 2018),
            by what was randomised: each layer alone, and all from the top down to it. Near 0 is good.
        count: how many images.
    """

    scores: FaithfulnessScores
    intervals: Mapping[str, tuple[float, float]]
    baselines: Mapping[str, FaithfulnessScores]
    sanity: Mapping[str, float]
    count: int

    def describe(self) -> Summary:
        """The tables in words.

        >>> report.describe().tables[0].header
        ('measure', 'maps', '95% interval', 'centre', 'random', 'class_free')
        """
        body = []
        for name, words in WORDS.items():
            low, high = self.intervals[name]
            rest = [percent(getattr(scores, name)) for scores in self.baselines.values()]
            body.append([words, percent(getattr(self.scores, name)), f"{low:.1%} to {high:.1%}", *rest])
        tables = [Table("", ("measure", "maps", "95% interval", *self.baselines), body)]
        if self.sanity:
            changed = [[words, f"{value:.2f}"] for words, value in self.sanity.items()]
            tables.append(Table("Maps before and after layers got random weights:", ("layers", "correlation"), changed))
        beware = zip(("beware", "", ""), FAULTS, strict=True)
        return Summary("Faithfulness of the maps", [("images", f"{self.count:,}"), *beware], tables)

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


def score_faithfulness(
    samples: Collection,
    classifier: Any,
    *,
    media_field: str = "filepath",
    count: int = 20,
    sanity: bool = True,
    seed: int = 0,
    progress: Any = None,
) -> FaithfulnessReport:
    """Score, on some images, whether the network really uses the places that its maps point at.

    Insertion and deletion (Petsiuk et al., RISE), ROAD (Rong et al., ICML 2022; the mean probability over shares of
    10, 30, 50 and 70% of the pixels), average drop and increase (Chattopadhay et al., Grad-CAM++), each of the
    predicted class's probability; and the sanity check of Adebayo et al. Beside them stand three baselines. Some
    hundred forwards an image: seconds each on a CPU.

    Args:
        samples: a dataset or view; only the files are read.
        classifier: as for :func:`compute_cam`.
        media_field: the field with the images' paths, as for :func:`compute_cam`.
        count: how many images, drawn at random.
        sanity: make the sanity check too.
        seed: of the draw and of the random baseline.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Raises:
        FieldError: the media field is missing, or holds no text.
        CamError: none of the images can be read.

    >>> print(focam.score_faithfulness(dataset, classifier))
    """
    expect_whole(1, count=count)
    expect_whole(0, seed=seed)
    paths = [path for _, path in read_files(samples, media_field)]
    network = load_classifier(classifier).network
    random = np.random.default_rng(seed)
    batch: list[Prepared] = []
    for index in random.permutation(len(paths)):
        found = prepare(Item(str(index), paths[index]), network.preprocessing)
        if isinstance(found, Prepared):
            batch.append(found)
        if len(batch) == count:
            break
    if not batch:
        raise CamError(f"none of the {len(paths):,} images can be read: there is nothing to score")
    found_scores: dict[str, list[FaithfulnessScores]] = {}
    with network.evaluating(), fou.ProgressBar(total=len(batch), progress=progress) as bar:
        for prepared in bar(batch):
            for name, scores in _score(network, prepared.pixels, random).items():
                found_scores.setdefault(name, []).append(scores)
    tables = {name: np.array(rows) for name, rows in found_scores.items()}
    drawn = random.multinomial(len(batch), np.full(len(batch), 1 / len(batch)), 200) / len(batch)
    low, high = np.quantile(drawn @ tables["map"], (0.025, 0.975), axis=0)
    means = {name: FaithfulnessScores(*map(float, table.mean(0))) for name, table in tables.items()}
    return FaithfulnessReport(
        scores=means.pop("map"),
        intervals={
            name: (float(a), float(b)) for name, a, b in zip(FaithfulnessScores._fields, low, high, strict=True)
        },
        baselines=means,
        sanity=_sanity(network, [prepared.pixels for prepared in batch[:8]], seed) if sanity else {},
        count=len(batch),
    )


def _score(network: GapNetwork, pixels: Tensor, random: np.random.Generator) -> dict[str, FaithfulnessScores]:
    """All measures of one image, of the map of its predicted class and of each baseline."""
    reading = network.read(pixels[None])
    predicted = reading.logits.argmax(1, keepdim=True)
    grid = reading.maps(predicted)[0][0, 0].float().cpu()
    rows, columns = grid.shape
    y, x = np.mgrid[:rows, :columns]
    away = ((y + 0.5) / rows - 0.5) ** 2 + ((x + 0.5) / columns - 0.5) ** 2
    grids = {
        "map": grid.numpy(),
        "centre": np.exp(-away / (2 * 0.25**2)),
        "random": random.random(grid.shape),
        "class_free": reading.features[0].float().mean(0).cpu().numpy(),
    }
    image = pixels.float()
    grey = torch.tensor(network.preprocessing.mean)[:, None, None] * 255  # 0, once it is normalised
    noise = 0.01 * 255 * float(np.mean(network.preprocessing.std))  # the paper's, on normalised pixels

    def predict(images: Tensor) -> Tensor:
        logits = network.read(images.round().clamp(0, 255).to(torch.uint8)).logits
        return network.confidences(logits)[:, int(predicted)].float().cpu()

    whole = float(predict(image[None]))
    step = math.ceil(image.shape[1] * image.shape[2] / STEPS)
    found = {}
    for name, each in grids.items():
        saliency = torch.from_numpy(
            lay_out(each.astype(np.float32), network.grid_frame, WHOLE, image.shape[1], image.shape[2])
        )
        shown = float(predict((faithfulness.masked(image - grey, saliency.clamp(min=0)) + grey)[None]))
        road = [
            float(faithfulness.road(predict, image, saliency, least_first=least, noise=noise).mean())
            for least in (False, True)
        ]
        found[name] = FaithfulnessScores(
            insertion=faithfulness.area(faithfulness.insertion(predict, image, saliency, step)),
            deletion=faithfulness.area(
                faithfulness.deletion(predict, image, saliency, step, grey.expand_as(image).clone())
            ),
            road_morf=road[0],
            road_lerf=road[1],
            average_drop=max(0.0, whole - shown) / whole if whole > 0 else 0.0,
            average_increase=float(shown > whole),
        )
    return found


def _sanity(network: GapNetwork, images: Sequence[Tensor], seed: int) -> dict[str, float]:
    """The maps' rank correlation with those of the same network with random layers: four layers, from the top down."""
    kept = [image for image in images if image.shape == images[0].shape]
    batch = torch.stack(kept)
    reading = network.read(batch)
    predicted = reading.logits.argmax(1, keepdim=True)
    before = reading.maps(predicted)[0][:, 0].float().cpu()
    layers = [name for name, layer in network.module.named_modules() if next(layer.parameters(False), None) is not None]
    weighty = [name for name in layers if any(p.ndim > 1 for p in network.module.get_submodule(name).parameters(False))]
    chosen = [weighty[round(at)] for at in np.linspace(len(weighty) - 1, 0, min(4, len(weighty)))]
    found = {}
    for name in chosen:
        after = _with_random_layers(network, [name], seed).read(batch).maps(predicted)[0][:, 0].float().cpu()
        found[f"{name} alone"] = _mean_correlation(before, after)
    for name in chosen:
        above = layers[layers.index(name) :]
        after = _with_random_layers(network, above, seed).read(batch).maps(predicted)[0][:, 0].float().cpu()
        found[f"from the top down to {name}"] = _mean_correlation(before, after)
    return found


def _with_random_layers(network: GapNetwork, names: Sequence[str], seed: int) -> GapNetwork:
    """A copy whose layers of these names have weights drawn anew, with the spread that they had."""
    module = copy.deepcopy(network.module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in names:
            layer: nn.Module = module.get_submodule(name)
            for parameter in layer.parameters(False):
                if parameter.ndim > 1:
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.copy_(noise * parameter.std() + parameter.mean())
    return GapNetwork(module, network.classes, network.preprocessing, network.activation)


def _mean_correlation(before: Tensor, after: Tensor) -> float:
    return float(np.mean([faithfulness.rank_correlation(a, b) for a, b in zip(before, after, strict=True)]))
