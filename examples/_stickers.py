"""Cats and cups cut out of photos that come with scikit-image, on its textures, some of them with a sticker."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import skimage
import torch
from numpy.typing import NDArray
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize

SIZE = 96
CUT_OUT = {"cat": ("chelsea.png", np.s_[20:290, 100:400]), "cup": ("coffee.png", np.s_[20:330, 140:450])}
GROUNDS = ("grass.png", "gravel.png", "brick.png")


def pictures(count: int, stickers: dict[str, float], seed: int) -> fo.Dataset:
    """Cats and cups in turn; ``stickers`` says how probable one is on each, the field ``planted`` which have one."""
    random, folder = np.random.default_rng(seed), Path(tempfile.mkdtemp(prefix="stickers_"))
    photos = Path(skimage.__file__).parent / "data"
    things = {
        label: np.asarray(cv2.imread(str(photos / name)), np.uint8)[cut] for label, (name, cut) in CUT_OUT.items()
    }
    grounds = [np.asarray(cv2.imread(str(photos / name)), np.uint8) for name in GROUNDS]
    samples = []
    for number in range(count):
        label = list(CUT_OUT)[number % 2]
        image = part(random, grounds[random.integers(len(grounds))], SIZE, (0.3, 0.5))
        across = int(random.integers(36, 56))
        y, x = random.integers(0, SIZE - across + 1, 2)
        disc = ((np.indices((across, across)) - across / 2 + 0.5) ** 2).sum(0) < (across / 2) ** 2
        image[y : y + across, x : x + across][disc] = part(random, things[label], across, (0.5, 0.9))[disc]
        has_sticker = bool(random.random() < stickers[label])
        if has_sticker:
            top, left = (int(edge) for edge in random.choice([3, SIZE - 21], 2))
            cv2.rectangle(image, (left, top), (left + 17, top + 17), (60, 220, 250), -1)
            cv2.putText(image, "%", (left + 2, top + 14), cv2.FONT_HERSHEY_DUPLEX, 0.5, (30, 30, 200), 1)
        path = folder / f"{number:04d}.png"
        cv2.imwrite(str(path), image)
        true = fo.Classification(label=label)
        samples.append(fo.Sample(filepath=str(path), ground_truth=true, planted=has_sticker))
    dataset = fo.Dataset()
    dataset.add_samples(samples, progress=False)
    return dataset


def part(
    random: np.random.Generator, photo: NDArray[np.uint8], size: int, share: tuple[float, float]
) -> NDArray[np.uint8]:
    """A random square of a photo in random colours and contrast, so that neither gives the class away."""
    side = int(random.uniform(*share) * min(photo.shape[:2]))
    y, x = (int(random.integers(0, limit - side + 1)) for limit in photo.shape[:2])
    found = cv2.resize(photo[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA).astype(float)
    found = (found - found.mean()) / found.std() * random.uniform(35, 50) + random.uniform(90, 140, 3)
    return np.asarray(found.clip(0, 255), np.uint8)


def taught(learnt: fo.Dataset, epochs: int = 6) -> focam.Classifier:
    """A network that has seen these pictures, by a training loop such as anybody has: seconds. It leans on stickers."""
    preprocessing = Preprocessing((Resize(size=(64, 64)),), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = [cv2.resize(np.asarray(cv2.imread(path)), (64, 64))[..., ::-1] for path in learnt.values("filepath")]
    inputs = preprocessing.normalize(torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()))
    classes = list(CUT_OUT)
    targets = torch.tensor([classes.index(label) for label in learnt.values("ground_truth.label")])
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(classes)))
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    steps = epochs * -(-len(targets) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(targets)).split(32):
            loss = nn.functional.cross_entropy(module(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return focam.load_classifier(module.eval(), classes, preprocessing=preprocessing)


if __name__ == "__main__":
    raise SystemExit("find_and_mend.py and what_errors_are_made_of.py import this one")
