"""Concepts in the App: found by a form, named, shown, left out, and seen as patches and on their map."""

from __future__ import annotations

from collections.abc import Iterator

import fiftyone as fo
import pytest
from playwright.sync_api import Locator, expect

import fiftyone_cam as focam
from tests.browser.page import AppPage
from tests.helpers.networks import NAMES, small_checkpoint, write_photos

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    """Pictures with maps of a small network, as the App's form leaves them."""
    folder = tmp_path_factory.mktemp("concepts")
    dataset = fo.Dataset("concepts", persistent=True)
    for i, path in enumerate(write_photos(folder, 24)):
        dataset.add_sample(fo.Sample(filepath=path, ground_truth=fo.Classification(label=NAMES[i % 3])))
    checkpoint = small_checkpoint(folder / "small")
    run = focam.compute_cam(dataset, checkpoint, ground_truth="ground_truth", progress=False)
    run.update(loaded_from=[str(checkpoint), {}])
    yield dataset
    dataset.delete()


def counts(app: AppPage, words: str) -> None:
    app.until(lambda: app.count() == words or None, f"{words} in the grid")


def press(app: AppPage, panel: Locator, name: str, seen: Locator) -> None:
    """Press the first row's button until something follows from it."""
    app.again(lambda: panel.get_by_role("button", name=name, exact=True).first.click(), seen)


def back(app: AppPage, panel: Locator) -> None:
    app.again(panel.get_by_role("button", name="Back", exact=True).click, lambda: app.count() == "24 samples")


def test_concepts_are_found_named_and_shown(computed: fo.Dataset, app: AppPage) -> None:
    app.open(computed)
    app.browse("Find concepts")
    expect(app.prompt.get_by_text("which run cam was made with")).to_be_visible()
    app.submit("Find")
    app.until(lambda: "Concepts shows each" in app.words() or None, "the summary")
    app.done()

    panel = app.page.locator('[data-cy="panel-content-cam_concepts"]')  # it opened by itself
    expect(panel.get_by_text("concept 1", exact=True)).to_be_visible()
    computed.reload()
    first = focam.load_concepts(computed, "cam").concepts[0]
    expect(panel.get_by_text(f"speaks for {first.speaks_for[0]}").first).to_be_visible()
    pictures = panel.get_by_alt_text("A place of concept 1", exact=True)
    expect(pictures).to_have_count(min(6, len(first.examples)))
    complete = "e => e.complete && e.naturalWidth"
    app.until(lambda: pictures.first.evaluate(complete) == 128 or None, "a picture 128 wide")
    app.until(lambda: panel.evaluate("e => e.scrollWidth <= e.clientWidth") or None, "a panel within its place")

    press(app, panel, "Rename", app.prompt)
    app.type("Name", "snow")
    app.submit("Name")
    app.done()
    expect(panel.get_by_text("snow", exact=True)).to_be_visible()

    press(app, panel, "Show", panel.get_by_text("The view shows snow"))
    computed.reload()
    holds = focam.load_concepts(computed, "cam").view("snow")
    counts(app, f"{len(holds)} samples")
    app.settled()
    app.shot("concepts")
    back(app, panel)


def test_concepts_are_left_out_seen_as_patches_and_on_their_map(computed: fo.Dataset, app: AppPage) -> None:
    app.open(computed)
    panel = app.page.locator('[data-cy="panel-content-cam_concepts"]')
    app.browse("Find concepts")  # if the panel is open, it shows what is new
    app.submit("Find")
    app.until(lambda: "Concepts shows each" in app.words() or None, "the summary")
    app.done()
    expect(panel.get_by_text("concept 1", exact=True)).to_be_visible()
    computed.reload()
    focam.name_concept(computed, "cam", "concept 1", "snow")
    app.reload()
    expect(panel.get_by_text("snow", exact=True)).to_be_visible()

    press(app, panel, "What if", app.prompt)
    app.submit("Leave out")
    app.until(lambda: "errors put right" in app.words() or None, "what would be without it")
    app.done()
    computed.reload()
    assert computed.count("cam_without") == 24

    press(app, panel, "As patches", panel.get_by_text("The view shows snow"))
    counts(app, f"{computed.count_values('cam_concepts.detections.label')['snow']} patches")
    back(app, panel)

    press(app, panel, "Embeddings", app.page.locator('[data-cy="panel-content-Embeddings"]'))
    expect(app.page.get_by_text("cam_concepts", exact=True).first).to_be_visible()
    assert not app.errors
