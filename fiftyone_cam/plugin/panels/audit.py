"""The panel CAM audit: verdicts, classes, regions and mean maps of what is in view; every mark on it sets the view."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from fiftyone_cam.analysis.audit_report import VERDICTS, AuditReport, ClassRow, load_audit
from fiftyone_cam.core.errors import CamError, RunError
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.core.tables import percent
from fiftyone_cam.dataset import internals
from fiftyone_cam.plugin import forms, plots, queries
from fiftyone_cam.plugin.operators.base import ALONE
from fiftyone_cam.plugin.panels import audit_drawing
from fiftyone_cam.plugin.panels.audit_drawing import ACTIONS, CLASSES, CONCEPTS, MAPS, POINTS, REGIONS
from fiftyone_cam.plugin.panels.concepts_drawing import headline
from fiftyone_cam.runs import catalog

HELP = """
**Was it right, and did it look in the right place?** Evidence is what in the class activation map speaks for the
predicted class. *Trusted*: right, evidence on the object. *Shortcut*: right, evidence elsewhere. *Confused*: wrong,
though it looked at the object. *Distracted*: wrong, and it looked elsewhere.

Everything counts what is in the view. Click a tile, a row or a bar to see its samples; the panel goes on showing
where you came from. Click a point to open its sample; draw a lasso around points to see those.
"""


class AuditPanel(foo.Panel):
    """Draws what an :class:`AuditReport` counts.

    Marks set the view. A view that the panel set does not change what the panel counts; a view that the person sets
    does. So one goes from tile to tile without going back.
    """

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="cam_audit",
            label="CAM audit",
            surfaces="grid",
            category=Categories.ANALYZE,
            help_markdown=HELP,
            icon=forms.PANEL_ICONS["audit"],
        )

    def execute(self, ctx: Any) -> Any:
        """As of any panel. But nothing is drawn anew where the panel only hears of the view that it has set itself:
        the App says so two or three times while its grid is loading, and drawing takes the time of both."""
        if ctx.params.get("__method__") == "on_change_view" and _sent(ctx) == ctx.panel.state.shown:
            return None
        return super().execute(ctx)

    # events

    def on_load(self, ctx: Any) -> None:
        ctx.panel.state.set({"base": None, "shown": None, "filter": None, "maps": False})
        self._take_view(ctx)
        self._update(ctx)

    def on_change_view(self, ctx: Any) -> None:
        state = ctx.panel.state
        if _sent(ctx) == state.shown:
            return
        view = _text(ctx.view)
        if view == state.shown:
            return
        if view == _dump(state.base or []):  # the App also calls this where nothing has changed
            if state.shown is not None:
                state.set({"shown": None, "filter": None})
            return
        self._take_view(ctx)
        self._update(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        self.on_load(ctx)

    def refresh(self, ctx: Any) -> None:
        if ctx.dataset is not None:
            ctx.dataset.reload()
        self._update(ctx)

    def pick(self, ctx: Any) -> None:
        ctx.panel.state.key = ctx.params["value"]
        self._update(ctx)

    def act(self, ctx: Any) -> None:
        """What is missing, done."""
        operator = ACTIONS[ctx.panel.state.missing][1]
        key = ctx.panel.state.key
        # what it shows would not change while an audit goes on; of a run, the first maps come early
        params = {**({"key": key} if key else {}), **({ALONE: True} if operator == "audit_attention" else {})}
        ctx.prompt(operator_uri(operator), params=params, on_success=self.refresh)

    def show_all(self, ctx: Any) -> None:
        ctx.ops.clear_view()

    def show_base(self, ctx: Any) -> None:
        self._show(ctx, None, lambda report: report.samples)

    def show_verdict(self, ctx: Any) -> None:
        verdict = ctx.params["verdict"]
        self._show(ctx, verdict, lambda report: report.verdict_view(verdict))

    def show_unjudged(self, ctx: Any) -> None:
        self._show(ctx, "without a verdict", lambda report: report.unjudged_view())

    def show_class(self, ctx: Any) -> None:
        labels = ctx.panel.state.classes
        row = ctx.params["row"]
        if row < len(labels):
            self._show(ctx, labels[row], lambda report: report.class_view(labels[row]))
        else:  # the last row is all of them
            self.show_base(ctx)

    def show_region(self, ctx: Any) -> None:
        region, label, correct = json.loads(ctx.params["id"])
        words = ("wrong" if correct is False else "predictions", f"of {label}" if label else "", f"looking at {region}")
        self._show(ctx, " ".join(filter(None, words)), lambda report: report.region_view(region, label, correct))

    def show_map(self, ctx: Any) -> None:
        label, wrong, _ = ctx.panel.state.drawn[ctx.params["trace_idx"]]
        words = f"wrong of {label}" if wrong else label
        self._show(ctx, words, lambda report: report.class_view(label, correct=False if wrong else None))

    def open_sample(self, ctx: Any) -> None:
        if ctx.params.get("id"):
            ctx.ops.open_sample(id=ctx.params["id"])

    def lasso(self, ctx: Any) -> None:
        ids = [point["id"] for point in ctx.params.get("data") or [] if point.get("id")]
        if ids:
            self._show(ctx, "in the lasso", lambda report: report.samples.select(ids))

    def open_concepts(self, ctx: Any) -> None:
        ctx.ops.open_panel("cam_concepts")

    def mend(self, ctx: Any) -> None:
        """Train the last layer anew, balanced over verdicts."""
        key = ctx.panel.state.key
        params = {"key": key, "how": "retrain", "groups": [f"{key}_verdict"]}
        ctx.prompt(operator_uri("mend"), params=params)

    def toggle_maps(self, ctx: Any) -> None:
        ctx.panel.state.maps = not ctx.panel.state.maps
        self._maps(ctx, self._base(ctx))

    # what is shown

    def _take_view(self, ctx: Any) -> None:
        ctx.panel.state.set({"base": _stages(ctx.view), "shown": None, "filter": None})

    def _base(self, ctx: Any) -> fo.DatasetView:
        return internals.view_of(ctx.dataset, ctx.panel.state.base or [])

    def _show(self, ctx: Any, words: str | None, make: Callable[[AuditReport], fo.DatasetView]) -> None:
        state = ctx.panel.state
        try:
            report = load_audit(self._base(ctx), state.key)
        except RunError:
            report = None
        if report is None or report.record.audited_at != state.audited_at:  # deleted, or audited anew, meanwhile
            self._update(ctx)
            return
        view = make(report)
        state.set({"shown": _text(view), "filter": words})
        ctx.ops.set_view(view)

    def _update(self, ctx: Any) -> None:
        """Count everything anew, and keep what :meth:`render` needs."""
        state = ctx.panel.state
        if ctx.dataset is None:
            state.set({"missing": "dataset", "text": "Open a dataset first.", "body": None})
            return
        keys = catalog.list_runs(ctx.dataset)
        key = state.key if state.key in keys else (keys[-1] if keys else None)
        state.set({"keys": keys, "key": key})
        try:
            base = self._base(ctx)
            found = queries.missing_for_audit(base, key)
            state.set({"missing": found and found.what, "text": found and found.text, "body": None})
            if key and (found is None or found.what in ("fresh", "objects", "truth")):
                self._count(ctx, base, key)
        except CamError as error:
            state.set({"missing": "error", "text": str(error), "body": None})

    def _count(self, ctx: Any, base: fo.DatasetView, key: str) -> None:
        state, data = ctx.panel.state, ctx.panel.data
        data.clear()  # what is set is merged into what was there, trace by trace
        report = load_audit(base, key)
        record = report.record
        state.audited_at = record.audited_at
        *rows, total = report.classes
        verdicts = {word: getattr(total, word) for word in VERDICTS}
        body: dict[str, Any] = {"samples": total.samples, "verdict": record.verdict}
        if record.verdict:
            body.update(verdicts=verdicts, unjudged=report.unjudged)
        body.update(classes=len(rows), accuracy=total.accuracy, inside=total.inside, area=total.area)
        state.classes = [row.label for row in rows[:CLASSES]]
        data.classes = [_row(row) for row in [*rows[:CLASSES], total]]

        if record.objects:
            points, audited = report.points(POINTS)
            data.scatter = plots.points(points)
            body.update(points=len(points), audited=audited, threshold=record.threshold)
            correct = False if record.ground_truth else None
            regions = report.region_table(correct)
            if not regions and correct is False:  # nothing wrong in view: then what all look at
                correct, regions = None, report.region_table()
            data.regions = plots.region_bars(regions, correct, REGIONS)
            together = [row for row in regions if row.label is None]
            body.update(regions=len(together), errors=correct is False, looked=together[0].samples if together else 0)
        concepts = report.run.record.concepts
        if concepts is not None and concepts.complete:
            body["concepts"] = [[concept.name, headline(concept)] for concept in concepts.concepts[:CONCEPTS]]
        state.body = body
        self._maps(ctx, base)

    def _maps(self, ctx: Any, base: fo.DatasetView) -> None:
        state = ctx.panel.state
        if not state.maps or not state.body:
            return
        maps = load_audit(base, state.key).mean_maps(state.classes[:MAPS])
        traces, drawn, layout = plots.mean_maps(maps)
        ctx.panel.data.maps = traces
        state.set({"drawn": drawn, "layout": layout})

    def render(self, ctx: Any) -> types.Property:
        return audit_drawing.draw(self, ctx.panel.state)


def _sent(ctx: Any) -> str:
    """The view as the App sent it: FiftyOne takes 60 ms to load the dataset, which would make a view of it."""
    stages = ctx.request_params.get("view") or []
    return _dump([{name: part for name, part in stage.items() if name != "_uuid"} for stage in stages])


def _stages(view: fo.DatasetView) -> list[dict[str, Any]]:
    return internals.stages_of(view)


def _text(view: fo.DatasetView) -> str:
    return _dump(_stages(view))


def _dump(stages: list[dict[str, Any]]) -> str:
    return json.dumps(stages, sort_keys=True, default=str)


def _row(row: ClassRow) -> dict[str, Any]:
    return {
        "label": "all" if row.label is None else plots.cut(row.label),
        "samples": f"{row.samples:,}",
        "accuracy": percent(row.accuracy, 0),
        "inside": percent(row.inside, 0),
        **{word: f"{getattr(row, word):,}" for word in VERDICTS},
    }
