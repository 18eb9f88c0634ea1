"""What `find_concepts` needs of memory as the dataset grows: ``python -m benchmarks.concept_memory 10000 50000``.

Each size in a process of its own, with all that a search does (clusters, sums, rows, places in the database, their map
in the brain), but for the network: features of 49 cells with 1,280 channels are drawn at random, and
the head has 100 classes. What is printed is beside what the process holds before the search.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS, GRID, CLASSES = 1280, 7, 100
KINDS, SHOWN = 200, 12
"""What cells can show, and how much of it one image does, as photos do."""


STAGES = {
    "_clusters": "clusters",
    "_stream": "sums, features drawn included",
    "_look": "examples and pixel checks",
    "_write": "places and their map",
}
"""Steps of a search, and what they do."""


def main() -> None:
    if os.environ.get("_CONCEPT_MEMORY"):
        print(measured(int(sys.argv[1])))
        return
    head = ["images", "resident memory above the start, MB", "s (of CPU)", *STAGES.values(), "kB an image on disk"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for size in sys.argv[1:] or ["2000", "10000", "50000"]:
        environment = {**os.environ, "_CONCEPT_MEMORY": "1", "FIFTYONE_DATABASE_NAME": "fiftyone_cam_benchmark"}
        with tempfile.TemporaryDirectory() as folder:
            environment["FIFTYONE_DEFAULT_DATASET_DIR"] = folder
            subprocess.run([sys.executable, "-m", "benchmarks.concept_memory", size], env=environment, check=True)


def measured(count: int) -> str:
    """A row of the table."""
    import fiftyone as fo
    import torch

    import fiftyone_cam as focam
    from fiftyone_cam.concepts import find_concepts as finding
    from fiftyone_cam.core.boxes import WHOLE
    from fiftyone_cam.core.concept_reader import BlurredReader, Predicted, SumsReader
    from fiftyone_cam.core.concept_sums import CellFeatures, summarise
    from fiftyone_cam.core.preprocessing import Preprocessing
    from fiftyone_cam.runs.concept_sums import Sums

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, CHANNELS, 32, stride=32),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(CHANNELS, CLASSES),
    )
    names = [f"class {i}" for i in range(CLASSES)]
    side = 32 * GRID
    classifier = focam.load_classifier(module, names, preprocessing=Preprocessing((), mean=(0.5,) * 3, std=(0.5,) * 3))
    random = np.random.default_rng(0)
    kinds = np.abs(random.normal(size=(KINDS, CHANNELS))).astype(np.float32)  # what cells show, each with some noise
    weight, bias = (each.detach().numpy() for each in module[-1].parameters())

    def features(item: Any) -> CellFeatures:
        own = np.random.default_rng(int(item.id[-8:], 16))
        noise = own.random(CHANNELS, dtype=np.float32)[:, None]
        shown = own.integers(0, KINDS, SHOWN)[own.integers(0, SHOWN, GRID * GRID)]
        found = (kinds[shown].T + noise).reshape(CHANNELS, GRID, GRID)
        logits = weight @ found.mean((1, 2)) + bias
        predicted, true = int(logits.argmax()), item.truth[0]
        maps = [np.tensordot(weight[c], found, 1) for c in (predicted, true)]
        rival = maps[1] if predicted != true else None
        return CellFeatures(item.id, found, logits, 0.5, maps[0], rival, item.truth, WHOLE, WHOLE)

    class Search(finding._Search):
        """A search whose images are drawn at random instead of read."""

        def _run(self, items: Sequence[Any], runner: Any) -> Generator[Any, None, None]:
            clusters = runner._concepts if isinstance(runner, SumsReader) else None
            for item in items:
                if isinstance(runner, BlurredReader):
                    yield Predicted(item.id, 0)
                else:
                    cells = features(item)
                    yield cells if clusters is None else summarise(cells, clusters, self._head)

    spent: dict[str, str] = {}
    for name in STAGES:
        setattr(Search, name, timed(getattr(finding._Search, name), spent))
    finding._Search = Search  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        dataset = fo.Dataset()
        dataset.add_samples(list(samples(folder, side, names, random, count)), progress=False)
        focam.compute_cam(dataset.limit(1), classifier, ground_truth="ground_truth", progress=False)
        before = resident()
        search = timed(focam.find_concepts, spent)
        report = search(dataset, "cam", classifier, ground_truth="ground_truth", progress=False)
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sizes = [path.stat().st_size for path in Sums(report.record.folder).path.iterdir()]
    dataset.delete()
    row = [
        f"{count:,}",
        f"{highest - before:,.0f} (in all {highest:,.0f})",
        *(spent[name] for name in ("find_concepts", *STAGES)),
        f"{sum(sizes) / count / 1000:.0f}",
    ]
    return f"| {' | '.join(row)} |"


def timed(function: Callable[..., Any], spent: dict[str, str]) -> Callable[..., Any]:
    """The function, which leaves the seconds that it took, and those of CPU in this process, under its name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        spent[function.__name__] = f"{time.perf_counter() - wall:.1f} ({time.process_time() - cpu:.1f})"
        return result

    return call


def samples(folder: str, side: int, names: list[str], random: np.random.Generator, count: int) -> Iterator[Any]:
    """Samples of one picture, with true classes at random."""
    import cv2
    import fiftyone as fo

    path = str(Path(folder) / "noise.png")
    pixels: NDArray[np.uint8] = random.integers(0, 256, (side, side, 3), np.uint8)
    cv2.imwrite(path, pixels)
    for _ in range(count):
        yield fo.Sample(filepath=path, ground_truth=fo.Classification(label=names[random.integers(len(names))]))


def resident() -> float:
    """Resident memory of this process, MB."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    main()
