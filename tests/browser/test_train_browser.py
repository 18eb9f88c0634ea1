"""From labels to maps, all in the App: train a classifier, look at what it looks at, take the pictures along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from playwright.sync_api import expect

import fiftyone_cam as focam
from fiftyone_cam.runs import catalog
from tests.browser.page import AppPage, difference


@pytest.fixture(scope="module", autouse=True)
def scheduling() -> Iterator[None]:
    """Without an orchestrator of Enterprise, the App schedules only where its server is told to."""
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


@pytest.mark.slow
def test_a_classifier_is_trained_and_its_maps_are_computed(app: AppPage, dataset: fo.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "things"
    app.open(dataset)
    before = app.picture()
    app.browse("Train GAP classifier")
    expect(app.line("Output directory")).to_be_visible()
    expect(app.prompt.get_by_text("Required property")).to_have_count(0)  # nothing is red before anybody typed
    app.type("Output directory", str(out))
    app.type("Epochs", "30")
    app.shot("train_form")
    expect(app.prompt.get_by_role("button", name="Schedule")).to_be_enabled()
    app.choose_to("Train")
    app.submit("Train")

    said: list[str] = []

    def finished() -> bool | None:
        words = app.words()
        if not said or words != said[-1]:
            said.append(words)
            if "features of training" in words:
                app.shot("train_progress")
        return True if "mean of the classes" in words else None

    app.until(finished, f"the summary of the training after {said}")
    app.shot("train_summary")
    stages = ("features of", "training, epoch", "evaluating")  # a fast machine may be through one between two looks
    assert any(stage in words for words in said for stage in stages), said

    dataset.reload()
    training = catalog.load_training(dataset, "things")
    assert training.record.status == "complete"
    assert training.record.training["freeze"] == "backbone"
    assert len(training.classes) == 7
    assert f"{training.metrics.accuracy:.1%}" in said[-1]

    app.submit("Compute class activation maps with it")
    expect(app.prompt.get_by_text("mean of the classes")).to_have_count(0)  # one dialog at a time
    expect(app.prompt.get_by_text("Trained on this dataset")).to_be_visible()
    app.shot("train_offer")
    app.submit("Compute")
    words = app.until(lambda: app.words() if "maps equal to" in app.words() else None, "the summary of the run")
    assert "28 with a map" in words
    app.done()

    dataset.reload()
    run = focam.load_run(dataset, "things_cam")
    assert run.complete
    assert run.certificate < 1e-5
    assert run.record.classifier.sha256 == focam.load_classifier(out).fingerprint
    assert run.record.accuracy >= training.metrics.accuracy * 0.9
    app.until(lambda: difference(app.picture(), before) > 5 or None, "heatmaps on the grid")
    app.shot("train_grid")

    app.browse("Export CAM overlays")
    app.type("Output directory", str(tmp_path / "overlays"))
    app.submit("Export")
    app.until(lambda: "28 overlays" in app.words() or None, "the word that they are written")
    expect(app.prompt.locator("img")).to_be_visible()
    app.shot("overlays")
    app.done()
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 28 + 1
    assert not app.errors


@pytest.mark.slow
def test_a_training_is_scheduled_by_default_and_then_listed(app: AppPage, dataset: fo.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "later"
    app.open(dataset)
    app.browse("Train GAP classifier")
    app.type("Output directory", str(out))
    app.type("Architecture", "small_gap_net")
    app.switch("More settings")
    app.type("Snapshots", "2")
    app.submit("Schedule")
    queue = DelegatedOperationService()
    app.until(lambda: queue.list_operations(run_state=ExecutionRunState.QUEUED) or None, "it is in the queue")
    app.reload()
    assert not out.exists()

    # as "fiftyone delegated launch" does, once; in a process, because an event loop runs in this thread
    code = "from fiftyone.operators.delegated import DelegatedOperationService as S; S().execute_queued_operations()"
    subprocess.run([sys.executable, "-c", code], check=True)
    [done] = queue.list_operations(operator="@fiftyone-cam/cam/train_gap_classifier")
    assert (done.run_state, done.status.progress) == (ExecutionRunState.COMPLETED, 1), done.result
    assert done.status.label.startswith("evaluating")

    app.open(dataset)
    app.button("cam").click()
    app.choose("Classifier from", "Checkpoint folder")
    expect(app.prompt.get_by_text(f"later, epoch 2 in {out / 'epoch_2'}")).to_be_visible()
    folder = app.line("Folder").locator("input").first
    expect(folder).to_have_value(str(out))
    folder.fill("epoch")
    app.page.get_by_role("option").filter(has_text=str(out / "epoch_2")).click()
    expect(folder).to_have_value(str(out / "epoch_2"))
    app.shot("train_listed")
    app.prompt.get_by_role("button", name="Cancel").click()
    assert not app.errors
