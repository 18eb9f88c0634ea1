"""Where a classifier comes from, as the App's forms ask for it, and the one that is kept warm.

Nothing here imports PyTorch before a classifier is loaded.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.plugin import forms, installed
from fiftyone_cam.plugin.source_forms import HUB, SOURCES, is_file

if TYPE_CHECKING:
    from fiftyone_cam.classifiers.classifier import Classifier
    from fiftyone_cam.runs.cam_run import CamRun
    from fiftyone_cam.runs.record import CamRecord

LOADING = ("classes", "arch", "weights", "input_size", "whole_picture")
"""What a form or a record may pass to :func:`load_classifier`. Never what runs code that comes with data."""

TOKEN = "HF_TOKEN"
"""The secret that opens private models of the Hugging Face Hub."""

MOST_BYTES = 4 << 20


def default_source() -> str:
    """The first source that is ready to use."""
    return "lite" if installed.lite_names() else "torchvision"


def draw_classifier(
    inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any], first: Mapping[str, Any] | None = None
) -> None:
    """Where the classifier comes from, and the fields that this source needs.

    Args:
        inputs: the form.
        dataset: what it is for.
        params: what the fields hold.
        first: what the fields begin with, instead of the first source that is ready to use.
    """
    if params.get("classifier"):  # named by the caller, as Python does
        inputs.str("classifier", label="Classifier", default=params["classifier"])
        return
    first = first or {}
    source = chosen_source({**first, **params})
    view = types.DropdownView()
    for name, entry in SOURCES.items():
        view.add_choice(name, label=entry.label, description=entry.description)
    begin = chosen_source(first)
    inputs.enum("source", view.values(), view=view, label="Classifier from", default=begin, required=True)
    SOURCES[source].draw(inputs, dataset, params, first if source == begin else {})
    holds = {name: prop.default for name, prop in inputs.properties.items()} | dict(params)
    labels = {source: SOURCES[source].field}
    labels |= {"arch": "Architecture", "classes": "Class names"} if SOURCES[source].needs_classes else {}
    forms.ask_for(inputs, {label: holds.get(name) for name, label in labels.items()})


def draw_classifier_of(inputs: types.Object, run: CamRun, params: Mapping[str, Any]) -> None:
    """The classifier that a run was made with: named where the record tells, and asked for where it does not."""
    model = run.record.classifier.model
    if not params.get("classifier") and of_record(run.record) is not None:
        forms.notice(inputs, "with", f"With {model}, which run {run.key} was made with")
        return
    inputs.str(
        "classifier",
        label="Classifier",
        description=f"The record of run {run.key} does not say where {model} was loaded from: a name, a checkpoint "
        "folder, or a file",
    )
    forms.ask_for(inputs, {"Classifier": params.get("classifier")})


def arguments_for(run: CamRun, params: Mapping[str, Any]) -> dict[str, Any]:
    """The classifier of :func:`draw_classifier_of`, as an operator's arguments: what names it, and what loads it.

    Raises:
        SourceError: the record asks for what can be done from Python only.

    >>> arguments_for(run, {})
    {'classifier': 'efficientnet_lite0', 'classes': ['tench', …]}
    """
    named = params.get("classifier")
    source, loading = (named, {"classes": run.classes}) if named else of_record(run.record) or ("", {})
    _refuse_code(source, loading)
    return {"classifier": source, **loading}


def pop_classifier(arguments: dict[str, Any], secret: Callable[[str], str | None]) -> Classifier:
    """The classifier that an operator's arguments name, loaded; they are without it then, and as the SDK takes them.

    >>> arguments = {"key": "cam", "classifier": "efficientnet_lite0"}
    >>> classifier = pop_classifier(arguments, ctx.secret)
    >>> arguments
    {'key': 'cam'}
    """
    source = arguments.pop("classifier")
    return load(source, {name: arguments.pop(name) for name in LOADING if name in arguments}, secret)


def chosen_source(params: Mapping[str, Any]) -> str:
    """The source that was chosen, or the first that is ready to use."""
    chosen = params.get("source")
    return chosen if isinstance(chosen, str) and chosen in SOURCES else default_source()


def known_classes(dataset: fo.Dataset, params: Mapping[str, Any]) -> Sequence[str] | None:
    """The classes of the model that a form names, where they can be known without loading it.

    >>> known_classes(dataset, {"source": "lite", "lite": "efficientnet_lite0"})[281]
    'tabby'
    """
    typed = params.get("classes")
    if typed:
        try:
            return class_names(typed) if isinstance(typed, str) else list(typed)
        except SourceError:
            return None
    source = SOURCES[chosen_source(params)]
    name = params.get(source.name) or source.default()
    return source.known_classes(dataset, name) if name and not params.get("classifier") else None


def form_params(record: CamRecord) -> dict[str, Any]:
    """What a form's fields held when a run was made, as far as its record tells.

    >>> form_params(run.record)
    {'source': 'lite', 'lite': 'efficientnet_lite0'}
    """
    known = [entry for entry in SOURCES.values() if entry.origin == record.classifier.source]
    return known[0].form_params(record) if known else {}


def class_names(text: str | None) -> list[str] | None:
    """Class names from what was typed: one on each line, all on one line with commas, or a text file's path.

    Raises:
        SourceError: the file is none of class names.

    >>> class_names("cat, dog")
    ['cat', 'dog']
    """
    text = (text or "").strip()
    if not text:
        return None
    if "\n" not in text and is_file(text):
        path = Path(os.path.expanduser(text))
        try:
            if path.stat().st_size > MOST_BYTES:
                raise SourceError(f"{path} is too large to be a list of class names: expected a name a line")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise SourceError(f"{path} cannot be read as class names: {error}") from error
    parts = text.splitlines() if "\n" in text else text.split(",")
    return [part.strip() for part in parts if part.strip()]


def loader_arguments(params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What :func:`load_classifier` is given, from a form's parameters, or from ``classifier=`` as Python passes it.

    >>> loader_arguments({"source": "timm", "timm": "resnet50"})
    ('timm:resnet50', {})
    """
    kwargs: dict[str, Any] = {}
    classes = params.get("classes")
    if classes:
        kwargs["classes"] = class_names(classes) if isinstance(classes, str) else list(classes)
    if params.get("input_size"):
        kwargs["input_size"] = params["input_size"]
    if params.get("whole_picture"):
        kwargs["whole_picture"] = True
    source = params.get("source") or default_source()
    if params.get("arch") and (params.get("classifier") or source == "weights"):  # or it was typed for another source
        kwargs["arch"] = params["arch"]
    if params.get("classifier"):
        return params["classifier"], kwargs
    name = params.get(source)
    if not name:
        raise SourceError(f"no model was chosen: expected the name of a model from {SOURCES[source].label}")
    return f"{SOURCES[source].prefix}{name}", kwargs


