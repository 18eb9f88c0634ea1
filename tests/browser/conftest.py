"""The real App on real photos in a real headless Chromium.

Fixtures live as long as a module, no longer: while Playwright's synchronous interface is open, an event loop runs in
this thread, and FiftyOne cannot start its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.page import AppPage
from tests.helpers.app_process import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# photographs that scikit-image and scikit-learn ship, and what is on them in ImageNet's words
PHOTOS = {
    "chelsea.png": "tabby",
    "coffee.png": "espresso",
    "motorcycle_left.png": "moped",
    "china.jpg": "palace",
    "flower.jpg": "daisy",
    "rocket.jpg": "missile",
    "astronaut.png": "space shuttle",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def _chromium() -> str:
    named = os.environ.get("FIFTYONE_CAM_CHROMIUM")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    path = named or next((path for path in found if path), None)
    if path is None:
        reason = "there is no Chromium to drive: install Debian's chromium, or name one in FIFTYONE_CAM_CHROMIUM"
        if os.environ.get("FIFTYONE_CAM_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@contextmanager
def _started(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Photos and what is on them: seven as they are, and parts of them, mirrored."""
    import skimage
    import sklearn

    folder = tmp_path_factory.mktemp("photos")
    homes = (Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images")
    whole, parts = [], []
    for name, label in PHOTOS.items():
        [source] = [home / name for home in homes if (home / name).is_file()]
        image = cv2.imread(str(source))
        height, width = image.shape[:2]
        image = cv2.resize(image, (480, round(480 * height / width)), interpolation=cv2.INTER_AREA)
        height, width = image.shape[:2]
        cv2.imwrite(str(folder / f"{source.stem}.jpg"), image)
        whole.append((folder / f"{source.stem}.jpg", label))
        for index, cut in enumerate((0.0, 0.1, 0.2)):
            y, x = round(cut * height), round(cut * width)
            path = folder / f"{source.stem}_{index}.jpg"
            cv2.imwrite(
                str(path), np.ascontiguousarray(image[y : y + round(0.8 * height), x : x + round(0.8 * width)][:, ::-1])
            )
            parts.append((path, label))
    return whole + parts


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without an App in this process."""
    with _started(_chromium()) as browser:
        yield browser


@pytest.fixture(scope="module")
def app() -> Iterator[AppPage]:
    """The App with the plugin, as a clone in the plugins directory, open in a browser."""
    chromium = _chromium()
    plugins = Path(fo.config.plugins_dir)
    plugins.mkdir(parents=True, exist_ok=True)
    link = plugins / "fiftyone_cam"
    if not link.exists():
        link.symlink_to(REPOSITORY, target_is_directory=True)

    port = free_port()
    empty = fo.Dataset()
    session = fo.launch_app(empty, port=port, address="127.0.0.1", remote=True)
    try:
        with _started(chromium) as browser:
            page = browser.new_page(viewport={"width": 1480, "height": 860})
            yield AppPage(page, session, f"http://127.0.0.1:{port}/")
    finally:
        session.close()
        link.unlink()
