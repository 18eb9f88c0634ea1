"""What the operators' forms share: fields that check themselves as somebody types.

Drawn on the server's event loop at every keystroke: schema and run records only, no torch, no counting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.plugin import model_sources
from fiftyone_cam.runs import catalog, store
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.training_run import TrainingRun
from fiftyone_cam.training.record import checkpoints

Made = TypeVar("Made")

ASSETS = "/fiftyone_cam/plugin/assets"

WRITES = ("prediction", "heatmap", "error")
"""What :func:`compute_cam` always writes, without the key; known here because ``fields`` needs torch."""

CONTRAST = "contrast"

PRECISIONS = {
    "float32": "Exact to rounding",
    "bfloat16": "Faster on recent GPUs and CPUs; maps are still added up in float32",
    "float16": "Faster on GPUs; maps are still added up in float32",
}

ENGINES = {
    "local": "The machine that runs this",
    "ray": "Actors of Ray, on the cluster that RAY_ADDRESS names or else on this machine; all must find the images",
}


def icon(name: str) -> dict[str, str]:
    """An icon of ours, for the App's dark and light mode, as an operator's config takes it."""
    return {"dark_icon": f"{ASSETS}/{name}-dark.svg", "light_icon": f"{ASSETS}/{name}-light.svg"}


def button(place: types.Places, label: str, name: str) -> types.Placement:
    """A button that opens an operator's form."""
    paths = icon(name)
    view = types.Button(label=label, prompt=True, darkIcon=paths["dark_icon"], lightIcon=paths["light_icon"])
    return types.Placement(place, view)


def refuse(prop: types.Property, reason: str | None) -> None:
    """Mark a field as wrong, and say why under it."""
    if reason:
        prop.invalid = True
        prop.error_message = reason


def notice(inputs: types.Object, name: str, text: str, severity: str = "info") -> None:
    """A line of information between the fields."""
    inputs.view(name, types.AlertView(label=text, severity=severity))


def plain(text: str, most: int = 300) -> str:
    """Text inside a line of Markdown, shown as it is; cut where it is longer than anybody reads.

    >>> plain("a*b_c")
    'a\\*b\\_c'
    """
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|~-])", r"\\\1", " ".join(text.split()))


def choices(entries: Mapping[str, str], view: type[types.Choices] = types.DropdownView, **kwargs: Any) -> types.Choices:
    """A choice of values, each with what to say of it."""
    found = view(**kwargs)
    for value, description in entries.items():
        found.add_choice(value, label=value, description=description or None)
    return found


def completion(names: Iterable[str]) -> types.AutocompleteView:
    """A text field that completes to names."""
    view = types.AutocompleteView(allow_user_input=True)
    for name in names:
        view.add_choice(name, label=name)
    return view


def dataset_problem(dataset: fo.Dataset | None) -> str | None:
    """Why nothing can be computed on a dataset, as far as its schema tells."""
    if dataset is None:
        return "Open a dataset first"
    if dataset.media_type not in (None, "image", "group"):
        return f"This dataset holds media of type {dataset.media_type}: class activation maps need images"
    return None


