"""What a training learns from: the split, pictures decoded ahead and varied, or features that were computed before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from fiftyone_cam.core.errors import NotDoneError, TrainingError
from fiftyone_cam.core.explain import prepare
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.preprocessing import Bound, Preprocessing
from fiftyone_cam.core.results import Failure, Item
from fiftyone_cam.core.workers import Task, Workers, default_count

SMALL_INPUT = 64
"""Inputs below this side are shifted by an eighth in training instead of being cut out at random scales."""


def choose_validation(labels: Sequence[str], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which samples validate: ``fraction`` of each class, rounded, but at least one and never all.

    A class of one sample is all training.

    >>> choose_validation(["cat"] * 10 + ["dog"] * 5, 0.2).sum()
    3
    """
    if not 0 < fraction < 1:
        raise TrainingError(f"the validation's fraction is {fraction}, expected between 0 and 1")
    rng = np.random.default_rng(seed)
    names = np.asarray(labels, dtype=object)
    chosen = np.zeros(len(names), bool)
    for label in sorted(set(labels)):
        members = np.flatnonzero(names == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen[rng.permutation(members)[:count]] = True
    return chosen


class Examples(Protocol):
    """Inputs and the classes that they should be given."""

    targets: Tensor

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pair of inputs and targets for each chunk of indices, in order; shorter where a picture is unreadable."""
        ...


class Features:
    """Examples that were computed before: ``(N, K)`` inputs, ``(N,)`` targets."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            indices = torch.from_numpy(chunk)
            yield self.inputs[indices], self.targets[indices]


class PictureCache:
    """Room for decoded pictures: what does not fit is decoded anew in each epoch."""

    def __init__(self, bytes: int) -> None:
        self.free = bytes
        self.kept: dict[tuple[str, Preprocessing], Tensor] = {}

    def keep(self, key: tuple[str, Preprocessing], pixels: Tensor) -> None:
        if pixels.nbytes <= self.free and key not in self.kept:
            self.free -= pixels.nbytes
            self.kept[key] = pixels


class Pictures:
    """Examples from image files: decoded ahead in threads, as uint8, ``augment`` applied to each in the caller's.

    Args:
        items: files, with an id each.
        targets: ``(N,)`` class indices.
        preprocessing: of each picture, before ``augment``.
        augment: from ``(3, H, W)`` uint8 to the same of the network's size; it may draw from torch's generator.
        memory: where decoded pictures are kept from epoch to epoch.

    Attributes:
        failures: why pictures could not be read, by id.
    """

    def __init__(
        self,
        items: Sequence[Item],
        targets: Tensor,
        preprocessing: Preprocessing,
        augment: Callable[[Tensor], Tensor] | None = None,
        memory: PictureCache | None = None,
    ) -> None:
        self.items, self.targets = items, targets
        self.failures: dict[str, str] = {}
        self._preprocessing, self._augment = preprocessing, augment
        self._memory = memory or PictureCache(0)

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        with Workers(default_count(), seconds=limits().seconds, name="cam-decode") as workers:
            indices = (int(index) for chunk in chunks for index in chunk)
            ahead = 3 * max(map(len, chunks), default=1)
            tasks = workers.imap(self._read, indices, ahead=ahead)

            def picture(index: int, task: Task[Tensor | None]) -> Tensor | None:
                try:
                    return workers.result(task)
                except NotDoneError as error:
                    self.failures[self.items[index].id] = str(error)
                    return None

            for chunk in chunks:
                pictures = [picture(index, task) for index, task in itertools.islice(tasks, len(chunk))]
                read = [found is not None for found in pictures]
                augment = self._augment or (lambda picture: picture)
                inputs = [augment(found) for found in pictures if found is not None]
                yield torch.stack(inputs) if inputs else torch.empty(0), self.targets[torch.from_numpy(chunk)[read]]

    def _read(self, index: int) -> Tensor | None:
        item = self.items[index]
        if item.id in self.failures:
            return None
        key = (item.path, self._preprocessing)
        if (kept := self._memory.kept.get(key)) is not None:
            return kept
        prepared = prepare(item, self._preprocessing)
        if isinstance(prepared, Failure):
            self.failures[item.id] = prepared.reason
            return None
        pixels = prepared.pixels.contiguous()
        self._memory.keep(key, pixels)
        return pixels


def augmentation(preprocessing: Preprocessing) -> tuple[Preprocessing, v2.Transform]:
    """The usual augmentation for a network that is evaluated with ``preprocessing``: how to read, and what to vary.

    Photos: a part of 35% to 100% of the picture at a random place, resized to the network's input, perhaps mirrored.
    Small inputs: shifted by up to an eighth, perhaps mirrored. (Mirroring is wrong for letters and digits.)

    >>> reading, varying = augmentation(Preprocessing((Resize(short=256), CenterCrop((224, 224)))))
    >>> varying(reading.apply(image)).shape                   # image: (3, H, W) uint8
    torch.Size([3, 224, 224])
    """
    size = preprocessing.input_size()
    flip = v2.RandomHorizontalFlip()
    if max(size) < SMALL_INPUT:
        shift = (size[0] // 8, size[1] // 8)
        return preprocessing, v2.Compose([v2.RandomCrop(size, padding=(shift[1], shift[0])), flip])
    cut = v2.RandomResizedCrop(
        size, scale=(0.35, 1.0), interpolation=InterpolationMode(preprocessing.interpolation), antialias=True
    )
    # kept larger than the input, since a part of it will be enlarged; small pictures are kept as they are
    steps = (Bound(most=round(1.5 * max(size))),)
    reading = Preprocessing(
        steps, preprocessing.mean, preprocessing.std, preprocessing.interpolation, preprocessing.antialias
    )
    return reading, v2.Compose([cut, flip])
