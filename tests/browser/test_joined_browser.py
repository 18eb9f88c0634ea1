"""From the audit to FiftyOne's own panels: each opens by itself, or by one button, and shows the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import expect

import fiftyone_cam as focam
from tests.browser.page import AppPage
from tests.helpers import audited_dataset as known


@pytest.fixture(scope="module")
def computed(photos: list[tuple[Path, str]]) -> Iterator[fo.Dataset]:
    """Photos with maps, whose record says where the classifier was loaded from."""
    dataset = known.dataset("joined", photos)
    run = focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth")
    run.update(loaded_from=["efficientnet_lite0", {}])
    yield dataset
    dataset.delete()


@pytest.mark.slow
def test_from_the_audit_to_fiftyones_panels(computed: fo.Dataset, app: AppPage) -> None:
    app.open(computed)
    app.browse("Localize from CAM")
    app.submit("Localize")
    app.prompt.get_by_role("button", name="See them as patches").click()
    computed.reload()
    boxes = computed.count("cam_boxes.detections")
    app.until(lambda: f"{boxes:,} patches" in app.count(), f"{boxes} patches are in the grid")
    app.shot("boxes_as_patches")

    app.open(computed)
    app.browse("Audit attention")
    app.submit("Audit")  # the one field of boxes is chosen already
    audit = app.page.locator('[data-cy="panel-content-cam_audit"]')  # nobody pressed the +
    expect(audit.locator("button").filter(has_text="trusted").first).to_be_visible()  # behind the summary
    app.shot("audit_opens_its_panel")

    app.prompt.get_by_role("button", name="Colour the embeddings by verdict").click()
    expect(app.prompt.get_by_text("Layout", exact=True).first).to_be_visible()
    app.submit("Show")
    app.until(lambda: "Draw a lasso" in app.words(), "the summary of the layout")
    app.done()
    panel = app.page.locator('[data-cy="panel-content-Embeddings"]')
    app.until(lambda: "cam_points" in (panel.text_content() or ""), "the Embeddings panel lists the run's points")
    app.shot("embeddings")
    assert not app.errors
