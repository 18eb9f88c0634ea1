"""What if: predictions without the evidence of some concepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import concept_form, forms, work
from fiftyone_cam.plugin.operators.base import CamOperator

if TYPE_CHECKING:
    from fiftyone_cam.concepts.what_if import WhatIf as Answer

INTO = "without"
"""The end of the fields' names."""


class WhatIf(CamOperator["Answer"]):
    """What the classifier would predict without some concepts; no network is run."""

    operator = "what_if"
    title = "What if"
    description = "What would be predicted without the evidence of some concepts?"
    submit = "Leave out"
    icon = "concepts"
    preparing = "Adding up what is left"

    def function(self) -> Callable[..., Answer]:
        from fiftyone_cam.concepts.what_if import what_if

        return what_if

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = concept_form.run_with_concepts(inputs, ctx)
        if run is None:
            return
        without = ctx.params.get("without")
        prop = concept_form.ask_for_names(inputs, run, "without", "The concepts whose evidence is left out", without)
        if not prop.invalid and run.record.concepts is not None and not run.record.concepts.removable:
            grade = run.record.concepts.grade
            forms.mark_invalid(prop, f"the head is {grade}: only one of the grade 'exact' tells predictions without")
        into = ctx.params.get("into") or INTO
        prop = inputs.str(
            "into",
            label="Name",
            description=f"Writes {run.key}_{into}, and {run.key}_{into}_change: same, fixed, broken or changed",
            default=INTO,
        )
        if not str(into).isidentifier():
            forms.mark_invalid(prop, f"{into!r} is no end of a field's name: expected a word such as {INTO!r}")
        inputs.view_target(ctx, action_description="Predict", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        params = ctx.params
        return {"key": params["key"], "without": params["without"], "into": params.get("into") or INTO}

    def run(self, ctx: Any, report: work.Report | None) -> Answer:
        return self.function()(work.target(ctx), **self.given(ctx))

    def new_fields(self, ctx: Any, result: Answer) -> list[str]:
        return [result.field]

    def finished(self, ctx: Any, result: Answer) -> Any:
        change = escape_markdown(f"{result.field}_change")
        hint = f"Filter **{change}** by *fixed* or *broken* to see them."
        return work.summary(ctx, "What if", f"{result.describe().markdown()}\n\n{hint}")

    def answer(self, ctx: Any, result: Answer) -> dict[str, Any]:
        return {
            "field": result.field,
            "without": result.without,
            "same": result.same,
            "changed": result.changed,
            "fixed": result.fixed,
            "broken": result.broken,
            "accuracy_before": result.accuracy_before,
            "accuracy": result.accuracy,
        }
