"""The parts of the form that computes: what it begins with, the ground truth, the run's key, and the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.class_maps import resolve
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import CONTRAST, ERROR, HEATMAP, PREDICTION
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.plugin import forms, model_sources, source_forms
from fiftyone_cam.plugin.translation_form import as_typed, parse, translation
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

PRECISIONS = {
    "float32": "Exact to rounding",
    "bfloat16": "Faster on recent GPUs and CPUs; maps are still added up in float32",
    "float16": "Faster on GPUs; maps are still added up in float32",
}
"""What to say of each of :data:`fiftyone_cam.core.names.PRECISIONS`."""

ENGINES = {
    "local": "The machine that runs this",
    "ray": "Actors of Ray, on the cluster that RAY_ADDRESS names or else on this machine; all must find the images",
}
"""What to say of each of :data:`fiftyone_cam.engines.settings.ENGINES`."""


def proposal(dataset: fo.Dataset) -> dict[str, Any]:
    """What the form begins with: as the newest run was made, under its own key where it is not finished.

    >>> proposal(dataset)
    {'source': 'lite', 'lite': 'efficientnet_lite0', 'ground_truth': 'ground_truth', 'class_map': None, 'key': 'cam2'}
    """
    runs, _ = catalog.load_runs(dataset)
    found: dict[str, Any] = {"ground_truth": forms.last_truth(dataset), "key": forms.next_key(dataset)}
    if not runs:
        return found
    run = max(runs.values(), key=lambda run: run.record.created_at)
    settings, counts = run.record.settings, run.record.counts
    unfinished = run.status == "interrupted" or counts.computed + counts.failed < counts.samples
    if run.status != "running" and unfinished:
        found |= {"key": run.key, "ground_truth": settings.ground_truth}
        found |= {name: getattr(settings, name) for name in MORE}
        found["advanced"] = any(getattr(settings, name) != default for name, default in MORE.items())
    found |= model_sources.form_params(run.record)
    trainings, _ = catalog.load_trainings(dataset)
    if any(training.record.created_at > run.record.created_at for training in trainings.values()):
        found.pop("checkpoint", None)  # the newer one, which the form proposes by itself
    if found["ground_truth"] == settings.ground_truth:
        found["class_map"] = as_typed(settings.class_map, run.classes)
    return found


def ground_truth(
    inputs: types.Object,
    dataset: Collection,
    params: Mapping[str, Any],
    first: Mapping[str, Any],
) -> None:
    """The field with the true class, and a translation of the model's words into its words."""
    several = forms.label_fields(dataset, fo.Classifications)  # for classifiers of independent labels
    found = [*forms.label_fields(dataset), *several]
    value = params.get("ground_truth")
    if not found and not value:
        return
    prop = inputs.str(
        "ground_truth",
        label="Ground truth",
        description="A field with the true class: adds accuracy, and for wrong predictions a contrastive map",
        default=first.get("ground_truth"),
        view=forms.choices(dict.fromkeys(found, "")),
    )
    if not value:
        return
    if value not in found:
        field = dataset.get_field(value)
        kind = getattr(field, "document_type", type(field)).__name__
        said = f"{value} holds {kind}" if field else f"there is no field {value}"
        expected = f"expected a Classification field: {', '.join(found) or 'this dataset has none'}"
        forms.mark_invalid(prop, f"{said}, {expected}")
    typed = first.get("class_map") if value == first.get("ground_truth") else None
    translation(inputs, dataset, params, model_sources.known_classes(dataset, params), first=typed)


