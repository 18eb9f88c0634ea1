"""Show boxes: each box of evidence as a patch of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.names import BOXES
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.runs import catalog


class ShowBoxes(CamOperator[fo.DatasetView]):
    """What the classifier looked at, cut out."""

    operator = "show_boxes"
    title = "Show boxes of evidence as patches"
    description = "What the classifier looked at, cut out: one patch for each box"
    submit = "Show"
    icon = "cam"
    preparing = "Reading the boxes"
    risk = "low"
    delegable = False

    def function(self) -> Callable[..., fo.DatasetView]:
        return evidence_patches

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
        if run.record.localization is None:
            text = f"Run {run.key} has no boxes yet: localize from it first"
            forms.mark_invalid(inputs.view("no_boxes", types.Error(label=text)), text)
            return
        inputs.view_target(ctx, action_description="Show those of", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        return {"key": ctx.params["key"]}

    def run(self, ctx: Any, report: work.Report | None) -> fo.DatasetView:
        return evidence_patches(work.target(ctx), **self.given(ctx))

    def refresh(self, ctx: Any, result: fo.DatasetView) -> Iterator[Any]:
        yield ctx.ops.set_view(view=result)

    def finished(self, ctx: Any, result: fo.DatasetView) -> Any:
        return work.summary(ctx, "Boxes of evidence", f"**{len(result):,}** patches are in the grid.")

    def answer(self, ctx: Any, result: fo.DatasetView) -> dict[str, Any]:
        return {"field": f"{ctx.params['key']}_{BOXES}", "patches": len(result)}


def evidence_patches(samples: Collection, key: str = "cam") -> fo.DatasetView:
    """The boxes of a run as a patches view.

    Raises:
        RunError: there is no such run, it has no boxes, or these are patches already.

    >>> len(evidence_patches(dataset, "cam"))
    259
    """
    samples = require_images(samples)
    run = catalog.load_run(samples, key)
    if run.record.localization is None:
        raise RunError(f"run {key!r} has no boxes: make them with focam.localize(dataset, {key!r})")
    bulk.require(samples, [run.field(BOXES)])
    return samples.to_patches(run.field(BOXES))
