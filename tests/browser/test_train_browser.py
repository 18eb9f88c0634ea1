"""From labels to maps, all in the App: train a classifier, look at what it looks at, take the pictures along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import expect

import fiftyone_cam as focam
from fiftyone_cam import trainings
from tests.browser.page import AppPage, difference


@pytest.fixture(scope="module", autouse=True)
def scheduling() -> Iterator[None]:
    """Without an orchestrator of Enterprise, the App schedules only where FiftyOne is told to allow it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS", "true")
        yield


@pytest.fixture(scope="module")
def dataset(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """Seven things, each on four photos."""
    dataset = fo.Dataset("things", persistent=True, overwrite=True)
    dataset.add_samples(
        fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=label)) for path, label in photos
    )
    yield dataset
    dataset.delete()


def test_a_classifier_is_trained_and_its_maps_are_computed(app: AppPage, dataset: fo.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "things"
    app.open(dataset)
    before = app.picture()
    app.browse("Train GAP classifier")
    app.type("Output directory", str(out))
    app.type("Epochs", "30")
    app.switch("Train the last layer alone")
    app.shot("train_form")
    expect(app.prompt.get_by_role("button", name="Schedule")).to_be_enabled()
    app.choose_to("Train")
    app.submit("Train")

    said: list[str] = []

    def finished() -> bool | None:
        words = app.words()
        if not said or words != said[-1]:
            said.append(words)
            if "loss" in words:
                app.shot("train_progress")
        return True if "The checkpoint" in words else None

    app.until(finished, f"the summary of the training after {said}")
    app.shot("train_summary")
    assert any("features of training" in words for words in said), said

    dataset.reload()
    training = trainings.load_training(dataset, "things")
    assert training.record["status"] == "complete"
    assert training.record["training"]["freeze"] == "backbone"
    assert len(training.classes) == 7
    assert f"{training.metrics['accuracy']:.1%}" in said[-1]

    app.submit("Compute class activation maps with it")
    expect(app.prompt.get_by_text("Trained on this dataset")).to_be_visible()
    app.shot("train_offer")
    app.submit("Compute")
    words = app.until(lambda: app.words() if "Certificate" in app.words() else None, "the summary of the run")
    assert "things on 28 samples" in words
    app.done()

    dataset.reload()
    run = focam.load_run(dataset, "things_cam")
    assert run.complete
    assert run.certificate < 1e-5
    assert run.record["classifier"]["sha256"] == focam.load_classifier(out).fingerprint
    assert run.record["accuracy"] >= training.metrics["accuracy"] * 0.9
    app.until(lambda: difference(app.picture(), before) > 5 or None, "heatmaps on the grid")
    app.shot("train_grid")
    assert not app.errors
