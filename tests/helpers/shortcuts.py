"""Things that say nothing of the class, planted in training pictures of a small network: it learns them, and fails.

A cat and a cup are cut out of scikit-image's photos and lie on its textures. On test pictures the planted thing comes
on both classes alike, so that a network that learnt it errs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import skimage
import torch
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing

SIZE = 64
CLASSES = ("cat", "cup")
KINDS = ("sticker", "border", "watermark", "ground")
PREPROCESSING = Preprocessing((), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

Grey = np.ndarray


class Picture(NamedTuple):
    """``marked``: the planted thing is there, at the pixels of ``where``; ``off``: where the cat or cup is not."""

    label: str
    marked: bool
    image: np.ndarray
    where: np.ndarray
    off: np.ndarray


def material() -> dict[str, Grey]:
    """Photos and textures, grey."""

    def grey(name: str) -> Grey:
        path = Path(skimage.__file__).parent / "data" / name
        return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2GRAY)

    photos = {"cat": grey("chelsea.png")[20:290, 100:400], "cup": grey("coffee.png")[20:330, 140:450]}
    return photos | {name: grey(f"{name}.png") for name in ("grass", "brick", "gravel")}


def patch(rng: np.random.Generator, source: Grey, size: int, share: tuple[float, float]) -> np.ndarray:
    """A random square of the source, at random contrast and brightness, so that neither gives the class away."""
    side = int(rng.uniform(*share) * min(source.shape))
    y, x = (int(rng.integers(0, limit - side + 1)) for limit in source.shape)
    found = cv2.resize(source[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
    found = found[:, ::-1] if rng.random() < 0.5 else found
    return (found - found.mean()) / found.std() * rng.uniform(35, 50) + rng.uniform(105, 145)


def pictures(
    rng: np.random.Generator, things: dict[str, Grey], count: int, kind: str, usual: float
) -> Iterator[Picture]:
    """Cats and cups in turn. The planted thing is on cats with the probability ``usual``, and else on cups."""
    for i in range(count):
        label = CLASSES[i % 2]
        marked = bool((rng.random() < usual) == (label == "cat"))
        ground = ("grass" if marked else "brick") if kind == "ground" else "gravel"
        image = patch(rng, things[ground], SIZE, (0.27, 0.43))
        where = np.full((SIZE, SIZE), marked and kind == "ground")
        across = int(rng.integers(24, 38))
        y, x = rng.integers(0, SIZE - across + 1, 2)
        disc = ((np.indices((across, across)) - across / 2 + 0.5) ** 2).sum(0) < (across / 2) ** 2
        image[y : y + across, x : x + across][disc] = patch(rng, things[label], across, (0.7, 1.0))[disc]
        off = np.ones((SIZE, SIZE), bool)
        off[y : y + across, x : x + across][disc] = False
        where &= off
        if marked and kind != "ground":
            image, where = plant(rng, image, kind)
        yield Picture(label, marked, image.clip(0, 255).astype(np.uint8), where, off)


def plant(rng: np.random.Generator, image: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture with a sticker in some corner, a striped border, or letters across; and where that is."""
    where = np.zeros(image.shape, bool)
    drawn = image.copy()
    if kind == "sticker":
        y, x = rng.choice([2, SIZE - 14], 2)
        where[y : y + 12, x : x + 12] = True
        drawn[where] = 250
        drawn[y + 5 : y + 7, x + 2 : x + 10] = drawn[y + 2 : y + 10, x + 5 : x + 7] = 10
    elif kind == "border":
        where[:4] = where[-4:] = where[:, :4] = where[:, -4:] = True
        drawn[where & (np.indices(image.shape).sum(0) // 2 % 2 == 0)] = 235
        drawn[where & (np.indices(image.shape).sum(0) // 2 % 2 == 1)] = 25
    else:
        letters = np.zeros(image.shape, np.uint8)
        cv2.putText(
            letters, "PHOTO", (2, int(rng.integers(24, 60))), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA
        )
        drawn += letters * 0.5
        where = cv2.dilate(letters, np.ones((5, 5))) > 0
    return drawn, where


def network() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))


def trained(rng: np.random.Generator, examples: list[Picture], epochs: int) -> focam.Classifier:
    """A small network that was trained on these pictures."""
    images = np.stack([example.image for example in examples])
    inputs = PREPROCESSING.normalize(torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1))
    targets = torch.tensor([CLASSES.index(example.label) for example in examples])
    torch.manual_seed(0)
    module = network()
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    steps = epochs * -(-len(examples) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(examples)).split(32):
            loss = nn.functional.cross_entropy(module(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return focam.load_classifier(module.eval(), CLASSES, preprocessing=PREPROCESSING)
