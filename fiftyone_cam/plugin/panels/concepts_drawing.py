"""How the panel Concepts looks: a concept's numbers in words, and all of it drawn from the panel's state alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_cam.core.tables import class_name, escape_markdown, percent
from fiftyone_cam.runs.concept_record import Concept

ROWS, CROPS = 8, 6
"""Concepts on a page, and pictures of each."""

CHANCE = 0.05
"""From this p-value on, a gain could be chance."""

ACTIONS = {
    "run": ("Compute class activation maps", "compute_cam"),
    "concepts": ("Find concepts", "find_concepts"),
    "rest": ("Continue", "find_concepts"),
    "fresh": ("Find again", "find_concepts"),
}
"""What to press where something is missing, and the operator that it opens."""

ORDERS = {"repair": "what removing it would mend", "share": "how much evidence it holds"}
"""In what order rows come."""


# numbers in words


def rows(concepts: Sequence[Concept], samples: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Concepts as the panel's state keeps them: names, words, and the samples of the crops."""
    return [
        {"name": concept.name, "headline": headline(concept), "says": says(concept), "samples": list(ids)}
        for concept, ids in zip(concepts, samples, strict=True)
    ]


def headline(concept: Concept) -> str:
    """What removing a concept would do, and whether that could be chance, in Markdown.

    >>> headline(Concept(name="concept 1", number=3, repaired=7, broken=2, p=0.003))
    'Removing it would put **7 errors right** and cost **2 hits**. Unlikely to be chance (p = 0.003).'
    """
    if concept.repaired is None or concept.broken is None:
        return f"It holds **{percent(concept.share)} of the evidence** for what is predicted."
    if concept.repaired == concept.broken == 0:
        return "Removing it would put no error right, and cost no hit."
    words = f"Removing it would put **{counted(concept.repaired, 'error')} right**"
    words += f" and cost **{counted(concept.broken, 'hit')}**."
    if concept.repaired <= concept.broken:
        return words
    return f"{words} {chance(concept.p, concept.interval)}".rstrip()


def chance(p: float | None, interval: Sequence[float] | None = None) -> str:
    """Whether a gain could be chance, from a corrected p-value; nothing where it was not tested.

    The p-value is of margins, which tell more than the few predictions that flip: the difference of these can be none
    all the same, as its interval says.

    >>> chance(0.003), chance(0.4)
    ('Unlikely to be chance (p = 0.003).', 'Could be chance (p = 0.400).')
    >>> chance(0.003, [-1.2, 9.0])
    'That it misleads is unlikely to be chance (p = 0.003), but the difference could be none (95%: -1 to +9).'
    """
    if p is None:
        return ""
    said = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    if p >= CHANCE:
        return f"Could be chance ({said})."
    if interval is not None and interval[0] <= 0:
        low, high = (round(value) for value in interval)
        may = f"the difference could be none (95%: {low:+,d} to {high:+,d})"
        return f"That it misleads is unlikely to be chance ({said}), but {may}."
    return f"Unlikely to be chance ({said})."


def says(concept: Concept) -> str:
    """The other numbers of a concept, in one line of Markdown.

    >>> says(Concept(name="concept 1", number=3, present=0.2, share=0.051, blame=0.12, speaks_for=["carton"]))
    'Present in 20% of the photos · 5.1% of the evidence, 12.0% of the blame for errors · speaks for *carton*'
    """
    parts = [f"Present in {percent(concept.present, 0)} of the photos"]
    held = [f"{percent(concept.share)} of the evidence"] if concept.repaired is not None or concept.blame else []
    if concept.blame is not None:
        held.append(_blame(concept.blame))
    parts += [", ".join(held)] if held else []
    if concept.lift is not None:
        parts.append(f"errors are {concept.lift:.1f} times as frequent where it speaks")
    if concept.interval is not None:
        low, high = (round(value) for value in concept.interval)
        parts.append(f"95% interval of the difference: {low:+,d} to {high:+,d}")
    if concept.speaks_for:
        parts.append(f"speaks for {', '.join(_plain(label) for label in concept.speaks_for)}")
    if concept.pixels is not None and concept.pixels.changes + concept.pixels.stays:
        right, of = concept.pixels.changed + concept.pixels.stayed, concept.pixels.changes + concept.pixels.stays
        parts.append(f"with its places blurred, the network did what the sum said in {right} of {of} photos")
    return " · ".join(parts)


