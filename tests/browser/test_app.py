"""The main job in the App, from the button to the filter, as README.md tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from playwright.sync_api import Response, expect

import fiftyone_cam as focam
from fiftyone_cam.core import display
from fiftyone_cam.core.names import operator_uri
from fiftyone_cam.dataset import app_config
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.record import CamRecord, ClassifierRecord, Settings
from tests.browser.page import AppPage, difference

TITLE = "Compute class activation maps"


@pytest.fixture(scope="module")
def dataset(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    dataset = fo.Dataset("photos", persistent=True, overwrite=True)
    dataset.add_samples(
        fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=label)) for path, label in photos
    )
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def computed(app: AppPage, dataset: fo.Dataset) -> fo.Dataset:
    """The dataset with a run that was made in the App: by the first test, or, where that was not asked for, now."""
    dataset.reload()
    if not focam.list_runs(dataset):
        compute(app, dataset)
        app.done()
        dataset.reload()
    return dataset


def compute(app: AppPage, dataset: fo.Dataset) -> list[str]:
    """Open the form, fill it, run it; returns what it said on the way."""
    app.open(dataset)
    app.shot("button", app.button("cam"))
    app.button("cam").click()
    expect(app.prompt.get_by_text(TITLE)).to_be_visible()
    app.choose("Ground truth", "ground_truth")
    expect(app.prompt.get_by_text("Translation of classes")).to_be_visible()
    expect(app.prompt.get_by_text("It writes cam_prediction, cam_heatmap, cam_contrast, cam_error")).to_be_visible()
    expect(app.prompt.get_by_role("button", name="Compute", exact=True)).to_be_enabled()
    app.shot("form")
    app.switch("More settings")
    app.type("Batch size", "4")
    app.submit("Compute")

    said: list[str] = []

    def finished() -> bool | None:
        words = app.words()
        if not said or words != said[-1]:
            said.append(words)
            if " s left" in words and " 0 s left" not in words:
                app.shot("progress")
        return True if "maps equal to" in words else None

    app.until(finished, f"the summary of the run after {said}")
    return said


def test_the_form_computes_and_the_grid_shows_it(app: AppPage, dataset: fo.Dataset) -> None:
    app.open(dataset)
    before = app.picture()

    said = compute(app, dataset)
    app.ready()
    app.shot("summary")
    assert any("the classifier" in words or f"of {len(dataset)} samples" in words for words in said), said  # on the way
    app.done()
    expect(app.page.locator('[data-cy="sidebar-group-CAM"]')).to_be_visible()  # without a reload
    for path in ("cam_prediction", "cam_heatmap", "cam_contrast", "cam_error"):
        expect(app.field(path)).to_be_visible()
    expect(app.page.locator('[data-cy="sidebar-group-CAM NUMBERS"]')).to_be_visible()
    expect(app.page.locator('[data-cy="sidebar-group-CAM_EVAL"]')).to_have_count(0)  # what the App makes of its own
    app.shot("first_result")

    dataset.reload()
    run = focam.load_run(dataset, "cam")
    assert run.complete
    assert run.counts.computed == len(dataset)
    assert run.certificate < 1e-5
    assert f"{run.record.accuracy:.1%}" in said[-1]

    app.until(lambda: difference(app.picture(), before) > 5 or None, "heatmaps on the grid")
    assert not app.errors


def test_colours_and_group_are_there_after_a_reload(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    launched = app.still()
    expect(app.page.locator('[data-cy="sidebar-group-CAM"]')).to_be_visible()
    for path in ("cam_prediction", "cam_heatmap", "cam_contrast", "cam_error"):
        expect(app.field(path)).to_be_visible()
    app.shot("grid")
    app.reload()
    app.until(lambda: difference(app.picture(), launched) < 3 or None, "the same colours after a reload")
    app.show("cam_heatmap", False)
    app.until(lambda: difference(app.picture(), launched) > 5 or None, "no heatmaps on the grid")
    app.show("cam_heatmap")


def test_the_sidebar_filters_predictions(app: AppPage, computed: fo.Dataset) -> None:
    expected = len(computed.match(F("cam_prediction.label") == "espresso"))
    assert 0 < expected < len(computed)
    app.open(computed)
    app.page.locator('[data-cy="sidebar-field-arrow-enabled-cam_prediction"]').first.click()
    search = app.page.locator('[data-cy="selector-sidebar-search-cam_prediction.label"]').first
    result = app.page.locator('[data-cy^="selector-result-"]').get_by_text("espresso", exact=True).first

    def pick() -> None:
        search.fill("espresso")
        result.click()

    app.again(pick, app.page.locator('[data-cy="checkbox-espresso"]'))
    app.until(lambda: app.lookers.count() == expected or None, f"{expected} samples on the grid")
    app.settled()
    app.shot("filter")


def draw_scales_anew(app: AppPage) -> None:
    """As where the App opens a dataset by its address, or shows what a run wrote: over tiles that are drawn already."""

    def answered(response: Response) -> bool:
        return "setColorScheme" in (response.request.post_data or "")

    with app.page.expect_response(answered):
        app.execute("@voxel51/operators/set_color_scheme", color_by="value")  # the server forgets the ready colours
    with app.page.expect_response(answered):
        app.execute(operator_uri("restore_colors"))


def test_contrast_is_drawn_where_the_prediction_is_wrong(app: AppPage, computed: fo.Dataset) -> None:
    """Ticked after the scales were drawn anew, which must not end what paints heatmaps."""
    gaps = [np.abs(sample["cam_contrast"].cam.grid).max() if sample["cam_contrast"] else 0.0 for sample in computed]
    in_sight = gaps[:10]
    wrong, fine = int(np.argmax(in_sight)), in_sight.index(0.0)
    right = (F("cam_prediction.label") == F("ground_truth.label")) & ~F("cam_contrast").exists()
    assert len(computed.match(right)) == gaps.count(0.0)
    app.open(computed)
    draw_scales_anew(app)
    app.show("cam_heatmap", False)
    plain = [app.still(index) for index in (wrong, fine)]
    app.show("cam_contrast")
    app.until(lambda: difference(app.picture(wrong), plain[0]) > 3 or None, "a contrastive map")
    assert difference(app.still(fine), plain[1]) < 1
    app.shot("contrast")
    app.show("cam_contrast", False)
    app.show("cam_heatmap")


def test_a_wrong_key_is_refused_at_its_field(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    app.browse(TITLE)
    button = app.prompt.get_by_role("button", name="Compute", exact=True)
    expect(app.line("Run key").locator("input").first).to_have_value("cam2")  # as it opens: valid, and nothing red
    expect(button).to_be_enabled()
    app.shot("form_again")
    app.choose("Ground truth", "ground_truth")
    app.type("Translation of classes", '{"taby": "tabby"}')
    expect(app.prompt.get_by_text("did you mean tabby")).to_be_visible()
    app.type("Translation of classes", "")
    app.type("Model", "efficientnet_lite1")
    for key, reason in (("", "Run key is missing"), ("1st run", "is not a valid key"), ("cam", "was made with")):
        app.type("Run key", key)
        expect(app.prompt.get_by_text(reason)).to_be_visible()
        expect(button).to_be_disabled()
    app.type("Model", "efficientnet_lite0")
    expect(app.prompt.get_by_text("only samples without a result are computed")).to_be_visible()
    expect(button).to_be_enabled()
    app.prompt.get_by_role("button", name="Cancel").click()


@pytest.mark.slow
def test_stop_keeps_what_was_computed_and_the_next_run_goes_on(app: AppPage, photos: list[tuple[Path, str]]) -> None:
    many = fo.Dataset("many", persistent=True, overwrite=True)  # so many that there is time to stop
    many.add_samples(fo.Sample(filepath=str(path)) for path, _ in photos * 20)
    app.open(many)
    app.browse(TITLE)
    app.type("Run key", "second")
    app.switch("More settings")
    app.type("Batch size", "1")
    app.submit("Compute")
    app.until(lambda: "samples/s" in app.words() or None, "progress")
    app.strip.get_by_role("button", name="Stop").click()
    app.until(lambda: "Stopped" in app.words() or None, "the word that it stopped")
    app.done()

    many.reload()
    some = len(many.exists("second_heatmap"))
    assert 0 < some < len(many)
    assert focam.load_run(many, "second").record.status == "interrupted"

    app.browse(TITLE)
    app.type("Run key", "second")
    expect(app.prompt.get_by_text("It goes on")).to_be_visible()
    app.submit("Compute")
    words = app.until(lambda: app.words() if "maps equal to" in app.words() else None, "the summary")
    assert f"{len(many)} with a map, 0 failed, of {len(many)}; {len(many) - some} new" in words
    app.done()
    many.delete()


@pytest.mark.slow
def test_the_first_results_are_seen_long_before_the_last(app: AppPage, photos: list[tuple[Path, str]]) -> None:
    many = fo.Dataset("more", persistent=True, overwrite=True)
    many.add_samples(fo.Sample(filepath=str(path)) for path, _ in photos * 200)
    app.open(many)
    plain = app.picture()
    app.browse(TITLE)
    app.switch("More settings")
    app.type("Batch size", "1")  # so that there is much left, also on a fast machine
    app.submit("Compute")
    began = time.monotonic()
    app.until(lambda: "the classifier" in app.words() or "left" in app.words() or None, "a sign of life")
    app.until(lambda: difference(app.picture(), plain) > 3 or None, "a heatmap on the grid")
    print(f"first heatmap on the screen {time.monotonic() - began:.1f} s after the button was pressed")
    app.shot("first")
    words = app.words()
    assert f"of {len(many):,} samples" in words, words
    assert "left" in words, words  # it still runs
    expect(app.strip).to_contain_text("Keep this tab open")
    expect(app.prompt).to_have_count(0)  # and leaves the App free: a sample is opened and closed
    app.open_sample()
    app.close_sample()
    assert not app.errors
    app.page.goto("about:blank")  # what a closed tab does, and the strip has said so

    def ended() -> bool | None:
        many.reload()
        return focam.load_run(many, "cam").status == "interrupted" or None

    app.until(ended, "the end of the work")
    assert 0 < len(many.exists("cam_heatmap")) < len(many)
    many.delete()


def test_what_cannot_match_is_said_before_it_runs(app: AppPage, computed: fo.Dataset) -> None:
    pets = fo.Dataset("two_pets", persistent=True, overwrite=True)
    for sample, label in zip(computed.limit(2), ("cat", "dog"), strict=True):
        pets.add_sample(fo.Sample(filepath=sample.filepath, ground_truth=fo.Classification(label=label)))
    app.open(pets)
    app.browse(TITLE)
    app.choose("Ground truth", "ground_truth")
    expect(app.line("Translation of classes").locator("textarea").first).to_have_value("imagenet-groups")
    expect(app.prompt.get_by_text("No class of this model is called cat, dog:")).to_be_visible()
    app.switch("Show the model's 1,000 classes")
    expect(app.prompt.get_by_text("tench · goldfish · great white shark")).to_be_visible()
    app.shot("form_pets")
    app.type("Translation of classes", "")
    expect(app.prompt.get_by_text("No label of ground_truth is a class of this model")).to_be_visible()
    expect(app.prompt.get_by_role("button", name="Compute", exact=True)).to_be_disabled()
    app.prompt.get_by_role("button", name="Cancel").click()
    pets.delete()


@pytest.mark.slow
def test_what_cannot_be_computed_leads_back_to_the_form_as_it_was(
    app: AppPage, computed: fo.Dataset, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_text("no weights")
    app.open(computed)
    app.browse(TITLE)
    app.type("Run key", "other")
    app.choose("Classifier from", "Weights file")
    app.shot("form_weights")
    for label, text in (("File", str(broken)), ("Architecture", "resnet18"), ("Class names", "tabby, espresso")):
        app.type(label, text)
    app.submit("Compute")
    app.until(lambda: "Not done" in app.words() or None, "the reason")
    app.shot("not_done")
    app.prompt.get_by_role("button", name="Back to the form").click()
    expect(app.line("File").locator("input").first).to_have_value(str(broken))
    expect(app.line("Run key").locator("input").first).to_have_value("other")
    expect(app.prompt.get_by_text("Not done")).to_have_count(0)
    app.prompt.get_by_role("button", name="Cancel").click()


@pytest.mark.slow
def test_what_a_person_ticked_stays_and_heatmaps_take_turns(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    app.show("ground_truth", False)
    app.show("cam_contrast")
    app.browse(TITLE)
    app.choose("Ground truth", "ground_truth")
    app.submit("Compute")
    app.until(lambda: "maps equal to" in app.words() or None, "the summary")
    app.done()
    ticked = {"cam_prediction", "cam2_prediction", "cam2_heatmap", "cam2_contrast"}
    unticked = {"ground_truth", "cam_heatmap", "cam_contrast", "cam_error"}
    app.until(lambda: all(app.shown(p) for p in ticked) or None, "what is new is ticked")
    app.until(lambda: not any(app.shown(path) for path in unticked) or None, "what it replaces is not")
    app.shot("second")

    app.browse("Delete a CAM run")
    app.choose("Run", "cam2")
    app.submit("Delete")
    app.until(lambda: "is gone" in app.words() or None, "the word that it is gone")
    app.until(lambda: (app.shown("cam_heatmap") and app.shown("cam_contrast")) or None, "the run before is back")
    app.until(lambda: not app.shown("ground_truth") or None, "what was unticked stays so")
    app.done()
    app.show("cam_contrast", False)
    app.show("ground_truth")


@pytest.mark.slow
def test_the_first_result_is_seen_beside_what_is_filled(app: AppPage, computed: fo.Dataset) -> None:
    corners = [[(0, 0), (1, 0), (1, 1), (0, 1)]]
    filled = fo.Dataset("filled", persistent=True, overwrite=True)
    for sample in computed.limit(3):
        area = fo.Polyline(label="animal", points=corners, closed=True, filled=True)
        filled.add_sample(fo.Sample(filepath=sample.filepath, areas=fo.Polylines(polylines=[area])))
    app.open(filled)
    app.until(lambda: app.shown("areas") or None, "areas is ticked")
    app.browse(TITLE)
    app.submit("Compute")
    words = app.until(lambda: app.words() if "maps equal to" in app.words() else None, "the summary")
    assert "areas: drawn over whole objects" in words
    app.done()
    app.until(lambda: (app.shown("cam_heatmap") and not app.shown("areas")) or None, "the one for the other")
    heat = app.still()
    app.shot("filled")
    app.show("cam_heatmap", False)
    app.until(lambda: difference(app.picture(), heat) > 5 or None, "a photo without a heatmap")
    app.show("cam_heatmap")
    filled.delete()


def test_redrawing_moves_the_threshold_on_the_grid(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    before = app.still()
    app.browse("Redraw heatmaps")
    app.type("Threshold in percent", "60")
    app.submit("Redraw")
    app.until(lambda: "drawn anew" in app.words() or None, "the word that they are drawn anew")
    app.done()
    app.until(lambda: difference(app.picture(), before) > 2 or None, "less of the evidence on the grid")
    app.shot("threshold")
    focam.redraw_heatmaps(computed, "cam", progress=False)


def test_deleting_a_run_leaves_what_is_not_its_own(app: AppPage, computed: fo.Dataset) -> None:
    computed.set_values("cam_mine", ["kept"] * len(computed))
    app.open(computed)
    app.browse("Delete a CAM run")
    expect(app.prompt.get_by_text("cam_heatmap")).to_be_visible()
    app.submit("Delete")
    app.until(lambda: "is gone" in app.words() or None, "the word that it is gone")
    app.reload()  # the App may have closed the prompt by itself, with the dataset that it loads anew
    expect(app.page.locator('[data-cy="sidebar-field-container-cam_heatmap"]')).to_have_count(0)

    computed.reload()
    assert focam.list_runs(computed) == []
    assert not computed.has_field("cam_heatmap")
    assert computed.count_values("cam_mine") == {"kept": len(computed)}
    assert not app_config.scales(computed)


def test_stored_colour_scales_are_what_is_drawn(app: AppPage, tmp_path: Path) -> None:
    """Ramps over grey: evidence in HEAT, contrast in SIGNED, jet on request, another run's scale untouched."""
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((300, 400, 3), 128, np.uint8))
    steps = np.tile(np.linspace(0, 1, 101), (75, 1))
    ramps = {
        "heatmap": (np.rint(255 * steps).astype(np.uint8), [0, 255], display.HEAT),
        "contrast": (np.rint(127 * (2 * steps - 1)).astype(np.int8), [-127, 127], display.SIGNED),
    }
    dataset = fo.Dataset()
    made_by = ClassifierRecord(source="test", model="ramp", classes=["a", "b"], sha256="0")
    record = CamRecord(classifier=made_by, settings=Settings(), status="complete")
    run = catalog.register(dataset, "ramp", record)
    for name in ramps:
        run.claim_field(name, ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    for name, (levels, limits, _) in ramps.items():
        label = fo.Heatmap(map=levels, range=limits)
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / "grey.png"), **{run.field(name): label}))
    run.show()
    dataset.app_config.active_fields = fo.ActiveFields(paths=[run.field(name) for name in ramps])
    dataset.save()

    app.open(dataset)
    for index, (_, _, scale) in enumerate(ramps.values()):
        app.until(lambda index=index, scale=scale: _drawn(app.picture(index), scale) or None, f"the colours {scale}")

    run.show(colors="jet")
    app.open(dataset)
    jet = ("#000083", "#003caa", "#05ffff", "#ffff00", "#fa0000", "#800000")
    app.until(lambda: _drawn(app.picture(0), jet, at=(0.2, 0.4, 0.6, 0.8)) or None, "jet on the heatmap")
    app.until(lambda: _drawn(app.picture(1), display.SIGNED) or None, "still signed colours on the contrast")


def _drawn(picture: np.ndarray, scale: tuple[str, ...], at: tuple[float, ...] = (0.15, 0.3, 0.7, 0.85)) -> bool:
    """Whether a ramp over grey is drawn in a scale, with the App's opacity of 0.7."""
    row = picture[picture.shape[0] // 2].astype(float)
    colors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in scale], float)
    for place in at:
        wanted = [np.interp(place * (len(scale) - 1), range(len(scale)), channel) for channel in colors.T]
        found = row[round(place * (len(row) - 1))]
        if np.abs(found - (0.3 * 128 + 0.7 * np.array(wanted))).max() > 12:
            return False
    return True
