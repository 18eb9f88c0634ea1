"""Compare CAM runs: what changed between two models, and do they look elsewhere?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.analysis.compare_report import CHANGES
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.runs import catalog

if TYPE_CHECKING:
    from fiftyone_cam.analysis.compare_report import Comparison


class CompareCamRuns(CamOperator["Comparison"]):
    """Two runs on the same samples."""

    operator = "compare_cam_runs"
    title = "Compare CAM runs"
    description = "Which predictions changed between two runs, and how far the evidence moved"
    submit = "Compare"
    icon = "compare"

    def function(self) -> Callable[..., Comparison]:
        from fiftyone_cam.analysis.compare import compare

        return compare

    def problem(self, ctx: Any) -> str | None:
        keys = list(catalog.load_runs(ctx.dataset)[0])
        if len(keys) >= 2:
            return None
        there = f"only {keys[0]}" if keys else "none"
        return f"Two runs are needed, and there is {there}: compute class activation maps under another key"

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        runs, _ = catalog.load_runs(ctx.dataset)
        keys = list(runs)
        found = {key: run.record.classifier.model for key, run in runs.items()}
        inputs.enum("before", keys, label="Before", default=keys[0], required=True, view=forms.choices(found))
        prop = inputs.enum("after", keys, label="After", default=keys[-1], required=True, view=forms.choices(found))
        before, after = ctx.params.get("before") or keys[0], ctx.params.get("after") or keys[-1]
        if before == after:
            forms.mark_invalid(prop, f"{after} is compared with itself: choose another run")
        inputs.view_target(ctx, action_description="Compare on", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        return {"before": ctx.params["before"], "after": ctx.params["after"]}

    def finished(self, ctx: Any, result: Comparison) -> Any:
        return work.summary(ctx, "Two runs compared", summary(result))

    def answer(self, ctx: Any, result: Comparison) -> dict[str, Any]:
        classes = [row._asdict() for row in result.classes]
        none = {} if classes else {"note": "none of these samples has a map of both runs"}
        return {"before": result.before, "after": result.run.key, "classes": classes, **none}


def summary(found: Comparison) -> str:
    """A comparison in Markdown."""
    name = escape_markdown(f"{found.run.key} vs {found.before}")
    views = ", ".join(f"**{name} {word}**" for word in CHANGES[1:])
    return f"{found.describe(most=12).markdown()}\n\nSaved as views: {views}."
