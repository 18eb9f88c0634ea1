"""Localize from CAM: boxes around the evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.dataset import app_config
from fiftyone_cam.plugin import forms, work


class LocalizeFromCam(foo.Operator):
    """A box around where the classifier looked, for FiftyOne's own evaluation of detections."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="localize_from_cam",
            label="Localize from CAM",
            description="A box around the evidence on each image, ready for evaluation and patches",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
            risk_level="medium",
            **forms.icon("audit"),
        )

    def __call__(self, samples: fo.Dataset | fo.DatasetView, key: str = "cam", threshold: float = 0.2) -> str:
        """The same from Python: see ``fiftyone_cam.localize``.

        >>> foo.get_operator("fiftyone_cam/localize_from_cam")(dataset, "cam")
        """
        from fiftyone_cam.analysis.localize import localize

        return localize(samples, key, threshold)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Localize from CAM", submit_button_label="Localize")
        problem = forms.dataset_problem(ctx.dataset)
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, lambda run: f"{run.counts.computed:,} maps")
        if run is None:
            return types.Property(inputs, view=view)
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
            text = f"Takes the place of the boxes of threshold {before.threshold:g} in {run.field('boxes')}"
            forms.notice(inputs, "replaces", text)
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> Iterator[Any]:
        samples = ctx.target_view(require_flat=True)

        def localize(report: work.Report) -> str:
            from fiftyone_cam.analysis.localize import localize

            threshold = ctx.params.get("threshold")
            return localize(samples, ctx.params["key"], 0.2 if threshold is None else threshold, progress=report)

        field = yield from work.run(ctx, localize, "Reading the maps")
        count = samples.count(f"{field}.detections")
        if not ctx.delegated:
            ctx.dataset.reload()
            yield ctx.ops.reload_dataset()
            yield ctx.ops.reload_samples()
            yield ctx.ops.set_active_fields([*(ctx.active_fields or app_config.visible(ctx.dataset)), field])
        words = (
            f"**{count:,}** boxes on {len(samples):,} samples, in the field **{forms.plain(field)}**.\n\n"
            "Evaluate them against true boxes with FiftyOne's *Evaluate model*, or see them as patches."
        )
        yield work.summary(ctx, "Boxes from evidence", words)
