"""Mend this… in the App: from a row of the panel Concepts to what would change, and to the new maps."""

from __future__ import annotations

from collections.abc import Iterator

import fiftyone as fo
import pytest
from playwright.sync_api import expect

import fiftyone_cam as focam
from tests.browser.page import AppPage
from tests.helpers.mendable import mendable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    dataset = fo.Dataset("mendable", persistent=True)
    mendable(dataset, tmp_path_factory.mktemp("mendable"))
    yield dataset
    dataset.delete()


def test_a_concept_is_taken_out_after_a_preview(found: fo.Dataset, app: AppPage) -> None:
    app.open(found)
    panel = app.open_panel("Concepts", "cam_concepts")
    expect(panel.get_by_text("concept 1", exact=True)).to_be_visible()
    app.again(lambda: panel.get_by_role("button", name="Mend this…", exact=True).first.click(), app.prompt)
    expect(app.prompt.get_by_text("Only a preview")).to_be_visible()
    app.shot("mend_form")
    app.submit("Mend")
    app.until(lambda: "What would change" in app.words() or None, "the preview")
    expect(app.prompt.get_by_text("right before")).to_be_visible()
    assert focam.list_runs(found) == ["cam"]
    app.shot("mend_preview")

    app.prompt.get_by_role("button", name="Save it, and compute its maps").click()
    expect(app.prompt.get_by_text("Output directory")).to_be_visible()
    app.submit("Mend")
    app.until(lambda: "its maps are run cam_mended" in app.words() or None, "the end")
    app.prompt.get_by_alt_text("fixed: ", exact=False).first.scroll_into_view_if_needed()
    app.shot("mend_pictures")
    app.done()
    found.reload()
    assert len(found.load_saved_view("cam_mended vs cam fixed")) > 0
    expect(app.field("cam_mended_heatmap")).to_be_visible()
    app.settled()
    app.shot("mended")
