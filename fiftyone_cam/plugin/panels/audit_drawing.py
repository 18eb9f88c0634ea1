"""How the audit panel looks: drawn from its state alone, after every event."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.analysis.audit_report import VERDICTS
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin import plots, work

WORDS = {
    "trusted": "right, looked at the object",
    "shortcut": "right, looked elsewhere",
    "confused": "wrong, looked at the object",
    "distracted": "wrong, looked elsewhere",
}

POINTS, CLASSES, REGIONS, MAPS, CONCEPTS = 2000, 50, 10, 6, 3
"""How much is drawn; the panel says so where there is more."""

ACTIONS = {
    "run": ("Compute class activation maps", "compute_cam"),
    "results": ("Continue", "compute_cam"),
    "audit": ("Audit attention", "audit_attention"),
    "fresh": ("Audit again", "audit_attention"),
    "objects": ("Audit with objects", "audit_attention"),
    "truth": ("Audit with a ground truth", "audit_attention"),
}
"""What to press where something is missing, and the operator that it opens."""


def draw(on: foo.Panel, state: Any) -> types.Property:
    """The whole panel. ``on`` is the panel, whose methods answer clicks."""
    panel = types.Object()
    body = state.body
    if state.keys and len(state.keys) > 1:
        panel.enum(
            "key",
            state.keys,
            label="Run",
            default=state.key,
            view=types.DropdownView(label="Run", on_change=on.pick),
        )
    if state.text:
        severity = "error" if state.missing == "error" else "info" if not body else "warning"
        panel.view("missing", types.AlertView(label=state.text, severity=severity))
        if state.missing in ACTIONS:
            panel.btn("act", label=ACTIONS[state.missing][0], on_click=on.act, variant="contained")
        elif state.missing == "samples":
            panel.btn("show_all", label="Show all samples", on_click=on.show_all, variant="contained")
        elif state.missing != "images":
            panel.btn("again", label="Try again", on_click=on.refresh, variant="outlined")
    if body:
        _head(on, panel, state, body)
        if body["verdict"]:
            _tiles(on, panel, state, body)
        _table(on, panel, state, body)
        if body.get("points"):
            _plots(on, panel, body)
        if body.get("concepts"):
            _concepts(on, panel, body)
        _mean_maps(on, panel, state, body)
    if not body and work.busy():  # what is being computed shows itself when it is done
        panel.view("timer", types.TimerView(interval=2000, on_interval=on.refresh))
    return types.Property(
        panel, view=types.GridView(orientation="vertical", gap=1, pad=2, componentsProps=_narrow(panel))
    )


def _head(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    row = panel.h_stack("head", align_y="center", gap=2)
    parts = [f"**{body['samples']:,}** samples"]
    if body["accuracy"] is not None:
        parts.append(f"**{body['accuracy']:.1%}** right")
    if body["inside"] is not None:
        parts.append(f"**{body['inside']:.1%}** of the evidence on the object, which covers {body['area']:.1%}")
    row.md(" · ".join(parts), name="words")
    # always there, so that nothing moves under the pointer when the view changes
    line = panel.h_stack("filter", align_y="center", gap=2)
    line.md(f"The view shows **{escape_markdown(state.filter or 'all of them')}**", name="words")
    line.btn("back", label=f"Back to all {body['samples']:,}", on_click=on.show_base, variant="outlined",
             disabled=not state.filter)  # fmt: skip


def _tiles(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    tiles = panel.grid("tiles", orientation="horizontal", gap=1, componentsProps=_FOUR)
    judged = max(1, sum(body["verdicts"].values()))
    for verdict, color in plots.VERDICTS.items():
        count = body["verdicts"][verdict]
        tiles.btn(
            verdict,
            label=f"{verdict}\n{count:,}\n{count / judged:.1%}",
            on_click=on.show_verdict,
            params={"verdict": verdict},
            title=WORDS[verdict],
            variant="outlined",
            componentsProps=_tile(color, state.filter == verdict),
        )
    if body["unjudged"]:
        counts = body["unjudged"]
        reasons = ", ".join(reason if len(counts) == 1 else f"{reason} {n:,}" for reason, n in counts.items())
        panel.btn(
            "unjudged",
            label=f"{sum(counts.values()):,} without a verdict: {reasons}",
            on_click=on.show_unjudged,
            variant="outlined",
            componentsProps=_quiet(),
        )
    panel.btn("mend", label="Mend this…", on_click=on.mend, variant="outlined", componentsProps=_quiet())


def _table(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    more = f"The {CLASSES} most frequent of {body['classes']:,}. " if body["classes"] > CLASSES else ""
    _heading(panel, "table", "By class", f"{more}Click a row to see its samples")
    view = types.TableView(on_click_row=on.show_class, componentsProps=_TABLE)
    view.add_column("label", label="class")
    view.add_column("samples", label="n")
    view.add_column("accuracy", label="right")
    if body["inside"] is not None:
        view.add_column("inside", label="inside")
    for verdict in VERDICTS if body["verdict"] else ():
        view.add_column(verdict, label=verdict)
    panel.list("classes", types.Object(), view=view)


def _plots(on: foo.Panel, panel: types.Object, body: dict[str, Any]) -> None:
    if body["regions"]:
        who = "errors look at" if body["errors"] else "predictions look at"
        of = f"{body['looked']:,} wrong predictions" if body["errors"] else f"{body['looked']:,} predictions"
        more = f" The {REGIONS} largest of {body['regions']:,}." if body["regions"] > REGIONS else ""
        about = f"Mean share of the positive evidence, over {of}, by class; the mark is the share of the area."
        about += f"{more} Click a bar to see them"
        _heading(panel, "looked", f"What {who}", about)
        panel.plot(
            "regions",
            on_click=on.show_region,
            height=f"{100 + 28 * min(body['regions'], REGIONS)}px",
            layout={
                "barmode": "stack",
                "bargap": 0.35,
                "showlegend": True,
                "legend": {**plots.LEGEND, "traceorder": "normal"},
                "xaxis": {"tickformat": ".0%", "rangemode": "tozero", "fixedrange": True},
                "yaxis": {"autorange": "reversed", "fixedrange": True},
                "margin": {"t": 30, "l": 8, "r": 24, "b": 8},
            },
            config=plots.CONFIG,
        )
    shown = f"{body['points']:,} of {body['audited']:,} samples, drawn at random. " if (
        body["points"] < body["audited"]
    ) else f"{body['points']:,} samples. "  # fmt: skip
    border = body["threshold"]
    about = f"{shown}Right of the line, focus {border:g}, it looked at the object. "
    about += "Click a point to open its sample, draw a lasso to see a group"
    _heading(panel, "points", "Focus on the object, and confidence", about)
    panel.plot(
        "scatter",
        on_click=on.open_sample,
        on_selected=on.lasso,
        height="360px",
        layout={
            "dragmode": "lasso",
            "hovermode": "closest",
            "showlegend": True,
            "legend": plots.LEGEND,
            "xaxis": {
                "title": {"text": "focus (0.5 is chance)"},
                "range": [-0.02, 1.02],
            },
            "shapes": [
                {
                    "type": "line",
                    "x0": border,
                    "x1": border,
                    "yref": "paper",
                    "y0": 0,
                    "y1": 1,
                    "line": {"dash": "dot", "width": 1, "color": plots.OTHERS},
                }
            ],
            "yaxis": {"title": {"text": "confidence"}, "range": [-0.02, 1.02], "tickformat": ".0%"},
            "margin": {"t": 30, "l": 8, "r": 24, "b": 8},
        },
        config=plots.CONFIG,
    )


def _concepts(on: foo.Panel, panel: types.Object, body: dict[str, Any]) -> None:
    _heading(
        panel, "concepts", "What errors are made of", "The first concepts, over all samples that they were found in"
    )
    lines = [f"- **{escape_markdown(name)}** {words}" for name, words in body["concepts"]]
    panel.md("\n".join(lines), name="concepts_words")
    panel.btn("open_concepts", label="All concepts", on_click=on.open_concepts, variant="outlined",
              componentsProps=_quiet())  # fmt: skip


def _mean_maps(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    if not state.maps or not state.drawn:
        panel.btn("toggle_maps", label="Show the mean map of each class", on_click=on.toggle_maps,
                  variant="outlined", componentsProps=_quiet())  # fmt: skip
        return
    more = f"The {MAPS} most frequent of {body['classes']:,} classes. " if body["classes"] > MAPS else ""
    about = f"{more}Photos squashed to squares: a bright corner is a watermark, a bright centre a habit. "
    if any(entry[2] for entry in state.drawn):
        about += "Where a class has more than are averaged, they are drawn at random. "
    _heading(panel, "means", "Where the evidence is, on the mean", f"{about}Click a map to see its samples")
    panel.plot(
        "maps",
        on_click=on.show_map,
        height="330px",
        layout=state.layout,
        config=plots.CONFIG,
    )


_LINE = "rgba(128, 128, 128, 0.45)"

_FOUR = {
    "grid": {
        "sx": {
            "display": "grid",
            "gridAutoFlow": "row",
            "gridTemplateColumns": "repeat(4, minmax(0, 1fr))",
            "@container (max-width: 480px)": {"gridTemplateColumns": "repeat(2, minmax(0, 1fr))"},
        }
    }
}
"""Four beside each other, or two above two."""

_TABLE = {
    "tableContainer": {
        "sx": {
            "overflowX": "auto",
            "&& .MuiTable-root": {"minWidth": 0},
            "&& .MuiTableCell-root": {"padding": "4px 6px"},
            "& td, & th, & p": {"fontSize": "0.85rem"},
            "& tr": {"cursor": "pointer"},
            "@container (max-width: 480px)": {
                "&& .MuiTableCell-root": {"padding": "2px 3px"},
                "& td, & th, & p": {"fontSize": "0.7rem"},
            },
        }
    }
}


def _narrow(panel: types.Object) -> dict[str, Any]:
    """No wider than the panel, whatever is in it; the row that leads back stays in sight."""
    style: dict[str, Any] = {"gridTemplateColumns": "minmax(0, 1fr)", "containerType": "inline-size"}
    names = list(panel.properties)
    if "filter" in names:
        sticky = {"position": "sticky", "top": 0, "zIndex": 3, "backgroundColor": "background.level2"}
        style[f"& > :nth-of-type({names.index('filter') + 1})"] = sticky
    return {"grid": {"sx": style}}


def _heading(panel: types.Object, name: str, title: str, about: str) -> None:
    panel.view(f"heading_{name}", types.HeaderView(label=title, description=about))


def _tile(color: str, chosen: bool) -> dict[str, Any]:
    return {
        "button": {
            "sx": {
                "width": "100%",
                "whiteSpace": "pre-line",
                "textTransform": "none",
                "textAlign": "left",
                "justifyContent": "flex-start",
                "lineHeight": 1.4,
                "fontSize": "1.15rem",
                "&::first-line": {"fontSize": "0.9rem", "fontWeight": 500},
                "padding": "8px 12px",
                "border": f"1px solid {color if chosen else _LINE}",
                "borderLeft": f"5px solid {color}",
                "color": "text.primary",
                "&:hover": {"border": f"1px solid {color}", "borderLeft": f"5px solid {color}"},
            }
        },
    }


def _quiet() -> dict[str, Any]:
    style = {"textTransform": "none", "fontWeight": "normal", "color": "text.secondary", "borderColor": _LINE}
    return {"button": {"sx": style}}
