"""The audit in the App: every mark of the panel sets the view, and the modal says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import Locator, Position, expect

import fiftyone_cam as focam
from tests.browser.page import AppPage
from tests.helpers import audited_dataset as known

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def audited(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """28 photos, computed and audited, before a browser is open."""
    dataset = known.dataset("audited", photos)
    focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth", top_k=5)
    focam.audit(dataset, "cam", objects="things")
    dataset.app_config.active_fields = fo.ActiveFields(paths=["cam_prediction", "cam_heatmap"])
    dataset.save()
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def bare(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """Photos and nothing else."""
    dataset = known.dataset("bare", photos[:4])
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def unaudited(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """Photos with maps."""
    dataset = known.dataset("unaudited", photos[:7])
    focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth")
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def panel(audited: fo.Dataset, app: AppPage) -> Locator:
    """The panel, open beside the grid."""
    app.open(audited)
    return open_panel(app)


def open_panel(app: AppPage) -> Locator:
    return app.open_panel("CAM audit", "cam_audit")


def shows(app: AppPage, count: int) -> None:
    words = f"{count:,} sample" + ("" if count == 1 else "s")
    app.until(lambda: app.count() == words or None, f"{words} in the grid")


def press(app: AppPage, what: Locator, count: int) -> None:
    """Press a mark of the panel, which shows so many samples."""
    app.again(what.click, lambda: app.count().split()[0] == f"{count:,}")


def fits(panel: Locator) -> bool | None:
    return panel.locator("table").evaluate("e => e.scrollWidth <= e.parentElement.clientWidth") or None


def back(app: AppPage, panel: Locator, count: int) -> None:
    button = panel.get_by_role("button", name="Back to all")
    press(app, button, count)
    expect(button).to_be_disabled()  # the panel is drawn anew after the grid


def test_tiles_set_the_view_and_go_on_counting_where_one_came_from(
    audited: fo.Dataset, app: AppPage, panel: Locator
) -> None:
    expect(panel.get_by_text("By class", exact=True)).to_be_visible()
    expect(panel.locator(".scatterlayer .point").first).to_be_attached()
    counts = focam.load_audit(audited, "cam").verdicts
    assert 0 < counts["distracted"] < counts["trusted"]
    app.shot("audit_panel")
    for verdict in ("distracted", "trusted"):  # from one to the next without going back
        tile = panel.get_by_role("button", name=verdict)
        expect(tile).to_contain_text(f"{counts[verdict]}")
        before = app.box(tile)
        app.again(tile.click, panel.get_by_text(f"The view shows {verdict}"))
        shows(app, counts[verdict])
        app.until(lambda tile=tile, before=before: app.box(tile) == before or None, "what was clicked, in its place")
        expect(panel.get_by_role("button", name="distracted")).to_contain_text(f"{counts['distracted']}")
        if verdict == "distracted":
            app.settled()
            app.shot("audit")
    back(app, panel, len(audited))


def test_a_row_and_a_bar_set_the_view(audited: fo.Dataset, app: AppPage, panel: Locator) -> None:
    press(app, panel.get_by_role("cell", name="palace"), focam.load_audit(audited, "cam").class_view("palace").count())
    back(app, panel, len(audited))

    rows = [row for row in focam.load_audit(audited, "cam").region_table(correct=False) if row.label == "space shuttle"]
    assert rows[0].region == "astronaut"  # what it looked at instead
    label = panel.locator(".ytick text").get_by_text("astronaut", exact=True)

    def bar() -> None:
        box = app.box(label)
        app.page.mouse.click(box["x"] + box["width"] + 20, box["y"] + box["height"] / 2)  # where it begins

    app.again(bar, panel.get_by_text("wrong of space shuttle looking at astronaut"))
    shows(app, focam.load_audit(audited, "cam").region_view("astronaut", "space shuttle", correct=False).count())
    app.settled()
    app.shot("audit_bar")
    back(app, panel, len(audited))


def test_a_point_opens_its_sample_and_a_lasso_sets_the_view(audited: fo.Dataset, app: AppPage, panel: Locator) -> None:
    points = panel.locator(".scatterlayer .trace").last.locator(".points path")

    def point() -> None:
        box = app.box(points.first)
        app.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    app.again(point, app.page.locator("#modal [data-cy='modal-looker-container']"))
    app.close_sample()

    left = [p for p in focam.load_audit(audited, "cam").points()[0] if p.focus is not None and p.focus < 0.5]
    plot = panel.locator(".js-plotly-plot").nth(1).locator(".cartesianlayer .bglayer rect, .draglayer .nsewdrag").first

    def lasso() -> None:
        area, mouse = app.box(plot), app.page.mouse
        x0, x1 = area["x"] + 2, area["x"] + area["width"] * (0.5 + 0.02) / 1.04
        y0, y1 = area["y"] + 2, area["y"] + area["height"] - 2
        mouse.move(x0, y0)
        mouse.down()
        for x, y in ((x1, y0), (x1, y1), (x0, y1), (x0, y0)):
            mouse.move(x, y, steps=8)
        mouse.up()

    app.again(lasso, panel.get_by_text("The view shows in the lasso"))
    shows(app, len(left))
    back(app, panel, len(audited))


def test_a_narrow_window_cuts_nothing_off(app: AppPage, panel: Locator) -> None:
    app.page.set_viewport_size({"width": 1000, "height": 860})
    try:

        def inside() -> bool | None:
            names = ("trusted", "shortcut", "distracted")
            boxes = [app.box(panel.get_by_role("button", name=name)) for name in names]
            right = panel.evaluate("e => e.getBoundingClientRect().right")
            within = all(box["x"] + box["width"] <= right for box in boxes)
            return (within and boxes[0]["y"] == boxes[1]["y"] < boxes[2]["y"]) or None

        app.until(inside, "tiles two above two, within the panel")
        app.until(lambda: fits(panel), "a table that is not wider than the panel")
        app.shot("narrow")
        panel.locator(".js-plotly-plot").nth(1).scroll_into_view_if_needed()
        expect(panel.get_by_role("button", name="Back to all")).to_be_in_viewport()
        app.shot("narrow_scatter")
    finally:
        app.page.set_viewport_size({"width": 1480, "height": 860})


def test_a_mean_map_sets_the_view(audited: fo.Dataset, app: AppPage, panel: Locator) -> None:
    panel.get_by_role("button", name="Show the mean map").click()
    expect(panel.get_by_text("Where the evidence is, on the mean")).to_be_visible()
    first = focam.load_audit(audited, "cam").classes[0].label
    assert first
    drag = panel.locator(".js-plotly-plot").nth(2).locator(".draglayer .nsewdrag").first
    expect(panel.locator(".heatmaplayer image").first).to_be_visible()
    app.box(drag)
    app.shot("means")
    press(app, drag, focam.load_audit(audited, "cam").class_view(first).count())
    back(app, panel, len(audited))


def test_what_a_person_sets_as_view_is_counted(audited: fo.Dataset, app: AppPage, panel: Locator) -> None:
    view = audited.limit(9)
    app.session.view = view
    shows(app, 9)
    expect(panel.get_by_text("9 samples ·")).to_be_visible()
    app.until(lambda: fits(panel), "a table that is not wider than the panel")
    tile = panel.get_by_role("button", name="trusted")
    expect(tile).to_contain_text(str(focam.load_audit(view, "cam").verdicts["trusted"]))
    assert not app.errors


def test_the_modal_says_why(audited: fo.Dataset, app: AppPage) -> None:
    app.open(audited)
    wrong = audited.match({"cam_verdict": "distracted"}).first()
    index = audited.values("id").index(wrong.id)
    shows(app, len(audited))  # not the view of the test before
    looker = app.lookers.nth(index)
    box = app.box(looker)
    modal = app.page.locator("#modal")
    below = Position(x=box["width"] / 2, y=box["height"] - 12)
    app.again(lambda: looker.click(position=below), modal.locator('[data-cy="panel-tab-cam_why"]'))
    modal.locator('[data-cy="panel-tab-cam_why"]').click()
    expect(modal.get_by_text("Where the logits come from")).to_be_visible()
    modal.get_by_title("Split horizontally").click()  # the picture beside it
    expect(modal.get_by_text("true space shuttle · distracted")).to_be_visible()
    expect(modal.get_by_text(f"What speaks for {wrong.cam_prediction.label}", exact=True)).to_be_visible()
    expect(modal.locator(".barlayer .trace.bars").first.locator(".point")).to_have_count(5)
    app.shot("why_first")

    against = modal.get_by_text(f"What speaks for {wrong.cam_prediction.label} against space shuttle")
    app.again(modal.get_by_role("button", name="Predicted against true").click, against)
    expect(modal.locator(".heatmaplayer image")).to_be_visible()
    app.page.set_viewport_size({"width": 1652, "height": 960})  # so that the picture shows all of the panel
    modal.locator(".heatmaplayer image").scroll_into_view_if_needed()
    app.shot("why")
    app.page.set_viewport_size({"width": 1480, "height": 860})

    bar = modal.locator(".barlayer .trace.bars").nth(1).locator(".point path").nth(1)
    second = modal.get_by_text(f"What speaks for {wrong.cam_heatmap_2.label}", exact=True)
    app.again(lambda: bar.click(force=True), second)

    def choose() -> None:
        modal.get_by_placeholder("Type or select a value").fill("space shuttle")
        app.page.get_by_role("option", name="space shuttle", exact=True).click()

    app.again(choose, modal.get_by_text("What speaks for space shuttle", exact=True))


def test_what_is_missing_is_said_with_a_button_that_does_it(bare: fo.Dataset, app: AppPage) -> None:
    app.open(bare)
    panel = open_panel(app)
    expect(panel.get_by_text("no class activation maps yet")).to_be_visible()
    form = app.prompt.get_by_text("Compute class activation maps")
    app.again(panel.get_by_role("button", name="Compute class activation maps").click, form)
    app.submit("Compute")
    app.until(lambda: "maps equal to" in app.words() or None, "the summary of the run")
    app.done()
    expect(panel.get_by_text("has maps, and no audit")).to_be_visible()  # the panel has noticed


def test_the_panel_audits_what_has_no_audit(unaudited: fo.Dataset, app: AppPage) -> None:
    app.open(unaudited)
    panel = open_panel(app)
    form = app.prompt.get_by_text("Fields that say where things are")
    app.again(panel.get_by_role("button", name="Audit attention").click, form)
    expect(app.prompt.get_by_role("button", name="Audit", exact=True)).to_be_enabled()
    app.shot("audit_form")
    app.submit("Audit")
    words = app.until(lambda: app.words() if "on the object, which covers" in app.words() else None,
                      "the summary of the audit")  # fmt: skip
    app.done()
    app.shot("audited")
    expect(app.page.locator('[data-cy="sidebar-group-CAM NUMBERS"]')).to_be_visible()
    app.until(lambda: app.shown("cam_verdict") or None, "the verdict is ticked")
    expect(app.field("cam_inside")).not_to_be_in_viewport()  # folded away
    app.shot("audited")

    unaudited.reload()
    counts = focam.load_audit(unaudited, "cam").verdicts
    assert sum(counts.values()) > 0
    assert f"{counts['trusted']} trusted" in words
    expect(panel.get_by_role("button", name="trusted")).to_contain_text(str(counts["trusted"]))
