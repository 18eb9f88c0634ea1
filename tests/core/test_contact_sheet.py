"""A contact sheet: every picture once, letters of one size, no row higher than its pictures, headings between."""

from __future__ import annotations

import numpy as np
import pytest

from fiftyone_cam.core.contact_sheet import COLUMNS, WIDTH, Card, contact_sheet, shrink
from fiftyone_cam.core.overlay import PAPER


def card(number: int, height: int = 192, width: int = 256, words: str = "tabby 97.3%") -> Card:
    """A picture of one colour, by which it is found."""
    return Card(np.full((height, width, 3), (255, number, 0), np.uint8), [words])


def places(sheet: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """Of each picture left, top, width, height on the sheet."""
    found = []
    for number in range(count):
        rows, columns = np.where((sheet == (255, number, 0)).all(2))
        found.append((columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1))
    return found


@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (2000, 20), (75, 100), (480, 640), (3000, 4000)])
def test_a_small_picture_keeps_its_shape(size):
    small = shrink(np.full((*size, 3), 200, np.uint8))
    assert max(small.shape[:2]) == WIDTH
    exact = [WIDTH * side / max(size) for side in size]
    assert np.abs(np.maximum(exact, 1) - small.shape[:2]).max() <= 0.5
    assert (small == 200).all()


@pytest.mark.parametrize("count", [1, 3, 6, 7, 12, 17, 24])
def test_pictures_stand_row_by_row_with_few_places_empty(count):
    sheet = contact_sheet([("heading", [card(number) for number in range(count)])])
    found = places(sheet, count)
    assert all((width, height) == (256, 192) for _, _, width, height in found)
    assert [(top, left) for left, top, _, _ in found] == sorted((top, left) for left, top, _, _ in found)
    columns = len({left for left, *_ in found})
    rows = len({top for _, top, *_ in found})
    assert columns <= COLUMNS
    assert rows * columns - count <= 2
    pictures = count * 256 * 192 / (sheet.shape[0] * sheet.shape[1])
    assert pictures > (0.6 if count > 1 else 0.5)


def test_a_row_is_as_high_as_its_highest_picture_and_words_are_below():
    cards = [card(0, 100), card(1, 256, 128), card(2, 192)]
    sheet = contact_sheet([("heading", cards)])
    found = places(sheet, 3)
    middles = [top + height / 2 for _, top, _, height in found]
    assert max(middles) - min(middles) <= 1
    assert [height for *_, height in found] == [100, 256, 192]
    assert sheet.shape[0] < 256 + 80


def test_letters_have_one_size_and_long_words_are_cut():
    def words(card: Card) -> np.ndarray:
        return contact_sheet([("heading", [card])])[-20:]

    assert (words(card(0, 20, 30)) == words(card(0, 256, 256))).all()
    long = words(card(0, words="a very long name of a class " * 9))
    assert long.shape[1] == WIDTH
    assert (long[:, -2:] == PAPER).all()  # an ellipsis, and then paper
    assert (words(card(0, words="Ägypten")) != words(card(0, words="Agypten"))).any()


def test_a_heading_stands_between_sections_and_empty_ones_are_left_out():
    one = contact_sheet([("1 wrong", [card(0)]), ("0 unknown", []), ("1 right", [card(1)])])
    (_, first, _, height), (_, second, *_) = places(one, 2)
    between = one[first + height + 20 : second]
    assert ((between.max(2) > 200).sum(1) > 0).any(), "no letters of a heading"
    alone = contact_sheet([("1 wrong", [card(0)])])
    assert one.shape[0] > 1.9 * alone.shape[0]
