"""The dataset's colours in an App that is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo

from fiftyone_cam.dataset import app_config


class RestoreColors(foo.Operator):
    """Draw the dataset's colour scales, where the App opens the dataset without them.

    What is stored on a dataset while the App is open does not reach it, nor does reloading the page fetch it: the
    server keeps the session's colours, and drops the ready colours of a scale (see
    :mod:`fiftyone_cam.dataset.app_config`) whenever the session's colours are set.
    """

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="restore_colors",
            label="Restore the colours of class activation maps",
            unlisted=True,
            on_dataset_open=True,
            execute_as_generator=True,
            risk_level="low",
            view_target=False,
        )

    def execute(self, ctx: Any) -> Iterator[Any]:
        if ctx.dataset is None or remember(ctx.dataset) or not ctx.params.get("paint", True):
            return
        yield from recolor(ctx)


def recolor(ctx: Any) -> Iterator[Any]:
    """Let the open App draw the dataset's colour scales, where there are any of this project."""
    entries = app_config.scales(ctx.dataset)
    if not entries:
        return
    scales = [{name: entry.get(name) for name in ("path", "name", "list")} for entry in entries]
    color_by = ctx.dataset.app_config.color_scheme.color_by
    # The App repaints where the number of scales has changed, whatever is in them: take them away first.
    yield ctx.trigger("set_color_scheme", {"color_by": color_by, "colorscales": []})
    yield ctx.trigger("set_color_scheme", {"color_by": color_by, "colorscales": scales})
    yield ctx.trigger("fiftyone_cam/restore_colors", {"paint": False})


def remember(dataset: fo.Dataset) -> bool:
    """Put the ready colours into the server's memory of the session; whether they were all there."""
    from fiftyone.server.events import get_state

    ours = {entry["path"]: entry for entry in app_config.scales(dataset)}
    scheme = get_state().color_scheme
    known = {entry["path"]: entry for entry in scheme.colorscales or []}
    if all(known.get(path, {}).get("rgb") for path in ours):
        return True
    scheme.colorscales = [dict(entry) for entry in {**known, **ours}.values()]
    return False