def of_record(record: CamRecord) -> tuple[str, dict[str, Any]] | None:
    """What loads the classifier of a run again; None where its record does not say (a module, a file's bare name)."""
    if record.loaded_from is not None:
        source, kwargs = record.loaded_from
        return source, dict(kwargs)
    origin = record.classifier
    for source, entry in SOURCES.items():
        if origin.source == entry.origin and entry.can_be_recorded:
            weights = origin.weights
            kwargs = {"weights": weights.split(".")[-1]} if source == "torchvision" and weights else {}
            asked = {name: origin.details[name] for name in ("input_size", "whole_picture") if name in origin.details}
            return f"{entry.prefix}{origin.model}", {**kwargs, **asked, "classes": list(origin.classes)}
    return None


def _refuse_code(source: str, kwargs: Mapping[str, Any]) -> None:
    if refused := sorted(set(kwargs) - set(LOADING)):
        raise SourceError(f"{source} asks to be loaded with {', '.join(refused)}: that can be done from Python only")


_warm: tuple[str, Classifier] | None = None
_loading = threading.Lock()


def load(source: str, kwargs: Mapping[str, Any], secret: Callable[[str], str | None] = lambda name: None) -> Classifier:
    """The classifier, from memory if it is the one that was used last: loading is most of what explaining one costs.

    Args:
        source: for ``load_classifier``.
        kwargs: for it too. A record that came with a dataset from elsewhere may say what it likes.
        secret: FiftyOne's ``ctx.secret``. What it gives is passed on, and kept nowhere.

    Raises:
        SourceError: nothing that can be loaded, or not from here.
    """
    global _warm
    _refuse_code(source, kwargs)
    path = os.path.expanduser(source)
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)] if os.path.isfile(path) else []
    key = json.dumps([source, kwargs, [file.stat().st_mtime_ns for file in files]], sort_keys=True, default=str)
    with _loading:
        if _warm is None or _warm[0] != key:
            from fiftyone_cam.classifiers.classifier import load_classifier

            _warm = None  # two at a time may be more than a GPU holds
            token = secret(TOKEN) if source.startswith(HUB) else None
            arguments: dict[str, Any] = {**kwargs, **({"token": token} if token else {})}
            _warm = (key, load_classifier(source, **arguments))
        return _warm[1]
