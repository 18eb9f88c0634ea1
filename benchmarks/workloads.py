"""What the contenders run over: a network, its preprocessing, and photos."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import cv2
import fiftyone as fo
import torch
from torch import nn

import fiftyone_cam as focam
from benchmarks.cost import CASES, Case, last_linear
from fiftyone_cam.core.image import read_image

DATA = Path(os.environ.get("FIFTYONE_CAM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEGAPIXELS = (4000, 3000)


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark. ``case``: where pytorch-grad-cam looks, for a network that is not a plain CNN."""

    name: str
    bound_by: str
    paths: list[str]
    classifier: focam.Classifier
    batch_size: int
    case: Case | None = None
    device: str = "cpu"

    def dataset(self) -> fo.Dataset:
        """The photos as a new dataset."""
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=path) for path in self.paths], progress=False)
        return dataset


def resnet18() -> focam.Classifier:
    """Random weights: they cost what trained ones cost."""
    torch.manual_seed(0)
    steps = (focam.Resize(short=256), focam.CenterCrop((224, 224)))
    names = [f"class {i}" for i in range(1000)]
    return focam.load_classifier("resnet18", names, weights=None, preprocessing=focam.Preprocessing(steps))


def of_grade(name: str, part: float) -> Workload:
    """A network of :mod:`benchmarks.cost`, with random weights, on a few photos: it takes its time."""
    torch.manual_seed(0)
    case = CASES[name]()
    module = case.make().eval()
    torch.nn.init.normal_(last_linear(module).weight, std=0.02)  # it may begin at zero
    steps = (focam.Resize(short=256), focam.CenterCrop((224, 224)))
    names = [f"class {i}" for i in range(1000)]
    classifier = focam.load_classifier(module, names, preprocessing=focam.Preprocessing(steps))
    return Workload(f"{case.name}, photos", "compute", photos("ilsvrc_val_800", round(64 * part)), classifier, 16, case)


def cifar_resnet20() -> focam.Classifier:
    return focam.load_classifier(
        DATA / "weights" / "resnet20-12fca82f.th",
        CIFAR_CLASSES,
        arch="cifar_resnet20",
        preprocessing=focam.Preprocessing(),
    )


class OneConvolution(nn.Module):
    """A network that costs next to nothing: what it is fed with, and what becomes of its maps, is all that counts."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 32, 32, stride=32)
        self.fc = nn.Linear(32, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.features(pixels).relu().mean((2, 3)))
        return logits


def one_convolution() -> focam.Classifier:
    torch.manual_seed(0)
    steps = (focam.Resize(short=256), focam.CenterCrop((224, 224)))
    names = [f"class {i}" for i in range(1000)]
    return focam.load_classifier(OneConvolution(1000), names, preprocessing=focam.Preprocessing(steps))


def photos(folder: str, count: int) -> list[str]:
    """The first photos of a folder of real ones, again and again if there are fewer."""
    found = sorted(str(path) for path in (DATA / folder / "images").rglob("*.[jJ]*"))
    return list(islice(cycle(found), count))


def small_images(count: int) -> list[str]:
    """CIFAR-10's test images, again and again if more are asked for."""
    folder = Path(tempfile.gettempdir()) / "fiftyone_cam_cifar10"
    if not (folder / "test").is_dir():
        with tarfile.open(next((DATA / "cifar10").glob("*.tar.xz"))) as archive:
            archive.extractall(folder, (m for m in archive if m.name.startswith("test/")), filter="data")
    found = sorted(str(path) for path in (folder / "test").glob("*/*"))
    return list(islice(cycle(found), count))


def large_photos(count: int) -> list[str]:
    """Twelve megapixels each, made of smaller photos."""
    folder = Path(tempfile.gettempdir()) / "fiftyone_cam_12_megapixels"
    folder.mkdir(exist_ok=True)
    paths = []
    for i, source in enumerate(photos("oxford_pets_259", count)):
        path = folder / f"{i:04d}.jpg"
        if not path.exists():
            image = cv2.resize(
                cv2.cvtColor(read_image(source), cv2.COLOR_RGB2BGR), MEGAPIXELS, interpolation=cv2.INTER_CUBIC
            )
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(str(path))
    return paths


WORKLOADS: dict[str, Callable[[float], Workload]] = {
    "resnet18": lambda part: Workload(
        "ResNet-18, photos", "compute", photos("ilsvrc_val_800", round(320 * part)), resnet18(), 32
    ),
    "resnet18-pets": lambda part: Workload(
        "ResNet-18, pets", "compute", photos("oxford_pets_259", round(256 * part)), resnet18(), 32
    ),
    "lite0": lambda part: Workload(
        "EfficientNet-Lite0, photos",
        "compute",
        photos("ilsvrc_val_800", round(320 * part)),
        focam.load_classifier("efficientnet_lite0"),
        32,
    ),
    # long enough for the network to be compiled on the way
    "resnet18-long": lambda part: Workload(
        "ResNet-18, photos, long", "compute", photos("ilsvrc_val_800", round(3200 * part)), resnet18(), 32
    ),
    "lite0-long": lambda part: Workload(
        "EfficientNet-Lite0, photos, long",
        "compute",
        photos("ilsvrc_val_800", round(4800 * part)),
        focam.load_classifier("efficientnet_lite0"),
        32,
    ),
    "cifar": lambda part: Workload(
        "CIFAR-10 ResNet-20, small images", "overhead", small_images(round(10_000 * part)), cifar_resnet20(), 256
    ),
    "ceiling": lambda part: Workload(
        "one convolution, photos", "overhead", photos("ilsvrc_val_800", round(4000 * part)), one_convolution(), 64
    ),
    "large": lambda part: Workload(
        "ResNet-18, 12 megapixels", "decode", large_photos(round(200 * part)), resnet18(), 32
    ),
    "swin": partial(of_grade, "swin_t"),
    "convnext": partial(of_grade, "convnext_tiny"),
    "vit": partial(of_grade, "vit_small"),
}
"""By name, for a part of the images: 1 is all of them."""
