"""The side of a classifier that FiftyOne's own tools see: ``apply_model``, ``compute_embeddings``, the brain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import fiftyone.core.models as fom
import fiftyone.utils.torch as fout
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_cam.core.errors import CamError, ImageError
from fiftyone_cam.core.explain import Explainer, Prepared, prepare
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing
from fiftyone_cam.core.results import Explanation, Failure, Item
from fiftyone_cam.runs.heatmaps import heatmap, prediction


class FiftyOneModel(fom.SupportsGetItem, fom.TorchModelMixin, fom.LogitsMixin, fom.EmbeddingsMixin, fom.Model):
    """A network as a ``fo.Model``: labels with heatmaps, logits, and its pooled features as embeddings.

    An image that cannot be read costs one sample, not its batch.

    >>> dataset.apply_model(classifier, label_field="am", batch_size=32, store_logits=True)
    >>> embeddings = dataset.compute_embeddings(classifier)
    """

    def __init__(self, network: GapNetwork) -> None:
        super().__init__()
        self.network = network
        self.config = _ModelConfig()
        self._preprocess = True
        self._embeddings: NDArray[np.float32] | None = None

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        return False  # sizes may differ, but the explainer groups them itself

    @property
    def transforms(self) -> Callable[[Any], Tensor]:
        """From a picture to the network's input, for FiftyOne's loader of patches, which reads them itself."""
        return partial(_shape, self.network.preprocessing)

    @property
    def preprocess(self) -> bool:
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    @property
    def has_collate_fn(self) -> bool:
        return True

    @staticmethod
    def collate_fn(batch: list[Any]) -> list[Any]:
        return batch

    def build_get_item(self, field_mapping: Mapping[str, str] | None = None) -> fout.GetItem:
        return _Prepare(self.network.preprocessing, field_mapping=field_mapping)

    def predict(self, arg: Any) -> dict[str, Any] | None:
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[Any]) -> list[dict[str, Any] | None]:
        """Labels for images: what :meth:`build_get_item` made of files, or ``(H, W, 3)`` uint8 arrays."""
        batch = [self._prepare(i, arg) for i, arg in enumerate(args)]
        readable = [entry for entry in batch if isinstance(entry, Prepared)]
        results = Explainer(self.network, vectors=True)(readable)
        vectors = [result.pooled for result in results if isinstance(result, Explanation) and result.pooled is not None]
        self._embeddings = np.stack(vectors) if vectors else None
        of = {id(entry): result for entry, result in zip(readable, results, strict=True)}
        return [self._labels(of[id(entry)] if isinstance(entry, Prepared) else entry) for entry in batch]

    def _labels(self, result: Explanation | Failure) -> dict[str, Any] | None:
        """None is what FiftyOne passes over; an empty dict would cost the whole batch."""
        if isinstance(result, Failure):
            return None
        label, least = prediction(result.maps[0]), self.config.confidence_thresh
        if least is not None and label.confidence < least:
            return None
        if self.store_logits:
            label.logits = result.logits
        return {"prediction": label, "heatmap": heatmap(result.maps[0], result)}

    @property
    def has_logits(self) -> bool:
        return True

    @property
    def has_embeddings(self) -> bool:
        """Whether there is one vector of pooled features for each image. Most networks have it."""
        return self.network.head.width is not None

    def get_embeddings(self) -> NDArray[np.float32]:
        """Pooled features of what :meth:`predict_all` saw last, ``(N, D)``; of images that could be read."""
        if self._embeddings is None:
            raise CamError("there are no embeddings yet: predict something first, or use embed_all")
        return self._embeddings

    def embed(self, arg: Any) -> NDArray[np.float32]:
        return self.embed_all([arg])

    def embed_all(self, args: Sequence[Any]) -> NDArray[np.float32]:
        """Pooled features of images, ``(N, D)``: what :meth:`build_get_item` made of files, or uint8 arrays. No maps.

        Raises:
            ImageError: one of them cannot be read. FiftyOne then leaves this batch out and goes on, and says so.
        """
        batch = [self._prepare(i, arg) for i, arg in enumerate(args)]
        for entry in batch:
            if isinstance(entry, Failure):
                raise ImageError(f"an image of this batch has no embedding: {entry.reason}")
        pixels = [entry.pixels for entry in batch if isinstance(entry, Prepared)]
        alike = len({each.shape for each in pixels}) == 1
        groups = [torch.stack(pixels)] if alike else [each[None] for each in pixels]
        self._embeddings = np.concatenate([self.network.embed(group).cpu().numpy() for group in groups])
        return self._embeddings

    def _prepare(self, i: int, arg: Any) -> Prepared | Failure:
        if isinstance(arg, Failure):
            return arg
        if isinstance(arg, Prepared):  # a batch from a data loader has no ids: number it
            return Prepared(Item(str(i), arg.item.path), arg.pixels, arg.frame, arg.size)
        pixels = arg if isinstance(arg, Tensor) else torch.from_numpy(np.array(arg)).permute(2, 0, 1)
        height, width = pixels.shape[-2:]
        if isinstance(arg, Tensor) and not self._preprocess:  # a patch, as :attr:`transforms` made it
            return Prepared(Item(str(i), ""), pixels, (0.0, 0.0, 1.0, 1.0), (height, width))
        preprocessing = self.network.preprocessing
        frame = preprocessing.frame(height, width)
        return Prepared(Item(str(i), ""), preprocessing.apply(pixels), frame, (height, width))


def _shape(preprocessing: Preprocessing, picture: Any) -> Tensor:
    return preprocessing.apply(torch.from_numpy(np.array(picture)).permute(2, 0, 1))


@dataclass
class _ModelConfig:
    """Settings that ``apply_model`` sets for its time: below the threshold there is neither label nor heatmap."""

    confidence_thresh: float | None = None


class _Prepare(fout.GetItem):
    """Decodes and preprocesses in the data loader's workers; an unreadable file costs one sample, not its batch."""

    def __init__(self, preprocessing: Preprocessing, field_mapping: Mapping[str, str] | None = None) -> None:
        super().__init__(field_mapping=field_mapping)
        self._preprocessing = preprocessing

    @property
    def required_keys(self) -> list[str]:
        return ["filepath"]

    def __call__(self, d: Mapping[str, Any]) -> Prepared | Failure:
        return prepare(Item("", d["filepath"]), self._preprocessing)
