"""What every grade of head offers, and what one forward under it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fiftyone_cam.core.heads.tap import LogitsAt, Tap, words
from fiftyone_cam.core.names import GRADES

EXACT, PER_IMAGE, REMAINDER = GRADES

_H = TypeVar("_H", bound="Head")


@dataclass(frozen=True)
class Reading:
    """One forward: logits ``(N, C)``, feature maps ``(N, K, h, w)``, and the maps of any classes.

    ``maps`` takes ``(N, k)`` indices of classes and gives signed maps ``(N, k, h, w)`` and their biases ``(N, k)``, so
    that ``maps.mean((2, 3)) + bias`` are those classes' logits. ``rest``, where not all of the logit lies in the cells
    (a class token), is the part of every logit that does not, ``(N, C)``. ``pooled`` is one vector for each image,
    ``(N, D)``: what the head pools, or what enters its last linear layer; None where there is no such vector.

    >>> maps, bias = reading.maps(reading.logits.topk(2).indices)
    """

    logits: Tensor
    features: Tensor
    maps: Callable[[Tensor], tuple[Tensor, Tensor]]
    rest: Callable[[], Tensor] | None = None
    pooled: Callable[[], Tensor] | None = None

    def first(self) -> Reading:
        """That of the first image alone.

        >>> reading.first().logits.shape
        torch.Size([1, 1000])
        """
        count = len(self.logits)

        def maps(indices: Tensor) -> tuple[Tensor, Tensor]:
            grids, bias = self.maps(indices.expand(count, -1))
            return grids[:1], bias[:1]

        def one(values: Callable[[], Tensor] | None) -> Callable[[], Tensor] | None:
            return None if values is None else lambda: values()[:1]

        return Reading(self.logits[:1], self.features[:1], maps, one(self.rest), one(self.pooled))


@dataclass(frozen=True)
class Head(ABC):
    """What follows the feature maps.

    ``error`` is the certificate of the probe; ``steps`` are the functions between feature maps and logits.
    """

    tap: Tap
    logits_at: LogitsAt
    features: int
    classes: int
    steps: tuple[str, ...]
    error: float
    width: int | None = field(default=None, kw_only=True)
    """Of :attr:`Reading.pooled`."""

    constant: ClassVar[bool] = False
    """Whether maps are one product with a weight that holds for every image."""

    @property
    @abstractmethod
    def grade(self) -> str:
        """``exact``, ``exact for this image`` or ``exact with remainder``."""

    @property
    def place_tap(self) -> Tap:
        """Where it is measured which part of the input a cell sees."""
        return self.tap

    @property
    def kind(self) -> str:
        """What was found, in words.

        >>> find_head(torchvision.models.convnext_tiny().eval(), torch.randn(2, 3, 224, 224)).kind
        'average pooling, layer_norm, linear'
        """
        return in_words(self.steps)

    @abstractmethod
    def read(
        self,
        module: nn.Module,
        pixels: Tensor,
        precision: AbstractContextManager[Any] | None = None,
        anew: bool = False,
    ) -> Reading:
        """One forward, in a context that sets its precision.

        ``anew``: the logits are computed again from the feature maps, as exactly as the maps.
        """

    def to(self: _H, device: torch.device) -> _H:
        return self

    def certified_by(self: _H, reading: Reading, error: float) -> _H:
        """This head with what a probe showed of it."""
        return replace(self, error=error, width=None if reading.pooled is None else int(reading.pooled().shape[1]))

    def describe(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return {
            "grade": self.grade,
            "kind": self.kind,
            "features": self.features,
            "classes": self.classes,
            "tap": self.tap.describe(),
            "layout": self.tap.layout,
            "probe_error": self.error,
        } | ({"on_top": self.logits_at.on_top} if self.logits_at.on_top else {})


def in_words(steps: tuple[str, ...]) -> str:
    """Names of functions as a sentence would have them.

    >>> in_words(("adaptive_avg_pool2d", "flatten", "linear"))
    'average pooling, linear'
    """
    words: list[str] = []
    for step in steps:
        word = _WORDS.get(step, step)
        if word and (not words or words[-1] != word):
            words.append(word)
    return ", ".join(words[:9]) + (", …" if len(words) > 9 else "") if words else "average pooling"


SHAPE_ONLY = words(
    "flatten view reshape squeeze unsqueeze permute transpose dropout contiguous getitem to float T mT movedim",
    "swapaxes dropout1d dropout2d feature_dropout alpha_dropout type type_as clone detach unflatten expand ravel",
)
"""Functions that move values, and change none."""
IN_ORDER = words("flatten view reshape squeeze unsqueeze contiguous to float dropout clone detach type type_as")
"""Those of them that never put values into another order, as an index can do."""
_WORDS = dict.fromkeys(SHAPE_ONLY, "") | {
    "adaptive_avg_pool2d": "average pooling",
    "adaptive_avg_pool1d": "average pooling",
    "avg_pool2d": "average pooling",
    "avg_pool1d": "average pooling",
    "mean": "average pooling",
    "sum": "sum",
    "amax": "max pooling",
    "adaptive_max_pool2d": "max pooling",
    "adaptive_max_pool1d": "max pooling",
    "max_pool2d": "max pooling",
    "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
    "conv2d": "linear",
    "conv1d": "linear",
    "addmm": "linear",
    "matmul": "product",
    "mul": "scale",
    "div": "scale",
    "add": "",
    "sub": "",
}
