"""Photos with what is where on them, known by eye: what an audit's browser tests and pictures stand on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fiftyone as fo

# by photo: label and box [x, y, width, height], relative; the first is the object
THINGS = {
    "chelsea": [("tabby", (0.0, 0.0, 0.8, 1.0))],
    "coffee": [("espresso", (0.29, 0.04, 0.41, 0.5)), ("saucer", (0.13, 0.2, 0.67, 0.77))],
    "motorcycle_left": [("moped", (0.12, 0.15, 0.8, 0.77)), ("shelf", (0.42, 0.0, 0.58, 0.45))],
    "china": [("palace", (0.11, 0.07, 0.46, 0.85)), ("trees", (0.4, 0.3, 0.6, 0.7))],
    "flower": [("daisy", (0.26, 0.2, 0.44, 0.65))],
    "rocket": [("missile", (0.47, 0.28, 0.08, 0.72)), ("mast", (0.05, 0.0, 0.1, 1.0))],
    "astronaut": [("space shuttle", (0.68, 0.0, 0.22, 0.57)), ("astronaut", (0.05, 0.02, 0.65, 0.98))],
}  # fmt: skip


def dataset(name: str, photos: Sequence[tuple[Path, str]]) -> fo.Dataset:
    """A dataset of the photos with ground truth and boxes; parts of photos have the parts of their boxes."""
    found = fo.Dataset(name, persistent=True)
    samples = []
    for path, label in photos:
        stem, _, part = path.stem.rpartition("_")
        cut = 0.1 * int(part) if part.isdigit() else None
        boxes = []
        for thing, box in THINGS[path.stem if cut is None else stem]:
            shape = box if cut is None else _part(box, cut)
            if shape is not None:
                boxes.append(fo.Detection(label=thing, bounding_box=list(shape)))
        samples.append(
            fo.Sample(
                filepath=str(path),
                ground_truth=fo.Classification(label=label),
                things=fo.Detections(detections=boxes),
            )
        )
    found.add_samples(samples)
    return found


def _part(box: tuple[float, float, float, float], cut: float) -> tuple[float, float, float, float] | None:
    """A box on the part of a photo that begins at ``cut`` and has 0.8 of both sides, mirrored."""
    x0, y0 = max(0.0, (box[0] - cut) / 0.8), max(0.0, (box[1] - cut) / 0.8)
    x1, y1 = min(1.0, (box[0] + box[2] - cut) / 0.8), min(1.0, (box[1] + box[3] - cut) / 0.8)
    return None if x1 <= x0 or y1 <= y0 else (1 - x1, y0, x1 - x0, y1 - y0)
