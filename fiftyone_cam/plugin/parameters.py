"""Parameters from Python and from agents, who see no form: taken as they are meant, or refused in words.

FiftyOne's own check says *Invalid enum value*, and passes over what an operator does not know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from fiftyone.operators import types
from fiftyone.operators.constants import ViewTarget

from fiftyone_cam.core.errors import did_you_mean
from fiftyone_cam.plugin.forms import mark_invalid

CLASSIFIER = ("classifier", "classes", "arch", "input_size", "whole_picture")
"""What names a classifier, as ``load_classifier`` takes it."""

ENGINE = ("engine", "num_workers", "num_actors", "gpus_per_actor", "cpus_per_actor", "device", "batch_size")
"""Where and how it is computed."""

_JSON = ("class_map", "object_labels", "classes", "snapshots")
"""What a form takes as text, and Python gives as a list or an object as well."""


def take_as_meant(inputs: types.Object, params: dict[str, Any]) -> bool:
    """Turn one word into a list of one where a list is expected, paths into text, and NumPy's numbers into Python's.

    Returns:
        Whether something was turned: the form has then to be drawn again.

    >>> params = {"objects": "things"}
    >>> take_as_meant(inputs, params), params
    (True, {'objects': ['things']})
    """
    meant: dict[str, Any] = {}
    for name, prop in inputs.properties.items():
        value = params.get(name)
        if isinstance(value, np.generic):
            meant[name] = value.item()
        elif isinstance(value, os.PathLike):
            meant[name] = os.fspath(value)
        elif isinstance(prop.type, types.List) and isinstance(value, (str, tuple)):
            meant[name] = [value] if isinstance(value, str) else list(value)
    params |= meant
    return bool(meant)


def check(
    inputs: types.Object, params: dict[str, Any], also: Iterable[str] | None = (), target: str | None = None
) -> None:
    """Mark in a form what is wrong with parameters: of another type, none of the choices, or not known.

    Args:
        inputs: the form that these parameters lead to.
        params: as somebody gave them.
        also: names that the operator takes beside the form's fields; None where it passes over all others.
        target: FiftyOne's ``view_target``, which it takes out of the parameters.
    """
    _name_what_is_missing(inputs, params)
    for name, prop in inputs.properties.items():
        value = params.get(name)
        if name in _JSON and isinstance(value, (list, tuple, dict)):
            prop.type = types.Object()  # anything passes
        elif value is not None and not prop.invalid:
            mark_invalid(prop, _problem(prop.type, value))
    if target is not None and target not in ViewTarget.values():
        _refuse(inputs, "target", f"there is no view_target {target!r}: {_expected(target, ViewTarget.values())}")
    shown = [name for name, prop in inputs.properties.items() if not isinstance(prop.type, types.Void)]
    if also is None or not shown:  # a form without fields says what is missing
        return
    known = dict.fromkeys([*shown, *also])
    if unknown := [name for name in params if name not in known and name != "custom_view_target"]:
        _refuse(inputs, "unknown", f"there is no parameter {unknown[0]!r}: {_expected(unknown[0], known)}")


def _name_what_is_missing(inputs: types.Object, params: dict[str, Any]) -> None:
    """By the parameters' names, where a form says which of its fields are still empty."""
    needed = inputs.properties.get("needed")  # of forms.ask_for
    labels = [] if needed is None else str(needed.error_message).partition(": ")[2].split(", ")
    for name, prop in inputs.properties.items():
        empty = params.get(name) in (None, "", []) and prop.default is None
        if empty and not prop.invalid and (prop.required or getattr(prop.view, "label", None) in labels):
            mark_invalid(prop, f"the parameter {name} is missing: {prop.view.description or prop.view.label}")


def _refuse(inputs: types.Object, name: str, text: str) -> None:
    """Say so first: FiftyOne tells the first problem alone, and others may come of this one."""
    mark_invalid(inputs.view(name, types.Error(label=text)), text)
    inputs.properties = {name: inputs.properties.pop(name), **inputs.properties}


def _problem(kind: Any, value: Any) -> str | None:
    """What is wrong with a value of this type; None where nothing is."""
    found = f"found {value!r:.80}, expected"
    if isinstance(kind, types.Enum):
        return None if value in kind.values else f"there is no {value!r:.80}: {_expected(value, kind.values)}"
    if isinstance(kind, types.List):
        return None if isinstance(value, list) else f"{found} a list"
    if isinstance(kind, types.Boolean):
        return None if isinstance(value, bool) else f"{found} {json.dumps(True)} or {json.dumps(False)}"
    if isinstance(kind, types.Number):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{found} a number"
        low, high = kind.min, kind.max
        if (low is None or value >= low) and (high is None or value <= high):
            return None
        return f"{found} a number from {low:g}" + ("" if high is None else f" to {high:g}")
    return f"{found} text" if isinstance(kind, types.String) and not isinstance(value, str) else None


def _expected(value: Any, known: Iterable[Any]) -> str:
    """What could have been meant."""
    names = [str(name) for name in known]
    close = did_you_mean(value, names)
    return f"expected {', '.join(names[:20])}{', …' if len(names) > 20 else ''}{close}"
