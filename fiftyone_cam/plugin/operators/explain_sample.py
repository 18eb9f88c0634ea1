"""Explain this sample: what would speak for a class of one's choice?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from bson import ObjectId
from fiftyone.operators import types

from fiftyone_cam.core.errors import did_you_mean
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.plugin.operators.base import CamOperator, show_written
from fiftyone_cam.plugin.operators.restore_colors import recolor
from fiftyone_cam.runs import catalog

if TYPE_CHECKING:
    from fiftyone_cam.runs.cam_run import CamRun

MOST = 1000
"""Class names that a form lists; further ones can be typed."""

_SHORT_LIST = {"autocomplete": {"ListboxProps": {"style": {"maxHeight": 110}}}}


class ExplainSample(CamOperator[fo.Heatmap]):
    """The map of any class, for the sample that is open."""

    operator = "explain_sample"
    title = "Explain this sample"
    description = "What in this image speaks for a class? Pick any class of the model"
    submit = "Explain"
    icon = "explain"
    preparing = "Explaining; the first time, the classifier is loaded"
    delegable = False
    takes_view = False
    also = ("sample_id", "classifier")

    def function(self) -> Callable[..., fo.Heatmap]:
        from fiftyone_cam.compute.explain_sample import explain_sample

        return explain_sample

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.button(types.Places.SAMPLES_VIEWER_ACTIONS, self.title, self.icon)

    def problem(self, ctx: Any) -> str | None:
        sample = _sample_id(ctx)
        if sample is None:
            return "Open a sample, or select one; from Python: pass sample_id"
        if not ObjectId.is_valid(sample) or not ctx.dataset.select(sample).count("id"):
            return f"This dataset has no sample of id {sample!r:.80}: expected a sample's id"
        return None

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        work.import_ahead()
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, lambda run: run.record.classifier.model)
        if run is None:
            return
        suggested = _suggestion(ctx.dataset, str(_sample_id(ctx)), run)
        prop = inputs.str(
            "label",
            label="Class",
            description="What in this image speaks for it?",
            default=suggested,
            view=forms.completion(run.classes[:MOST], componentsProps=_SHORT_LIST),
        )
        inputs.properties["key"] = inputs.properties.pop(
            "key"
        )  # below: the list of classes then covers it, and not the button
        label = ctx.params.get("label")
        if label and label not in run.classes:
            near = did_you_mean(label, run.classes)
            forms.mark_invalid(prop, f"{label!r:.80} is none of the {len(run.classes):,} classes{near}")
        needed = {"Class": ctx.params.get("label", suggested)}
        if model_sources.of_record(run.record) is None:
            needed["Classifier"] = ctx.params.get("classifier")
            inputs.str(
                "classifier",
                label="Classifier",
                description=f"The record of run {run.key} does not say where {run.record.classifier.model} was "
                "loaded from: a name, a checkpoint folder, or a file",
            )
        forms.ask_for(inputs, needed)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        run = self._run(ctx)
        return {
            "sample_id": _sample_id(ctx),
            "classifier": model_sources.pop_classifier(model_sources.arguments_for(run, ctx.params), ctx.secret),
            "label": ctx.params.get("label"),
            "key": run.key,
        }

    def run(self, ctx: Any, report: work.Report | None) -> fo.Heatmap:
        return self.function()(ctx.dataset, **self.given(ctx))

    def refresh(self, ctx: Any, result: fo.Heatmap) -> Iterator[Any]:
        yield from show_written(ctx, fields=False)
        yield from recolor(ctx)
        shown = self._run(ctx).field("explained")
        yield ctx.trigger(operator_uri("reopen_sample"), {"sample": _sample_id(ctx), "shown": shown})

    def finished(self, ctx: Any, result: fo.Heatmap) -> Any:
        """The picture with the map on it, and its numbers.

        The picture is there also where no sample is open.
        """
        run = self._run(ctx)
        there = "which the open sample now shows" if ctx.current_sample else "tick it beside the grid to see it there"
        bias = result.cam.bias
        words = (
            f"**{escape_markdown(result.label)}** has the logit {result.logit:,.2f}: "
            f"{result.logit - bias:+,.2f} from the image, {bias:+,.2f} from the bias. The map is in the "
            f"field {escape_markdown(run.field('explained'))}, {there}."
        )
        from fiftyone_cam.plugin.map_pictures import picture

        outputs = types.Object()
        outputs.str("picture", view=types.ImageView(alt=f"What speaks for {result.label}"))
        outputs.str("words", view=types.MarkdownView())
        schema = types.Property(outputs, view=types.View(label="What speaks for this class"))
        filepath = ctx.dataset[_sample_id(ctx)][run.media_field]
        return ctx.ops.show_output(schema.to_json(), {"picture": picture(run, result, filepath), "words": words})

    def answer(self, ctx: Any, result: fo.Heatmap) -> dict[str, Any]:
        return {
            "sample_id": _sample_id(ctx),
            "label": result.label,
            "logit": float(result.logit),
            "bias": float(result.cam.bias),
            "field": self._run(ctx).field("explained"),
        }

    def _run(self, ctx: Any) -> CamRun:
        return catalog.load_run(ctx.dataset, ctx.params["key"])


def _sample_id(ctx: Any) -> str | None:
    """The sample that the caller names, that is open in the modal, or that is the only one selected."""
    if ctx.params.get("sample_id"):
        return str(ctx.params["sample_id"])
    if ctx.current_sample:
        return str(ctx.current_sample)
    return str(ctx.selected[0]) if len(ctx.selected) == 1 else None


def _suggestion(dataset: fo.Dataset, sample_id: str, run: CamRun) -> str | None:
    """The class to ask about first: the true one of a wrong prediction, otherwise the predicted one."""
    sample = dataset[sample_id]
    paths = [path for path in (run.ground_truth, run.field("prediction")) if path and sample.has_field(path)]
    found = [sample.get_field(path) for path in paths]
    labels = [label.label for label in found if label is not None and label.label in run.classes]
    return labels[0] if labels else None
