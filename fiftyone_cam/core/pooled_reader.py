"""What a last layer is trained on, batch by batch, in any engine: pooled features, and cells on the object and off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import clip_to_image, to_image_coordinates
from fiftyone_cam.core.explain import BatchRunner, Prepared, Stopwatch, stack
from fiftyone_cam.core.regions import Cells, Shape, partition
from fiftyone_cam.core.results import Failure, Item

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AnnotatedItem(Item):
    """An image with the shapes of its object; empty where nobody knows where that is."""

    objects: tuple[Shape, ...] = ()


@dataclass(frozen=True, slots=True)
class PooledFeatures:
    """One image as its last layer sees it.

    Attributes:
        id: of the image.
        pooled: what enters the last layer, ``(D,)``.
        logits: ``(C,)``.
        cells: the features of the cells that show the image, ``(m, D)``; empty where nobody knows where the object is.
        off: the share of each of these cells that is off the object, ``(m,)``.
    """

    id: str
    pooled: Floats
    logits: Floats
    cells: Floats
    off: Floats


class PooledReader(BatchRunner[PooledFeatures]):
    """Pooled features of images; of those with an object also their cells.

    >>> [found] = PooledReader(network)([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    >>> found.pooled.shape
    (1280,)
    """

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[PooledFeatures | Failure]:
        network = self.network
        with network.evaluating(), network.no_gradients():
            with forward:
                reading = network.read(stack(batch), self.precision)
                logits = reading.logits.cpu().numpy()
            assert reading.pooled is not None  # a head with a last layer has it
            pooled = reading.pooled().float().cpu().numpy()
            features = reading.features.float().cpu().numpy() if any(map(_objects, batch)) else None
        results: list[PooledFeatures | Failure] = []
        for i, prepared in enumerate(batch):
            if not (np.isfinite(logits[i]).all() and np.isfinite(pooled[i]).all()):
                results.append(Failure(prepared.item.id, "the network returned NaN or infinity"))
                continue
            seen, off = np.zeros((0, pooled.shape[1]), np.float32), np.zeros(0, np.float32)
            if features is not None and (objects := _objects(prepared)):
                box = to_image_coordinates(prepared.frame, network.grid_frame)
                cells = Cells.of(features[i].shape[1:], box, clip_to_image(prepared.frame))
                there = (cells.areas > 0).ravel()
                off = (1 - partition([objects], cells)[0]).ravel()[there].astype(np.float32)
                seen = features[i].reshape(len(features[i]), -1).T[there]
            results.append(PooledFeatures(prepared.item.id, pooled[i].copy(), logits[i].copy(), seen.copy(), off))
        return results


def _objects(prepared: Prepared) -> tuple[Shape, ...]:
    return prepared.item.objects if isinstance(prepared.item, AnnotatedItem) else ()


class SecondMoment:
    """The mean of ``f fᵀ`` over cells off the object, ``(K, K)``, and on it: bounded memory, however many there are.

    >>> moment = SecondMoment(1280)
    >>> moment.add(found.cells, found.off)
    >>> moment.mean.shape
    (1280, 1280)
    """

    def __init__(self, width: int) -> None:
        self._off = np.zeros((width, width))
        self._on = np.zeros((width, width))
        self.area = 0.0

    def add(self, cells: Floats, off: Floats) -> None:
        """Add cells ``(m, K)``, each with the share of it that is off the object, ``(m,)``."""
        if len(cells):
            self._off += (cells * off[:, None]).T.astype(np.float64) @ cells
            self._on += (cells * (1 - off)[:, None]).T.astype(np.float64) @ cells
            self.area += float(off.sum())

    @property
    def mean(self) -> NDArray[np.float64]:
        """Off the object; zeros where there is no cell."""
        mean: NDArray[np.float64] = self._off / max(self.area, float(np.finfo(np.float64).tiny))
        return mean

    def share(self, weight: Floats) -> float:
        """The share of the squared evidence of all classes that is off the object, ``(C, K)`` to a number.

        A penalty that only makes all evidence smaller does not change it.

        >>> moment.share(head.weight)
        0.61
        """
        off, on = (
            float(np.einsum("ck,kl,cl->", weight, each, weight, optimize=True)) for each in (self._off, self._on)
        )
        return off / max(off + on, float(np.finfo(np.float64).tiny))
