"""The parts of the form that computes: the run's key, and the engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import CONTRAST, ERROR, HEATMAP, PREDICTION
from fiftyone_cam.plugin import forms, model_sources
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
        forms.mark_invalid(prop, reason)
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
        forms.mark_invalid(
            prop, f"run {key} was made with {'; '.join(changed)}: use another key, or compute everything again"
        )
    elif not changed:
        forms.notice(
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
    names = [PREDICTION, HEATMAP, ERROR, *([CONTRAST] if params.get("ground_truth") else [])]
    taken = [path for path in (f"{key}_{name}" for name in names) if path not in mine and dataset.has_field(path)]
    if taken:
        return f"the dataset has {', '.join(taken)} already, not from a run of this plugin: use another key"
    return None


def changes(run: CamRun, params: Mapping[str, Any]) -> list[str]:
    """In what a run's configuration differs from a form's, as far as it can be known without loading a model."""
    record, found = run.record, []
    source = params.get("source") or model_sources.default_source()
    name = params.get(source)
    entry = model_sources.SOURCES.get(source)
    if name and not params.get("classifier") and entry is not None:
        made = (record.classifier.source, record.classifier.model)
        if made != (entry.origin, entry.recorded_name(name)):
            found.append(f"{made[1]} from {made[0]}")
    for setting, default in (("ground_truth", None), ("precision", "float32"), ("top_k", 1)):
        before, now = getattr(record.settings, setting), params.get(setting) or default
        if before != now:
            found.append(f"{setting} {before}")
    return found


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