def _blame(share: float) -> str:
    if share < 0:
        return "no blame for errors: there it speaks for the true class"
    return f"{percent(share)} of the blame for errors{', against which others speak' if share > 1 else ''}"


def map_hint(name: str, left_off: str | None) -> str:
    """What to do in FiftyOne's Embeddings panel, which opens without a map, and what that has not; in Markdown.

    >>> map_hint("cam_concepts", None)
    'In *Embeddings* choose **cam\\_concepts**. What is lit up is in the view; colour by *correct* for right and wrong.'
    """
    words = (
        f"In *Embeddings* choose **{escape_markdown(name)}**. What is lit up is in the view; colour by *correct* for "
    )
    return f"{words}right and wrong.{f' The map has {left_off}.' if left_off else ''}"


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "error"), counted(1200, "hit")
    ('1 error', '1,200 hits')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _plain(label: str) -> str:
    return f"*{escape_markdown(class_name(label), 40)}*"


# the panel


def draw(on: foo.Panel, state: Any) -> types.Property:
    """The whole panel. ``on`` is the panel, whose methods answer clicks."""
    panel = types.Object()
    body = state.body
    if state.keys and len(state.keys) > 1:
        view = types.DropdownView(label="Run", on_change=on.pick)
        panel.enum("key", state.keys, label="Run", default=state.key, view=view)
    if state.text:
        severity = "error" if state.missing == "error" else "info" if not body else "warning"
        panel.view("missing", types.AlertView(label=state.text, severity=severity))
        if state.missing in ACTIONS:
            panel.btn("act", label=ACTIONS[state.missing][0], on_click=on.act, variant="contained")
        else:
            panel.btn("again", label="Try again", on_click=on.refresh, variant="outlined")
    if body:
        _head(on, panel, state, body)
        if body["judged"] is not None:  # else they come by share anyway
            _orders(on, panel, state)
        for i, row in enumerate(body["rows"]):
            _row(on, panel, state, i, row)
        _pages(on, panel, state, body)
    return types.Property(panel, view=types.GridView(orientation="vertical", gap=1, pad=2, componentsProps=_NARROW))


