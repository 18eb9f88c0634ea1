"""Evaluation transforms as :class:`Preprocessing`: torchvision's, timm's, FiftyOne's and albumentations'.

Each step is read by its class *and* the library that it is from, or refused by name; functions and classes of the
caller's own are taken to leave the geometry alone. Only the geometry is read: colours are measured, and the whole is
compared with what the transforms themselves make of a few pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fiftyone_cam.classifiers import pixels
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.preprocessing import Bound, CenterCrop, Margin, Pad, Preprocessing, Resize, Step


def of_transforms(transform: Any) -> tuple[Preprocessing, Check]:
    """Evaluation transforms (a preset, a ``Compose``) as data, and the check that they give the same pixels.

    Raises:
        SourceError: a transform that is not known, one that is random, or pixels that differ.

    >>> of_transforms(torchvision.models.ResNet18_Weights.DEFAULT.transforms())[0].steps
    (Resize(short=256), CenterCrop(size=(224, 224)))
    """
    if isinstance(transform, Preprocessing):
        return transform, Check.not_made("pixels", "the preprocessing was given as data")
    name = type(transform).__name__
    readings, unread = _readings(transform)
    try:
        return pixels.fitting(readings, _theirs(transform), f"the {name}")
    except SourceError as error:
        hint = f" (steps that are not read here: {', '.join(unread)})" if unread else ""
        raise SourceError(f"{error}{hint}") from error


def convert(transform: Any) -> Preprocessing:
    """Evaluation transforms as data: the first of what :func:`of_transforms` gives.

    >>> convert(torchvision.models.ResNet18_Weights.DEFAULT.transforms()).input_size()
    (224, 224)
    """
    return of_transforms(transform)[0]


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.mean: tuple[float, ...] = (0.0,) * 3
        self.std: tuple[float, ...] = (1.0,) * 3
        self.interpolation = "bilinear"
        self.antialias = True


def _readings(transform: Any) -> tuple[list[Preprocessing], list[str]]:
    """What the transforms may mean, and the names of the caller's own steps, which the comparison alone judges."""
    reading = _Reading()
    unread = []
    for part in _parts(transform):
        if _is_own(part):
            unread.append(getattr(part, "__name__", type(part).__name__))
        else:
            _reader(part)(part, reading)
    three = len(reading.mean) == len(reading.std) == 3
    mean, std = (reading.mean, reading.std) if three else ((0.0,) * 3, (1.0,) * 3)
    try:
        found = Preprocessing(tuple(reading.steps), mean, std, reading.interpolation, reading.antialias)
    except ValueError as error:
        raise SourceError(f"the transforms make no sense: {error}") from error
    # Of a Pillow image every resize is antialiased, and the nearest pixel is another, whatever the transform was told
    others = [replace(found, antialias=not found.antialias)]
    if found.interpolation == "nearest":
        others.append(replace(found, interpolation="nearest-exact"))
    return [found, *others], unread


def _is_own(part: Any) -> bool:
    """Whether a step is a function, or a class of no library that is read here."""
    known = type(part).__module__.split(".")[0] in _READERS
    return callable(part) and not isinstance(part, type) and not known


def _parts(transform: Any) -> Iterator[Any]:
    """The single steps, through any nesting."""
    inner = transform if isinstance(transform, nn.Sequential) else getattr(transform, "transforms", None)
    if inner is None or not hasattr(inner, "__iter__"):
        yield transform
        return
    if getattr(transform, "p", 1.0) != 1.0:
        raise SourceError(f"the {type(transform).__name__} is random (p={transform.p}): pass those of the evaluation")
    for part in inner:
        yield from _parts(part)


def _reader(part: Any) -> Callable[[Any, _Reading], None]:
    library = type(part).__module__.split(".")[0]
    readers = _READERS.get(library, {})
    reader = readers.get(type(part).__name__)
    if reader is None:
        known = sorted(readers or _READERS["torchvision"])
        raise SourceError(
            f"the transform {type(part).__name__} is not known, expected {known} of "
            f"{library if readers else 'torchvision'}: pass preprocessing=Preprocessing(…)"
        )
    if getattr(part, "p", 1.0) != 1.0:
        raise SourceError(f"the transform {type(part).__name__} is random (p={part.p}): pass those of the evaluation")
    return reader


