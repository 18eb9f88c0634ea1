"""Localize from CAM: boxes around the evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fiftyone.operators import types

from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator


class LocalizeFromCam(CamOperator[str]):
    """A box around where the classifier looked, for FiftyOne's own evaluation of detections."""

    operator = "localize_from_cam"
    title = "Localize from CAM"
    description = "A box around the evidence on each image, ready for evaluation and patches"
    submit = "Localize"
    icon = "localize"

    def function(self) -> Callable[..., str]:
        from fiftyone_cam.analysis.localize import localize

        return localize

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        inputs.float(
            "threshold",
            label="Threshold",
            description="The share of the map's maximum above which evidence is in the box: lower is larger",
            default=0.2,
            min=0.01,
            max=1,
        )
        inputs.view_target(ctx, action_description="Localize on", require_flat=True)
        before = run.record.localization
        if before:
            text = f"Replaces the boxes of threshold {before.threshold:g} in {run.field('boxes')}"
            forms.notice(inputs, "replaces", text)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        threshold = ctx.params.get("threshold")
        return {"key": ctx.params["key"], "threshold": 0.2 if threshold is None else threshold}

    def new_fields(self, ctx: Any, result: str) -> list[str]:
        return [result]

    def finished(self, ctx: Any, result: str) -> Any:
        found = self.answer(ctx, result)
        words = (
            f"**{found['boxes']:,}** boxes on {found['samples']:,} samples, in the field "
            f"**{escape_markdown(result)}**.\n\n"
            "Evaluate them against true boxes with FiftyOne's *Evaluate model*."
        )
        offer = types.Button(
            label="See them as patches",
            operator=operator_uri("show_boxes"),
            params={"key": self.given(ctx)["key"]},
            prompt=False,
            variant="outlined",
        )
        return work.summary(ctx, "Boxes from evidence", words, offer=(offer, None))

    def answer(self, ctx: Any, result: str) -> dict[str, Any]:
        samples = work.target(ctx)
        return {"field": result, "boxes": samples.count(f"{result}.detections"), "samples": len(samples)}
