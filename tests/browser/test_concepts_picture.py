"""The README's picture of the panel Concepts, on pictures that may be shown; taken only where it is asked for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import expect

import fiftyone_cam as focam
from tests.browser.page import AppPage

pytestmark = pytest.mark.skipif(
    "FIFTYONE_CAM_SCREENSHOTS" not in os.environ, reason="only takes a picture: python docs/take_pictures.py"
)

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def asked() -> Iterator[fo.Dataset]:
    """What ``examples/what_errors_are_made_of.py`` asks about, with the first concept named."""
    specification = importlib.util.spec_from_file_location("_stickers", EXAMPLES / "_stickers.py")
    stickers = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(stickers)
    classifier = stickers.taught(stickers.pictures(400, stickers={"cat": 0.97, "cup": 0.03}, seed=0))
    dataset = stickers.pictures(400, stickers={"cat": 0.1, "cup": 0.5}, seed=1)
    dataset.name, dataset.persistent = "cats_and_cups", True
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth", progress=False)
    report = focam.find_concepts(dataset, "cam", classifier, progress=False)
    focam.name_concept(dataset, "cam", report.concepts[0].name, "sticker")
    yield dataset
    dataset.delete()


def test_the_panel_beside_the_pictures_that_hold_the_sticker(asked: fo.Dataset, app: AppPage) -> None:
    app.open(asked)
    panel = app.open_panel("Concepts", "cam_concepts")
    expect(panel.get_by_text("sticker", exact=True)).to_be_visible()
    shown = panel.get_by_text("The view shows sticker")
    app.again(lambda: panel.get_by_role("button", name="Show", exact=True).first.click(), shown)
    held = len(focam.load_concepts(asked, "cam").view("sticker"))
    app.until(lambda: app.count() == f"{held} samples" or None, "those that hold it in the grid")
    app.until(lambda: app.picture().mean() > 50 or None, "pictures in the place of the dark that announces them")
    app.still()
    app.shot("concepts_panel")