def _theirs(transform: Any) -> pixels.Theirs:
    """The transforms as a function of an array, whichever kind of image it is that they take."""
    if type(transform).__module__.split(".")[0] == "albumentations":
        return lambda picture: _channels_first(transform(image=picture)["image"])

    def theirs(picture: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)
        problem: Exception | None = None
        for image in (Image.fromarray(picture), tensor):
            try:
                return _channels_first(transform(image))
            except Exception as error:  # most take only one of them
                problem = problem or error
        raise problem or ValueError("no picture")

    return theirs


def _channels_first(made: Any) -> Tensor:
    if not isinstance(made, (Tensor, np.ndarray)):
        raise TypeError(f"it makes a {type(made).__name__}, expected a tensor of floats: is a ToTensor missing?")
    if isinstance(made, np.ndarray):
        return torch.from_numpy(made).permute(2, 0, 1)
    return made


# torchvision, and FiftyOne's and timm's relatives of it


def _read_preset(part: Any, reading: _Reading) -> None:
    reading.steps += [_resize(part.resize_size, None), CenterCrop(_pair(part.crop_size))]
    reading.mean, reading.std = tuple(part.mean), tuple(part.std)
    reading.interpolation, reading.antialias = part.interpolation.value, bool(part.antialias)


def _read_resize(part: Any, reading: _Reading) -> None:
    reading.steps.append(_resize(part.size, getattr(part, "max_size", None)))
    _read_interpolation(part, reading)
    reading.antialias = getattr(part, "antialias", True) is not False


def _read_interpolation(part: Any, reading: _Reading) -> None:
    interpolation = getattr(part, "interpolation", None)
    if interpolation is not None:
        reading.interpolation = str(getattr(interpolation, "value", interpolation))


def _read_normalize(part: Any, reading: _Reading) -> None:
    reading.mean, reading.std = _numbers(part.mean), _numbers(part.std)


def _read_crop(part: Any, reading: _Reading) -> None:
    reading.steps.append(CenterCrop(_pair(part.size)))


def _read_crop_or_pad(part: Any, reading: _Reading) -> None:
    reading.steps.append(CenterCrop(_pair(part.size), fill=_fill(part.fill)))


def _read_keeping_ratio(part: Any, reading: _Reading) -> None:
    if part.random_scale_prob or part.random_aspect_prob or part.longest not in (0.0, 1.0):
        raise SourceError(f"the transform {part!r} is random: pass those of the evaluation")
    size = _pair(part.size)
    reading.steps.append(Resize(fit=size) if part.longest else Resize(cover=size))
    _read_interpolation(part, reading)


def _read_pad(part: Any, reading: _Reading) -> None:
    if part.padding_mode != "constant":
        raise SourceError(f"a Pad with padding_mode={part.padding_mode!r} is not supported: pass preprocessing=")
    padding = [part.padding] if isinstance(part.padding, int) else list(part.padding)
    left, top, right, bottom = padding if len(padding) == 4 else (padding[0], padding[-1]) * 2
    reading.steps.append(Margin(left, top, right, bottom, _fill(getattr(part, "fill", 0))))


def _read_least(part: Any, reading: _Reading) -> None:
    reading.steps.append(Bound(least=max(part.min_output_size)))
    _read_interpolation(part, reading)


def _read_most(part: Any, reading: _Reading) -> None:
    reading.steps.append(Bound(most=min(part.max_output_size)))
    _read_interpolation(part, reading)


def _no_geometry(part: Any, reading: _Reading) -> None:
    pass


# albumentations: resized by OpenCV, without antialiasing


