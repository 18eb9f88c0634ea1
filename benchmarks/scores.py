"""How good maps are, as docs/scores.md prints it: a folder of photos with their objects in, tables out.

    python -m benchmarks.scores FOLDER                                  # EfficientNet-Lite0 at 224 pixels
    python -m benchmarks.scores FOLDER --sides 224 288 --faithfulness 20
    python -m benchmarks.scores FOLDER --model ./my_checkpoint

The folder has ``images/``, and ``boxes.csv`` (columns ``file``, ``xmin_rel``, ``ymin_rel``, ``xmax_rel``,
``ymax_rel``, a line for each object) or a COCO file of polygons (``*coco*.json``). True labels, if any, are in
``labels.csv`` (``file``, ``label_index``: the logit). Photos are squashed to the side, as the papers do.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")

import fiftyone as fo
import fiftyone.core.odm as foo
import numpy as np

import fiftyone_cam as focam

THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--sides", type=int, nargs="*", default=[224])
    parser.add_argument("--count", type=int, help="the first so many photos")
    parser.add_argument("--faithfulness", type=int, default=0, metavar="N", help="score N photos with the network, too")
    options = parser.parse_args()
    dataset = fo.Dataset()
    try:
        dataset.add_samples(samples(options.folder, options.model)[: options.count], progress=False)
        for side in options.sides:
            print_scores(dataset, squashed(options.model, side), side)
        if options.faithfulness:
            classifier = squashed(options.model, options.sides[0])
            report = focam.score_faithfulness(dataset, classifier, count=options.faithfulness, progress=False)
            print(f"\n{report.describe().markdown()}", flush=True)
    finally:
        dataset.delete()
        foo.drop_database()


def samples(folder: Path, model: Any) -> list[fo.Sample]:
    """Photos with their objects, and with their labels where they are known."""
    places: dict[str, dict[str, Any]] = {}
    if (folder / "boxes.csv").is_file():
        boxes: dict[str, list[fo.Detection]] = {}
        with (folder / "boxes.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                x0, y0, x1, y1 = (float(row[f"{name}_rel"]) for name in ("xmin", "ymin", "xmax", "ymax"))
                boxes.setdefault(row["file"], []).append(fo.Detection(bounding_box=[x0, y0, x1 - x0, y1 - y0]))
        places = {name: {"things": fo.Detections(detections=found)} for name, found in boxes.items()}
    else:
        content = json.loads(next(folder.glob("*coco*.json")).read_text(encoding="utf-8"))
        outlines: dict[int, list[Any]] = {}
        for entry in content["annotations"]:
            outlines.setdefault(entry["image_id"], []).append(entry["segmentation"])
        for image in content["images"]:
            size = np.array([image["width"], image["height"]])
            lines = [
                fo.Polyline(points=[(np.reshape(ring, (-1, 2)) / size).tolist() for ring in rings], filled=True)
                for rings in outlines.get(image["id"], [])
            ]
            places[image["file_name"]] = {"things": fo.Polylines(polylines=lines)}
    if (folder / "labels.csv").is_file():
        classes = focam.load_classifier(model).classes
        with (folder / "labels.csv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                label = fo.Classification(label=classes[int(row["label_index"])])
                places.setdefault(row["file"], {})["ground_truth"] = label
    return [fo.Sample(filepath=str(folder / "images" / name), **labels) for name, labels in sorted(places.items())]


def squashed(model: Any, side: int) -> focam.Classifier:
    """The classifier, fed with the whole photo squashed to a square."""
    own = focam.load_classifier(model).network.preprocessing
    steps = (focam.Resize(size=(side, side)),)
    preprocessing = focam.Preprocessing(steps, own.mean, own.std, own.interpolation, own.antialias)
    return focam.load_classifier(model, preprocessing=preprocessing)


def print_scores(dataset: fo.Dataset, classifier: focam.Classifier, side: int) -> None:
    """The scorecard at one size, and the paper's box rule at some thresholds."""
    key = f"cam{side}"
    truth = "ground_truth" if dataset.has_sample_field("ground_truth") else None
    began = time.perf_counter()
    focam.compute_cam(dataset, classifier, key, ground_truth=truth, top_k=min(5, len(classifier.classes)))
    report = focam.score_attention(dataset, key, objects="things", classifier=classifier)
    print(f"\n{side} pixels, {time.perf_counter() - began:.0f} s\n\n{report.describe().markdown()}\n", flush=True)
    rows = []
    for threshold in THRESHOLDS:
        found = focam.score_attention(dataset, key, objects="things", box_threshold=threshold, interval=0.5)
        rows.append([f"{threshold:g}", *(_percent(getattr(found, name)) for name in ("gt_known", "top1", "top5"))])
    print(table(("box threshold", "GT-known", "top-1", "top-5"), rows), flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
