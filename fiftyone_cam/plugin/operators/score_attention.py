"""Score attention: how good are the maps, in the field's own measures?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.plugin.operators.audit_attention import draw_objects, object_labels
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.queries import place_fields
from fiftyone_cam.runs import catalog

if TYPE_CHECKING:
    from fiftyone_cam.analysis.score_report import AttentionScores, ScoreReport


class ScoreAttention(CamOperator["ScoreReport"]):
    """The scorecard of a run's maps, beside maps that know nothing."""

    operator = "score_attention"
    title = "Score attention"
    description = "How well the maps find the object: MaxBoxAcc, pointing game and others, beside baselines"
    submit = "Score"
    icon = "score"
    also = ("objects", "classifier")

    def function(self) -> Callable[..., ScoreReport]:
        from fiftyone_cam import score_attention

        return score_attention

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        ours = forms.fields_of_runs(ctx.dataset)
        draw_objects(inputs, ctx, [path for path in place_fields(ctx.dataset) if path not in ours])
        inputs.bool(
            "class_free",
            label="Beside the mean of the feature maps",
            description="A fourth baseline, which sees anything and knows no class. Runs the network once an image",
            default=False,
            view=types.SwitchView(),
        )
        if ctx.params.get("class_free"):
            work.import_ahead()
            model_sources.draw_classifier_of(inputs, run, ctx.params)
        inputs.view_target(ctx, action_description="Score", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        key = ctx.params.get("key") or "cam"
        wanted = ctx.params.get("class_free")
        return {
            **(model_sources.arguments_for(catalog.load_run(ctx.dataset, key), ctx.params) if wanted else {}),
            "key": key,
            "objects": ctx.params.get("objects") or None,
            "object_labels": object_labels(ctx.params.get("object_labels")),
        }

    def run(self, ctx: Any, report: work.Report | None) -> ScoreReport:
        arguments = self.given(ctx)
        if arguments.get("classifier"):
            arguments["classifier"] = model_sources.pop_classifier(arguments, ctx.secret)
        return self.function()(work.target(ctx), **arguments, progress=report)

    def new_fields(self, ctx: Any, result: ScoreReport) -> list[str]:
        return [result.run.field("energy")]

    def finished(self, ctx: Any, result: ScoreReport) -> Any:
        return work.summary(ctx, "Scores of attention", result.describe().markdown())

    def answer(self, ctx: Any, result: ScoreReport) -> dict[str, Any]:
        return {
            "key": result.run.key,
            "samples": result.count,
            "skipped": dict(result.skipped),
            "scores": _plain(result),
            "held_out": dict(result.held_out),
            "intervals": {name: list(interval) for name, interval in result.intervals.items()},
            "baselines": {name: _plain(scores) for name, scores in result.baselines.items()},
        }


def _plain(scores: AttentionScores) -> dict[str, float | None]:
    from fiftyone_cam.analysis.score_report import AttentionScores

    return {entry.name: getattr(scores, entry.name) for entry in fields(AttentionScores)}
