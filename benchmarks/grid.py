"""How long the App's grid takes to open, with heatmaps and without: ``python -m benchmarks.grid --samples 50000``."""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")

import fiftyone as fo
import fiftyone.core.odm as foo
from playwright.sync_api import Page, sync_playwright

import fiftyone_cam as focam
from benchmarks.workloads import cifar_resnet20, small_images

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_DRAWN = """() => { const all = [...document.querySelectorAll('[data-cy="fo-grid"] [data-cy=looker]')];
                    return all.length > 20 && all.every(e => e.querySelector('canvas')); }"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The App's grid with heatmaps and without.")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=5207)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    datasets = {name: _dataset(name, options.samples) for name in ("without", "with")}
    focam.compute_cam(datasets["with"], cifar_resnet20(), batch_size=256, progress=False)
    session = fo.launch_app(datasets["with"], remote=True, address="127.0.0.1", port=options.port)
    found: dict[str, list[float]] = {name: [] for name in datasets}
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=options.chromium, args=FLAGS)
            for turn in range(options.rounds + 1):
                for name, dataset in datasets.items():
                    page = browser.new_page(viewport={"width": 1480, "height": 860})
                    page.set_default_timeout(180_000)
                    took = _opened(page, f"http://127.0.0.1:{options.port}/datasets/{dataset.name}")
                    page.close()
                    if turn:  # the first round fills the server's caches
                        found[name].append(took)
            browser.close()
    finally:
        session.close()
        foo.drop_database()
    for name, seconds in found.items():
        print(f"{name} heatmaps: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"with / without: {statistics.median(found['with']) / statistics.median(found['without']):.2f}")


def _dataset(name: str, count: int) -> fo.Dataset:
    dataset = fo.Dataset(f"grid-{name}-heatmaps", overwrite=True)
    dataset.add_samples([fo.Sample(filepath=path) for path in small_images(count)], progress=False)
    return dataset


def _opened(page: Page, url: str) -> float:
    began = time.perf_counter()
    page.goto(url)
    page.wait_for_function(_DRAWN, polling=50)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
