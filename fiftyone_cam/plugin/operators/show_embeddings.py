"""Show embeddings: FiftyOne's Embeddings panel on what the run's classifier sees, coloured by verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fiftyone.operators import types

from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, model_sources, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

METHODS = {
    "": "umap where it is installed, otherwise t-SNE, or PCA for very few or many images",
    "pca": "The two directions in which the images differ most",
    "tsne": "Neighbours stay neighbours; minutes for more than 10,000 images",
    "umap": "The same, faster; needs the package umap-learn",
}


class ShowEmbeddings(CamOperator[CamRun]):
    """Which errors are alike: the classifier's pooled features as points."""

    operator = "show_embeddings"
    title = "Show embeddings by verdict"
    description = "Lay out what the run's classifier sees, and open it in the Embeddings panel"
    submit = "Show"
    icon = "audit"
    preparing = "Loading the classifier"
    also = ("classifier", "overwrite")

    def function(self) -> Callable[..., str]:
        from fiftyone_cam.compute.visualize import visualize

        return visualize

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        work.import_ahead()
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        if run.record.visualized:
            inputs.bool("overwrite", label="Compute the layout again", default=False, view=types.CheckboxView())
        inputs.str("method", label="Layout", default="", view=forms.choices(METHODS))
        if model_sources.of_record(run.record) is None:
            inputs.str(
                "classifier",
                label="Classifier",
                description=f"The record of run {run.key} does not say where {run.record.classifier.model} was "
                "loaded from: a name, a checkpoint folder, or a file",
                required=not run.record.visualized,
            )
        inputs.view_target(ctx, action_description="Lay out", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        run = catalog.load_run(ctx.dataset, ctx.params["key"])
        overwrite = bool(ctx.params.get("overwrite"))
        there = run.record.visualized and not overwrite
        return {
            "key": run.key,
            "classifier": None
            if there
            else model_sources.pop_classifier(model_sources.arguments_for(run, ctx.params), ctx.secret),
            "method": ctx.params.get("method") or None,
            "overwrite": overwrite,
        }

    def run(self, ctx: Any, report: work.Report | None) -> CamRun:
        arguments = self.given(ctx)
        self.function()(work.target(ctx), **arguments, progress=report)
        return catalog.load_run(ctx.dataset, arguments.get("key", "cam"))

    def refresh(self, ctx: Any, result: CamRun) -> Iterator[Any]:
        yield ctx.ops.reload_dataset()
        # FiftyOne 1.22's panel drops a state that it is opened with, so the summary says what to choose
        yield ctx.ops.open_panel("Embeddings", layout="horizontal")

    def finished(self, ctx: Any, result: CamRun) -> Any:
        layout, path = escape_markdown(result.visualization), escape_markdown(colored_by(result))
        words = (
            f"The Embeddings panel has **{layout}**: click it there, and colour it by **{path}**. Images that lie "
            "together look alike to the classifier. Draw a lasso around points to see their samples."
        )
        return work.summary(ctx, "Embeddings", words)

    def answer(self, ctx: Any, result: CamRun) -> dict[str, Any]:
        points = ctx.dataset.load_brain_results(result.visualization).points
        return {"brain_key": result.visualization, "points": len(points), "color_by": colored_by(result)}


def colored_by(run: CamRun) -> str:
    """The field that says most about the points: the verdict, or else the prediction."""
    audited = run.record.audit is not None and run.record.audit.verdict
    return run.field("verdict") if audited else f"{run.field(PREDICTION)}.label"