def classifier(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """Where the classifier comes from, and the fields that this source needs."""
    if params.get("classifier"):  # named by the caller, as Python does
        inputs.str("classifier", label="Classifier", default=params["classifier"])
        return
    source = params.get("source") or model_sources.default_source()
    if source not in model_sources.SOURCES:
        source = model_sources.default_source()
    view = types.DropdownView()
    for name, entry in model_sources.SOURCES.items():
        view.add_choice(name, label=entry.label, description=entry.description)
    inputs.enum("source", view.values(), view=view, label="Classifier from", default=source, required=True)

    entry = model_sources.SOURCES[source]
    names = entry.names()
    default = names[0] if source == "lite" and names else "resnet18" if source == "torchvision" else None
    help = entry.help
    if source == "checkpoint" and (trained := checkpoints(dataset)):
        names = [str(path) for path in trained.values()]
        default = names[0]
        help = f"Trained on this dataset: {'; '.join(f'{name} in {path}' for name, path in trained.items())}"
    prop = inputs.str(
        source,
        label=entry.field,
        description=help,
        default=default,
        required=True,
        view=completion(names) if names else types.TextFieldView(),
    )
    refuse(prop, model_sources.problem(source, params.get(source)))

    if source == "weights":
        arch = params.get("arch")
        prop = inputs.str(
            "arch",
            label="Architecture",
            description="Of the network that these weights belong to",
            required=True,
            view=completion((*model_sources.LITE, *model_sources.SMALL, *model_sources.torchvision_names())),
        )
        if arch and arch not in (*model_sources.LITE, *model_sources.SMALL) and not arch.startswith("timm:"):
            refuse(prop, model_sources.problem("torchvision", arch))
    if source == "weights" or params.get("advanced"):
        required = source == "weights"
        inputs.str(
            "classes",
            label="Class names",
            description="One name for each logit, in order: a line each, or with commas, or the path of a text file"
            + ("" if required else ". Empty: the model's own"),
            required=required,
            view=types.TextFieldView(multiline=True, rows=3),
        )


def ground_truth(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """The field with the true class, and a translation of the model's words into its words."""
    found = label_fields(dataset)
    value = params.get("ground_truth")
    if not found and not value:
        return
    prop = inputs.str(
        "ground_truth",
        label="Ground truth",
        description="A field with the true class: adds accuracy, and for wrong predictions a contrastive map",
        view=choices(dict.fromkeys(found, "")),
    )
    if not value:
        return
    if value not in found:
        field = dataset.get_field(value)
        kind = getattr(field, "document_type", type(field)).__name__
        said = f"{value} holds {kind}" if field else f"there is no field {value}"
        refuse(prop, f"{said}, expected a Classification field: {', '.join(found) or 'this dataset has none'}")
    typed = params.get("class_map")
    prop = inputs.str(
        "class_map",
        label="Translation of classes",
        description='Where the model says other words than the ground truth, as JSON: {"tabby": "cat", "pug": "dog"}',
        view=types.TextFieldView(multiline=True, rows=2),
    )
    try:
        class_map(typed)
    except CamError as error:
        refuse(prop, str(error))


def written(dataset: fo.Dataset) -> set[str]:
    """The fields that runs of this project wrote."""
    return {path for key in catalog.list_runs(dataset) for path in store.written_fields(dataset, key)}


def label_fields(dataset: fo.Dataset) -> list[str]:
    """The Classification fields that neither a run nor a training of this project wrote."""
    ours = written(dataset)
    for key in catalog.list_trainings(dataset):
        ours |= set(store.written_fields(dataset, key))
    return [path for path in dataset.get_field_schema(embedded_doc_type=fo.Classification) if path not in ours]


def class_map(typed: Any) -> dict[str, str] | None:
    """What was typed as a translation of classes.

    Raises:
        CamError: it is no JSON object of words.
    """
    if not typed:
        return None
    try:
        found = typed if isinstance(typed, Mapping) else json.loads(typed)
    except ValueError as error:
        raise CamError(f"this is no JSON: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise CamError('expected an object of words, such as {"tabby": "cat"}')
    return dict(found)


def run_key(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any]) -> None:
    """The key of a run that is new or continues, with what it would overwrite."""
    key = params.get("key") or "cam"
    prop = inputs.str(
        "key",
        label="Run key",
        description="The run's name, and the beginning of its fields' names",
        default="cam",
        required=True,
    )
    reason = key_problem(dataset, key, params)
    if reason:
        refuse(prop, reason)
        return
    if key not in catalog.list_runs(dataset):
        return
    run = catalog.load_run(dataset, key)
    changed = changes(run, params)
    counts = run.counts
    inputs.bool(
        "overwrite",
        label="Compute everything again",
        description=f"Deletes what run {key} left, {counts.computed:,} maps, and starts anew"
        if changed
        else "Also what has a result",
        default=False,
        view=types.CheckboxView(),
    )
    if changed and not params.get("overwrite"):
        refuse(prop, f"run {key} was made with {'; '.join(changed)}: use another key, or compute everything again")
    elif not changed:
        notice(
            inputs,
            "continues",
            f"Run {key} has {counts.computed:,} maps ({run.status}). It goes on: only samples without a "
            "result are computed",
        )


def key_problem(dataset: fo.Dataset, key: str, params: Mapping[str, Any]) -> str | None:
    """Why a run cannot be made under a key."""
    try:
        catalog.check_key(dataset, key)
    except CamError as error:
        return str(error)
    mine = catalog.load_run(dataset, key).fields if key in catalog.list_runs(dataset) else {}
    names = [*WRITES, *([CONTRAST] if params.get("ground_truth") else [])]
    taken = [path for path in (f"{key}_{name}" for name in names) if path not in mine and dataset.has_field(path)]
    if taken:
        return f"the dataset has {', '.join(taken)} already, not from a run of this plugin: use another key"
    return None


def changes(run: CamRun, params: Mapping[str, Any]) -> list[str]:
    """In what a run's configuration differs from a form's, as far as it can be known without loading a model."""
    record, found = run.record, []
    source = params.get("source") or model_sources.default_source()
    name = params.get(source)
    if name and not params.get("classifier") and source in model_sources.SOURCES:
        made = (record.classifier.source, record.classifier.model)
        asked = (
            model_sources.SOURCES[source].origin,
            re.split(r"[/\\]", name.rstrip("/\\"))[-1] if source in FILES else name,
        )
        if made != asked:
            found.append(f"{made[1]} from {made[0]}")
    for setting, default in (("ground_truth", None), ("precision", "float32"), ("top_k", 1)):
        before, now = getattr(record.settings, setting), params.get(setting) or default
        if before != now:
            found.append(f"{setting} {before}")
    return found


FILES = ("checkpoint", "weights")


def existing_run(
    inputs: types.Object,
    dataset: fo.Dataset,
    params: Mapping[str, Any],
    describe: Callable[[Any], str],
    *,
    with_trainings: bool = False,
) -> Any:
    """A choice among the runs on a dataset; None, and a word about it, if there are none."""
    trainings, others = catalog.load_trainings(dataset) if with_trainings else ({}, {})
    runs, unreadable = catalog.load_runs(dataset)
    found: dict[str, CamRun | TrainingRun] = {**trainings, **runs}  # the last is what is proposed
    for key, reason in {**others, **unreadable}.items():
        notice(inputs, f"unreadable_{key}", reason, "warning")
    keys = list(found)
    if not keys:
        prop = inputs.view(
            "none", types.Error(label="There is no run yet", description="Compute class activation maps first")
        )
        prop.invalid = True
        return None
    inputs.enum(
        "key",
        keys,
        label="Run",
        default=keys[-1],
        required=True,
        view=choices({key: describe(run) for key, run in found.items()}),
    )
    return found.get(params.get("key") or keys[-1])


def folder(kind: str, dataset: fo.Dataset) -> Path:
    """Where files of a dataset go by default: beside FiftyOne's own datasets."""
    return Path(fo.config.default_dataset_dir) / kind / dataset.slug


def free_folder(kind: str, dataset: fo.Dataset, name: str) -> Path:
    """A folder that does not exist: ``name``, ``name_2``, ``name_3``, …"""
    parent = folder(kind, dataset)
    return next(path for path in _numbered(name, lambda found: parent / found) if not path.exists())


def free_key(dataset: fo.Dataset, name: str) -> str:
    """A key that no run of a dataset has: ``name``, ``name_2``, ``name_3``, …"""
    return next(key for key in _numbered(name, str) if not dataset.has_run(key))


def _numbered(name: str, make: Callable[[str], Made]) -> Iterator[Made]:
    return (make(name if number == 1 else f"{name}_{number}") for number in count(1))


def device(inputs: types.Object, ctx: Any) -> None:
    """The device to compute on."""
    found = model_sources.devices()
    prop = inputs.str(
        "device",
        label="Device",
        description="Empty: a GPU if there is one",
        view=choices(found),
    )
    asked = ctx.params.get("device")
    if asked and asked not in (*found, "cuda") and not ctx.requesting_delegated_execution:
        refuse(prop, f"this machine has no {asked}: it has {', '.join(found)}")
    if asked == "cuda" and "cuda:0" not in found and not ctx.requesting_delegated_execution:
        refuse(prop, f"this machine has no GPU that PyTorch can use: it has {', '.join(found)}")


def engine(inputs: types.Object, params: Mapping[str, Any]) -> None:
    """Where to compute; asked only where there is a choice.

    Which cluster is no question for a form: whoever starts the server says so, with ``RAY_ADDRESS``.
    """
    if find_spec("ray") is None:
        return
    prop = inputs.str("engine", label="Engine", default="local", view=choices(ENGINES))
    if params.get("engine") != "ray":
        return
    if str(params.get("device") or "").startswith("cuda:"):
        refuse(prop, f"Ray chooses the GPU of each actor: with it, the device is cuda, not {params['device']}")
    inputs.int(
        "num_actors",
        label="Actors",
        description="Empty: one for each GPU of the cluster, or for each node of a cluster without",
        min=1,
    )
    inputs.float(
        "gpus_per_actor", label="GPUs per actor", description="0.5 lets two actors share one", min=0, default=1.0
    )
