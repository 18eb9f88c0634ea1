"""ImageNet-W's watermark on real photos: features with and without it, so that a mix costs no further forward.

Needs ``pip install --no-deps imagenet-w`` and the folder ``ilsvrc_val_800``. Nothing of either is shipped.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

import fiftyone_cam as focam
from fiftyone_cam.classifiers.classifier import Classifier
from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.concept_reader import CellReader
from fiftyone_cam.core.concept_sums import CellFeatures
from fiftyone_cam.core.explain import Prepared
from fiftyone_cam.core.results import Item

SIDE = 224


class Photos(NamedTuple):
    """The same photos without and with the watermark, and where it is: ``mask`` ``(224, 224)``."""

    classifier: Classifier
    clean: list[CellFeatures]
    marked: list[CellFeatures]
    mask: np.ndarray


@lru_cache(maxsize=1)
def photos(folder: Path, count: int = 800) -> Photos:
    """Features of ImageNet photos, squashed to 224 pixels."""
    from imagenet_w import AddWatermark

    with (folder / "ilsvrc_val_800" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:count]
    paths = {path.name: path for path in (folder / "ilsvrc_val_800").rglob("*.JPEG")}
    classifier = focam.load_classifier("efficientnet_lite0")
    reader = CellReader(classifier.network.for_inference())
    mark = AddWatermark(SIDE)
    clean: list[CellFeatures] = []
    marked: list[CellFeatures] = []
    mask = np.zeros((SIDE, SIDE), bool)
    for start in range(0, len(rows), 32):
        both: tuple[list[Prepared], list[Prepared]] = ([], [])
        for row in rows[start : start + 32]:
            path = paths[Path(row["file"]).name]
            image = cv2.cvtColor(np.asarray(cv2.imread(str(path)), np.uint8), cv2.COLOR_BGR2RGB)
            pixels = torch.from_numpy(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)).permute(2, 0, 1)
            with_mark = (mark(pixels.float() / 255) * 255).round().clamp(0, 255).byte()
            mask |= ((with_mark.int() - pixels.int()).abs().amax(0) > 8).numpy()
            item = Item(path.name, str(path), (int(row["label_index"]),))
            for inputs, each in zip(both, (pixels, with_mark), strict=True):
                inputs.append(Prepared(item, each.contiguous(), WHOLE, (SIDE, SIDE)))
        for found, inputs in zip((clean, marked), both, strict=True):
            found += [cells for cells in reader(inputs) if isinstance(cells, CellFeatures)]
    return Photos(classifier, clean, marked, mask)


def mixed(data: Photos, share: float, draw: int, count: int = 800) -> tuple[list[CellFeatures], np.ndarray]:
    """Photos in random order, a share of them with the watermark: their features, and which are marked."""
    random = np.random.default_rng(draw)
    chosen = random.permutation(len(data.clean))[:count]
    with_mark = np.arange(len(chosen)) < round(len(chosen) * share)
    order = random.permutation(len(chosen))
    cells = [(data.marked if with_mark[i] else data.clean)[chosen[i]] for i in order]
    return cells, with_mark[order]


def harm(data: Photos, share: float, draw: int, count: int = 800) -> int:
    """How many more errors the marked photos of a mix have than the same photos without the mark."""
    chosen = np.random.default_rng(draw).permutation(len(data.clean))[:count]
    chosen = chosen[: round(len(chosen) * share)]
    return sum((data.marked[i].rival is not None) - (data.clean[i].rival is not None) for i in chosen)
