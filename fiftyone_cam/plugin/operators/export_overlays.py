"""Export CAM overlays: heatmaps on photos, as files for people without the App."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types
from PIL import Image

from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work

if TYPE_CHECKING:
    from fiftyone_cam.analysis.export_overlays import Overlays

COLORMAPS = {
    "jet": "As in the posts on class activation maps; bright edges mean nothing",
    "inferno": "Even to the eye",
    "viridis": "Even to the eye",
    "turbo": "A smoother jet",
}
"""The ones that the form offers; ``export_overlays`` takes all of OpenCV's."""

WIDTH = 1000
"""Pixels of the contact sheet in the prompt."""


class ExportOverlays(foo.Operator):
    """Photos with the heatmap of a run, a list of them, and a contact sheet."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="export_overlays",
            label="Export CAM overlays",
            description="Heatmaps on photos at full resolution, as files, with a list and a contact sheet of the worst",
            dynamic=True,
            execute_as_generator=True,
            allow_delegated_execution=True,
            risk_level="medium",
            **forms.icon("export"),
        )

    def __call__(self, samples: fo.Dataset | fo.DatasetView, key: str, out_dir: str, **kwargs: Any) -> Overlays:
        """The same from Python: see ``fiftyone_cam.export_overlays``.

        >>> foo.get_operator("fiftyone_cam/export_overlays")(dataset, "cam", "overlays", side_by_side=True)
        """
        from fiftyone_cam.analysis.export_overlays import export_overlays

        return export_overlays(samples, key, out_dir, **kwargs)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        view = types.PromptView(label="Export CAM overlays", submit_button_label="Export")
        problem = forms.dataset_problem(ctx.dataset)
        if problem:
            forms.refuse(inputs.view("problem", types.Error(label=problem)), problem)
            return types.Property(inputs, view=view)
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, lambda run: f"{run.counts.computed:,} maps")
        if run is None:
            return types.Property(inputs, view=view)
        default = forms.folder("overlays", ctx.dataset) / run.key
        prop = inputs.str(
            "out_dir",
            label="Output directory",
            description="On the machine that exports. Only files that an export wrote are overwritten",
            default=str(default),
            required=True,
        )
        folder = Path(ctx.params.get("out_dir") or default).expanduser()
        if folder.exists() and not folder.is_dir():
            forms.refuse(prop, f"{folder} is a file: give a folder")
        inputs.str("colormap", label="Colours", default="jet", required=True, view=forms.choices(COLORMAPS))
        inputs.float(
            "alpha",
            label="Strength",
            description="The heatmap's share: 0 is the photo alone, 1 the colours",
            default=0.5,
            min=0,
            max=1,
        )
        inputs.bool("text", label="Class and confidence above the photo", default=True, view=types.CheckboxView())
        inputs.bool("side_by_side", label="The photo alone beside it", default=False, view=types.CheckboxView())
        inputs.view_target(ctx, action_description="Export", require_flat=True)
        return types.Property(inputs, view=view)

    def execute(self, ctx: Any) -> Iterator[Any]:
        params = ctx.params
        samples = ctx.target_view(require_flat=True)

        def export(report: work.Report) -> Overlays:
            from fiftyone_cam.analysis.export_overlays import export_overlays

            names = ("colormap", "alpha", "text", "side_by_side")
            given = {name: params[name] for name in names if params.get(name) is not None}
            return export_overlays(samples, params["key"], params["out_dir"], progress=report, **given)

        found = yield from work.run(ctx, export, "Reading the maps")
        summary = found.describe()
        words = f"{escape_markdown(summary.title)}\n\n{summary.markdown()}"
        sheet = {}
        if found.contact_sheet is not None:
            sheet = {"sheet": (types.ImageView(alt="The worst"), _picture(found.contact_sheet))}
        yield work.summary(ctx, "CAM overlays", words, **sheet)


def _picture(path: Path) -> str:
    """A picture as wide as the prompt, as a data URL."""
    jpeg = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 10 * WIDTH))
        picture.convert("RGB").save(jpeg, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
