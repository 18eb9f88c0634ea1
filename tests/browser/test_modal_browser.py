"""A sample that is open: any class explained on it, and what its heatmaps' tooltips say; and the script's own parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from playwright.sync_api import Locator, expect

import fiftyone_cam as focam
from fiftyone_cam.core.names import operator_uri
from tests.browser.page import AppPage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def computed(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """Seven photos with maps, made before a browser is open."""
    dataset = fo.Dataset("open", persistent=True, overwrite=True)
    dataset.add_samples(
        fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=label)) for path, label in photos[:7]
    )
    focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth", progress=False)
    yield dataset
    dataset.delete()


def open_sample(app: AppPage, dataset: fo.Dataset, name: str) -> tuple[fo.Sample, Locator]:
    """A sample, open in the App, and where it is drawn."""
    [index] = [at for at, path in enumerate(dataset.values("filepath")) if path.endswith(f"/{name}")]
    return dataset[dataset.values("id")[index]], app.open_sample(index)


def shows(app: AppPage, media: Locator, sample: fo.Sample, heat: fo.Heatmap) -> bool | None:
    """Whether a map lies on the photo: colour where its evidence is strong, and the bare photo where it is clear."""
    seen = app.pixels(media).astype(float)
    photo = cv2.cvtColor(cv2.imread(sample.filepath), cv2.COLOR_BGR2RGB)
    scale = min(seen.shape[0] / photo.shape[0], seen.shape[1] / photo.shape[1])
    width, height = round(photo.shape[1] * scale), round(photo.shape[0] * scale)
    y, x = (seen.shape[0] - height) // 2, (seen.shape[1] - width) // 2
    changed = np.abs(seen[y : y + height, x : x + width] - cv2.resize(photo, (width, height)).astype(float)).mean(2)
    drawn = cv2.resize(heat.map, (width, height), interpolation=cv2.INTER_NEAREST)
    changed, drawn = changed[height // 6 : -height // 8], drawn[height // 6 : -height // 8]  # labels lie above
    return bool(changed[drawn > 0.6 * drawn.max()].mean() > 30 and np.median(changed[drawn == 0]) < 8) or None


def test_an_open_sample_shows_the_class_that_was_asked_for(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    sample, media = open_sample(app, computed, "astronaut.jpg")
    app.until(lambda: shows(app, media, sample, sample.cam_heatmap), "the map of the run")
    app.shot("explain_button", app.button("explain"))
    app.button("explain").click()
    app.type("Class", "no such animal")
    expect(app.prompt.get_by_text("is none of the 1,000 classes")).to_be_visible()
    pictures = []
    for label in ("space shuttle", "crash helmet"):
        app.line("Class").locator("input").first.fill(label)  # no Enter, no Tab: the open list is not over the button
        app.submit("Explain")
        app.until(lambda label=label: f"{label} has the logit" in app.words() or None, f"the map of {label}")
        pictures.append(app.prompt.locator("img").get_attribute("src"))
        app.shot("explain")
        app.done()
        computed.reload()
        sample.reload()
        heat = sample.cam_explained
        assert heat.label == label
        assert heat.cam.grid.mean() + heat.cam.bias == pytest.approx(heat["logit"], rel=1e-5)
        app.until(lambda heat=heat: shows(app, media, sample, heat), f"the map of {label} on the open sample")
        app.shot("explained")
        field = app.page.locator("#modal").locator('[data-cy="sidebar-field-container-cam_explained"]')
        expect(field).to_be_visible()
        if label == "space shuttle":
            app.button("explain").click()
    assert pictures[0] != pictures[1]
    app.page.keyboard.press("Escape")


def test_the_tooltip_says_class_logit_and_evidence(app: AppPage, computed: fo.Dataset) -> None:
    """And nothing else. The evidence under the pointer is in logit units."""
    app.open(computed)
    sample, media = open_sample(app, computed, "rocket.jpg")
    heat = sample.cam_heatmap
    row, column = np.unravel_index(heat.map.argmax(), heat.map.shape)
    place = (column + 0.5) / heat.map.shape[1], (row + 0.5) / heat.map.shape[0]
    app.until(lambda: shows(app, media, sample, heat), "the heatmap")

    def hovered() -> dict[str, str] | None:
        box = app.box(media)
        scale = min(box["width"] / heat.map.shape[1], box["height"] / heat.map.shape[0])
        size = heat.map.shape[1] * scale, heat.map.shape[0] * scale
        corner = box["x"] + (box["width"] - size[0]) / 2, box["y"] + (box["height"] - size[1]) / 2
        app.page.mouse.move(corner[0] + place[0] * size[0] - 3, corner[1] + place[1] * size[1] - 3)
        app.page.mouse.move(corner[0] + place[0] * size[0], corner[1] + place[1] * size[1], steps=3)
        app.page.wait_for_timeout(400)
        said = app.tooltip()
        return said if "pixel" in said else None

    said = app.until(hovered, "the tooltip of the heatmap")
    app.shot("tooltip")
    assert set(said) == {"label", "pixel", "logit"}
    assert said["label"] == heat.label
    assert float(said["logit"]) == pytest.approx(heat.logit, abs=1e-3)
    assert float(said["pixel"]) == pytest.approx(float(heat.map.max()), rel=0.15)
    assert float(heat.map.max()) == pytest.approx(float(focam.signed_map(heat, heat.map.shape).max()), rel=0.1)
    app.page.keyboard.press("Escape")


def test_what_somebody_chose_for_a_tooltip_stays(app: AppPage, computed: fo.Dataset) -> None:
    app.open(computed)
    stored = "path => localStorage.getItem(`fo-hiddenLabels-open-${path}`)"
    app.until(lambda: app.page.evaluate(stored, "cam_heatmap") == "id,range" or None, "what is left out")
    app.page.evaluate("localStorage.setItem('fo-hiddenLabels-open-cam_heatmap', '')")  # as "Show this label" does
    app.execute(operator_uri("plain_tooltips"), dataset="open", fields=["cam_heatmap", "later"])
    app.until(lambda: app.page.evaluate(stored, "later") == "id,range" or None, "a field that is new")
    assert app.page.evaluate(stored, "cam_heatmap") == ""


def test_strips_stand_above_each_other_and_a_silent_server_is_said(app: AppPage, computed: fo.Dataset) -> None:
    """Two works at once; one ends; of the other nothing is heard any more."""
    app.open(computed)
    sooner = "(f, ms, ...more) => real(f, ms === 30000 ? 3000 : ms, ...more)"
    app.page.evaluate(f"() => {{ const real = setTimeout; window.setTimeout = {sooner}; }}")
    for work, label in (("one", "3 of 9 samples"), ("two", "Reading the maps")):
        app.execute(operator_uri("show_work"), work=work, label=label, progress=1 / 3, note="Keep this tab open")
        expect(app.strip.get_by_text(label)).to_be_visible()
    first, second = (app.strip.nth(index).bounding_box() for index in range(2))
    assert first
    assert second
    assert first["y"] + first["height"] <= second["y"]
    app.execute(operator_uri("show_work"), work="one", label="")
    expect(app.strip).to_have_count(1)
    expect(app.strip.get_by_text("Nothing is heard from the server")).to_be_visible()
    app.execute(operator_uri("show_work"), work="two", label="Back again", progress=0.5, note="")
    expect(app.strip.get_by_text("Back again")).to_be_visible()
    expect(app.strip.get_by_role("button")).to_have_text("Stop")
    expect(app.strip.get_by_text("Nothing is heard from the server")).to_be_visible()
    app.strip.get_by_role("button", name="Close").click()
    expect(app.strip).to_have_count(0)
    app.page.reload()  # with a setTimeout of its own
