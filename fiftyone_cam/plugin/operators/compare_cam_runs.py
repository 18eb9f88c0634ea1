"""Compare CAM runs: what changed between two models, and do they look elsewhere?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.analysis.compare_report import CHANGES
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.runs import catalog

if TYPE_CHECKING:
    from fiftyone_cam.analysis.compare_report import Comparison


class CompareCamRuns(foo.Operator):
    """Two runs on the same samples."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="compare_cam_runs",
            label="Compare CAM runs",
            description="Which predictions changed between two runs, and how far the evidence moved",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
            risk_level="medium",
            **forms.icon("audit"),
        )

    def __call__(self, samples: fo.Dataset | fo.DatasetView, before: str, after: str, **kwargs: Any) -> Comparison:
        """The same from Python: see ``fiftyone_cam.compare``.

        >>> foo.get_operator("fiftyone_cam/compare_cam_runs")(dataset, "cam_resnet18", "cam_resnet50")
        """
        from fiftyone_cam.analysis.compare import compare

        return compare(samples, before, after, **kwargs)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Compare CAM runs", submit_button_label="Compare")
        problem = forms.dataset_problem(ctx.dataset)
        runs = {} if problem else catalog.load_runs(ctx.dataset)[0]
        keys = list(runs)
        if not problem and len(keys) < 2:
            there = f"only {keys[0]}" if keys else "none"
            problem = f"Two runs are needed, and there is {there}: compute class activation maps under another key"
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)
        found = {key: run.record.classifier.model for key, run in runs.items()}
        inputs.enum("before", keys, label="Before", default=keys[0], required=True, view=forms.choices(found))
        prop = inputs.enum("after", keys, label="After", default=keys[-1], required=True, view=forms.choices(found))
        before, after = ctx.params.get("before") or keys[0], ctx.params.get("after") or keys[-1]
        if before == after:
            forms.refuse(prop, f"{after} is compared with itself: choose another run")
        inputs.view_target(ctx, action_description="Compare on", require_flat=True)
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> Iterator[Any]:
        samples = ctx.target_view(require_flat=True)

        def compare(report: work.Report) -> Comparison:
            from fiftyone_cam.analysis.compare import compare

            return compare(samples, ctx.params["before"], ctx.params["after"], progress=report)

        found = yield from work.run(ctx, compare, "Reading the maps")
        text = summary(found)
        if not ctx.delegated:
            ctx.dataset.reload()
            yield ctx.ops.reload_dataset()
            yield ctx.ops.reload_samples()
        yield work.summary(ctx, "Two runs compared", text)


def summary(found: Comparison) -> str:
    """A comparison in Markdown."""
    name = escape_markdown(f"{found.run.key} vs {found.before}")
    views = ", ".join(f"**{name} {word}**" for word in CHANGES[1:])
    return f"{found.describe(most=12).markdown()}\n\nSaved as views: {views}."
