"""The main job in the App, from the button to the filter, as README.md tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import expect

import fiftyone_cam as focam
from tests.browser.page import AppPage, difference

TITLE = "Compute class activation maps"


@pytest.fixture(scope="module")
def dataset(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    dataset = fo.Dataset("photos", persistent=True)
    dataset.add_samples(
        fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=label)) for path, label in photos
    )
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def computed(app: AppPage, dataset: fo.Dataset) -> fo.Dataset:
    """After the first test: the dataset with a run, made in the App."""
    if not focam.list_runs(dataset):
        compute(app, dataset)
    return dataset


def compute(app: AppPage, dataset: fo.Dataset) -> list[str]:
    """Open the form, fill it, run it; returns what it said on the way."""
    app.open(dataset)
    app.button("cam").click()
    expect(app.prompt.get_by_text(TITLE)).to_be_visible()
    app.choose("Ground truth", "ground_truth")
    app.shot("form")
    app.submit("Compute")

    said: list[str] = []

    def finished() -> bool | None:
        words = app.words()
        if not said or words != said[-1]:
            said.append(words)
            if "samples/s" in words:
                app.shot("progress")
        return True if "Certificate" in words else None

    app.until(finished, f"the summary of the run after {said}")
    app.shot("summary")
    return said


def test_the_form_computes_and_the_grid_shows_it(app: AppPage, dataset: fo.Dataset) -> None:
    app.open(dataset)
    before = app.picture()

    said = compute(app, dataset)
    assert any("Loading the classifier" in words for words in said), said
    assert any(f"of {len(dataset)} samples" in words for words in said), said
    app.done()

    dataset.reload()
    run = focam.load_run(dataset, "cam")
    assert run.complete
    assert run.counts["computed"] == len(dataset)
    assert run.certificate < 1e-5
    assert f"{run.record['accuracy']:.1%}" in said[-1]

    app.until(lambda: difference(app.picture(), before) > 5 or None, "heatmaps on the grid")
    app.shot("grid")
    app.toggle("cam_heatmap")
    app.toggle("cam_prediction")
    app.until(lambda: difference(app.picture(), before) < 1 or None, "no heatmaps on the grid")
    assert not app.errors


def test_colours_and_groups_are_there_after_a_reload(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    launched = app.picture()
    expect(app.page.locator('[data-cy="sidebar-group-CAM"]')).to_be_visible()
    app.shot("sidebar")
    app.reload()
    app.until(lambda: difference(app.picture(), launched) < 2 or None, "the same colours after a reload")
