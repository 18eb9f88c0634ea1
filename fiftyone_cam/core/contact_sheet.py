"""A contact sheet: many small pictures, each with its own words, in sections that say what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from fiftyone_cam.core.overlay import INK, PAPER, Picture, letters, printable, stack

WIDTH = 256
"""Of a picture on the sheet, in pixels; its height is at most the same."""

COLUMNS = 6
_LETTERS, _HEADING = 15, 22
_LINE = 20
_DIM = (170, 170, 170)


class Card(NamedTuple):
    """A picture as :func:`shrink` makes it, and lines that say what it is."""

    picture: Picture
    lines: Sequence[str]


def shrink(picture: Picture) -> Picture:
    """A picture as small as a card's: its width, or, of a tall one, its height is :data:`WIDTH`.

    >>> shrink(np.zeros((480, 640, 3), np.uint8)).shape
    (192, 256, 3)
    """
    height, width = picture.shape[:2]
    factor = WIDTH / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small: Picture = cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    ).astype(np.uint8)
    return small


def contact_sheet(sections: Sequence[tuple[str, Sequence[Card]]]) -> Picture:
    """Sections one below the other, each with its heading; those without cards are left out.

    Letters have one size on all cards. A row is as high as its highest picture. There are as many columns, of four to
    six, as leave the fewest places empty.

    >>> contact_sheet([("1 wrong", [Card(np.zeros((192, 256, 3), np.uint8), ["tabby 97%"])])]).shape[1]
    256
    """
    parts = []
    columns = _columns([len(cards) for _, cards in sections])
    for heading, cards in sections:
        if cards:
            rows = [_row(cards[start : start + columns]) for start in range(0, len(cards), columns)]
            parts += [_text([heading], max(row.shape[1] for row in rows), _HEADING, INK), *rows]
    return stack(parts, axis=0)


def _columns(counts: Sequence[int]) -> int:
    if max(counts) < COLUMNS:
        return max([*counts, 1])
    return min(range(COLUMNS, 3, -1), key=lambda columns: sum(-count % columns for count in counts))


def _row(cards: Sequence[Card]) -> Picture:
    height = max(card.picture.shape[0] for card in cards)
    lines = max(len(card.lines) for card in cards)
    return stack([_drawn(card, height, lines) for card in cards], axis=1)


def _drawn(card: Card, height: int, lines: int) -> Picture:
    place: Picture = np.empty((height, WIDTH, 3), np.uint8)
    place[:] = PAPER
    tall, wide = card.picture.shape[:2]
    top, left = (height - tall) // 2, (WIDTH - wide) // 2
    place[top : top + tall, left : left + wide] = card.picture
    words = [*card.lines, *[""] * (lines - len(card.lines))]
    return stack([place, _text(words, WIDTH, _LETTERS, _DIM)], axis=0, gap=0)


def _text(lines: Sequence[str], width: int, size: int, ink: tuple[int, int, int]) -> Picture:
    """Lines of text on a band of this width; what does not fit is cut, with an ellipsis."""
    line = max(_LINE, round(1.4 * size))
    band = Image.new("RGB", (width, line * len(lines)), PAPER)
    draw = ImageDraw.Draw(band)
    for number, text in enumerate(lines):
        draw.text((2, number * line + 1), _fitted(printable(text), width - 4, size), fill=ink, font=letters(size))
    return np.asarray(band)


def _fitted(text: str, width: int, size: int) -> str:
    length = len(text)
    while length and letters(size).getlength(printable(text, length)) > width:
        length -= 1
    return printable(text, length) if length else ""
