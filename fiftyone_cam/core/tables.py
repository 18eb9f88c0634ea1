"""A result in words, written once: rows and tables, as plain text for a terminal or as Markdown for the App."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from tabulate import tabulate


class Table(NamedTuple):
    """A table of text. The first column is aligned to the left, all others to the right.

    ``caption`` is one line above it, ``header`` has a name for each column.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Summary(NamedTuple):
    """A result in words: a title, rows ``(label, text)``, and tables below them. A row without a label continues.

    >>> summary = Summary("CAM run 'cam'", [("samples", "259 with a map"), ("", "2 x truncated file")])
    >>> print(summary.text())
    CAM run 'cam'
      samples  259 with a map
               2 x truncated file
    >>> print(summary.markdown())
    - **samples**: 259 with a map
    - 2 x truncated file
    """

    title: str
    rows: Sequence[tuple[str, str]]
    tables: Sequence[Table] = ()

    def text(self) -> str:
        """The title, and below it rows and tables, indented, in columns of equal width."""
        parts = [self.title]
        if self.rows:
            parts.append(_indent(_lay_out([(label, _in_one_line(text)) for label, text in self.rows], "plain")))
        for table in self.tables:
            parts += ["", *([f"  {table.caption}"] if table.caption else [])]
            parts.append(_indent(_lay_out(table.rows, "plain", table.header)))
        return "\n".join(parts)

    def markdown(self) -> str:
        """Rows as a list and tables as tables, without the title. What could be read as Markdown is escaped."""
        parts = []
        if self.rows:
            escaped = [(escape_markdown(label), escape_markdown(text)) for label, text in self.rows]
            parts.append("\n".join(f"- **{label}**: {text}" if label else f"- {text}" for label, text in escaped))
        for table in self.tables:
            rows = [[escape_markdown(cell) for cell in row] for row in table.rows]
            header = [escape_markdown(name) for name in table.header]
            parts += [*([escape_markdown(table.caption)] if table.caption else []), _lay_out(rows, "pipe", header)]
        return "\n\n".join(parts)


def escape_markdown(text: str, most: int = 300) -> str:
    r"""Text inside a line of Markdown, shown as it is; cut where it is longer than anybody reads.

    >>> print(escape_markdown("a*b_c"))
    a\*b\_c
    """
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>()#+.!|~-])", r"\\\1", " ".join(text.split()))


def percent(value: float | None, digits: int = 1) -> str:
    """A share for a person to read.

    >>> percent(0.5), percent(0.5, 0), percent(None)
    ('50.0%', '50%', '–')
    """
    return "–" if value is None else f"{value:.{digits}%}"


def class_name(label: str | None) -> str:
    """A class's name in a table: one line, never empty; ``all`` for the row of all classes.

    >>> class_name(None), class_name("tabby"), class_name("")
    ('all', 'tabby', "''")
    """
    if label is None:
        return "all"
    return label if label and label.isprintable() else repr(label)


def _lay_out(rows: Sequence[Sequence[str]], style: str, header: Sequence[str] = ()) -> str:
    columns = len(header) or 2
    # A summary's rows are two columns of words, a table's columns are numbers behind a name.
    align = ["left", *(["right" if header else "left"] * (columns - 1))]
    text = tabulate(
        [list(row) for row in rows],
        list(header),
        tablefmt=style,
        disable_numparse=True,
        colalign=align if rows else None,
    )
    return "\n".join(line.rstrip() for line in text.splitlines())


def _indent(text: str) -> str:
    return textwrap.indent(text, "  ")


def _in_one_line(text: str) -> str:
    return text if text.isprintable() else " ".join(text.split())
