"""What the operators' forms share: fields that check themselves as somebody types.

Drawn on the server's event loop at every keystroke: schema and run records only, no torch, no counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.dataset import internals
from fiftyone_cam.dataset.collection import FRAMES, Collection
from fiftyone_cam.plugin import installed, queries
from fiftyone_cam.runs import catalog, store
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.training_run import TrainingRun

Made = TypeVar("Made")

ASSETS = "/fiftyone_cam/plugin/assets"


def icon(name: str) -> dict[str, str]:
    """An icon of ours, for the App's dark and light mode, as an operator's config takes it."""
    return {"dark_icon": f"{ASSETS}/{name}-dark.svg", "light_icon": f"{ASSETS}/{name}-light.svg"}


PANEL_ICONS = {"audit": "fact_check", "concepts": "bubble_chart", "why": "help_outline"}
"""Of the panels' tabs, by Material's names: FiftyOne 1.22 draws a plugin's own files for operators and buttons, and not
there, since its panels do not tell which plugin they are of."""


def button(place: types.Places, label: str, name: str) -> types.Placement:
    """A button that opens an operator's form."""
    paths = icon(name)
    view = types.Button(label=label, prompt=True, darkIcon=paths["dark_icon"], lightIcon=paths["light_icon"])
    return types.Placement(place, view)


def mark_invalid(prop: types.Property, reason: str | None) -> None:
    """Mark a field as wrong, and say why under it."""
    if reason:
        prop.invalid = True
        prop.error_message = reason


def fill_in(inputs: types.Object, params: dict[str, Any]) -> None:
    """Give the parameters that are missing the form's defaults, as the App does where somebody sees the form."""
    for name, prop in inputs.properties.items():
        shown_only = isinstance(prop.type, types.Void) or isinstance(prop.view, types.MarkdownView)
        if not shown_only and not isinstance(prop, types.ViewTargetProperty) and prop.default is not None:
            params.setdefault(name, prop.default)


def require(inputs: types.Object, params: Mapping[str, Any]) -> None:
    """Refuse fields that must have a value and were emptied, instead of leaving that to the App.

    What the App is told to require it shows in red until the form's defaults reach it: seconds, on a slow server.
    """
    for name, prop in inputs.properties.items():
        if prop.required and prop.default is not None:
            prop.required = False
            if params.get(name, prop.default) in (None, "", []):
                mark_invalid(prop, f"{prop.view.label} is missing")


def ask_for(inputs: types.Object, held: Mapping[str, Any]) -> None:
    """Say which fields are still empty, and wait for them.

    A field that the App is told to require is red before anybody has typed.

    Args:
        inputs: the form.
        held: what the fields hold that must not be empty, by their labels.
    """
    empty = [label for label, value in held.items() if value in (None, "", [])]
    if empty:
        text = f"Still to be filled in: {', '.join(empty)}"
        mark_invalid(inputs.view("needed", types.AlertView(label=text, severity="info")), text)


def notice(inputs: types.Object, name: str, text: str, severity: str = "info") -> None:
    """A line of information between the fields."""
    inputs.view(name, types.AlertView(label=text, severity=severity))


def choices(entries: Mapping[str, str], view: type[types.Choices] = types.DropdownView, **kwargs: Any) -> types.Choices:
    """A choice of values, each with what to say of it."""
    found = view(**kwargs)
    for value, description in entries.items():
        found.add_choice(value, label=value, description=description or None)
    return found


def completion(names: Iterable[str], **kwargs: Any) -> types.AutocompleteView:
    """A text field that completes to names."""
    view = types.AutocompleteView(allow_user_input=True, **kwargs)
    for name in names:
        view.add_choice(name, label=name)
    return view


def dataset_problem(dataset: fo.Dataset | None) -> str | None:
    """Why nothing can be computed on a dataset, as far as its schema tells."""
    if dataset is None:
        return "Open a dataset first"
    if dataset.media_type == "video":
        return (
            "This dataset holds videos, and class activation maps need images. Maps can be computed of a view of their "
            "frames, dataset.to_frames(sample_frames=True). All else wants a dataset of frames, that view's clone()"
        )
    if dataset.media_type not in (None, "image", "group"):
        return f"This dataset holds media of type {dataset.media_type}: class activation maps need images"
    return None