def _head(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    parts = [f"**{counted(body['concepts'], 'concept')}** in {counted(body['samples'], 'photo')}"]
    if state.scope is not None:
        parts[0] += " of a view"
    if body["judged"] is not None:
        parts.append(f"**{counted(body['errors'], 'error')}** among {body['judged']:,} with a true class")
    panel.md(" · ".join(parts), name="words")
    buttons = panel.h_stack("scope", gap=1, componentsProps=_WRAPPED)
    if state.scope is not None:
        buttons.btn("count_all", label="Count all photos", on_click=on.count_all, **_small())
    if state.before and state.before != state.scope:
        buttons.btn("count_view", label="Count what was in view" if state.filter else "Count what is in view",
                    on_click=on.count_view, title="What are these photos made of?", **_small())  # fmt: skip
    if state.filter:
        line = panel.h_stack("filter", align_y="center", gap=2, componentsProps=_WRAPPED)
        line.md(f"The view shows **{escape_markdown(state.filter)}**", name="words", componentsProps=_OWN)
        line.btn("back", label="Back", on_click=on.back, **_small())
    if state.hint:
        panel.md(state.hint, name="hint", componentsProps=_SECONDARY)


def _orders(on: foo.Panel, panel: types.Object, state: Any) -> None:
    view = types.DropdownView(label="First comes", on_change=on.sort)
    for order, words in ORDERS.items():
        view.add_choice(order, label=words)
    panel.enum("order", list(ORDERS), label="First comes", default=state.order or "repair", view=view)


def _row(on: foo.Panel, panel: types.Object, state: Any, i: int, row: dict[str, Any]) -> None:
    name = row["name"]
    card = panel.v_stack(f"row_{i}", gap=1, componentsProps=_card(state.filter == name))
    card.md(f"**{escape_markdown(name)}**  \n{row['headline']}", name="headline")
    if row["samples"]:
        strip = card.grid("crops", orientation="horizontal", gap=0.5, componentsProps=_STRIP)
        for j, sample in enumerate(row["samples"]):
            strip.img(
                f"crop_{j}",
                on_click=on.open_sample,
                params={"sample": sample},
                alt_text=f"A place of {name}",
                componentsProps=_CROP,
            )
    card.md(row["says"], name="says", componentsProps=_SECONDARY)
    buttons = card.h_stack("buttons", gap=1, componentsProps=_WRAPPED)
    params = {"concept": name}
    entries: list[tuple[str, str, Any, str]] = [
        ("show", "Show", on.show, "The photos that hold it, with its places"),
        ("patches", "As patches", on.patches, "Its places, cut out"),
    ]
    if state.body["removable"]:
        entries.append(("what_if", "What if", on.what_if, "What would be predicted without it"))
    if state.body["map"]:
        entries.append(("embeddings", "Embeddings", on.embeddings, "Its places on the map of all concepts"))
    entries.append(("mend", "Mend this…", on.mend, "A classifier without it: first what that would change"))
    entries.append(("rename", "Rename", on.rename, "A word for what it shows"))
    for key, label, method, title in entries:
        buttons.btn(key, label=label, on_click=method, params=params, title=title, **_small())


def _pages(on: foo.Panel, panel: types.Object, state: Any, body: dict[str, Any]) -> None:
    first, last, total = body["first"] + 1, body["first"] + len(body["rows"]), body["concepts"]
    if total <= ROWS:
        return
    line = panel.h_stack("pages", align_y="center", gap=2, componentsProps=_WRAPPED)
    if first > 1:
        line.btn("previous", label="Previous", on_click=on.turn, params={"page": state.page - 1}, **_small())
    line.md(f"{first} to {last} of {total}", name="words", componentsProps=_OWN)
    if last < total:
        line.btn("next", label="Next", on_click=on.turn, params={"page": state.page + 1}, **_small())


_LINE = "rgba(128, 128, 128, 0.45)"

_NARROW = {"grid": {"sx": {"gridTemplateColumns": "minmax(0, 1fr)"}}}
"""No wider than the panel, whatever is in it."""

_WRAPPED = {"grid": {"sx": {"display": "flex", "flexWrap": "wrap"}}}
"""As many on a line as have room: each as wide as it is (:data:`_OWN`)."""

_OWN = {"item": {"sx": {"width": "auto"}}}

_STRIP = {"grid": {"sx": {"gridTemplateColumns": f"repeat({CROPS}, minmax(0, 1fr))", "gridAutoFlow": "row"}}}

_CROP = {
    "image": {"style": {"width": "100%", "aspectRatio": "1", "objectFit": "cover", "borderRadius": "4px",
                        "display": "block"}}
}  # fmt: skip

_SECONDARY = {"markdown": {"sx": {"color": "text.secondary"}}, "container": {"sx": {"fontSize": "0.85rem",
              "color": "text.secondary", "& p": {"fontSize": "0.85rem", "color": "text.secondary"}}}}  # fmt: skip


def _card(chosen: bool) -> dict[str, Any]:
    return {
        "container": {
            "sx": {
                "border": f"1px solid {'#4f86e8' if chosen else _LINE}",
                "borderRadius": "6px",
                "padding": "10px 12px",
                "boxSizing": "border-box",
            }
        },
        **_NARROW,
    }


def _small() -> dict[str, Any]:
    style = {
        "textTransform": "none",
        "fontWeight": "normal",
        "fontSize": "0.85rem",
        "padding": "2px 10px",
        "minWidth": 0,
        "color": "text.primary",
        "borderColor": _LINE,
    }
    return {"variant": "outlined", "componentsProps": {"button": {"sx": style}, **_OWN}}
