"""Photos with a heatmap on them as data URLs: where the App itself cannot show one, or not two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.overlay import blend
from fiftyone_cam.core.workers import Workers
from fiftyone_cam.plugin.crops import data_url
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import signed_map

SIDE = 560
"""Pixels of the longer side of one picture, or of both together."""

_GAP = 8


def picture(run: CamRun, heat: fo.Heatmap, filepath: str) -> str:
    """The photo with a heatmap on it.

    Raises:
        ImageError: the file cannot be read.
    """
    return data_url(_drawn(run, heat, _photo(run, filepath, SIDE)), quality=95)


def beside(runs: Sequence[CamRun], heats: Sequence[fo.Heatmap], filepath: str) -> str:
    """The photo once for each run, with its heatmap on it, from left to right.

    Raises:
        ImageError: the file cannot be read.
    """
    photo = _photo(runs[0], filepath, SIDE // len(runs) - _GAP, most=4.0)
    gap = np.full((photo.shape[0], _GAP, 3), 128, np.uint8)
    drawn = [_drawn(run, heat, photo) for run, heat in zip(runs, heats, strict=True)]
    return data_url(np.hstack([part for each in drawn for part in (each, gap)][:-1]), quality=95)


def _photo(run: CamRun, filepath: str, side: int, most: float = 1.0) -> NDArray[np.uint8]:
    """The photo with its longer side as asked for, but no more than ``most`` times as large as it is."""
    with Workers(1, seconds=limits().seconds, name="cam-decode") as workers:
        # no run of read= comes here: its classifier can be loaded from Python only
        full = run.record.classifier.preprocessing.get("full")
        full = tuple(full) if isinstance(full, list) else full
        whole = workers.result(workers.submit(partial(read_image, full=full), filepath))
    height, width = whole.shape[:2]
    scale = min(most, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    way = cv2.INTER_AREA if scale <= 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(whole, size, interpolation=way), whole.dtype)


def _drawn(run: CamRun, heat: fo.Heatmap, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    evidence = signed_map(heat, photo.shape[:2])
    scale = run.record.scale or float(evidence.max())
    return blend(photo, evidence, heat.cam.seen, scale, threshold=run.record.threshold)
