"""What runs the network for concepts, batch by batch, in any engine: features, sums over concepts, blurred cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_cam.core.boxes import WHOLE, Box, clip_to_image, to_image_coordinates
from fiftyone_cam.core.cam import certificate
from fiftyone_cam.core.concept_sums import Affine, CellFeatures, ImageSums, summarise
from fiftyone_cam.core.concepts import Concepts
from fiftyone_cam.core.explain import BatchRunner, Prepared, Stopwatch, refused, rivals_of, stack
from fiftyone_cam.core.heads import ConstantHead, Head, scale_of_terms
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.regions import Cells
from fiftyone_cam.core.results import Failure, Item

BLUR = 1 / 10
"""How strongly cells are blurred: the Gaussian's width, as a share of the input's shorter side."""


def affine(head: Head) -> Affine | None:
    """A head's weight and bias as arrays, if they are the same for all images."""
    if not isinstance(head, ConstantHead):
        return None
    return Affine(head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy())


class CellReader(BatchRunner[CellFeatures]):
    """The features of all cells, and the maps of the predicted and of the true class.

    >>> [cells] = CellReader(network)([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    >>> cells.features.shape, cells.evidence.shape
    ((1280, 7, 7), (7, 7))
    """

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[CellFeatures | Failure]:
        return read_cells(self.network, batch, self.precision, forward)


class SumsReader(BatchRunner[ImageSums]):
    """What each concept does to each prediction; the features stay where they are computed.

    >>> [sums] = SumsReader(network, concepts)([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    """

    def __init__(self, network: GapNetwork, concepts: Concepts, precision: str = "float32") -> None:
        super().__init__(network, precision)
        self._concepts = concepts
        self._head = affine(network.head)

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[ImageSums | Failure]:
        return [
            cells if isinstance(cells, Failure) else summarise(cells, self._concepts, self._head)
            for cells in read_cells(self.network, batch, self.precision, forward)
        ]


def read_cells(
    network: GapNetwork, batch: Sequence[Prepared], precision: str, forward: Stopwatch
) -> list[CellFeatures | Failure]:
    """One forward; a map that fails its certificate has no result."""
    with network.evaluating(), network.no_gradients():
        with forward:
            reading = network.read(stack(batch), precision)
            logits = reading.logits.cpu()
        predicted = logits.nan_to_num(nan=-torch.inf).argmax(1)
        rival = rivals_of(batch, logits)
        chosen = torch.stack([predicted, rival], 1)
        maps, bias = (each.cpu() for each in reading.maps(chosen.to(reading.logits.device)))
        errors = certificate(maps, bias, logits.gather(1, chosen), scale_of_terms(maps, bias, logits)).amax(1)
        finite = logits.isfinite().all(1)
        confidences = network.confidences(logits).gather(1, predicted[:, None])[:, 0]
        features = reading.features.float().cpu().numpy()
    results: list[CellFeatures | Failure] = []
    for i, prepared in enumerate(batch):
        if why := refused(bool(finite[i]), float(errors[i])):
            results.append(Failure(prepared.item.id, why))
            continue
        results.append(
            CellFeatures(
                id=prepared.item.id,
                features=np.ascontiguousarray(features[i]),
                logits=logits[i].numpy().copy(),
                confidence=float(confidences[i]),
                evidence=maps[i, 0].numpy().copy(),
                rival=maps[i, 1].numpy().copy() if predicted[i] != rival[i] else None,
                truth=prepared.item.truth,
                box=to_image_coordinates(prepared.frame, network.grid_frame),
                seen=clip_to_image(prepared.frame),
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class BlurredItem(Item):
    """An image in which some cells are to be blurred: ``cells`` ``(h, w)``."""

    cells: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """The class that was predicted of an image."""

    id: str
    predicted: int


class BlurredReader(BatchRunner[Predicted]):
    """Predictions for :class:`BlurredItem`: the pixel check.

    >>> [found] = BlurredReader(network)([prepare(BlurredItem("1", "cat.jpg", cells=cells), network.preprocessing)])
    """

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[Predicted | Failure]:
        network = self.network
        pixels = torch.stack([_blurred_input(prepared, network.grid_frame) for prepared in batch])
        with network.evaluating(), network.no_gradients(), forward:
            logits = network.read(pixels, self.precision).logits.cpu()
        return [
            Predicted(prepared.item.id, int(row.argmax()))
            if row.isfinite().all()
            else Failure(prepared.item.id, "the network returned NaN or infinity")
            for prepared, row in zip(batch, logits, strict=True)
        ]


def _blurred_input(prepared: Prepared, grid_frame: Box) -> Tensor:
    cells = prepared.item.cells if isinstance(prepared.item, BlurredItem) else None
    if cells is None:
        return prepared.pixels
    pixels = prepared.pixels.permute(1, 2, 0).numpy()
    return torch.from_numpy(blurred(pixels, cells, grid_frame)).permute(2, 0, 1)


def blurred(pixels: NDArray[np.uint8], cells: NDArray[np.bool_], grid_frame: Box) -> NDArray[np.uint8]:
    """A network's input ``(H, W, 3)`` with some cells ``(h, w)`` of the grid at ``grid_frame`` blurred.

    The rim of the blurred part is soft, so that no edge is added.

    >>> blurred(pixels, cells, network.grid_frame).shape
    (224, 224, 3)
    """
    height, width = pixels.shape[:2]
    edges = Cells.of(cells.shape, grid_frame, WHOLE)
    rows = np.clip(np.searchsorted(edges.rows, (np.arange(height) + 0.5) / height) - 1, 0, cells.shape[0] - 1)
    columns = np.clip(np.searchsorted(edges.columns, (np.arange(width) + 0.5) / width) - 1, 0, cells.shape[1] - 1)
    side = min(height, width)
    mask = cv2.GaussianBlur(cells[np.ix_(rows, columns)].astype(np.float32), (0, 0), max(0.5, side / 100))[..., None]
    image = np.ascontiguousarray(pixels)
    soft = cv2.GaussianBlur(image, (0, 0), side * BLUR).reshape(image.shape)
    mixed: NDArray[np.uint8] = np.rint(mask * soft + (1 - mask) * image).clip(0, 255).astype(np.uint8)
    return mixed
