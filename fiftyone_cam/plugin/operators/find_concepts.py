"""Find concepts: what are predictions, and errors, made of?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.plugin import compute_form, forms, model_sources, parameters, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.operators.compute_cam import chosen_engine, engine_params
from fiftyone_cam.plugin.translation_form import parse, translation
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

if TYPE_CHECKING:
    from fiftyone_cam.concepts.report import ConceptReport

PANEL = "cam_concepts"
"""The panel that shows what was found."""


class FindConcepts(CamOperator["ConceptReport"]):
    """Clusters of cells over a view, each with what it does to predictions; no annotation is needed."""

    operator = "find_concepts"
    title = "Find concepts"
    description = "What are errors made of? Parts of the logits over a whole dataset, without any annotation"
    submit = "Find"
    icon = "concepts"
    preparing = "Loading the classifier"
    also = ("classifier", "count", "show_classes", *parameters.ENGINE)

    def function(self) -> Callable[..., ConceptReport]:
        from fiftyone_cam.concepts.find_concepts import find_concepts

        return find_concepts

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        work.import_ahead()
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        model_sources.draw_classifier_of(inputs, run, ctx.params)
        _ground_truth(inputs, ctx, run)
        inputs.view_target(ctx, action_description="Find concepts in", require_flat=True)
        inputs.bool(
            "advanced",
            label="More settings",
            description="How many concepts, device, batch size",
            default=False,
            view=types.SwitchView(),
        )
        if ctx.params.get("advanced"):
            _advanced(inputs, ctx)
        before = run.record.concepts
        if before is not None and before.complete:
            text = f"Replaces the {len(before.concepts)} concepts that were found in {before.samples:,} samples"
            forms.notice(inputs, "replaces", text)
        elif before is not None:
            forms.notice(inputs, "continues", "It was interrupted: with the same samples and settings it goes on")

    def arguments(self, ctx: Any) -> dict[str, Any]:
        params = ctx.params
        run = catalog.load_run(ctx.dataset, params["key"])
        return {
            "key": run.key,
            **model_sources.arguments_for(run, params),
            "ground_truth": params.get("ground_truth") or None,
            "class_map": parse(params.get("class_map")),
            "count": params.get("count") or None,
            "batch_size": params.get("batch_size") or None,
            "device": params.get("device") or None,
            "engine": engine_params(chosen_engine(params)),
        }

    def to_record(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments | ({"engine": engine_params(arguments["engine"])} if "engine" in arguments else {})

    def run(self, ctx: Any, report: work.Report | None) -> ConceptReport:
        arguments = self.given(ctx)
        engine = arguments.get("engine") or {}
        arguments["engine"] = chosen_engine({"engine": engine} if isinstance(engine, str) else engine)
        classifier = model_sources.pop_classifier(arguments, ctx.secret)
        return self.function()(work.target(ctx), classifier=classifier, **arguments, progress=report)

    def refresh(self, ctx: Any, result: ConceptReport) -> Iterator[Any]:
        yield from super().refresh(ctx, result)
        yield ctx.ops.open_panel(PANEL, layout="horizontal")
        for panel_id in _open_panels(ctx.spaces):  # it was open before, and shows what was found before
            yield ctx.trigger(operator_uri(PANEL), {"panel_id": panel_id, "__method__": "on_load"})

    def finished(self, ctx: Any, result: ConceptReport) -> Any:
        hint = "The panel **Concepts** shows each with the places that tell most of it."
        return work.summary(ctx, "Concepts", f"{result.describe(most=5).markdown()}\n\n{hint}")

    def answer(self, ctx: Any, result: ConceptReport) -> dict[str, Any]:
        rows = []
        for concept in result.concepts:
            row = asdict(concept)
            del row["examples"]
            rows.append({**row, "net": concept.net})
        return {
            "key": result.run.key,
            "field": result.path,
            "samples": result.record.samples,
            "judged": result.judged,
            "errors": result.errors,
            "concepts": rows,
        }


def _open_panels(space: fo.Space | None) -> Iterator[str]:
    """The panels of concepts that are open in the App, by their ids."""
    for child in space.children if space is not None else ():
        if isinstance(child, fo.Space):
            yield from _open_panels(child)
        elif child.type == PANEL:
            yield child.component_id


def _ground_truth(inputs: types.Object, ctx: Any, run: CamRun) -> None:
    """The field with the true class, by default the run's, and a translation into its words."""
    truths, default = forms.label_fields(ctx.dataset), forms.truth_of(run)
    default = default if default in truths else None
    inputs.str(
        "ground_truth",
        label="Ground truth",
        description="A field with the true class. Without one nobody knows what is an error: there are shares, and "
        "classes that a concept speaks for",
        default=default,
        view=forms.choices(dict.fromkeys(truths, "")),
    )
    truth = ctx.params.get("ground_truth", default)
    stored = run.record.settings.class_map
    translation(inputs, ctx.dataset, {**ctx.params, "ground_truth": truth}, run.classes, stored=stored)


def _advanced(inputs: types.Object, ctx: Any) -> None:
    inputs.int(
        "count",
        label="Concepts",
        description="How many. Empty: one for each 250 cells, from 16 to 128",
        min=2,
    )
    forms.device(inputs, ctx)
    compute_form.engine(inputs, ctx.params)
    inputs.int(
        "batch_size",
        label="Batch size",
        description="Images at a time; by default 32, on a GPU more",
        min=1,
    )
