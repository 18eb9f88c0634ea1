"""Delete a run, or a training, with all that it left on the dataset."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.plugin import forms
from fiftyone_cam.plugin.operators.restore_colors import recolor
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.training_run import TrainingRun


class DeleteCamRun(foo.Operator):
    """A run's fields, indexes and saved views: gone, and nothing else."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="delete_cam_run",
            label="Delete a CAM run",
            description="Or a training: its fields, indexes and saved views, and nothing else",
            dynamic=True,
            risk_level="high",
            view_target=False,
            **forms.icon("delete"),
        )

    def __call__(self, samples: fo.Dataset | fo.DatasetView, key: str) -> None:
        """The same from Python: see ``fiftyone_cam.delete_run``.

        >>> foo.get_operator("fiftyone_cam/delete_cam_run")(dataset, "cam")
        """
        catalog.delete_run(samples, key)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Delete a CAM run", submit_button_label="Delete")
        problem = forms.dataset_problem(ctx.dataset)
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, _described, with_trainings=True)
        if run is not None:
            owned = {"fields": list(run.fields), "saved views": run.record.views}
            if isinstance(run, TrainingRun):
                owned["evaluation"] = [run.evaluation] if run.record.evaluated else []
            lines = [
                f"- {what}: {', '.join(forms.plain(name) for name in names)}" for what, names in owned.items() if names
            ]
            if isinstance(run, TrainingRun):
                lines += ["", f"The checkpoint in {forms.plain(run.record.out_dir)} stays."]
            inputs.md("\n".join(["This deletes for good:", "", *lines]), name="owned")
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> dict[str, Any]:
        key = ctx.params["key"]
        before = set(ctx.dataset.get_field_schema())
        catalog.delete_run(ctx.dataset, key)
        ctx.dataset.reload()
        ctx.ops.reload_dataset()
        ctx.ops.reload_samples()
        for _ in recolor(ctx):  # triggered all the same; this operator is no generator
            pass
        gone = sorted(before - set(ctx.dataset.get_field_schema()))
        return {"deleted": f"Run {key} is gone, with {', '.join(gone) or 'no field'}"}

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("deleted", label="Deleted")
        return types.Property(outputs)


def _described(run: CamRun) -> str:
    return "a training" if isinstance(run, TrainingRun) else f"{run.counts.computed:,} maps"