def fields_of_runs(dataset: fo.Dataset) -> set[str]:
    """The fields that runs of this project wrote."""
    return {path for key in catalog.list_runs(dataset) for path in store.written_fields(dataset, key)}


def label_fields(samples: Collection, kind: type[fo.Label] = fo.Classification) -> list[str]:
    """The Classification fields that neither a run nor a training of this project wrote; or those of another kind."""
    dataset = internals.home_of(samples)
    ours = {path.removeprefix(FRAMES) for path in fields_of_runs(dataset)}
    for key in catalog.list_trainings(dataset):
        ours |= set(store.written_fields(dataset, key))
    return [path for path in samples.get_field_schema(embedded_doc_type=kind) if path not in ours]


def last_truth(dataset: fo.Dataset) -> str | None:
    """The label field of the newest run or training, if it is still there."""
    trainings, runs = catalog.load_trainings(dataset)[0], catalog.load_runs(dataset)[0]
    used = [(run.record.created_at, run.record.training.get("ground_truth")) for run in trainings.values()]
    used += [(run.record.created_at, truth_of(run)) for run in runs.values()]
    fields = label_fields(dataset)
    return next((field for _, field in sorted(used, reverse=True) if field in fields), None)


def truth_of(run: CamRun) -> str | None:
    """The label field that a run was made with, or else audited with."""
    audited = run.record.audit.ground_truth if run.record.audit else None
    return run.record.settings.ground_truth or audited


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
        error = types.Error(label="There is no run yet", description="Compute class activation maps first")
        mark_invalid(inputs.view("none", error), "There is no run yet: compute class activation maps first")
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


def count_maps(run: CamRun) -> str:
    """What a choice of runs says of each: how many maps it has."""
    maps = queries.count_maps(run)
    return "some maps" if maps is None else f"{maps:,} maps"


def folder(kind: str, dataset: fo.Dataset) -> Path:
    """Where files of a dataset go by default: beside FiftyOne's own datasets."""
    return Path(fo.config.default_dataset_dir) / kind / dataset.slug


def free_folder(kind: str, dataset: fo.Dataset, name: str) -> Path:
    """A folder that does not exist: ``name``, ``name_2``, ``name_3``, …"""
    parent = folder(kind, dataset)
    return next(path for path in _numbered(name, lambda found: parent / found) if not path.exists())


def next_key(dataset: fo.Dataset) -> str:
    """The first of ``cam``, ``cam2``, ``cam3``, … that neither a run has nor a field begins with."""
    fields = tuple(dataset.get_field_schema())
    keys = ("cam" if number == 1 else f"cam{number}" for number in count(1))
    return next(
        key for key in keys if not dataset.has_run(key) and not any(path.startswith(f"{key}_") for path in fields)
    )


def free_key(dataset: fo.Dataset, name: str) -> str:
    """A key that no run of a dataset has: ``name``, ``name_2``, ``name_3``, …"""
    return next(key for key in _numbered(name, str) if not dataset.has_run(key))


def _numbered(name: str, make: Callable[[str], Made]) -> Iterator[Made]:
    return (make(name if number == 1 else f"{name}_{number}") for number in count(1))


def device(inputs: types.Object, ctx: Any) -> None:
    """The device to compute on."""
    found = installed.devices()
    prop = inputs.str(
        "device",
        label="Device",
        description="Empty: a GPU if there is one",
        view=choices(found),
    )
    chosen = ctx.params.get("device")
    if ctx.requesting_delegated_execution or not installed.answered("torch"):
        return
    if chosen and chosen not in (*found, "cuda"):
        mark_invalid(prop, f"this machine has no {chosen}: it has {', '.join(found)}")
    if chosen == "cuda" and "cuda:0" not in found:
        mark_invalid(prop, f"this machine has no GPU that PyTorch can use: it has {', '.join(found)}")


def media_field(inputs: types.Object, dataset: fo.Dataset, default: str | None = None) -> None:
    """Which of the dataset's media fields is read; asked only where there are several."""
    if len(media := dataset.app_config.media_fields) > 1:
        inputs.enum(
            "media_field",
            media,
            label="Media field",
            default=default or "filepath",
            view=choices(dict.fromkeys(media, "")),
        )
