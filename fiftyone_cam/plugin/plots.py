"""What the panels draw, as Plotly's traces and layouts: plain data in, plain data out.

Every mark carries in ``ids`` what a click on it has to say. Labels are escaped: Plotly reads HTML.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fiftyone_cam.analysis import audit_report
from fiftyone_cam.core.display import HEAT, OPACITY, SIGNED, THRESHOLD, fade_width
from fiftyone_cam.plugin import queries

VERDICTS = {"trusted": "#3fa66b", "shortcut": "#e0a126", "confused": "#4f86e8", "distracted": "#e5484d"}
"""Bright enough on dark, dark enough on white."""

CLASSES = ("#4f86e8", "#e0a126", "#3fa66b", "#b072d8", "#e5707a", "#35a7b8", "#a88c5f")
OTHERS = "#8c8c8c"
MARK = "#e5484d"

INSIDE, OUTSIDE, BIAS = "#3fa66b", "#e0a126", "#8c8c8c"


def _heat_on_dark() -> list[list[Any]]:
    """The App's colours of evidence, as Plotly takes them, where no photo lies beneath: none is black."""
    return [[0, "#000000"], *([share, _color(HEAT, share)] for share in (THRESHOLD, 0.25, 0.375, 0.5, 0.625, 0.75, 1))]


def _signed_on_photo() -> list[list[Any]]:
    """The same for evidence against a class and for it, clear where the App draws none."""
    shares = (0.0, THRESHOLD, THRESHOLD + fade_width(THRESHOLD), 0.5, 0.75, 1.0)
    seen = [0.0 if share <= THRESHOLD else OPACITY for share in shares]
    signed = [(-share, alpha) for share, alpha in zip(shares[:0:-1], seen[:0:-1], strict=True)]
    signed += list(zip(shares, seen, strict=True))
    return [[(share + 1) / 2, _color(SIGNED, (share + 1) / 2, alpha)] for share, alpha in signed]


def _color(colors: Sequence[str], place: float, alpha: float = 1.0) -> str:
    """The colour at a place between the first (0) and the last (1)."""
    at = place * (len(colors) - 1)
    low = min(int(at), len(colors) - 2)
    first, second = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors[low : low + 2])
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(first, second, strict=True))
    return f"rgba({', '.join(map(str, mixed))}, {alpha:g})"


CONFIG = {"displayModeBar": False, "scrollZoom": False}
"""Without Plotly's icons, which lie over the legend: a drag is a lasso, and a double click takes it away."""

LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)", "font": {"size": 12}}


def points(points: Sequence[audit_report.Point]) -> list[dict[str, Any]]:
    """A trace for each verdict, by focus, which is what verdicts go by; where there are none, one for all."""
    traces = []
    for verdict in (*audit_report.VERDICTS, None):
        here = [point for point in points if point.verdict == verdict and point.focus is not None]
        if here:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": verdict or "no verdict",
                    "x": [point.focus for point in here],
                    "customdata": [point.inside for point in here],
                    "y": [point.confidence for point in here],
                    "ids": [point.id for point in here],
                    "marker": {"color": VERDICTS.get(verdict or "", OTHERS), "size": 8, "opacity": 0.75},
                    "hovertemplate": "focus %{x:.2f}, %{customdata:.0%} of the evidence inside, confidence %{y:.0%}"
                    "<extra>%{fullData.name}</extra>",
                }
            )
    return traces


def region_bars(rows: Sequence[audit_report.RegionRow], correct: bool | None, most: int) -> list[dict[str, Any]]:
    """A bar for each region, stacked of the classes: each part is what the class adds to the mean of all.

    And a mark for each where its share of the area is: what the bar would be if the evidence lay anywhere alike.
    """
    together = [row for row in rows if row.label is None][:most]
    if not together:
        return []
    regions = [row.region for row in together]
    total = together[0].samples
    size = {row.label: row.samples for row in rows if row.label is not None}
    labels = sorted(size, key=lambda label: (-size[label], label))[: len(CLASSES)]
    added = {(row.label, row.region): row.share * row.samples / total for row in rows if row.label is not None}
    traces = []
    left = {row.region: row.share for row in together}
    for label, color in zip(labels, CLASSES, strict=False):
        values = [added.get((label, region), 0.0) for region in regions]
        left = {region: left[region] - value for region, value in zip(regions, values, strict=True)}
        traces.append(_bar(label, color, regions, values, [[region, label, correct] for region in regions]))
    rest = [max(0.0, left[region]) for region in regions]
    if max(rest) > 1e-6:
        name = "other classes" if len(size) > len(labels) else "no class"
        traces.append(_bar(name, OTHERS, regions, rest, [[region, None, correct] for region in regions]))
    area = {
        "type": "scatter",
        "mode": "markers",
        "name": "its share of the area",
        "y": [_short(region) for region in regions],
        "x": [row.area for row in together],
        "marker": {"color": MARK, "symbol": "line-ns", "size": 16, "line": {"width": 3, "color": MARK}},
        "hoverinfo": "skip",  # or it would take the clicks on the bar beneath
    }
    return [*traces, area]


