"""A result in words: both forms say the same, and nothing that a person typed can change their shape."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.tables import Summary, Table, class_name, escape_markdown

WORDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
ROWS = st.lists(st.tuples(st.sampled_from(["", "samples", "no verdict"]), WORDS), max_size=5)
TABLES = st.lists(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=4), max_size=2)


def unescaped(markdown: str) -> str:
    return re.sub(r"\\(.)", r"\1", markdown)


@given(rows=ROWS, tables=TABLES)
def test_both_forms_say_the_same_in_the_same_order(rows, tables):
    summary = Summary("title", rows, [Table("about", ("a", "b", "c"), table) for table in tables])
    said = [word for row in rows for word in row if word]
    for form in (summary.text(), unescaped(summary.markdown())):
        position = 0
        for word in [*said, *(cell for table in tables for row in table for cell in row)]:
            found = form.find(word, position)
            assert found >= 0, (word, form)
            position = found + len(word)


@given(rows=ROWS)
def test_the_texts_of_all_rows_begin_in_one_column(rows):
    lines = Summary("title", rows).text().splitlines()
    assert len(lines) == 1 + len(rows)
    assert len({len(line) - len(text) for line, (_, text) in zip(lines[1:], rows, strict=True)}) <= 1


@given(table=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_no_cell_can_end_its_column_in_markdown(table):
    for line in Summary("title", [], [Table("", ("a", "b"), table)]).markdown().splitlines():
        assert re.sub(r"\\.", "", line).count("|") == 3


def test_markdown_that_a_person_typed_is_shown_and_not_followed():
    text = Summary("title", [("note", "[wall](x) and **bold**\nand more")]).markdown()
    assert text == r"- **note**: \[wall\]\(x\) and \*\*bold\*\* and more"
    assert len(escape_markdown("a" * 999)) == 300


def test_every_class_has_one_line_in_a_table_whatever_its_name():
    names = [class_name(label) for label in (None, "", "all", "a\nb", "a\tb", "\x1b[31m", "café", "🐈")]
    assert all(name and name.isprintable() for name in names)
    assert len(set(names) - {"all"}) == len(names) - 2
    assert names[-2:] == ["café", "🐈"]
