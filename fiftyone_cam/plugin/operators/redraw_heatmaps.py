"""Redraw heatmaps: with another threshold, from the maps that a run stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.core.display import THRESHOLD
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator

if TYPE_CHECKING:
    from fiftyone_cam.analysis.redraw_heatmaps import Redrawn


class RedrawHeatmaps(CamOperator["Redrawn"]):
    """More or less of the weak evidence, without the network."""

    operator = "redraw_heatmaps"
    title = "Redraw heatmaps"
    description = "Show more or less of the weak evidence: moves the threshold of a run's heatmaps, without the network"
    submit = "Redraw"
    icon = "redraw"

    def function(self) -> Callable[..., Redrawn]:
        from fiftyone_cam.analysis.redraw_heatmaps import redraw_heatmaps

        return redraw_heatmaps

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        from fiftyone_cam.analysis.redraw_heatmaps import heatmap_fields

        inputs.float(
            "percent",
            label="Threshold in percent",
            description="Of the run's scale, which is the evidence that gets the last colour. Weaker evidence is left "
            f"clear; now {100 * run.record.threshold:g}, at first {100 * THRESHOLD:g}",
            default=100 * run.record.threshold,
            min=0,
            max=100,
            view=types.SliderView(),
        )
        fields = dict.fromkeys(heatmap_fields(run), "")
        inputs.str(
            "field",
            label="Field",
            description="Empty: all heatmaps of the run. If all of all samples are redrawn, later ones are drawn alike",
            view=forms.choices(fields),
        )
        inputs.view_target(ctx, action_description="Redraw", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        percent = ctx.params.get("percent")
        threshold = THRESHOLD if percent is None else percent / 100
        return {"key": ctx.params["key"], "threshold": threshold, "field": ctx.params.get("field") or None}

    def new_fields(self, ctx: Any, result: Redrawn) -> list[str]:
        return result.fields[:1] if ctx.params.get("field") else []

    def finished(self, ctx: Any, result: Redrawn) -> Any:
        fields = ", ".join(f"**{escape_markdown(path)}**" for path in result.fields)
        words = (
            f"**{result.heatmaps:,}** heatmaps drawn anew, in {fields}: evidence below {result.threshold:.0%} of the "
            "run's scale is clear."
        )
        return work.summary(ctx, "Heatmaps drawn anew", words)

    def answer(self, ctx: Any, result: Redrawn) -> dict[str, Any]:
        return result._asdict()
