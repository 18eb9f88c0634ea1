"""Preprocessing as data: the object that shapes the network's input also places its grid back on the picture.

All boxes are ``(x, y, width, height)``, relative to the whole image as displayed: ``(0, 0, 1, 1)`` is all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.image import Range, call_reader, read_image
from fiftyone_cam.core.steps import STEPS, Axis, Bound, CenterCrop, CropShare, Margin, Pad, Resize, Shape, Step

__all__ = ["Bound", "CenterCrop", "CropShare", "Margin", "Pad", "Preprocessing", "Resize", "Step"]

_GREY = (19595, 38470, 7471)
"""Of 65536: red, green and blue in Pillow's grey (ITU-R 601-2)."""


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture to the network's input, and back: steps, interpolation, mean and standard deviation.

    Args:
        steps: in the order in which they are taken.
        mean, std: for pixels in [0, 1], a number for each channel: ``input = (pixel / 255 - mean) / std``.
        interpolation: of every resizing, by torchvision's name.
        antialias: False where the network was trained on pixels that were picked, not averaged.
        channels: a letter for each channel of the input, ``R``, ``G``, ``B`` or ``L`` (grey): ``"BGR"``, ``"L"``. By
            default ``"RGB"``, ``"L"`` where there is one mean, or with ``read`` the channels as they are read.
        full: the value that means white in pixels of more than 8 bits, or those that mean black and white, as in
            :func:`~fiftyone_cam.core.image.read_image`: 4095, 10000, (-1000, 1000).
        read: a function from a path to pixels, ``(H, W)`` or ``(H, W, C)``, for files that are no pictures (DICOM,
            ``.npy``) or have other channels than red, green and blue. Bytes, or other numbers and ``full``. It must be
            safe to call from several threads, and for Ray it must be picklable.

    Raises:
        ValueError: the settings contradict each other.

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
    channels: str | None = None
    full: Range | None = None
    read: Callable[[str], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.steps, Sequence) or not all(hasattr(step, "place") for step in self.steps):
            raise ValueError(f"steps is {self.steps!r:.200}, expected several: (focam.Resize(short=256), …)")
        InterpolationMode(self.interpolation)  # an unknown name fails here, not in a decode thread
        letters = self._letters()
        if letters is not None and (len(letters) != len(self.mean) or not set(letters) <= set("RGBL")):
            raise ValueError(
                f"expected a mean for each of the channels {letters!r} (letters R, G, B, L), found {self.mean}: "
                "pass channels=, such as 'L' for grey or 'BGR', or read=, a function that gives other channels"
            )
        low, high = self.full if isinstance(self.full, tuple) else (0, 1 if self.full is None else self.full)
        if not low < high:
            raise ValueError(f"full is {self.full}, expected the value of white, or those of black and white in order")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(f"expected as many means as positive deviations, found {self.mean} and {self.std}")

    def apply(self, image: Tensor) -> Tensor:
        """The steps on a ``(3, H, W)`` uint8 image; still uint8, so that a batch travels small.

        Returns:
            ``(C, height, width)`` uint8, C the number of means.
        """
        for step in self.steps:
            image = step.apply(image, InterpolationMode(self.interpolation), self.antialias)
        return self._channels(image)

    def pixels(self, path: str) -> NDArray[np.uint8]:
        """An image file's pixels, ``(H, W, C)``: read as a picture, or by the caller's own function.

        Raises:
            ImageError: with a short reason.

        >>> preprocessing.pixels("cat.jpg").shape
        (300, 451, 3)
        """
        if self.read is not None:
            return call_reader(self.read, path, self.full)
        return read_image(path, min_size=self.least, full=self.full)

    def _letters(self) -> str | None:
        """The channels of the input; None where they are those that the caller's function reads."""
        if self.channels is not None or (self.read is not None and len(self.mean) not in (1, 3)):
            return self.channels
        return "L" if len(self.mean) == 1 else "RGB"

    def _channels(self, image: Tensor) -> Tensor:
        """What was read as the channels that the network takes."""
        letters = self._letters()
        if letters is None or (letters == "L" and len(image) == 1):
            if len(image) != len(self.mean):
                raise ValueError(f"found {len(image)} channels, expected {len(self.mean)}: one for each mean")
            return image
        if len(image) == 1:
            return image.expand(len(letters), -1, -1)
        if len(image) != 3:
            raise ValueError(f"found {len(image)} channels, expected red, green and blue")
        if letters == "RGB":
            return image
        if "L" not in letters:
            return image[["RGB".index(letter) for letter in letters]]
        weights = torch.tensor(_GREY, dtype=torch.int32).view(3, 1, 1)
        grey = (((image.int() * weights).sum(0, keepdim=True) + (1 << 15)) >> 16).to(torch.uint8)
        return torch.cat([grey if letter == "L" else image["RGB".index(letter)][None] for letter in letters])

    def normalize(self, batch: Tensor) -> Tensor:
        """``(N, C, H, W)`` uint8 to the network's float32 input, on whatever device the batch is.

        Its order in memory stays as it is.
        """
        mean, std = (torch.tensor(values, device=batch.device) for values in (self.mean, self.std))
        if not batch.is_contiguous(memory_format=torch.channels_last):
            return batch.float().div_(255).sub_(mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))
        # In whole rows: over the three channels of each pixel PyTorch takes two to four times as long.
        pixels = batch.permute(0, 2, 3, 1)
        mean, std = mean.repeat(pixels.shape[2]), std.repeat(pixels.shape[2])
        return pixels.flatten(2).float().div_(255).sub_(mean).div_(std).view(pixels.shape).permute(0, 3, 1, 2)

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

    def whole_picture(self) -> Preprocessing:
        """The same without a cut: the whole picture, squeezed into the input's size. Itself where nothing is cut off.

        >>> Preprocessing((Resize(short=256), CenterCrop((224, 224)))).whole_picture().frame(480, 640)
        (0.0, 0.0, 1.0, 1.0)
        """
        frames = [self.frame(*size) for size in ((300, 500), (500, 300), (400, 400))]
        if all(x <= 0 and y <= 0 and x + w >= 1 and y + h >= 1 for x, y, w, h in frames):
            return self
        return replace(self, steps=(Resize(size=self.input_size()),))

    def resized(self, height: int, width: int) -> Preprocessing:
        """The same for an input of another size: every length in the steps grows or shrinks with it.

        Raises:
            ValueError: the steps say no size that could be changed.

        >>> Preprocessing((Resize(short=256), CenterCrop((224, 224)))).resized(448, 448).steps
        (Resize(short=512, ...), CenterCrop(size=(448, 448), ...))
        """
        before = self.input_size()
        steps = tuple(_stretched(step, height / before[0], width / before[1]) for step in self.steps)
        found = replace(self, steps=steps or (Resize(size=(height, width)),))
        if found.input_size() != (height, width):
            raise ValueError(f"steps that make {before[0]}x{before[1]} cannot be told to make {height}x{width}")
        return found

    def _shape(self, height: int, width: int) -> Shape:
        shape = Shape(Axis(height), Axis(width))
        for step in self.steps:
            shape = step.place(shape)
        return shape

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the same before and after JSON; :meth:`from_dict` is the inverse, but for ``read``."""
        names = {cls: name for name, cls in STEPS.items()}
        steps = []
        for step in self.steps:
            values: dict[str, Any] = {}
            for entry in fields(step):
                value = getattr(step, entry.name)
                # what is at its default is left out, so that records stay the same when a setting is added
                if value != entry.default or (isinstance(step, Pad) and entry.name == "fill"):
                    values[entry.name] = list(value) if isinstance(value, tuple) else value
            steps.append({"step": names[type(step)], **values})
        return {
            "steps": steps,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            **({"channels": self.channels} if self.channels is not None else {}),
            **({"full": list(self.full) if isinstance(self.full, tuple) else self.full} if self.full else {}),
            **({"read": _name(self.read)} if self.read is not None else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocessing:
        if "read" in data:
            raise ValueError(f"its pixels were read by {data['read']}, which data cannot hold: pass preprocessing=")
        steps = []
        for entry in data.get("steps", ()):
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            name = values.pop("step", None)
            if name not in STEPS:
                raise ValueError(f"unknown preprocessing step {name!r}, expected one of {sorted(STEPS)}")
            steps.append(STEPS[name](**values))
        return cls(
            tuple(steps),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=data["interpolation"],
            antialias=data["antialias"],
            channels=data.get("channels"),
            full=tuple(full) if isinstance(full := data.get("full"), list) else full,
        )


def _stretched(step: Step, down: float, across: float) -> Step:
    def pair(size: tuple[int, int]) -> tuple[int, int]:
        return max(1, round(size[0] * down)), max(1, round(size[1] * across))

    if isinstance(step, Resize):
        if (side := step.short or step.long) is not None:
            name, box = ("short", "cover") if step.short else ("long", "fit")
            changed: dict[str, Any] = (
                {name: max(1, round(side * down))} if down == across else {box: pair((side, side))}
            )
        else:
            changed = {n: pair(getattr(step, n)) for n in ("size", "cover", "fit") if getattr(step, n)}
        return replace(step, **{"short": None, "long": None, **changed})
    if isinstance(step, (CenterCrop, Pad)):
        return replace(step, size=pair(step.size))
    return step


def _name(function: Callable[..., Any]) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


@lru_cache(maxsize=1024)
def _frame(preprocessing: Preprocessing, height: int, width: int) -> Box:
    shape = preprocessing._shape(height, width)
    x, w = _back(shape.x, width)
    y, h = _back(shape.y, height)
    return (x, y, w, h)


def _back(axis: Axis, size: int) -> tuple[float, float]:
    return 0.0 - axis.offset / axis.scale / size, axis.size / axis.scale / size
