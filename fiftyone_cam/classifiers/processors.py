"""Hugging Face's image processors as :class:`Preprocessing`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fiftyone_cam.classifiers import pixels
from fiftyone_cam.classifiers.transforms import of_transforms
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.preprocessing import CenterCrop, CropShare, Preprocessing, Resize, Step

_INTERPOLATION = {0: ("nearest-exact", "nearest"), 1: ("lanczos",), 2: ("bilinear",), 3: ("bicubic",)}
_READ = {
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "size_divisor", "resize_short", "do_convert_rgb", "default_to_square"),
    *("rescale_offset", "include_top", "do_flip_channel_order", "image_processor_type", "processor_class"),
    *("data_format", "do_reduce_labels", "feature_extractor_type"),
}
"""Settings that are read here, that show in the colours, or that have no say in the pixels."""


def of_processor(processor: Any) -> tuple[Preprocessing, Check]:
    """A Hugging Face image processor as data, and the check that it gives the processor's own pixels.

    Raises:
        SourceError: no reading of its settings does; the message names the settings that are not read.

    >>> of_processor(transformers.ViTImageProcessor())[0].steps
    (Resize(size=(224, 224)),)
    """
    name = type(processor).__name__
    if hasattr(processor, "val_transforms"):  # timm's, in Hugging Face's clothes
        return of_transforms(processor.val_transforms)
    try:
        settings = processor.to_dict()
    except Exception as error:  # anything may have been passed
        raise SourceError(f"expected an image processor of Hugging Face's, found {processor!r:.80}") from error

    def theirs(picture: NDArray[np.uint8]) -> Tensor:
        made = processor(images=Image.fromarray(picture), return_tensors="pt")
        if "pixel_values" not in made:
            raise ValueError(f"it gives {', '.join(made)}, expected pixel_values")
        return torch.as_tensor(made["pixel_values"])[0]

    try:
        return pixels.fitting(list(readings(settings)), theirs, name)
    except SourceError as error:
        unread = sorted(key for key, value in settings.items() if key not in _READ and value and key[0] != "_")
        hint = f" (settings that are not read here: {', '.join(f'{key}={settings[key]!r:.60}' for key in unread)})"
        raise SourceError(f"{error}{hint if unread else ''}") from error


def readings(settings: Mapping[str, Any]) -> Iterator[Preprocessing]:
    """What a processor's settings may mean, the likeliest first; which one it is, its pixels tell.

    >>> next(readings(transformers.LevitImageProcessor().to_dict())).steps[0]
    Resize(short=224)
    """
    mean, std = _colours(settings)
    resample = settings.get("resample")
    interpolations = _INTERPOLATION.get(int(resample) if resample is not None else 2, ())
    resizes = list(_resizes(settings)) if settings.get("do_resize", True) else [()]
    crops: list[tuple[Step, ...]] = [()]
    size = _size(settings.get("crop_size"))
    if settings.get("do_center_crop") and size:
        crops = [(CenterCrop(size, rounding),) for rounding in ("trunc", "floor", "half")]
        crops.append(())
    for crop in crops:
        for resize in resizes:
            for interpolation in interpolations:
                steps = resize if resize[-1:] == crop else (*resize, *crop)
                yield Preprocessing(steps, mean, std, interpolation)


def _resizes(settings: Mapping[str, Any]) -> Iterator[tuple[Step, ...]]:
    size = settings.get("size") or {}
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    both = _size(size)
    share = settings.get("crop_pct")
    divisor = int(settings.get("size_divisor") or 1)
    if (short := settings.get("resize_short")) is not None:  # PP-LCNet
        yield (Resize(short=short, nearest=True, multiple=divisor),)
    if edge is not None:
        if share and edge < 384:  # ConvNeXt; PoolFormer
            for rounding in ("trunc", "floor"):
                yield Resize(short=int(edge / share)), CenterCrop((edge, edge), rounding)
            yield (Resize(short=int(edge / share)),)
        elif share:
            yield (Resize(size=(edge, edge)),)
            yield (Resize(short=int(edge / share)),)
        yield (Resize(short=edge, multiple=divisor),)
        yield (Resize(short=int(256 / 224 * edge)),)  # LeViT
        yield (Resize(size=(edge, edge)),)
    if both is not None:
        if crop := _size(settings.get("crop_size")):  # Perceiver
            yield (Resize(size=both),)
            for rounding in ("trunc", "floor"):
                yield CropShare((both[0] / crop[0], both[1] / crop[1]), rounding), Resize(size=both)
        elif share and both[0] == both[1]:
            yield (Resize(short=int(both[0] / share)),)
        yield (Resize(size=both),)


def _colours(settings: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if settings.get("do_normalize") and settings.get("image_mean") is not None:
        mean, std = _three(settings["image_mean"]), _three(settings["image_std"])
    scale = 255 * (settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 255.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0  # EfficientNet's: pixel * factor - 1
    # ((p * scale - offset) - mean) / std  =  (p - (offset + mean) / scale) / (std / scale),  p in [0, 1]
    return tuple((offset + value) / scale for value in mean), tuple(value / scale for value in std)


def _three(value: Any) -> tuple[float, ...]:
    values = [float(each) for each in value] if isinstance(value, (list, tuple)) else [float(value)]
    return tuple(values if len(values) != 1 else values * 3)


def _size(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and size.get("height") and size.get("width"):
        return int(size["height"]), int(size["width"])
    return None
