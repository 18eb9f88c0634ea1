"""The panel Concepts: what predictions are made of, a row for each concept; its buttons set the view."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone import ViewField as F
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from fiftyone_cam.concepts.report import ConceptReport, load_concepts
from fiftyone_cam.core.boxes import as_box
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.dataset import app_config, internals
from fiftyone_cam.plugin import crops, forms, queries
from fiftyone_cam.plugin.panels import concepts_drawing
from fiftyone_cam.plugin.panels.concepts_drawing import ACTIONS, CROPS, ROWS
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

HELP = """
**What are the errors made of?** The features of all cells of all photos are clustered. Each cluster is a *concept*, and
every logit is a sum over concepts. So it is known what all predictions would be without one.

Look at the crops first: what do they have in common? Give it a name. *Show* sets the view to the photos that hold it.
*What if* writes what would be predicted without it, as a field to filter.

They come by what removing them would put right, less what it would cost. Where most of a class rests on something, that
is little: choose the order *how much evidence* to see it.

Many concepts are tried, so some look good by chance: the row says so. On some hundred photos little can be told from
chance.
"""


class ConceptsPanel(foo.Panel):
    """Draws a page of a :class:`ConceptReport`: of the dataset as it was found, or of a view on request."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="cam_concepts",
            label="Concepts",
            surfaces="grid",
            category=Categories.ANALYZE,
            help_markdown=HELP,
            icon=forms.PANEL_ICONS["concepts"],
        )

    # events

    def on_load(self, ctx: Any) -> None:
        ctx.panel.state.set({"scope": None, "before": None, "shown": None, "filter": None, "page": 0})
        ctx.panel.state.order = "repair"
        self._take_view(ctx)
        self._update(ctx)

    def on_change_dataset(self, ctx: Any) -> None:
        self.on_load(ctx)

    def on_change_view(self, ctx: Any) -> None:
        state, view = ctx.panel.state, _text(ctx.view)
        if view == state.shown:
            return
        # known by its stages, because the App may tell of a view with the state from before it was set
        name = _concept_of(ctx.view, state.path)
        if name is None:
            self._take_view(ctx)
        else:
            state.set({"shown": view, "filter": name})

    def refresh(self, ctx: Any) -> None:
        if ctx.dataset is not None:
            ctx.dataset.reload()
        self._update(ctx)

    def pick(self, ctx: Any) -> None:
        ctx.panel.state.set({"key": ctx.params["value"], "page": 0})
        self._update(ctx)

    def sort(self, ctx: Any) -> None:
        """Another order: :data:`concepts_drawing.ORDERS`."""
        ctx.panel.state.set({"order": ctx.params["value"], "page": 0})
        self._update(ctx)

    def turn(self, ctx: Any) -> None:
        """Another page."""
        ctx.panel.state.page = ctx.params["page"]
        self._update(ctx)

    def count_view(self, ctx: Any) -> None:
        """What is *this view* made of?"""
        ctx.panel.state.set({"scope": ctx.panel.state.before, "page": 0})
        self._update(ctx)

    def count_all(self, ctx: Any) -> None:
        ctx.panel.state.set({"scope": None, "page": 0})
        self._update(ctx)

    def act(self, ctx: Any) -> None:
        """What is missing, done."""
        key = ctx.panel.state.key
        operator = operator_uri(ACTIONS[ctx.panel.state.missing][1])
        ctx.prompt(operator, params={"key": key} if key else {}, on_success=self.refresh)

    def show(self, ctx: Any) -> None:
        """The samples that hold a concept, with its places alone."""
        self._show(ctx, lambda report, name: _with_places(report, name))

    def patches(self, ctx: Any) -> None:
        self._show(ctx, lambda report, name: report.patches(name))

    def embeddings(self, ctx: Any) -> None:
        """The map of concepts. The panel lights up what is in the view."""
        if self._show(ctx, lambda report, name: _with_places(report, name)):
            ctx.ops.open_panel("Embeddings")
            ctx.panel.state.hint = concepts_drawing.map_hint(ctx.panel.state.path, ctx.panel.state.body["left_off"])

    def back(self, ctx: Any) -> None:
        before = ctx.panel.state.before or []
        ctx.panel.state.set({"shown": None, "filter": None, "hint": None})
        if before:
            ctx.ops.set_view(internals.view_of(ctx.dataset, before))
        else:
            ctx.ops.clear_view()

    def what_if(self, ctx: Any) -> None:
        params = {"key": ctx.panel.state.key, "without": [ctx.params["concept"]]}
        ctx.prompt(operator_uri("what_if"), params=params)

    def mend(self, ctx: Any) -> None:
        """Take a concept out of the head; where nobody knows what that does, balance over it."""
        name, removable = ctx.params["concept"], ctx.panel.state.body["removable"]
        how = {"how": "edit", "remove": [name]} if removable else {"how": "retrain", "groups": [name]}
        ctx.prompt(operator_uri("mend"), params={"key": ctx.panel.state.key, **how})

    def rename(self, ctx: Any) -> None:
        params = {"key": ctx.panel.state.key, "concept": ctx.params["concept"]}
        ctx.prompt(operator_uri("name_concept"), params=params, on_success=self.refresh)

    def open_sample(self, ctx: Any) -> None:
        ctx.ops.open_sample(id=ctx.params["sample"])

    # what is shown

    def _take_view(self, ctx: Any) -> None:
        ctx.panel.state.set({"before": internals.stages_of(ctx.view), "shown": None, "filter": None, "hint": None})

    def _show(self, ctx: Any, make: Callable[[ConceptReport, str], fo.DatasetView]) -> bool:
        """Set the view to what is made of a concept. Not where its run has changed: then count anew."""
        state, name = ctx.panel.state, ctx.params["concept"]
        try:
            run = catalog.load_run(ctx.dataset, state.key)
            record = run.record.concepts
            if record is None or record.found_at != state.found_at:
                self._update(ctx)
                return False
            # The rows of a view are no other concepts: those of all have the names, at no cost.
            report = ConceptReport(run, self._samples(ctx), record.concepts)
            view = make(report, name)
        except CamError as error:
            state.set({"text": str(error), "missing": "error"})
            return False
        state.set({"shown": _text(view), "filter": name, "hint": None})
        ctx.ops.set_view(view)
        shown = ctx.active_fields or app_config.visible(ctx.dataset)
        ctx.ops.set_active_fields(list(dict.fromkeys([*shown, report.path])))
        return True

    def _samples(self, ctx: Any) -> fo.Dataset | fo.DatasetView:
        scope = ctx.panel.state.scope
        return ctx.dataset if scope is None else internals.view_of(ctx.dataset, scope)

    def _update(self, ctx: Any) -> None:
        """Read what was found, and keep what :meth:`render` needs."""
        state = ctx.panel.state
        if ctx.dataset is None:
            state.set({"missing": "dataset", "text": "Open a dataset first.", "body": None})
            return
        runs, _ = catalog.load_runs(ctx.dataset)
        key = state.key if state.key in runs else _newest(runs)
        state.set({"keys": list(runs), "key": key, "body": None})
        found = queries.missing_for_concepts(runs.get(key or ""))
        state.set({"missing": found and found.what, "text": found and found.text})
        if key is None or (found is not None and found.what != "fresh"):
            return
        try:
            self._page(ctx, load_concepts(self._samples(ctx), key))
        except CamError as error:
            state.set({"missing": "error", "text": str(error), "scope": None})

    def _page(self, ctx: Any, report: ConceptReport) -> None:
        state, data = ctx.panel.state, ctx.panel.data
        first = ROWS * max(0, min(state.page or 0, (len(report.concepts) - 1) // ROWS))
        ordered = report.by_share if state.order == "share" else report.concepts
        rows = ordered[first : first + ROWS]
        examples = [concept.examples[:CROPS] for concept in rows]
        ids = [example.sample for row in examples for example in row]
        files = queries.filepaths(ctx.dataset, ids, report.run.media_field)
        places = [(i, e.sample, as_box(e.box)) for i, row in enumerate(examples) for e in row if e.sample in files]
        pictures = crops.crops([(files[sample], box) for _, sample, box in places])
        shown: list[list[str]] = [[] for _ in rows]
        urls: dict[str, dict[str, dict[str, str]]] = {}
        for (i, sample, _), url in zip(places, pictures, strict=True):
            if url is not None:
                urls.setdefault(f"row_{i}", {"crops": {}})["crops"][f"crop_{len(shown[i])}"] = url
                shown[i].append(sample)
        data.clear()  # what is set is merged into what was there
        data.set(urls)
        record = report.record
        samples = record.samples if state.scope is None else self._samples(ctx).count()
        state.set(
            {
                "path": report.path,
                "found_at": record.found_at,
                "page": first // ROWS,
                "body": {
                    "rows": concepts_drawing.rows(rows, shown),
                    "first": first,
                    "concepts": len(report.concepts),
                    "samples": samples,
                    "judged": report.judged if record.ground_truth else None,
                    "errors": report.errors,
                    "removable": record.removable,
                    "map": record.brain,
                    "left_off": record.left_off,
                },
            }
        )

    def render(self, ctx: Any) -> types.Property:
        return concepts_drawing.draw(self, ctx.panel.state)


def _newest(runs: Mapping[str, CamRun]) -> str | None:
    """The run whose concepts were found last; without any, the last run."""
    found = {
        key: run.record.concepts.found_at
        for key, run in runs.items()
        if run.record.concepts and run.record.concepts.complete
    }
    return max(found, key=lambda key: found[key]) if found else list(runs)[-1] if runs else None


def _with_places(report: ConceptReport, name: str) -> fo.DatasetView:
    return report.view(name).filter_labels(report.path, F("label") == name)


def _concept_of(view: fo.DatasetView | None, path: str | None) -> str | None:
    """The concept whose places alone a view shows, as they are or as crops; None for other views."""
    stages = [stage for stage in internals.stages_of(view) if not stage["_cls"].endswith(".ToPatches")]
    last = dict(stages[-1]["kwargs"]) if stages else {}
    match last.get("filter"):
        case {"$eq": ["$$this.label", str(name)]} if last.get("field") == path:
            return name
    return None


def _text(view: fo.DatasetView | None) -> str:
    """A view's stages, without what FiftyOne itself adds to those of patches."""
    stages = [
        {**stage, "kwargs": [entry for entry in stage["kwargs"] if not str(entry[0]).startswith("_")]}
        for stage in internals.stages_of(view)
    ]
    return json.dumps(stages, sort_keys=True, default=str)