def run_key(inputs: types.Object, dataset: fo.Dataset, params: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """The key of a run that is new or continues, with what it would overwrite."""
    default = first.get("key") or "cam"
    key = params.get("key") or default
    prop = inputs.str(
        "key",
        label="Run key",
        description=f"The run's name. It writes {', '.join(_fields(key, params))}",
        default=default,
        required=True,
    )
    reason = key_problem(dataset, key, params)
    if reason:
        forms.mark_invalid(prop, reason)
        return
    if key not in catalog.list_runs(dataset):
        return
    run = catalog.load_run(dataset, key)
    changed = changes(run, params)
    maps = forms.count_maps(run)
    inputs.bool(
        "overwrite",
        label="Compute everything again",
        description=f"Deletes what run {key} left, {maps}, and starts anew" if changed else "Also what has a result",
        default=False,
        view=types.CheckboxView(),
    )
    if changed and not params.get("overwrite"):
        forms.mark_invalid(
            prop,
            f"Run {key} was made with {', '.join(changed)}: use another key, such as {forms.next_key(dataset)}, or "
            "compute everything again",
        )
    elif not changed:
        forms.notice(
            inputs,
            "continues",
            f"Run {key} has {maps} ({run.status}). It goes on: only samples without a result are computed",
        )


def key_problem(dataset: fo.Dataset, key: str, params: Mapping[str, Any]) -> str | None:
    """Why a run cannot be made under a key."""
    try:
        catalog.check_key(dataset, key)
    except CamError as error:
        return str(error)
    mine = catalog.load_run(dataset, key).fields if key in catalog.list_runs(dataset) else {}
    taken = [path for path in _fields(key, params) if path not in mine and dataset.has_field(path)]
    if taken:
        return f"the dataset has {', '.join(taken)} already, not from a run of this plugin: use another key"
    return None


def _fields(key: str, params: Mapping[str, Any]) -> list[str]:
    """The fields that a run will write."""
    names = [PREDICTION, HEATMAP, *([CONTRAST] if params.get("ground_truth") else []), ERROR]
    return [f"{key}_{name}" for name in names]


def changes(run: CamRun, params: Mapping[str, Any]) -> list[str]:
    """In what a run's configuration differs from a form's, as far as it can be known without loading a model."""
    record, found = run.record, []
    source = params.get("source") or model_sources.default_source()
    name = params.get(source)
    entry = source_forms.SOURCES.get(source)
    if name and not params.get("classifier") and entry is not None:
        made = (record.classifier.source, record.classifier.model)
        if made != (entry.origin, entry.recorded_name(name)):
            found.append(f"{made[1]} from {made[0]}")
    for setting, default in (("ground_truth", None), *MORE.items()):
        before, now = getattr(record.settings, setting), params.get(setting) or default
        if before != now:
            found.append(_SAID[setting](before))
    with contextlib.suppress(CamError):  # what is no translation is said at its field
        translated = resolve(parse(params.get("class_map")), run.classes) if params.get("ground_truth") else None
        if (translated or None) != record.settings.class_map and params.get("ground_truth"):
            found.append("another translation of classes" if record.settings.class_map else "no translation of classes")
    return found


MORE: Mapping[str, Any] = {"precision": "float32", "top_k": 1, "media_field": "filepath"}
"""The settings behind *More settings* that change results, with their defaults."""

_SAID: Mapping[str, Callable[[Any], str]] = {
    "ground_truth": lambda field: f"the true classes in {field}" if field else "no ground truth",
    "precision": lambda name: f"precision {name}",
    "media_field": lambda field: f"the files in {field}",
    "top_k": lambda count: f"{count} class{'es' if count > 1 else ''} per image",
}
"""How to say a setting of a run."""


def picture(inputs: types.Object, dataset: fo.Dataset, first: Mapping[str, Any]) -> None:
    """What of a picture the network gets, and from which of the dataset's media fields."""
    inputs.bool(
        "whole_picture",
        label="Whole picture",
        description="Squeeze all of it into the input, cut nothing off. Networks that were trained with a centre crop "
        "may lose some accuracy: EfficientNet-Lite0 1.8 points, of 85.3% on 400 ImageNet photos",
        default=False,
        view=types.CheckboxView(),
    )
    inputs.int(
        "input_size", label="Input size", description="The side in pixels; empty: the model's own", min=1, max=4096
    )
    forms.media_field(inputs, dataset, first.get("media_field"))


def engine(inputs: types.Object, params: Mapping[str, Any]) -> None:
    """Where to compute; asked only where there is a choice.

    Which cluster is no question for a form: whoever starts the server says so, with ``RAY_ADDRESS``.
    """
    if find_spec("ray") is None:
        return
    prop = inputs.str("engine", label="Engine", default="local", view=forms.choices(ENGINES))
    if params.get("engine") != "ray":
        return
    if str(params.get("device") or "").startswith("cuda:"):
        reason = f"Ray chooses the GPU of each actor: with it, the device is cuda, not {params['device']}"
        forms.mark_invalid(prop, reason)
    inputs.int(
        "num_actors",
        label="Actors",
        description="Empty: one for each GPU of the cluster, or for each node of a cluster without",
        min=1,
    )
    inputs.float(
        "gpus_per_actor", label="GPUs per actor", description="0.5 lets two actors share one", min=0, default=1.0
    )
