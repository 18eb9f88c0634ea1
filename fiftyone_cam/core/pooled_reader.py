"""What a last layer is trained on, batch by batch, in any engine: pooled features, and the cells off the object."""

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
        off: the features of cells that lie off the object, at least in part, ``(m, D)``; empty where that is not known.
        area: the share of each of these cells that is off the object, ``(m,)``.
    """

    id: str
    pooled: Floats
    logits: Floats
    off: Floats
    area: Floats


class PooledReader(BatchRunner[PooledFeatures]):
    """Pooled features of images; of those with an object also the cells off it.

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
            off, area = np.zeros((0, pooled.shape[1]), np.float32), np.zeros(0, np.float32)
            if features is not None and (objects := _objects(prepared)):
                box = to_image_coordinates(prepared.frame, network.grid_frame)
                cells = Cells.of(features[i].shape[1:], box, clip_to_image(prepared.frame))
                area = np.where(cells.areas > 0, 1 - partition([objects], cells)[0], 0).ravel().astype(np.float32)
                off = features[i].reshape(len(features[i]), -1).T[area > 0]
                area = area[area > 0]
            results.append(PooledFeatures(prepared.item.id, pooled[i].copy(), logits[i].copy(), off.copy(), area))
        return results


def _objects(prepared: Prepared) -> tuple[Shape, ...]:
    return prepared.item.objects if isinstance(prepared.item, AnnotatedItem) else ()


class SecondMoment:
    """The mean of ``f fᵀ`` over cells off the object, ``(K, K)``: bounded memory, however many cells there are.

    >>> moment = SecondMoment(1280)
    >>> moment.add(found.off, found.area)
    >>> moment.mean.shape
    (1280, 1280)
    """

    def __init__(self, width: int) -> None:
        self._sum = np.zeros((width, width))
        self.area = 0.0

    def add(self, off: Floats, area: Floats) -> None:
        """Add cells ``(m, K)``, each with the share of it that counts, ``(m,)``."""
        if len(off):
            self._sum += (off * area[:, None]).T.astype(np.float64) @ off
            self.area += float(area.sum())

    @property
    def mean(self) -> NDArray[np.float64]:
        """Zeros where there is no cell."""
        mean: NDArray[np.float64] = self._sum / max(self.area, float(np.finfo(np.float64).tiny))
        return mean
