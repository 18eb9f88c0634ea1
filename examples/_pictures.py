"""Pictures that stand in where an example is to be tried without data: one texture for each class, and noise."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import fiftyone as fo
import numpy as np
from PIL import Image


def pictures(classes: Sequence[str], count: int, size: int, seed: int = 0) -> fo.Dataset:
    """A dataset of ``count`` generated pictures, the same number of each class, labelled in ``ground_truth``.

    Each shows a disc at a random place. Its colour and the direction of its stripes are the class's.
    """
    folder = Path(tempfile.mkdtemp(prefix="pictures_"))
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    samples = []
    for number in range(count):
        index = number % len(classes)
        angle = np.pi * index / len(classes)
        stripes = 0.5 + 0.5 * np.sin(40 * (x * np.cos(angle) + y * np.sin(angle)))
        colour = 0.5 + 0.5 * np.cos(2 * np.pi * (index / len(classes) + np.array([0, 1 / 3, 2 / 3])))
        place = random.uniform(0.3, 0.7, 2)
        disc = ((x - place[0]) ** 2 + (y - place[1]) ** 2 < 0.06)[..., None]
        noise = random.uniform(0.2, 0.6, (size, size, 3))
        path = folder / f"{number}.png"
        Image.fromarray((255 * np.where(disc, stripes[..., None] * colour, noise)).astype(np.uint8)).save(path)
        samples.append(fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=classes[index])))
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    return dataset


if __name__ == "__main__":
    raise SystemExit("the other examples import this one")
