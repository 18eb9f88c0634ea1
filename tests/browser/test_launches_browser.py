"""The App as `make demo` and `install` start it, in a process of its own: it outlives reloads and closed tabs."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fiftyone as fo
import pytest
from playwright.sync_api import Browser, BrowserContext

from fiftyone_cam.__main__ import main
from tests.browser.page import AppPage, difference
from tests.helpers.app_process import ROOT, AppProcess

pytestmark = pytest.mark.slow

GRACE = 3
"""Seconds after the last tab has gone, at which FiftyOne ends an App by default."""


@pytest.fixture(scope="module")
def demo(photos: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """The demo over three photos, in the database of this process: Ctrl-C would end one that it began."""
    fo.list_datasets()
    folder = tmp_path_factory.mktemp("mine")
    for path, _ in photos[:3]:
        shutil.copy(path, folder)
    command = [sys.executable, ROOT / "examples" / "demo.py", "--images", folder]
    process = AppProcess(command, tmp_path_factory.mktemp("demo") / "log")
    yield process
    process.kill()


@pytest.fixture()
def tabs(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1200, "height": 700})
    yield context
    context.close()


def come_and_go(tabs: BrowserContext, url: str, process: AppProcess, name: str) -> None:
    """Open the App, reload it twice, close its tab, and open it anew: each time the same heatmaps are on the grid."""
    app = AppPage(tabs.new_page(), None, url)
    app.page.goto(url)
    app.ready()
    heat = app.still()
    app.show("cam_heatmap", False)
    app.until(lambda: difference(app.picture(), heat) > 5 or None, "a photo without a heatmap")
    app.show("cam_heatmap")
    for _ in range(2):
        app.reload()
        app.until(lambda: difference(app.picture(), heat) < 3 or None, "the same heatmap after a reload")
    app.shot(name)
    app.page.close()
    time.sleep(GRACE + 1)
    assert process.lives(), process.said()

    again = AppPage(tabs.new_page(), None, url)
    again.page.goto(url)
    again.ready()
    again.until(lambda: difference(again.picture(), heat) < 3 or None, "the same heatmap in a new tab")
    assert not app.errors + again.errors
    again.page.close()


def ends(process: AppProcess) -> None:
    """By Ctrl-C, at once and without complaint; and nothing of it is left."""
    assert process.interrupt() == 0, process.said()
    assert "Traceback" not in process.said()
    deadline = time.monotonic() + 30
    while process.listens():
        assert time.monotonic() < deadline, "the App's server is still there"
        time.sleep(0.1)


def test_the_demo_outlives_its_tabs(demo: AppProcess, tabs: BrowserContext) -> None:
    come_and_go(tabs, demo.wait_for_app(), demo, "demo")
    said = demo.said()
    assert "3 with a map, 0 failed, of 3; 3 new" in said
    assert f"database {fo.config.database_name!r} of the MongoDB at " in said
    assert f"The App is open at http://localhost:{demo.port}/" in said
    ends(demo)


def test_the_launch_that_is_recommended_outlives_its_tabs(
    demo: AppProcess, tabs: BrowserContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very words of `install`; what it shows is what the demo left. The README adds the dataset's name to them."""
    if demo.lives():  # the test before, which ends it, was not asked for
        demo.wait_for_app()
    assert main(["install"]) == 0
    found = re.search(r"Next: (fiftyone app launch .*?) \(", capsys.readouterr().out)
    assert found
    words = found[1].replace("launch", "launch <dataset>")
    assert f"`{words}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    process = AppProcess(shlex.split(found[1]), tmp_path / "log")
    try:
        come_and_go(tabs, f"{process.wait_for_app()}datasets/fiftyone_cam_demo", process, "launched")
        ends(process)
    finally:
        process.kill()
        assert main(["uninstall"]) == 0
