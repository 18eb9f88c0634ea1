"""Other libraries' transforms and processors as :class:`Preprocessing`: each step is read, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.preprocessing import Bound, CenterCrop, Preprocessing, Resize, Step


def of_processor(processor: Any) -> Preprocessing:
    """A Hugging Face image processor's settings as data."""
    settings = processor.to_dict()
    steps: list[Step] = []
    interpolation = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}.get(
        int(settings.get("resample") if settings.get("resample") is not None else 2), "bilinear"
    )
    crop = settings.get("crop_size") or {}
    if settings.get("do_resize", True):
        size = settings["size"]
        if "shortest_edge" in size and settings.get("crop_pct") and size["shortest_edge"] < 384:
            edge = size["shortest_edge"]  # ConvNeXt's convention: resize to edge / crop_pct, crop to edge
            steps += [Resize(short=int(edge / settings["crop_pct"])), CenterCrop((edge, edge))]
        elif "shortest_edge" in size and settings.get("crop_pct"):
            steps.append(Resize(size=(size["shortest_edge"],) * 2))
        elif "shortest_edge" in size:
            steps.append(Resize(short=size["shortest_edge"]))
        elif {"height", "width"} <= set(size):
            steps.append(Resize(size=(size["height"], size["width"])))
        else:
            raise SourceError(f"the processor's size {size} is not supported: pass preprocessing=")
    if settings.get("do_center_crop"):
        steps.append(CenterCrop((crop["height"], crop["width"])))
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if settings.get("do_normalize", True):
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    scale = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1)
    offset = 1.0 if settings.get("rescale_offset") else 0.0  # EfficientNet's: pixel * factor - 1
    # ((p * scale - offset) - mean) / std  =  (p - (offset + mean) / scale) / (std / scale),  p in [0, 1]
    mean = tuple((offset + value) / scale for value in mean)
    return Preprocessing(tuple(steps), mean, tuple(value / scale for value in std), interpolation)


def convert(transform: Any) -> Preprocessing:
    """Torchvision's evaluation transforms (a preset, or a ``Compose`` of v1 or v2 classes) as data.

    Raises:
        SourceError: a transform that is not known, or one that is random.

    >>> convert(torchvision.models.ResNet18_Weights.DEFAULT.transforms()).steps
    (Resize(short=256, long=None, size=None), CenterCrop(size=(224, 224)))
    """
    if isinstance(transform, Preprocessing):
        return transform
    if type(transform).__name__ == "ImageClassification":  # the preset of torchvision's weights
        steps = (_resize(transform.resize_size, None), CenterCrop(_pair(transform.crop_size)))
        interpolation = transform.interpolation.value
        antialias = bool(transform.antialias)
        return Preprocessing(steps, tuple(transform.mean), tuple(transform.std), interpolation, antialias)
    parts = list(getattr(transform, "transforms", [transform]))
    found = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    settings: dict[str, Any] = {"steps": [], "mean": found.mean, "std": found.std, "interpolation": "bilinear"}
    for part in parts:
        reader = _READERS.get(type(part).__name__)
        if reader is None:
            raise SourceError(
                f"the transform {type(part).__name__} is not known, expected {sorted(_READERS)}: "
                "pass preprocessing=Preprocessing(…)"
            )
        reader(part, settings)
    return Preprocessing(tuple(settings["steps"]), settings["mean"], settings["std"], settings["interpolation"])


def _read_resize(part: Any, settings: dict[str, Any]) -> None:
    settings["steps"].append(_resize(part.size, getattr(part, "max_size", None)))
    settings["interpolation"] = getattr(part.interpolation, "value", part.interpolation)


def _read_normalize(part: Any, settings: dict[str, Any]) -> None:
    settings["mean"], settings["std"] = tuple(map(float, part.mean)), tuple(map(float, part.std))


def _read_crop(part: Any, settings: dict[str, Any]) -> None:
    settings["steps"].append(CenterCrop(_pair(part.size)))


def _read_least(part: Any, settings: dict[str, Any]) -> None:
    settings["steps"].append(Bound(least=max(part.min_output_size)))


def _read_most(part: Any, settings: dict[str, Any]) -> None:
    settings["steps"].append(Bound(most=min(part.max_output_size)))


def _no_geometry(part: Any, settings: dict[str, Any]) -> None:
    pass


_READERS: Mapping[str, Callable[[Any, dict[str, Any]], None]] = {
    "Resize": _read_resize,
    "CenterCrop": _read_crop,
    "Normalize": _read_normalize,
    "MinResize": _read_least,
    "MaxResize": _read_most,
    **dict.fromkeys(
        ("ToTensor", "PILToTensor", "ToImage", "ToPILImage", "ConvertImageDtype", "ToDtype", "MaybeToTensor"),
        _no_geometry,
    ),
}


def _resize(size: Any, max_size: int | None) -> Step:
    if max_size is not None:
        raise SourceError("a Resize with max_size is not supported: pass preprocessing=Preprocessing(…)")
    if isinstance(size, int):
        return Resize(short=size)
    return Resize(short=int(size[0])) if len(size) == 1 else Resize(size=_pair(size))


def _pair(size: Any) -> tuple[int, int]:
    values = [size] if isinstance(size, int) else list(size)
    return int(values[0]), int(values[-1])
