"""The errors of this package: all in one tree, as its drawing says, and words that help."""

from __future__ import annotations

import inspect
import re

import pytest

import fiftyone_cam
from fiftyone_cam.core import errors
from fiftyone_cam.core.errors import did_you_mean, first_line


def test_the_drawing_is_the_tree_and_all_of_it_is_public():
    drawn = re.findall(r"^ +([x+]) (\w+)", errors.__doc__ or "", re.MULTILINE)
    parents = {}
    root = None
    for mark, name in drawn:
        root = name if mark == "x" else root
        parents[name] = None if mark == "x" else root
    found = dict(inspect.getmembers(errors, lambda entry: isinstance(entry, type) and issubclass(entry, BaseException)))
    assert found.keys() == parents.keys()
    for name, parent in parents.items():
        assert found[name].__base__.__name__ == (parent or {"CamError": "Exception", "Terminated": "SystemExit"}[name])
        assert getattr(fiftyone_cam, name) is found[name]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("too large\nexpected 7"), "too large"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("\n  deep inside"), "RuntimeError"),
        (KeyError("name"), "'name'"),
    ],
)
def test_the_first_line_of_an_error(error, expected):
    assert first_line(error) == expected


def test_a_word_that_was_meant_is_named_and_no_other():
    names = ["resnet18", "resnet50", "vgg16"]
    assert did_you_mean("resnet81", names) == " (did you mean resnet18, resnet50?)"
    assert did_you_mean("efficientnet", names) == did_you_mean("anything", []) == ""
    assert "vgg16" in did_you_mean("vgg61", iter(names))