def _read_cv2(part: Any, reading: _Reading) -> None:
    names = {0: "nearest", 1: "bilinear", 2: "bicubic"}
    if part.interpolation not in names:
        raise SourceError(
            f"albumentations' {type(part).__name__} with interpolation={part.interpolation} is not supported, "
            "expected cv2's INTER_NEAREST, INTER_LINEAR or INTER_CUBIC: pass preprocessing="
        )
    reading.interpolation, reading.antialias = names[part.interpolation], False


def _read_albu_resize(part: Any, reading: _Reading) -> None:
    reading.steps.append(Resize(size=(part.height, part.width)))
    _read_cv2(part, reading)


def _read_albu_side(part: Any, reading: _Reading) -> None:
    if not isinstance(part.max_size, int):
        raise SourceError(f"albumentations' {type(part).__name__} with a choice of sizes is random: pass one size")
    short = type(part).__name__ == "SmallestMaxSize"
    step = Resize(short=part.max_size, nearest=True) if short else Resize(long=part.max_size, nearest=True)
    reading.steps.append(step)
    _read_cv2(part, reading)


def _read_albu_crop(part: Any, reading: _Reading) -> None:
    reading.steps.append(CenterCrop((part.height, part.width), "trunc", _fill(getattr(part, "fill", 0))))


def _read_albu_pad(part: Any, reading: _Reading) -> None:
    if not part.min_height or not part.min_width:
        raise SourceError("albumentations' PadIfNeeded is only supported with min_height and min_width")
    reading.steps.append(Pad((part.min_height, part.min_width), _fill(getattr(part, "fill", 0))))


_TORCHVISION: Mapping[str, Callable[[Any, _Reading], None]] = {
    "ImageClassification": _read_preset,  # of torchvision's weights
    "Resize": _read_resize,
    "CenterCrop": _read_crop,
    "Pad": _read_pad,
    "Normalize": _read_normalize,
    **dict.fromkeys(("ToTensor", "PILToTensor", "ToImage", "ToPILImage", "ConvertImageDtype"), _no_geometry),
    **dict.fromkeys(("ToDtype", "ToPureTensor", "Grayscale", "RGB", "Lambda", "Identity"), _no_geometry),
}

_READERS: Mapping[str, Mapping[str, Callable[[Any, _Reading], None]]] = {
    "torchvision": _TORCHVISION,
    "torch": {"Identity": _no_geometry, "Normalize": _read_normalize},
    "fiftyone": {"MinResize": _read_least, "MaxResize": _read_most, "ToPILImage": _no_geometry},
    "timm": {
        "ResizeKeepRatio": _read_keeping_ratio,
        "CenterCropOrPad": _read_crop_or_pad,
        **dict.fromkeys(("MaybeToTensor", "MaybePILToTensor", "ToTensor", "ToNumpy"), _no_geometry),
    },
    "albumentations": {
        "Resize": _read_albu_resize,
        "SmallestMaxSize": _read_albu_side,
        "LongestMaxSize": _read_albu_side,
        "CenterCrop": _read_albu_crop,
        "PadIfNeeded": _read_albu_pad,
        "Normalize": _read_normalize,
        **dict.fromkeys(("ToTensorV2", "ToFloat", "ToGray", "NoOp"), _no_geometry),
    },
}


def _resize(size: Any, max_size: int | None) -> Step:
    if max_size is not None:
        raise SourceError("a Resize with max_size is not supported: pass preprocessing=Preprocessing(…)")
    if isinstance(size, int):
        return Resize(short=size)
    if size is None:
        raise SourceError("a Resize without a size is not supported: pass preprocessing=Preprocessing(…)")
    return Resize(short=int(size[0])) if len(size) == 1 else Resize(size=_pair(size))


def _pair(size: Any) -> tuple[int, int]:
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]), int(values[-1])


def _numbers(values: Any) -> tuple[float, ...]:
    """A number for each channel, of a list, an array or one for all."""
    return tuple(np.asarray(values, float).reshape(-1).tolist())


def _fill(fill: Any) -> int | tuple[int, ...]:
    values = [fill] if not isinstance(fill, (list, tuple)) else list(fill)
    numbers = tuple(round(float(value)) for value in values)
    return numbers[0] if len(set(numbers)) == 1 else numbers
