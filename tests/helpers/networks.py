"""Small networks and pictures that several tests share; free of FiftyOne."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.networks import build

NAMES = ["cat", "dog", "fish"]
SQUARE = Preprocessing((Resize(size=(64, 64)),))


class Brightness(nn.Module):
    """Class 0 is how bright it is, class 1 how dark; a grid of one cell for each ``stride`` pixels. Exact by design."""

    def __init__(self, stride: int = 16) -> None:
        super().__init__()
        self.stride = stride
        self.fc = nn.Linear(2, 2)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(2))
            self.fc.bias.copy_(torch.tensor([0.25, -0.5]))

    def forward(self, input: Tensor) -> Tensor:
        light = nn.functional.avg_pool2d(input.mean(1, keepdim=True), self.stride)
        features = torch.cat([light.clamp_min(0), (-light).clamp_min(0)], 1)
        return self.fc(nn.functional.adaptive_avg_pool2d(features, 1).flatten(1))


def tiny_gap(classes: int = 3, seed: int = 0) -> nn.Module:
    """A random convolutional network that ends in global average pooling and a linear layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16, classes),
    )


def small_checkpoint(folder: Path) -> Path:
    """A checkpoint folder of a small random network of three classes: what can be loaded by its path."""
    from fiftyone_cam.classifiers.classifier import load_classifier  # with FiftyOne

    torch.manual_seed(0)
    module = build("small_gap_net", len(NAMES))
    classifier = load_classifier(module.eval(), NAMES, preprocessing=Preprocessing((Resize(size=(32, 32)),)))
    classifier.origin["arch"] = "small_gap_net"
    return classifier.save(folder)


def write_photos(folder: Path, count: int, size: tuple[int, int] = (48, 64), seed: int = 0) -> list[str]:
    """Random pictures as PNG files; their paths."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = folder / f"photo_{seed}_{i:04d}.png"
        Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return paths
