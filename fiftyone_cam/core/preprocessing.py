"""Preprocessing as data: the object that shapes the network's input also places its grid back on the picture.

All boxes are ``(x, y, width, height)``, relative to the whole image as displayed: ``(0, 0, 1, 1)`` is all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fiftyone_cam.core.boxes import Box


class Axis(NamedTuple):
    """One axis of the way from image to network input, in pixels: ``input = scale * image + offset``."""

    size: int
    scale: float = 1.0
    offset: float = 0.0


class Shape(NamedTuple):
    """Both axes of the way from image to network input."""

    y: Axis
    x: Axis


class _Resizing:
    """A step that is fully said by its target size."""

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the step."""
        raise NotImplementedError

    def place(self, shape: Shape) -> Shape:
        height, width = self.target(shape.y.size, shape.x.size)
        return Shape(_scaled(shape.y, height), _scaled(shape.x, width))

    def apply(self, image: Tensor, interpolation: InterpolationMode, antialias: bool) -> Tensor:
        height, width = self.target(*image.shape[-2:])
        if (height, width) == tuple(image.shape[-2:]):
            return image
        resized: Tensor = F.resize_image(image, [height, width], interpolation=interpolation, antialias=antialias)
        return resized


@dataclass(frozen=True)
class Resize(_Resizing):
    """Resize the short or the long side (aspect kept, rounded as in torchvision), or both sides to ``size``.

    >>> Resize(short=256).target(480, 640)
    (256, 341)
    """

    short: int | None = None
    long: int | None = None
    size: tuple[int, int] | None = None  # height, width

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.short, self.long, self.size)) != 1:
            raise ValueError(f"Resize takes exactly one of short, long and size, found {self}")

    def target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        short, long = sorted((height, width))
        if self.short is not None:
            short, long = self.short, max(1, int(self.short * long / short))
        elif self.long is not None:
            short, long = max(1, int(self.long * short / long)), self.long
        return (short, long) if height <= width else (long, short)


@dataclass(frozen=True)
class Bound(_Resizing):
    """Enlarge until both sides are at least ``least``, then shrink until both are at most ``most``; aspect kept.

    The sizes of the inputs differ then, and images are only batched with those of their own size.

    >>> Bound(least=224).target(112, 300)
    (224, 600)
    """

    least: int | None = None
    most: int | None = None

    def target(self, height: int, width: int) -> tuple[int, int]:
        if self.least is not None and min(height, width) < self.least:
            factor = self.least / min(height, width)
            height, width = round(height * factor), round(width * factor)
        if self.most is not None and max(height, width) > self.most:
            factor = self.most / max(height, width)
            height, width = max(1, round(height * factor)), max(1, round(width * factor))
        return height, width


@dataclass(frozen=True)
class CenterCrop:
    """Cut ``size`` (height, width) out of the middle; a smaller image is padded with zeros first, as in torchvision.

    >>> Preprocessing((CenterCrop((224, 224)),)).frame(height=448, width=448)
    (0.25, 0.25, 0.5, 0.5)
    """

    size: tuple[int, int]

    def place(self, shape: Shape) -> Shape:
        return Shape(_centred(shape.y, self.size[0]), _centred(shape.x, self.size[1]))

    def apply(self, image: Tensor, interpolation: InterpolationMode, antialias: bool) -> Tensor:
        cropped: Tensor = F.center_crop_image(image, list(self.size))
        return cropped


@dataclass(frozen=True)
class Pad:
    """Pad to ``size`` (height, width) with the image in the middle: after ``Resize(long=…)``, a letterbox.

    >>> Preprocessing((Resize(long=224), Pad((224, 224)))).frame(height=112, width=224)
    (0.0, -0.5, 1.0, 2.0)
    """

    size: tuple[int, int]
    fill: int = 0

    def _before(self, size: int, target: int) -> int:
        if size > target:
            raise ValueError(f"cannot pad {size} pixels to {target}: resize the long side first")
        return (target - size) // 2

    def place(self, shape: Shape) -> Shape:
        y, x = (
            Axis(target, axis.scale, axis.offset + self._before(axis.size, target))
            for axis, target in zip(shape, self.size, strict=True)
        )
        return Shape(y, x)

    def apply(self, image: Tensor, interpolation: InterpolationMode, antialias: bool) -> Tensor:
        height, width = image.shape[-2:]
        top, left = self._before(height, self.size[0]), self._before(width, self.size[1])
        padding = [left, top, self.size[1] - width - left, self.size[0] - height - top]
        padded: Tensor = F.pad_image(image, padding, fill=[self.fill])
        return padded


