"""The Stop button beside live progress."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo

from fiftyone_cam.plugin import work


class StopWork(foo.Operator):
    """Stop what this server is computing, at its next report; what was computed stays."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="stop_work", label="Stop computing", unlisted=True, risk_level="low", view_target=False
        )

    def execute(self, ctx: Any) -> dict[str, Any]:
        return {"stopped": work.stop(str(ctx.params.get("work")))}
