"""Delete a run, or a training, with all that it left on the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fiftyone.operators import types

from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.dataset import internals
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.operators.restore_colors import recolor
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.training_run import TrainingRun


class DeleteCamRun(CamOperator[list[str]]):
    """A run's fields, indexes and saved views: gone, and nothing else."""

    operator = "delete_cam_run"
    title = "Delete a CAM run"
    description = "Or a training: its fields, indexes and saved views, and nothing else"
    submit = "Delete"
    icon = "delete"
    preparing = "Deleting"
    risk = "high"
    delegable = False
    takes_view = False
    takes_frames = True

    def function(self) -> Callable[..., None]:
        return catalog.delete_run

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, _describe, with_trainings=True)
        if run is None:
            return
        escape = escape_markdown
        owned = {"fields": list(run.fields), "saved views": run.record.views}
        owned["evaluation"] = [run.evaluation] if run.record.evaluated else []
        lines = [f"- {what}: {', '.join(escape(name) for name in names)}" for what, names in owned.items() if names]
        if isinstance(run, TrainingRun):
            lines += ["", f"The checkpoint in {escape(run.record.out_dir)} stays."]
        inputs.md("\n".join(["This deletes for good:", "", *lines]), name="owned")

    def arguments(self, ctx: Any) -> dict[str, Any]:
        return {"key": ctx.params["key"]}

    def run(self, ctx: Any, report: work.Report | None) -> list[str]:
        """The names of the fields that are gone."""
        before = internals.loaded_fields(ctx.dataset)
        catalog.delete_run(ctx.dataset, **self.given(ctx))
        ctx.dataset.reload()
        return sorted(before - internals.loaded_fields(ctx.dataset))

    def refresh(self, ctx: Any, result: list[str]) -> Iterator[Any]:
        yield from super().refresh(ctx, result)
        yield from recolor(ctx)

    def finished(self, ctx: Any, result: list[str]) -> Any:
        escape = escape_markdown
        fields = ", ".join(escape(path) for path in result) or "no field"
        return work.summary(ctx, "Deleted", f"Run {escape(ctx.params['key'])} is gone, with {fields}")

    def answer(self, ctx: Any, result: list[str]) -> dict[str, Any]:
        return {"key": ctx.params["key"], "deleted": result}


def _describe(run: Any) -> str:
    return "a training" if isinstance(run, TrainingRun) else forms.count_maps(run)
