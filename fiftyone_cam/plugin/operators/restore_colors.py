"""The dataset's colours in an App that is open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fiftyone.operators as foo

from fiftyone_cam.core.names import operator_uri
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
        if ctx.dataset is None:
            return
        painted, wanted = app_config.restore_session_colors(ctx.dataset), ctx.params.get("paint", True)
        if wanted:
            yield from plain_tooltips(ctx)
        if wanted and not painted:
            yield from recolor(ctx)


def plain_tooltips(ctx: Any) -> Iterator[Any]:
    """Let the tooltips of this project's heatmaps say what means something to a person."""
    fields = [entry["path"] for entry in app_config.scales(ctx.dataset) if "rgb" in entry]
    if fields:
        yield ctx.trigger(operator_uri("plain_tooltips"), {"dataset": ctx.dataset.name, "fields": fields})


def recolor(ctx: Any) -> Iterator[Any]:
    """Let the open App draw the dataset's colour scales, where there are any of this project."""
    scheme = app_config.stored_scheme(ctx.dataset)
    if scheme:
        yield ctx.trigger(operator_uri("draw_scales"), scheme)
        yield ctx.trigger(operator_uri("restore_colors"), {"paint": False})