def mean_maps(maps: Sequence[audit_report.MeanMap]) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Two rows of maps, all predictions above and wrong ones below.

    Returns:
        the traces; for each its class, whether it is of the wrong ones, and whether of some of many; and the layout.
    """
    top = max((float(m.max()) for entry in maps for m in (entry.mean, entry.errors) if m is not None), default=1.0)
    traces: list[Any] = []
    drawn: list[Any] = []
    layout: dict[str, Any] = {"showlegend": False, "margin": {"t": 26, "l": 8, "r": 8, "b": 8}, "annotations": []}
    hidden = {"visible": False, "showgrid": False, "zeroline": False, "fixedrange": True}
    width = 1 / max(len(maps), 1)
    for column, entry in enumerate(maps):
        above = (entry.mean, entry.used, entry.samples, _short(entry.label or "", 13))
        below = (entry.errors, entry.used_errors, entry.wrong, "wrong")
        for row, (mean, used, of, name) in enumerate((above, below)):
            number = 2 * column + row + 1
            x, y = (f"{axis}{number if number > 1 else ''}" for axis in "xy")
            domain = [column * width + 0.006, (column + 1) * width - 0.006]
            bottom = 0.52 if row == 0 else 0.0
            layout[f"xaxis{number if number > 1 else ''}"] = {**hidden, "domain": domain, "anchor": y}
            layout[f"yaxis{number if number > 1 else ''}"] = {
                **hidden, "domain": [bottom, bottom + 0.37], "anchor": x, "autorange": "reversed",
                "scaleanchor": x, "constrain": "domain",
            }  # fmt: skip
            title = f"{name}<br>{used:,}" if used == of else f"{name}<br>{used:,} of {of:,}"
            layout["annotations"].append(
                {"text": title, "x": sum(domain) / 2, "y": bottom + 0.37, "xref": "paper", "yref": "paper",
                 "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
            )  # fmt: skip
            if mean is None:
                continue
            traces.append(
                {"type": "heatmap", "z": [[round(float(v), 4) for v in line] for line in mean], "xaxis": x, "yaxis": y,
                 "colorscale": _heat_on_dark(), "zmin": 0, "zmax": max(top, 1e-6), "showscale": not traces,
                 "colorbar": {"title": {"text": "logit"}, "thickness": 10, "outlinewidth": 0},
                 "hovertemplate": "%{z:.2f}<extra></extra>"}
            )  # fmt: skip
            drawn.append([entry.label, row == 1, used < of])
    return traces, drawn, layout


def logit_bars(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A bar for each logit, stacked of its parts, and a mark where they add up to."""
    names = [_name(part) for part in parts]
    ids = [part["label"] for part in parts]
    split = parts[0]["evidence_in"] is not None
    series = [("inside the object", "evidence_in", INSIDE)] if split else []
    series += [("outside" if split else "evidence", "evidence_out", OUTSIDE), ("bias", "bias", BIAS)]
    bars: list[dict[str, Any]] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": names,
            "x": [part[entry] for part in parts],
            "ids": ids,
            "marker": {"color": color},
            "hovertemplate": "%{x:+.2f}<extra>%{fullData.name}</extra>",
        }
        for name, entry, color in series
    ]
    total = {
        "type": "scatter",
        "mode": "markers",
        "name": "logit",
        "y": names,
        "x": [part["logit"] for part in parts],
        "ids": ids,
        "marker": {"color": MARK, "symbol": "line-ns", "size": 20, "line": {"width": 3, "color": MARK}},
        "hovertemplate": "%{x:.2f}<extra>logit</extra>",
    }
    return [*bars, total]


def picture(found: queries.SampleMap) -> tuple[dict[str, Any], dict[str, Any]]:
    """A map over its image: a trace and a layout."""
    height, width = len(found.rows), len(found.rows[0])
    top = found.top
    trace = {
        "type": "heatmap",
        "z": found.rows,
        "x0": 0.5,
        "dx": 1,
        "y0": 0.5,
        "dy": 1,
        "zmin": -top,
        "zmax": top,
        "zsmooth": "best",
        "colorscale": _signed_on_photo(),
        "colorbar": {"title": {"text": "logit"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{z:+.2f}<extra></extra>",
    }
    hidden = {"visible": False, "showgrid": False, "zeroline": False, "fixedrange": True, "constrain": "domain"}
    image = {
        "source": f"/media?filepath={quote(found.filepath, safe='')}",
        "xref": "x",
        "yref": "y",
        "x": 0,
        "y": 0,
        "sizex": width,
        "sizey": height,
        "yanchor": "top",
        "sizing": "stretch",
        "layer": "below",
    }
    layout = {
        "xaxis": {**hidden, "range": [0, width]},
        "yaxis": {**hidden, "range": [height, 0], "scaleanchor": "x"},
        "images": [image],
        "margin": {"t": 4, "l": 8, "r": 8, "b": 4},
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
    }
    return trace, layout


def _bar(name: str, color: str, regions: list[str], values: list[float], ids: list[Any]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _short(name),
        "y": [_short(region) for region in regions],
        "x": values,
        "ids": [json.dumps(entry) for entry in ids],
        "marker": {"color": color},
        "hovertemplate": "%{x:.1%} in %{y}<extra>%{fullData.name}</extra>",
    }


def _name(part: dict[str, Any]) -> str:
    sure = "" if part["confidence"] is None else f" {part['confidence']:.0%}"
    return _short(part["label"]) + sure


def _short(text: str, most: int = 24) -> str:
    return html.escape(cut(text, most))


def cut(text: str, most: int = 80) -> str:
    """The beginning of a text that may be long.

    >>> cut("espresso maker", 9)
    'espresso…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"
