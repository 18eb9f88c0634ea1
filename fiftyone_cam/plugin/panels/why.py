"""The panel Why?: the strongest classes of the sample that is open, and where in the picture each got its logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import GRADES, operator_uri
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import forms, installed, model_sources, plots, queries
from fiftyone_cam.plugin.operators.base import ALONE
from fiftyone_cam.runs import catalog

TOP = 5

HELP = """
**Why this class?** A logit is the evidence inside the object, the evidence outside of it, and the class's bias, added
up; the panel says how, for this network. Evidence below zero speaks against the class.

Click a bar to see the map of its class. *Predicted against true* shows what spoke for the one and not
for the other.
"""


class WhyPanel(foo.Panel):
    """Draws the parts of the logits of one sample."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="cam_why",
            label="Why?",
            surfaces="modal",
            category=Categories.ANALYZE,
            help_markdown=HELP,
            icon=forms.PANEL_ICONS["why"],
        )

    # events

    def on_load(self, ctx: Any) -> None:
        self._update(ctx)

    def on_change_current_sample(self, ctx: Any) -> None:
        self._update(ctx)

    def pick(self, ctx: Any) -> None:
        ctx.panel.state.key = ctx.params["value"]
        self._update(ctx)

    def refresh(self, ctx: Any) -> None:
        ctx.dataset.reload()
        self._update(ctx)

    def compute(self, ctx: Any) -> None:
        ctx.prompt(operator_uri("compute_cam"), on_success=self.refresh)

    def audit(self, ctx: Any) -> None:
        params = {"key": ctx.panel.state.key, ALONE: True}
        ctx.prompt(operator_uri("audit_attention"), params=params, on_success=self.refresh)

    def explain_top(self, ctx: Any) -> None:
        """The five strongest, from the network itself: where a run keeps the map of the strongest only."""
        with installed.IMPORTING:
            from fiftyone_cam.analysis.split_logits import split_logits

        state = ctx.panel.state
        run = catalog.load_run(ctx.dataset, state.key)
        source, kwargs = model_sources.of_record(run.record) or ("", {})
        try:
            classifier = model_sources.load(source, kwargs, ctx.secret)
            parts = split_logits(ctx.dataset, state.sample, classifier, state.key, top_k=TOP)
        except CamError as error:
            state.text = str(error)
            return
        known = {part["label"]: part["field"] for part in state.parts}
        self._draw(ctx, [{**part, "field": known.get(part["label"])} for part in parts])

    def show_class(self, ctx: Any) -> None:
        """The map of the class whose bar was clicked."""
        label = ctx.params.get("id")
        field = next((part["field"] for part in ctx.panel.state.parts if part["label"] == label), None)
        if field:
            self._show(ctx, field)
        elif label:
            self._explain(ctx, label)

    def choose(self, ctx: Any) -> None:
        label = ctx.params.get("value")
        if label and label in catalog.load_run(ctx.dataset, ctx.panel.state.key).classes:
            self._explain(ctx, label)

    def show_contrast(self, ctx: Any) -> None:
        self._show(ctx, f"{ctx.panel.state.key}_contrast")

    # what is shown

    def _explain(self, ctx: Any, label: str) -> None:
        """Compute the map of a class that the run did not store, if the record says how to load its classifier."""
        state = ctx.panel.state
        run = catalog.load_run(ctx.dataset, state.key)
        origin = model_sources.of_record(run.record)
        if origin is None:
            params = {"key": state.key, "label": label, ALONE: True}
            ctx.prompt(operator_uri("explain_sample"), params=params, on_success=self.show_explained)
            return
        with installed.IMPORTING:
            from fiftyone_cam.compute.explain_sample import explain_sample

        try:
            classifier = model_sources.load(*origin, ctx.secret)
            explain_sample(ctx.dataset, state.sample, classifier, label, state.key)
        except CamError as error:
            state.text = str(error)
            return
        self.show_explained(ctx)

    def show_explained(self, ctx: Any) -> None:
        ctx.dataset.reload()
        self._show(ctx, f"{ctx.panel.state.key}_explained")

    def _show(self, ctx: Any, field: str) -> None:
        """One map, in the panel itself: beside the sample, which shows what a person has ticked."""
        state = ctx.panel.state
        media_field = catalog.load_run(ctx.dataset, state.key).media_field
        found = queries.sample_map(ctx.dataset, state.sample, field, media_field=media_field)
        if found is None:
            state.set({"picture": None, "text": f"There is no map in {field}."})
            return
        trace, layout = plots.picture(found)
        words = f"for {plots.cut(found.label)}"
        words += "" if found.versus is None else f" against {plots.cut(found.versus)}"
        state.set({"picture": words, "layout": layout, "text": None})
        ctx.panel.data.map = [trace]

    def _update(self, ctx: Any) -> None:
        state = ctx.panel.state
        keys = catalog.list_runs(ctx.dataset) if ctx.dataset is not None else []
        key = state.key if state.key in keys else (keys[-1] if keys else None)
        sample = str(ctx.current_sample) if ctx.current_sample else None
        state.set(
            {"keys": keys, "key": key, "sample": sample, "parts": [], "text": None, "missing": None, "picture": None}
        )
        if sample is None:
            state.text = "Open a sample."
        elif key is None:
            state.set({"missing": "run", "text": "There are no class activation maps yet: compute them first."})
        else:
            try:
                with installed.IMPORTING:  # of PyTorch: a form's thread may be importing it
                    from fiftyone_cam.analysis.split_logits import stored_logits

                parts = stored_logits(ctx.dataset, sample, key)
                if parts:
                    self._draw(ctx, parts)
                    self._show(ctx, parts[0]["field"])
                else:
                    missing = queries.why_no_map(ctx.dataset, sample, key)
                    state.set({"missing": missing.what, "text": missing.text})
            except CamError as error:
                state.text = str(error)

    def _draw(self, ctx: Any, parts: Sequence[dict[str, Any]]) -> None:
        state = ctx.panel.state
        state.set({"parts": list(parts), **queries.sample_summary(ctx.dataset, state.sample, state.key)})
        ctx.panel.data.logits = []  # what is set is merged into what was there
        ctx.panel.data.logits = plots.logit_bars(parts)

    # drawing

    def render(self, ctx: Any) -> types.Property:
        panel, state = types.Object(), ctx.panel.state
        if state.keys and len(state.keys) > 1:
            view = types.DropdownView(label="Run", on_change=self.pick)
            panel.enum("key", state.keys, label="Run", default=state.key, view=view)
        if state.text:
            panel.view("missing", types.AlertView(label=state.text, severity="info" if state.missing else "error"))
            if state.missing in ("run", "sample"):
                panel.btn("compute", label="Compute class activation maps", on_click=self.compute, variant="contained")
        parts = state.parts or []
        if parts:
            self._logits(panel, ctx, state, parts)
        style = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
        return types.Property(panel, view=types.GridView(orientation="vertical", gap=1, pad=2, componentsProps=style))

    def _logits(self, panel: types.Object, ctx: Any, state: Any, parts: Sequence[dict[str, Any]]) -> None:
        plain, run = escape_markdown, catalog.load_run(ctx.dataset, state.key)
        words = f"Predicted **{plain(parts[0]['label'])}**"
        if parts[0]["confidence"] is not None:
            words += f" with confidence {parts[0]['confidence']:.0%}"
        if state.true is not None:
            words += f" · true **{plain(state.true)}**"
        if state.verdict:
            words += f" · {state.verdict}"
        if state.unplaced is not None:
            words += f" · no place holds {state.unplaced:.0%} of the gap to the runner-up"
        panel.md(words, name="words")
        if state.stale:
            panel.view("stale", types.AlertView(label=state.stale, severity="warning"))
        split = parts[0]["evidence_in"] is not None
        about = f"{GRADES[run.grade].capitalize()}. Click a bar to see the map of its class"
        panel.view("heading", types.HeaderView(label="Where the logits come from", description=about))
        panel.plot(
            "logits",
            on_click=self.show_class,
            height=f"{100 + 30 * len(parts)}px",
            layout={
                "barmode": "relative",
                "bargap": 0.35,
                "showlegend": True,
                "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
                "xaxis": {"title": {"text": "logit"}, "fixedrange": True},
                "yaxis": {"autorange": "reversed", "fixedrange": True},
                "margin": {"t": 30, "l": 8, "r": 24, "b": 8},
            },
            config={"displayModeBar": False, "scrollZoom": False},
        )
        row = panel.h_stack("actions", gap=1, align_y="center")
        if state.contrast:
            row.btn("contrast", label="Predicted against true", on_click=self.show_contrast, variant="outlined")
        if len(parts) < TOP and model_sources.of_record(run.record) is not None:
            row.btn("explain", label=f"Explain the {TOP} strongest", on_click=self.explain_top, variant="outlined",
                    title="Loads the classifier and runs it on this picture")  # fmt: skip
        if not split:
            label = "Audit again" if state.stale else "Split by the object"
            row.btn("audit", label=label, on_click=self.audit, variant="outlined",
                    title="Audit attention with a field that says where the object is")  # fmt: skip
        view = types.AutocompleteView(label="See what speaks for any class", allow_user_input=False)
        panel.enum("any", run.classes, label="See what speaks for any class", view=view, on_change=self.choose)
        if state.picture:
            about = "Blue speaks against it; what no colour lies on says nothing"
            panel.view("seen", types.HeaderView(label=f"What speaks {state.picture}", description=about))
            panel.plot("map", height="300px", layout=state.layout, config={"displayModeBar": False})
