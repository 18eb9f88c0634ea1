"""Overlays: arithmetic that does not wrap, colours where the network looked, letters that can be read."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiftyone_cam.core.boxes import WHOLE
from fiftyone_cam.core.display import HEAT, display_size, draw_evidence, lay_out
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.overlay import APP, COLORMAPS, PAPER, blend, caption, printable, stack

NASTY = [
    "",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "a\nb\x00c\x1b[31m",
    "Ägypten кошка 猫 🐈",
    "x" * 500,
    "\u202egnp.exe",
]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def opencv(name: str) -> np.ndarray:
    levels = np.arange(256, dtype=np.uint8)[:, None]  # a column: OpenCV 4 and 5 read it alike
    return cv2.applyColorMap(levels, getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0, ::-1].astype(float)


@given(st.integers(0, 255), st.floats(0, 1), st.floats(-5, 20), st.sampled_from(sorted(set(COLORMAPS) - {APP})))
def test_each_pixel_is_the_rounded_sum_in_exact_arithmetic(grey, alpha, evidence, name):
    """uint8 sums would wrap at 256, and OpenCV's colours are BGR."""
    picture = np.full((1, 1, 3), grey, np.uint8)
    share = min(max(evidence / 10, 0), 1)
    level = round(share * 255)
    colours = opencv(name)
    weight = alpha * min(max((share - 0.2) / 0.15, 0), 1)
    exact = (1 - weight) * grey + weight * colours[level]
    found = blend(picture, np.full((1, 1), evidence, np.float32), WHOLE, 10.0, name, alpha, 0.2)[0, 0]
    # half a level for the sum's rounding, and what one level of the colour map more or less makes
    slack = np.abs(colours[[max(level - 1, 0), min(level + 1, 255)]] - colours[level]).max(0) * weight + 1e-4
    assert (np.abs(found - exact) <= 0.5001 + slack).all()


@pytest.mark.parametrize(("alpha", "equal"), [(0.0, True), (1.0, False)])
def test_alpha_is_the_heatmaps_share(alpha, equal):
    picture, other = photo(20, 30), photo(20, 30, seed=1)
    evidence = np.random.default_rng(2).uniform(1, 3, size=(20, 30)).astype(np.float32)
    first, second = (blend(one, evidence, WHOLE, 2.0, alpha=alpha) for one in (picture, other))
    assert (first == picture).all() == equal
    assert (first == second).all() != equal  # nothing but the colours is left


def test_white_stays_light_and_black_stays_dark():
    for value in (0, 255):
        picture = np.full((4, 4, 3), value, np.uint8)
        mixed = blend(picture, np.ones((4, 4), np.float32), WHOLE, 1.0, alpha=0.5)
        assert (mixed <= 128).all() if value == 0 else (mixed >= 127).all()


def test_what_the_network_did_not_see_stays_as_it_is_and_all_else_changes():
    """Exactly where the signed map is laid out: no pixel more, no pixel less."""
    picture = np.full((37, 53, 3), 255, np.uint8)
    seen = (0.21, 0.1, 0.5, 0.77)
    evidence = lay_out(np.ones((7, 7), np.float32), seen, seen, 37, 53)
    changed = (blend(picture, evidence, seen, 1.0, alpha=0.5) != picture).any(2)
    assert (changed == (evidence != 0)).all()
    assert 0 < changed.sum() < changed.size


def test_a_photo_of_which_nothing_was_seen_stays_as_it_is():
    picture = photo(3, 3)
    assert (blend(picture, np.zeros((3, 3), np.float32), (0.9, 0.9, 0.01, 0.01), 1.0) == picture).all()


def test_more_evidence_never_gets_an_earlier_colour():
    evidence = np.linspace(-2, 12, 600, dtype=np.float32)[None]
    black = np.zeros((1, 600, 3), np.uint8)
    assert (blend(black, evidence, WHOLE, 10.0, "jet", alpha=1.0, threshold=0.0)[0, evidence[0] <= 0] == 0).all()
    evidence = evidence[:, evidence[0] > 0]
    colours = blend(black[:, : evidence.size], evidence, WHOLE, 10.0, "jet", alpha=1.0, threshold=0.0)[0]
    scale = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)[:, 0, ::-1]
    levels = [int(np.abs(scale.astype(int) - colour).sum(1).argmin()) for colour in colours.astype(int)]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, 255)


