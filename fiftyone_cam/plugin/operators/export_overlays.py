"""Export CAM overlays: heatmaps on photos, as files for people without the App."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types
from PIL import Image

from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, work
from fiftyone_cam.plugin.operators.base import CamOperator

if TYPE_CHECKING:
    from fiftyone_cam.analysis.export_overlays import Overlays

COLORMAPS = {
    "heat": "As in the App",
    "viridis": "Even to the eye",
    "jet": "As in the posts on class activation maps; its bright edges mean nothing",
}
"""The colormaps that the form offers; ``export_overlays`` takes all of OpenCV's."""

WIDTH = 1000
"""Pixels of the contact sheet in the prompt."""


class ExportOverlays(CamOperator["Overlays"]):
    """Photos with the heatmap of a run, a list of them, and a contact sheet."""

    operator = "export_overlays"
    title = "Export CAM overlays"
    description = "Heatmaps on photos at full resolution, as files, with a list and a contact sheet of the worst"
    submit = "Export"
    icon = "export"

    def function(self) -> Callable[..., Overlays]:
        from fiftyone_cam.analysis.export_overlays import export_overlays

        return export_overlays

    def draw(self, inputs: types.Object, ctx: Any) -> None:
        run = forms.existing_run(inputs, ctx.dataset, ctx.params, forms.count_maps)
        if run is None:
            return
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
            forms.mark_invalid(prop, f"{folder} is a file: give a folder")
        inputs.str("colormap", label="Colours", default="heat", required=True, view=forms.choices(COLORMAPS))
        inputs.float(
            "alpha",
            label="Strength",
            description="The heatmap's share: 0 is the photo alone, 1 the colours",
            default=0.7,
            min=0,
            max=1,
        )
        inputs.bool("text", label="Class and confidence above the photo", default=True, view=types.CheckboxView())
        inputs.bool("side_by_side", label="The photo alone beside it", default=False, view=types.CheckboxView())
        inputs.view_target(ctx, action_description="Export", require_flat=True)

    def arguments(self, ctx: Any) -> dict[str, Any]:
        names = ("key", "out_dir", "colormap", "alpha", "text", "side_by_side")
        return {name: ctx.params[name] for name in names if ctx.params.get(name) is not None}

    def refresh(self, ctx: Any, result: Overlays) -> Iterator[Any]:
        return iter(())  # nothing was written to the dataset

    def finished(self, ctx: Any, result: Overlays) -> Any:
        described = result.describe()
        words = f"{escape_markdown(described.title)}\n\n{described.markdown()}"
        sheet = {}
        if result.contact_sheet is not None:
            sheet = {"sheet": (types.ImageView(alt="The worst"), _picture(result.contact_sheet))}
        return work.summary(ctx, "CAM overlays", words, **sheet)

    def answer(self, ctx: Any, result: Overlays) -> dict[str, Any]:
        return {
            "folder": str(result.folder),
            "written": result.written,
            "skipped": dict(result.skipped),
            "manifest": str(result.manifest),
            "contact_sheet": result.contact_sheet and str(result.contact_sheet),
        }


def _picture(path: Path) -> str:
    """A picture as wide as the prompt, as a data URL."""
    jpeg = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 10 * WIDTH))
        picture.convert("RGB").save(jpeg, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