Step = Resize | Bound | CenterCrop | Pad
_STEPS: Mapping[str, type[Step]] = {"resize": Resize, "bound": Bound, "center_crop": CenterCrop, "pad": Pad}


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture to the network's input, and back: steps, interpolation, mean and standard deviation.

    ``mean`` and ``std`` are for pixels in [0, 1]: ``input = (pixel / 255 - mean) / std``.

    >>> preprocessing = Preprocessing((Resize(short=256), CenterCrop((224, 224))))
    >>> preprocessing.apply(image).shape                      # image: (3, H, W) uint8
    torch.Size([3, 224, 224])
    >>> preprocessing.frame(height=480, width=640)            # where that input lies on the image
    (0.17, 0.06, 0.66, 0.88)
    """

    steps: tuple[Step, ...] = ()
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        InterpolationMode(self.interpolation)  # an unknown name fails here, not in a decode thread
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"expected as many means as positive deviations, found {self.mean} and {self.std}")

    def apply(self, image: Tensor) -> Tensor:
        """The steps on a ``(3, H, W)`` uint8 image; still uint8, so that a batch travels small."""
        for step in self.steps:
            image = step.apply(image, InterpolationMode(self.interpolation), self.antialias)
        return image

    def normalize(self, batch: Tensor) -> Tensor:
        """``(N, 3, H, W)`` uint8 to the network's float32 input, on whatever device the batch is."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=batch.device).view(1, -1, 1, 1)
        return batch.float().div_(255).sub_(mean).div_(std)

    def frame(self, height: int, width: int) -> Box:
        """Where the network's input lies on the whole image; reaches beyond it where the input is padded."""
        return _frame(self, height, width)

    def least(self, height: int, width: int) -> int:
        """The short side, in pixels, to which an image may be shrunk beforehand without being enlarged afterwards.

        Where the network expects aliased pixels (``antialias=False``), nothing may be shrunk.

        >>> Preprocessing((Resize(short=256), CenterCrop((224, 224)))).least(3000, 4000)
        256
        """
        shape = self._shape(height, width)
        scale = max(shape.y.scale, shape.x.scale) if self.antialias else 1.0
        return math.ceil(min(height, width) * min(1.0, scale) - 1e-9)

    def input_size(self, height: int = 224, width: int = 224) -> tuple[int, int]:
        """Height and width of the network's input for an image of this size."""
        shape = self._shape(height, width)
        return shape.y.size, shape.x.size

    def _shape(self, height: int, width: int) -> Shape:
        shape = Shape(Axis(height), Axis(width))
        for step in self.steps:
            shape = step.place(shape)
        return shape

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the same before and after JSON; :meth:`from_dict` is the inverse."""
        names = {cls: name for name, cls in _STEPS.items()}
        steps = []
        for step in self.steps:
            values = {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in asdict(step).items()
                if value is not None
            }
            steps.append({"step": names[type(step)], **values})
        return {
            "steps": steps,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        steps = []
        for entry in data.get("steps", ()):
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            name = values.pop("step", None)
            if name not in _STEPS:
                raise ValueError(f"unknown preprocessing step {name!r}, expected one of {sorted(_STEPS)}")
            steps.append(_STEPS[name](**values))
        return cls(
            tuple(steps),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            antialias=data["antialias"],
        )


@lru_cache(maxsize=1024)
def _frame(preprocessing: Preprocessing, height: int, width: int) -> Box:
    shape = preprocessing._shape(height, width)
    x, w = _back(shape.x, width)
    y, h = _back(shape.y, height)
    return (x, y, w, h)


def _scaled(axis: Axis, size: int) -> Axis:
    factor = size / axis.size
    return Axis(size, axis.scale * factor, axis.offset * factor)


def _centred(axis: Axis, size: int) -> Axis:
    # torchvision pads (crop - size) // 2 before, then cuts at round(rest / 2): with the pad, the rest is 0
    before = (size - axis.size) // 2 if size > axis.size else -round((axis.size - size) / 2)
    return Axis(size, axis.scale, axis.offset + before)


def _back(axis: Axis, size: int) -> tuple[float, float]:
    return 0.0 - axis.offset / axis.scale / size, axis.size / axis.scale / size