def test_a_picture_looks_as_in_the_app(rng):
    """Seen from afar: where the App draws a pixel in full or not at all, a blend is as strong as these on average."""
    grid = rng.uniform(-4, 12, (5, 6)).astype(np.float32)
    size = display_size(400, 480)
    evidence = lay_out(grid, WHOLE, WHOLE, *size)
    stops = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in HEAT], float)
    drawn, ceiling = draw_evidence(evidence, 10.0)
    places = drawn / ceiling * (len(stops) - 1)
    colours = np.stack([np.interp(places, range(len(stops)), channel) for channel in stops.T], axis=2)
    app = np.where(drawn[..., None] > 0, 0.3 * 128 + 0.7 * colours, 128.0)
    ours = blend(np.full((*size, 3), 128, np.uint8), evidence, WHOLE, ceiling).astype(float)
    assert np.abs(cv2.blur(app, (16, 16)) - cv2.blur(ours, (16, 16))).max() < 10


@pytest.mark.parametrize(("change", "word"), [({"colormap": "rainbows"}, "viridis"), ({"alpha": 1.5}, "0 to 1")])
def test_a_style_that_there_is_not_is_refused(change, word):
    with pytest.raises(CamError, match=word):
        blend(photo(2, 2), np.zeros((2, 2), np.float32), WHOLE, 1.0, **change)


def test_evidence_of_another_size_is_refused():
    with pytest.raises(CamError, match=r"expected the photo's \(4, 6\)"):
        blend(photo(4, 6), np.zeros((6, 4), np.float32), WHOLE, 1.0)


# text


@pytest.mark.parametrize("text", NASTY)
def test_any_label_becomes_one_line_that_can_be_drawn(text):
    line = printable(text)
    assert len(line) <= 80
    assert line.isprintable()


SIZES = [(1, 1), (20, 2000), (2000, 20), (75, 100), (480, 640), (3000, 4000)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_caption_hides_nothing_and_can_be_read_on_a_picture_of_any_size(height, width):
    """Readable: bright ink on dark, inside the picture, letters of at least 8 rows, and larger on larger pictures."""
    picture = photo(height, width)
    result = caption(picture, ["schipperke 97.3%", "truth: cat"])
    assert (result[-height:, :width] == picture).all()
    assert (result[-height:, width:] == PAPER).all()
    band = result[:-height]
    ink = band.max(2) > 128
    assert ink.any()
    assert not ink[:, [0, -1]].any()  # nothing is cut at the sides
    assert not ink[[0, -1]].any()  # nor above or below
    rows = np.flatnonzero(ink.any(1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert max(len(line) for line in lines) >= max(8, 0.02 * min(width, 2 * height))


@pytest.mark.parametrize("text", NASTY)
def test_a_caption_is_drawn_whatever_the_label(text):
    result = caption(photo(40, 30), [text])
    assert (result[-40:, :30] == photo(40, 30)).all()
    assert result.shape[1] < 1500


def test_different_labels_look_different():
    """Letters beyond ASCII too, which OpenCV's own would all draw as question marks."""
    pictures = [caption(photo(40, 300), [text]).tobytes() for text in ("cat", "dog", "кошка", "собака", "Ägypten")]
    assert len(set(pictures)) == 5


# stacks


def test_a_stack_holds_its_pictures_unchanged_on_dark_ground():
    first, second = photo(10, 20), photo(5, 30, 1)
    below, beside = stack([first, second], axis=0, gap=2), stack([first, second], axis=1, gap=2)
    assert below.shape == (17, 30, 3)
    assert beside.shape == (10, 52, 3)
    assert (below[:10, :20] == first).all()
    assert (below[12:, :30] == second).all()
    assert (below[10:12] == PAPER).all()
    assert (beside[:5, 22:] == second).all()


def test_labels_can_be_written_in_many_scripts():
    """A letter that a font lacks is drawn as a box, like every other letter that it lacks."""
    letters = "aäőčñßЖяΩλ…–×→ðşğ"
    assert len({caption(photo(40, 300), [letter]).tobytes() for letter in letters}) == len(letters)
