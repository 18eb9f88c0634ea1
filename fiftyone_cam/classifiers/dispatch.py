"""What a classifier is loaded from: which kind of source it is, and whether it uses what was passed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fiftyone.core.models as fom
from torch import nn

from fiftyone_cam.classifiers import sources, yolo
from fiftyone_cam.core.errors import SourceError, did_you_mean
from fiftyone_cam.core.names import LITE
from fiftyone_cam.networks import architectures

_ALWAYS = ("classes", "preprocessing", "activation", "output", "input_size", "whole_picture")
_OWN = (*_ALWAYS, "weights", "arch", "trust_pickle")


def load_source(
    source: Any,
    classes: Sequence[str] | None,
    fed: sources.Fed | None,
    *,
    weights: Any,
    arch: str | None,
    trust_pickle: bool,
    kwargs: Mapping[str, Any],
) -> sources.Source:
    """Load what was given by the function of its kind; the arguments are :func:`load_classifier`'s.

    Raises:
        SourceError: nothing that can be loaded, or a keyword that this kind of source does not use.

    >>> load_source("resnet18", None, None, weights=None, arch=None, trust_pickle=False, kwargs={}).origin["source"]
    'torchvision'
    """
    given = collect(weights, arch, trust_pickle, kwargs)
    if isinstance(source, fom.Model):
        _refuse_unused(given, "a zoo model")
        return sources.from_zoo(source, classes, fed)
    if _is_of_hugging_face(source):
        used = sources.HUB if kwargs.get("processor") is None else ("processor",)
        _refuse_unused(given, "a Hugging Face model", used)
        return sources.from_huggingface(source, classes=classes, fed=fed, **kwargs)
    if yolo.is_of_ultralytics(source):
        _refuse_unused(given, "a model of Ultralytics")
        return yolo.from_ultralytics(source, classes, fed)
    if isinstance(source, nn.Module):
        _refuse_unused(given, "a torch.nn.Module")
        return sources.from_module(source, classes, fed)
    if not isinstance(source, (str, os.PathLike)):
        raise SourceError(f"expected a name, a path, a zoo model or a torch.nn.Module, found {type(source).__name__}")

    name = os.fspath(source)
    path = Path(os.path.expanduser(name))  # pathlib's raises for an unknown user
    if name in LITE:
        _refuse_unused(given, name)
        return sources.from_lite(name, classes, fed)
    if name.startswith("timm:"):
        weights, kwargs = _without_pretrained(weights, kwargs)
        if weights not in (None, "DEFAULT"):
            raise SourceError(f"timm's names say which weights: timm:resnet50.a1_in1k, not weights={weights!r}")
        _refuse_unused(given, "a timm model", ("weights", "pretrained"), passes_on=True)
        return sources.from_timm(name[5:], weights is not None, classes, fed, **kwargs)
    if name.startswith("hf:"):
        _refuse_unused(given, "a Hugging Face model", ("processor",), passes_on=True)
        return sources.from_huggingface(name[3:], classes=classes, fed=fed, **kwargs)
    if name.startswith(yolo.PREFIX):
        _refuse_unused(given, "a model of Ultralytics", ("trust_pickle",))
        return yolo.from_name(name.removeprefix(yolo.PREFIX), trust_pickle, classes, fed)
    if name in architectures():
        weights, kwargs = _without_pretrained(weights, kwargs)
        _refuse_unused(given, "a torchvision model", ("weights", "pretrained"), passes_on=True)
        return sources.from_torchvision(name, weights, classes, fed, **kwargs)
    if os.path.isdir(path):  # pathlib's raise where the name is too long
        _refuse_unused(given, "a checkpoint folder")
        return sources.from_checkpoint(path, fed)
    if os.path.isfile(path):
        if trust_pickle:
            _refuse_unused(given, "a pickled module", ("trust_pickle", "arch"))
            return sources.from_pickle(path, arch, classes, fed, yolo.of_module)
        _refuse_unused(given, "a file of weights", ("arch", "trust_pickle"))
        return sources.from_state_dict(path, arch, classes, fed)
    if name.endswith("-torch"):  # FiftyOne's zoo names its models so
        _refuse_unused(given, "a zoo model")
        return sources.from_zoo(name, classes, fed)
    raise SourceError(
        f"{name!r} is neither a classifier name nor an existing path{did_you_mean(name, [*LITE, *architectures()])}. "
        "Expected efficientnet_lite0, a torchvision classifier, timm:…, hf:…, ultralytics:…, a FiftyOne zoo model "
        "(…-torch), a checkpoint folder or a file of weights"
    )


def collect(weights: Any, arch: str | None, trust_pickle: bool, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were passed, of those that not every kind of source uses.

    >>> collect("DEFAULT", None, True, {})
    {'trust_pickle': True}
    """
    own = (("weights", weights, "DEFAULT"), ("arch", arch, None), ("trust_pickle", trust_pickle, False))
    return {**kwargs, **{name: value for name, value, default in own if value != default}}


def _is_of_hugging_face(source: Any) -> bool:
    """Whether it is a model of transformers, a subclass of one, a pipeline, or PEFT's wrapper around one."""
    libraries = {base.__module__.split(".")[0] for base in type(source).__mro__}
    if "peft" in libraries and isinstance(source, nn.Module):
        return hasattr(source, "config") and hasattr(source.config, "id2label")
    return "transformers" in libraries


def _without_pretrained(weights: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The old word for weights, as the new one."""
    kwargs = dict(kwargs)
    if "pretrained" in kwargs and not kwargs.pop("pretrained"):
        weights = None
    return weights, kwargs


def _refuse_unused(given: Mapping[str, Any], kind: str, used: Sequence[str] = (), *, passes_on: bool = False) -> None:
    """Refuse keywords that a kind of source would pass over in silence.

    Args:
        given: the keywords that not every kind uses.
        kind: in words.
        used: those that this kind uses.
        passes_on: other keywords go to its loader, which refuses what it does not know. Not those that are almost one
            of :func:`load_classifier`'s: some loaders pass over ``activatoin``.

    Raises:
        SourceError: naming the first such keyword, never its value, which may be a token.
    """
    known = (*_ALWAYS, *used)
    for name in given:
        misspelt = bool(difflib.get_close_matches(name, _OWN, n=1, cutoff=0.8))
        if name not in used and (misspelt or not passes_on):
            meant = did_you_mean(name, known)
            further = ", and what its loader takes" if passes_on else ""
            raise SourceError(f"{kind} does not use {name}={meant}: it uses {', '.join(known)}{further}")
