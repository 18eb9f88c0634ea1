"""The part of a form that asks for a translation of classes, and knows both vocabularies before anything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiftyone.operators import types

from fiftyone_cam.core.class_maps import READY, resolve
from fiftyone_cam.core.errors import CamError, did_you_mean
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.plugin import forms, queries

LABEL = "Translation of classes"
"""What forms call it; messages in the App say the same."""

ABOUT = (
    "Where the model says other words than the ground truth: imagenet-groups (ImageNet's classes as cat, dog, bird, "
    'car, …), JSON such as {"tabby": "cat", "pug": "dog"}, or the path of a JSON file'
)


def translation(
    inputs: types.Object,
    dataset: Collection,
    params: Mapping[str, Any],
    classes: Sequence[str] | None,
    *,
    first: str | None = None,
    stored: Mapping[str, str] | None = None,
) -> None:
    """Ask for a translation, and say which labels would match no class.

    Args:
        inputs: the form.
        dataset: what it is for.
        params: what the fields hold; ``ground_truth`` is the field with the labels.
        classes: the model's; None where they are not known before it is loaded.
        first: what the field begins with.
        stored: the translation that an empty field stands for.
    """
    truth = params.get("ground_truth")
    words = queries.class_words(dataset, truth) if truth and dataset.has_field(truth) else None
    ready = None if first or stored else _ready(words.labels if words else [], classes)
    prop = inputs.str(
        "class_map",
        label=LABEL,
        description=ABOUT + (f". Empty: the run's own, of {len(stored):,} words" if stored else ""),
        default=first or ready,
        view=types.TextFieldView(multiline=True, rows=2),
    )
    typed = params.get("class_map", first or ready)
    try:
        given = parse(typed)
        mapping = resolve(given, classes) if classes else given
    except CamError as error:
        forms.mark_invalid(prop, str(error))
        return
    mapping = mapping or stored
    if classes:
        _show_classes(inputs, params, classes)
        if unknown := [word for word in mapping or () if word not in set(classes)]:
            near = did_you_mean(unknown[0], classes) or f": expected words such as {classes[0]}"
            forms.mark_invalid(prop, f"the model has no class {some(unknown)}{near}")
            return
    meant = set(classes) if classes else None
    if mapping is not None:  # a name means nothing where the classes are not known
        meant = set(mapping.values()) if isinstance(mapping, Mapping) else None
    if words is None or meant is None or not (lost := [word for word in words.labels if word not in meant]):
        _explain_ready(inputs, ready, typed, words)
        return
    of = "" if words.looked_at is None else f" in the first {words.looked_at:,} samples"
    if len(lost) == len(words.labels) and words.looked_at is None:
        what = "a word of this translation" if mapping else "a class of this model"
        text = f"No label of {truth}{of} is {what}: it has {some(words.labels)}; expected such as {some(sorted(meant))}"
        forms.mark_invalid(prop, text)
    else:
        what = "no word of this translation" if mapping else "no class of this model"
        text = f"{len(lost)} of {len(words.labels)} labels of {truth}{of} are {what}, and are judged nowhere: "
        forms.notice(inputs, "unmatched", text + some(lost), "warning")


def as_typed(mapping: Mapping[str, str] | None, classes: Sequence[str]) -> str | None:
    """A translation as somebody would type it: by its name where it is a ready one.

    >>> as_typed({"tabby": "cat"}, ["tabby", "pug"])
    '{"tabby": "cat"}'
    """
    if not mapping:
        return None
    return next((name for name in READY if _translated(name, classes) == dict(mapping)), None) or json.dumps(
        dict(mapping), ensure_ascii=False
    )


def parse(typed: Any) -> dict[str, str] | str | None:
    """What was typed as a translation of classes: a ready one by its name, JSON, or the path of a file with it.

    Raises:
        CamError: it is none of them.

    >>> parse('{"tabby": "cat"}'), parse(" imagenet-groups"), parse("")
    ({'tabby': 'cat'}, 'imagenet-groups', None)
    """
    if isinstance(typed, str):
        typed = typed.strip()
    if not typed:
        return None
    if isinstance(typed, str) and typed in READY:
        return typed
    if isinstance(typed, str) and not typed.startswith(("{", "[")):
        path = Path(os.path.expanduser(typed))  # pathlib's raises for an unknown user
        try:
            typed = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            near = did_you_mean(typed, READY)
            raise CamError(
                f"{path} cannot be read{near}: expected imagenet-groups, JSON, or the path of a JSON file ({error})"
            ) from error
    try:
        found = typed if isinstance(typed, Mapping) else json.loads(typed)
    except ValueError as error:
        raise CamError(f"this is no JSON: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, str) for value in found.values()):
        raise CamError('expected an object of words, such as {"tabby": "cat"}')
    return dict(found)


def some(words: Sequence[str], most: int = 5) -> str:
    """The first of some words, and how many there are.

    >>> some(["cat", "dog", "cow"], most=2)
    'cat, dog, … (3 in all)'
    """
    return ", ".join(words[:most]) + (f", … ({len(words):,} in all)" if len(words) > most else "")


def _ready(labels: Sequence[str], classes: Sequence[str] | None) -> str | None:
    """The ready translation to begin with: where no label is a class, the one that has a word for some of them."""
    if not classes or not labels or not set(classes).isdisjoint(labels):
        return None
    return next((name for name in READY if not set(_translated(name, classes).values()).isdisjoint(labels)), None)


def _translated(name: str, classes: Sequence[str]) -> dict[str, str]:
    try:
        return READY[name](classes)
    except CamError:
        return {}


def _explain_ready(inputs: types.Object, ready: str | None, typed: Any, words: queries.Words | None) -> None:
    if ready and typed == ready and words is not None:
        text = f"No class of this model is called {some(words.labels)}: {ready} translates its classes into such words"
        forms.notice(inputs, "translated", text)


def _show_classes(inputs: types.Object, params: Mapping[str, Any], classes: Sequence[str]) -> None:
    """The list of the classes, for whoever wants to see it."""
    view = types.SwitchView()
    inputs.bool("show_classes", label=f"Show the model's {len(classes):,} classes", default=False, view=view)
    if params.get("show_classes"):
        listed = types.MarkdownView(componentsProps=_LIST)
        inputs.str("classes_shown", default=" · ".join(map(escape_markdown, classes)), view=listed)


_LIST = {"container": {"sx": {"maxHeight": 160, "overflowY": "auto", "fontSize": "0.85rem"}}}
