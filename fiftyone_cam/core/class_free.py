"""The map that knows no class: the mean of the feature maps, which shows where the network sees anything at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box, clip_to_image, to_image_coordinates
from fiftyone_cam.core.explain import BatchRunner, Prepared, Stopwatch, stack
from fiftyone_cam.core.results import Failure


@dataclass(frozen=True, slots=True)
class FeatureMean:
    """The mean of an image's feature maps, ``grid`` ``(h, w)``, and where it lies on the image."""

    id: str
    grid: NDArray[np.float32]
    box: Box
    seen: Box


class ClassFreeReader(BatchRunner[FeatureMean]):
    """The mean of the feature maps of each image.

    >>> [found] = ClassFreeReader(network)([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    >>> found.grid.shape
    (7, 7)
    """

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[FeatureMean | Failure]:
        network = self.network
        with network.evaluating(), network.no_gradients(), forward:
            means = network.read(stack(batch), self.precision).features.float().mean(1).cpu().numpy()
        return [
            FeatureMean(
                prepared.item.id,
                mean.copy(),
                to_image_coordinates(prepared.frame, network.grid_frame),
                clip_to_image(prepared.frame),
            )
            if np.isfinite(mean).all()
            else Failure(prepared.item.id, "the network returned NaN or infinity")
            for prepared, mean in zip(batch, means, strict=True)
        ]
