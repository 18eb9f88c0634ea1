"""Tables in text."""

from __future__ import annotations

from fiftyone_cam.analysis.tables import class_name


def test_every_class_has_one_line_in_a_table_whatever_its_name():
    names = [class_name(label) for label in (None, "", "all", "a\nb", "a\tb", "\x1b[31m", "café", "🐈")]
    assert all(name and name.isprintable() for name in names)
    assert len(set(names) - {"all"}) == len(names) - 2
    assert names[-2:] == ["café", "🐈"]
