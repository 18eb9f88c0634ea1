"""What a run costs as the dataset grows: time and database for each sample, memory in all."""

from __future__ import annotations

import threading
import time
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import psutil

import fiftyone_cam as focam
from benchmarks.workloads import cifar_resnet20, small_images


def growth(sizes: list[int]) -> list[dict[str, Any]]:
    """A row for each size, of the same small images again and again."""
    classifier = cifar_resnet20()
    _run(classifier, 1000)  # allocators, threads and caches are as large as they get
    rows = []
    for size in sizes:
        row = _run(classifier, size)
        print(f"  {size:,} samples: {row['ms']:.3f} ms each, {row['memory_mb']:.0f} MB, {row['bytes']:,.0f} bytes each")
        rows.append(row)
    return rows


def _run(classifier: focam.Classifier, size: int) -> dict[str, Any]:
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in small_images(size)], progress=False)
    before = _bytes(dataset)
    process = psutil.Process()
    start = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.2):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    focam.compute_cam(dataset, classifier, batch_size=256, progress=False)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    row = {
        "samples": size,
        "ms": 1000 * seconds / size,
        "memory_mb": (highest - start) / 1e6,
        "bytes": (_bytes(dataset) - before) / size,
    }
    dataset.delete()
    return row


def _bytes(dataset: fo.Dataset) -> float:
    """Of the samples' documents as they are, before the database compresses them."""
    return float(foo.get_db_conn().command("collstats", dataset._sample_collection_name)["size"])
