"""Samples with annotations, and the columns that an audit writes of them."""

from __future__ import annotations

import fiftyone as fo
import numpy as np

CLASSES = ["cat", "dog", "owl"]
LEFT = np.float32([[4, 0]] * 2)  # all evidence on the left half of the image
RIGHT = LEFT[:, ::-1]


def add(dataset, *samples: dict) -> list[str]:
    """Samples with these fields; their ids in order."""
    start = dataset.count()
    return dataset.add_samples([fo.Sample(filepath=f"/none/{start + i}.jpg", **s) for i, s in enumerate(samples)])


def true(label: str | None) -> fo.Classification | None:
    return None if label is None else fo.Classification(label=label)


def boxes(*entries) -> fo.Detections:
    """Boxes ``(label, [x, y, w, h])``."""
    return fo.Detections(detections=[fo.Detection(label=label, bounding_box=list(box)) for label, box in entries])


def left_half(label=None):
    return boxes((label, (0, 0, 0.5, 1)))


def mirror(box):
    return (1 - box[0] - box[2], *box[1:])


def column(dataset, name, key="cam"):
    return dataset.values(f"{key}_{name}")


def overlap(a, b):
    """Intersection over union."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(0, w) * max(0, h)
    return common / (a[2] * a[3] + b[2] * b[3] - common)
