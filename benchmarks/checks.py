"""What speed must not cost, and what people wait for: a figure each, measured once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import fiftyone as fo
import numpy as np
import torch

import fiftyone_cam as focam
from benchmarks.workloads import large_photos, photos, resnet18
from fiftyone_cam.core.explain import Explainer, Prepared, prepare
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.results import Explanation, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.runs.heatmaps import sample_documents


def checks() -> dict[str, str]:
    """A sentence for each."""
    found = {
        "bfloat16 against float32": _precision(photos("ilsvrc_val_800", 200)),
        "12 megapixels decoded small against whole": _decoding(large_photos(60)),
        "photos decoded small against whole": _decoding(photos("ilsvrc_val_800", 400)),
        "maps, certificate, display map, serialisation": _share(photos("ilsvrc_val_800", 64)),
        "first result": _first_result(photos("ilsvrc_val_800", 320)),
    }
    for name, sentence in found.items():
        print(f"  {name}: {sentence}", flush=True)
    return found


def _precision(paths: Sequence[str]) -> str:
    network = focam.load_classifier("efficientnet_lite0").network.for_inference()
    prepared = _prepared(paths, network.preprocessing)
    return _compared(*(_explained(Explainer(network, precision=name), prepared) for name in ("float32", "bfloat16")))


def _decoding(paths: Sequence[str]) -> str:
    network = focam.load_classifier("efficientnet_lite0").network.for_inference()
    explainer, preprocessing = Explainer(network), network.preprocessing
    small = _prepared(paths, preprocessing)
    whole = [
        Prepared(
            entry.item,
            preprocessing.apply(torch.from_numpy(read_image(entry.item.path)).permute(2, 0, 1)),
            entry.frame,
            entry.size,
        )
        for entry in small
    ]
    return _compared(_explained(explainer, whole), _explained(explainer, small))


def _share(paths: Sequence[str]) -> str:
    network = resnet18().network.for_inference()
    explainer, prepared = Explainer(network), _prepared(paths, network.preprocessing)
    timing = Timing()
    _explained(explainer, prepared)
    results = _explained(explainer, prepared, timing)
    began = time.perf_counter()
    for result in results:
        sample_documents(result, 10.0)
    documents = time.perf_counter() - began
    # the forward takes all cores, the rest one
    return f"{(timing.maps + documents) / timing.forward:.2%} of the forward's time, ResNet-18"


def _first_result(paths: Sequence[str]) -> str:
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in paths], progress=False)
    found: list[float] = []

    def watch() -> None:
        while not dataset._sample_collection.find_one({"cam_heatmap": {"$ne": None}}, {"_id": True}):
            time.sleep(0.02)
        found.append(time.perf_counter() - began)

    watcher = threading.Thread(target=watch, daemon=True)
    began = time.perf_counter()
    watcher.start()
    focam.compute_cam(dataset, "efficientnet_lite0", progress=False)
    watcher.join(10)
    dataset.delete()
    return f"in the database {found[0]:.1f} s after the call, EfficientNet-Lite0 loaded meanwhile"


def _prepared(paths: Sequence[str], preprocessing: focam.Preprocessing) -> list[Prepared]:
    found = [prepare(Item(f"{i}", path), preprocessing) for i, path in enumerate(paths)]
    return [entry for entry in found if isinstance(entry, Prepared)]


def _explained(explainer: Explainer, prepared: Sequence[Prepared], timing: Timing | None = None) -> list[Explanation]:
    results = [r for start in range(0, len(prepared), 32) for r in explainer(prepared[start : start + 32], timing)]
    return [result for result in results if isinstance(result, Explanation)]


def _compared(one: Sequence[Explanation], other: Sequence[Explanation]) -> str:
    """Predictions that change; where they do not, how far the map is off, relative to its own largest value."""
    pairs = [(a.maps[0], b.maps[0]) for a, b in zip(one, other, strict=True)]
    changed = [a.label != b.label for a, b in pairs]
    errors = [float(np.abs(a.grid - b.grid).max() / np.abs(a.grid).max()) for a, b in pairs if a.label == b.label]
    return (
        f"{np.mean(changed):.1%} of {len(pairs)} predictions change; the other maps are off by {np.median(errors):.2%} "
        f"of their largest value (median; 95%: {np.percentile(errors, 95):.2%})"
    )
