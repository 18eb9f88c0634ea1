"""The parts that the forms about concepts share: a run whose concepts were found, and its concepts."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_cam.concepts.report import list_concepts
from fiftyone_cam.core.errors import did_you_mean
from fiftyone_cam.core.tables import percent
from fiftyone_cam.plugin import forms
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_record import Concept


def run_with_concepts(inputs: types.Object, ctx: Any) -> CamRun | None:
    """A choice among the runs whose concepts were found; None, and a word about it, if there are none."""
    keys = list_concepts(ctx.dataset)
    if not keys:
        error = types.Error(label="There are no concepts yet", description="Find concepts first")
        forms.mark_invalid(inputs.view("none", error), "There are no concepts yet: find concepts first")
        return None
    inputs.enum("key", keys, label="Run", default=keys[-1], required=True, view=forms.choices(dict.fromkeys(keys, "")))
    chosen = ctx.params.get("key")
    return catalog.load_run(ctx.dataset, chosen if chosen in keys else keys[-1])


def concepts_of(run: CamRun) -> list[Concept]:
    """The concepts of a run that :func:`run_with_concepts` gave."""
    return [] if run.record.concepts is None else run.record.concepts.concepts


def choices(run: CamRun, *, multiple: bool = False) -> types.Choices:
    """A choice among the concepts of a run, each with what it would repair, or what share of the evidence it holds."""
    said = {}
    for concept in concepts_of(run):
        effect = "" if concept.net is None else f"{concept.repaired:,} put right, {concept.broken:,} lost; "
        said[concept.name] = f"{effect}{percent(concept.share)} of the evidence"
    return forms.choices(said, multiple=True) if multiple else forms.choices(said)


def ask_for_names(inputs: types.Object, run: CamRun, name: str, description: str, given: Any) -> types.Property:
    """A list of concepts to do without; marked invalid where one of ``given`` is none of the run's."""
    names = [concept.name for concept in concepts_of(run)]
    prop = inputs.list(
        name,
        types.String(),
        label="Without",
        description=description,
        default=names[:1],
        view=choices(run, multiple=True),
    )
    if wrong := [each for each in given or () if each not in names]:
        forms.mark_invalid(prop, unknown(run, wrong[0]))
    return prop


def unknown(run: CamRun, name: Any) -> str:
    """That a run has no concept of a name, and which could be meant.

    >>> unknown(run, "concpt 1")
    "run cam has no concept 'concpt 1' (did you mean concept 1?): expected such as concept 1, concept 2, concept 3"
    """
    names = [concept.name for concept in concepts_of(run)]
    expected = ", ".join(names[:3])
    return f"run {run.key} has no concept {name!r:.80}{did_you_mean(name, names)}: expected such as {expected}"
