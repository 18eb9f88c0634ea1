"""The steps of a preprocessing: each says how it shapes a picture, and where the result lies on it.

To add one: a frozen dataclass with ``place`` and ``apply``, and a name in :data:`STEPS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F


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
    """Resize the short or the long side, both sides to ``size``, or to what covers or fits into a box (aspect kept).

    Args:
        short, long: pixels of that side; the aspect is kept, the other side rounded down as in torchvision.
        size: height and width.
        cover, fit: the smallest size that covers, or the largest that fits into, this height and width.
        nearest: round the other side to the nearest pixel (always so for ``cover`` and ``fit``).
        multiple: make both sides larger, up to a multiple of this.

    >>> Resize(short=256).target(480, 640), Resize(cover=(224, 448)).target(480, 640)
    ((256, 341), (336, 448))
    """

    short: int | None = None
    long: int | None = None
    size: tuple[int, int] | None = None
    cover: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None
    nearest: bool = False
    multiple: int = 1

    def __post_init__(self) -> None:
        _check_sizes(size=self.size, cover=self.cover, fit=self.fit)
        if sum(value is not None for value in (self.short, self.long, self.size, self.cover, self.fit)) != 1:
            raise ValueError(f"Resize takes exactly one of short, long, size, cover and fit, found {self}")

    def target(self, height: int, width: int) -> tuple[int, int]:
        height, width = self._target(height, width)
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        if (box := self.cover or self.fit) is not None:
            ratios = (height / box[0], width / box[1])
            ratio = min(ratios) if self.cover is not None else max(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        rounded = round if self.nearest else int
        short, long = sorted((height, width))
        if self.short is not None:
            short, long = self.short, max(1, rounded(self.short * long / short))
        elif self.long is not None:
            short, long = max(1, rounded(self.long * short / long)), self.long
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


class _Cutting:
    """A step that cuts a size out of the middle; where the image is smaller, it is padded first."""

    rounding: str
    fill: int | tuple[int, ...]

    def cut(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the step."""
        raise NotImplementedError

    def place(self, shape: Shape) -> Shape:
        height, width = self.cut(shape.y.size, shape.x.size)
        return Shape(self._placed(shape.y, height), self._placed(shape.x, width))

    def _placed(self, axis: Axis, size: int) -> Axis:
        return Axis(size, axis.scale, axis.offset - self._start(axis.size - size))

    def _start(self, rest: int) -> int:
        """Where the cut begins, for what is left over; negative where the image is smaller than the cut."""
        if self.rounding == "floor":
            return rest // 2
        return round(rest / 2) if self.rounding == "half" and rest > 0 else int(rest / 2)

    def apply(self, image: Tensor, interpolation: InterpolationMode, antialias: bool) -> Tensor:
        height, width = self.cut(*image.shape[-2:])
        top, left = self._start(image.shape[-2] - height), self._start(image.shape[-1] - width)
        bottom, right = top + height - image.shape[-2], left + width - image.shape[-1]
        padding = [max(0, -left), max(0, -top), max(0, right), max(0, bottom)]
        image = image[..., max(0, top) : top + height, max(0, left) : left + width]
        return _padded(image, padding, self.fill) if any(padding) else image


ROUNDINGS = ("half", "trunc", "floor")


@dataclass(frozen=True)
class CenterCrop(_Cutting):
    """Cut ``size`` (height, width) out of the middle; a smaller image is padded with ``fill`` first.

    Where an odd number of pixels is left over, libraries differ by one pixel in where the cut begins: at the half,
    rounded to even (``"half"``: torchvision), towards zero (``"trunc"``: Hugging Face's processors), or down
    (``"floor"``: its processors for Pillow).

    >>> Preprocessing((CenterCrop((224, 224)),)).frame(height=448, width=448)
    (0.25, 0.25, 0.5, 0.5)
    """

    size: tuple[int, int]
    rounding: str = "half"
    fill: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}, expected one of {ROUNDINGS}")
        _check_sizes(size=self.size)

    def cut(self, height: int, width: int) -> tuple[int, int]:
        return self.size


@dataclass(frozen=True)
class CropShare(_Cutting):
    """Cut a share of the short side, in height and in width, out of the middle: Perceiver's crop.

    >>> Preprocessing((CropShare((0.875, 0.875)), Resize(size=(224, 224)))).frame(height=256, width=512)
    (0.28125, 0.0625, 0.4375, 0.875)
    """

    share: tuple[float, float]
    rounding: str = "trunc"
    fill: int | tuple[int, ...] = 0

    def cut(self, height: int, width: int) -> tuple[int, int]:
        short = min(height, width)
        return max(1, int(self.share[0] * short)), max(1, int(self.share[1] * short))


@dataclass(frozen=True)
class Pad:
    """Pad to ``size`` (height, width) with the image in the middle: after ``Resize(long=…)``, a letterbox.

    >>> Preprocessing((Resize(long=224), Pad((224, 224)))).frame(height=112, width=224)
    (0.0, -0.5, 1.0, 2.0)
    """

    size: tuple[int, int]
    fill: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        _check_sizes(size=self.size)

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
        return _padded(image, padding, self.fill)


@dataclass(frozen=True)
class Margin:
    """Put a margin of so many pixels around the image.

    >>> Preprocessing((Margin(left=8, top=8, right=8, bottom=8),)).input_size(16, 16)
    (32, 32)
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    fill: int | tuple[int, ...] = 0

    def place(self, shape: Shape) -> Shape:
        y, x = shape
        return Shape(
            Axis(y.size + self.top + self.bottom, y.scale, y.offset + self.top),
            Axis(x.size + self.left + self.right, x.scale, x.offset + self.left),
        )

    def apply(self, image: Tensor, interpolation: InterpolationMode, antialias: bool) -> Tensor:
        return _padded(image, [self.left, self.top, self.right, self.bottom], self.fill)


Step = Resize | Bound | CenterCrop | CropShare | Pad | Margin
STEPS: Mapping[str, type[Step]] = {
    "resize": Resize,
    "bound": Bound,
    "center_crop": CenterCrop,
    "crop_share": CropShare,
    "pad": Pad,
    "margin": Margin,
}


def _check_sizes(**sizes: Any) -> None:
    """Refuse what is no height and width: it would fail in a thread that decodes."""
    for name, size in sizes.items():
        pair = isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2
        if size is not None and not (pair and all(isinstance(side, Integral) and int(side) > 0 for side in size)):
            raise ValueError(f"{name} is {size!r}, expected height and width in pixels, such as (224, 224)")


def _scaled(axis: Axis, size: int) -> Axis:
    factor = size / axis.size
    return Axis(size, axis.scale * factor, axis.offset * factor)


def _padded(image: Tensor, padding: list[int], fill: int | tuple[int, ...]) -> Tensor:
    values = list(fill) if isinstance(fill, tuple) else [fill]
    padded: Tensor = F.pad_image(image, padding, fill=values)
    return padded
