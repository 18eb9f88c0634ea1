"""How long an audit takes, and its panel: ``python -m benchmarks.audit --samples 50000 --browser``."""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")

import fiftyone as fo
import fiftyone.core.odm as foo
import psutil
from bson import ObjectId
from playwright.sync_api import Page, sync_playwright

import fiftyone_cam as focam
from benchmarks.grid import FLAGS
from benchmarks.workloads import one_convolution, photos
from fiftyone_cam.analysis.audit_report import VERDICTS

COMPUTED = 500
"""So many samples are computed; all others are copies of them, as the database keeps them."""

_DRAWN = """words => { const all = [...document.querySelectorAll('[data-cy="fo-grid"] [data-cy=looker]')];
                       const said = document.querySelector('[data-cy="entry-counts"]');
                       return said && said.innerText.split(/\\s+/).join(' ') == words
                              && all.length > 0 && all.every(e => e.querySelector('canvas')); }"""


def main() -> None:
    parser = argparse.ArgumentParser(description="An audit, its boxes and its panel over many samples.")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--browser", action="store_true", help="the panel too, in Chromium")
    parser.add_argument("--port", type=int, default=5208)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--keep", action="store_true", help="keep the dataset for the next time")
    options = parser.parse_args()
    dataset = _dataset(options.samples)
    try:
        for _ in range(options.rounds):
            _measure("audit", dataset, lambda: _audit(dataset))
            _measure("localize", dataset, lambda: focam.localize(dataset, "cam", progress=False))
            _measure("what the panel counts", dataset, lambda: _count(dataset))
        if options.browser:
            _in_browser(dataset, options)
    finally:
        if not options.keep:
            foo.drop_database()


def _dataset(count: int) -> fo.Dataset:
    """Photos with maps of a small network, a true class, and a box or two."""
    name = f"audit-{count}"
    if fo.dataset_exists(name):
        return fo.load_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples([fo.Sample(filepath=path) for path in photos("ilsvrc_val_800", COMPUTED)], progress=False)
    focam.compute_cam(dataset, one_convolution(), batch_size=64, progress=False)
    rng = random.Random(0)
    predicted = dataset.values("cam_prediction.label")
    true = [label if rng.random() < 0.8 else f"class {rng.randrange(50)}" for label in predicted]
    dataset.set_values("ground_truth", [fo.Classification(label=label) for label in true])
    dataset.set_values("things", [_things(label, number, rng) for number, label in enumerate(true)])
    documents = dataset._sample_collection
    first = list(documents.find())
    while (missing := count - documents.count_documents({})) > 0:
        documents.insert_many([{**document, "_id": ObjectId()} for document in first[:missing]])
    dataset.reload()
    return dataset


def _things(label: str, number: int, rng: random.Random) -> fo.Detections:
    x, y, width, height = (rng.uniform(*ends) for ends in ((0, 0.5), (0, 0.5), (0.2, 0.5), (0.2, 0.5)))
    things = [fo.Detection(label=label, bounding_box=[x, y, width, height])]
    if number % 3 == 0:
        things.append(fo.Detection(label="grass", bounding_box=[0, 0.6, 1, 0.4]))
    return fo.Detections(detections=things)


def _audit(dataset: fo.Dataset) -> None:
    focam.audit(dataset, "cam", ground_truth="ground_truth", objects="things", progress=False)


def _count(dataset: fo.Dataset) -> None:
    report = focam.load_audit(dataset, "cam")
    for counted in (report.classes, report.unjudged, report.points(2000), report.region_table(False)):
        assert counted is not None


def _measure(name: str, dataset: fo.Dataset, do: Callable[[], object]) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    do()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    each = 1000 / len(dataset)
    load = os.getloadavg()[0]
    print(f"{name}: {seconds:.1f} s, a sample {seconds * each:.3f} ms, {cpu * each:.3f} ms of CPU (load {load:.1f})")


def _in_browser(dataset: fo.Dataset, options: argparse.Namespace) -> None:
    """The panel and its tiles; and the same views set from Python, while no panel is open."""
    report = focam.load_audit(dataset, "cam")
    counts = report.verdicts
    found: dict[str, list[tuple[float, float]]] = {"panel": [], "tile": [], "the same view, by FiftyOne alone": []}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        page.wait_for_timeout(2000)  # what came before is done
        began, cpu = time.perf_counter(), _cpu()
        yield
        seconds = time.perf_counter() - began
        page.wait_for_timeout(1000)
        found[name].append((seconds, _cpu() - cpu))

    with _app(dataset, options) as (session, page):
        page.goto(f"http://127.0.0.1:{options.port}/datasets/{dataset.name}")
        _until_drawn(page, len(dataset))
        for _ in range(options.rounds):
            for verdict in VERDICTS[:2]:
                with timed("the same view, by FiftyOne alone"):
                    session.view = report.verdict_view(verdict)
                    _until_drawn(page, counts[verdict])
        session.view = None
        _until_drawn(page, len(dataset))
        page.locator('[data-cy="new-panel-btn"]').first.click()
        panel = page.locator('[data-cy="panel-content-cam_audit"]')
        with timed("panel"):
            page.get_by_text("CAM audit", exact=True).first.click()
            panel.get_by_role("button", name=VERDICTS[0]).wait_for()
        for _ in range(options.rounds):
            for verdict in VERDICTS[:2]:
                with timed("tile"):
                    panel.get_by_role("button", name=verdict).click()
                    _until_drawn(page, counts[verdict])
                    panel.get_by_text(f"The view shows {verdict}").wait_for()
    for name, times in found.items():
        seconds, cpu = zip(*times, strict=True)
        print(
            f"{name}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
            f"{statistics.median(cpu):.1f} s of CPU (load {os.getloadavg()[0]:.1f})"
        )


def _cpu() -> float:
    """Seconds of CPU that the App's server and the browser have taken."""
    taken = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            taken += sum(child.cpu_times()[:2])
    return taken


@contextmanager
def _app(dataset: fo.Dataset, options: argparse.Namespace) -> Iterator[tuple[fo.Session, Page]]:
    """The App with the plugin, and a page."""
    with tempfile.TemporaryDirectory() as plugins:
        os.environ["FIFTYONE_PLUGINS_DIR"] = fo.config.plugins_dir = plugins
        (Path(plugins) / "fiftyone_cam").symlink_to(Path(__file__).resolve().parents[1])
        session = fo.launch_app(dataset, remote=True, address="127.0.0.1", port=options.port)
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=options.chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1480, "height": 860})
                page.set_default_timeout(180_000)
                for words in ("Dismiss", "Disable"):  # what the App puts in front of a newcomer
                    page.add_locator_handler(page.get_by_text(words, exact=True), lambda button: button.click())
                yield session, page
                browser.close()
        finally:
            session.close()


def _until_drawn(page: Page, count: int) -> None:
    page.wait_for_function(_DRAWN, arg=f"{count:,} samples", polling=50)


if __name__ == "__main__":
    main()
