"""Heatmaps drawn anew from stored maps: with another threshold, without the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fiftyone_cam.core.boxes import as_box
from fiftyone_cam.core.display import THRESHOLD, display_size, lay_out
from fiftyone_cam.core.errors import CamError, FieldError
from fiftyone_cam.core.names import CONTRAST, EXPLAINED, HEATMAP
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.heatmaps import CAM, drawn_values, nested_cam, packed_drawing
from fiftyone_cam.runs.record import SCHEMA_VERSION


class Redrawn(NamedTuple):
    """What :func:`redraw_heatmaps` did: how many ``heatmaps`` of which ``fields`` it drew, with which ``threshold``.

    >>> focam.redraw_heatmaps(dataset.limit(2), "cam", 0.3, field="cam_heatmap")
    Redrawn(heatmaps=2, fields=['cam_heatmap'], threshold=0.3)
    """

    heatmaps: int
    fields: list[str]
    threshold: float


def redraw_heatmaps(
    samples: Collection,
    key: str = "cam",
    threshold: float = THRESHOLD,
    field: str | None = None,
    *,
    progress: bool | Callable[[Any], None] | None = None,
) -> Redrawn:
    """Draw a run's heatmaps anew from the maps that it stored: no photo is read, no network is run.

    Evidence below the threshold is left clear; above it, it fades in. If all heatmaps of all samples are redrawn, what
    the run computes later is drawn alike. Heatmaps of an earlier version of this project are brought up to date.

    Args:
        samples: a dataset or view with the results of :func:`compute_cam`.
        key: its run.
        threshold: a share of the run's scale, which is the evidence that gets the last colour: 0 to 1.
        field: one of the run's heatmap fields, such as ``"cam_contrast"``; by default all of them.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        a :class:`Redrawn`.

    Raises:
        RunError: there is no such run, or it is being computed.
        CamError: the threshold is no share, or the field is no heatmap of this run.

    >>> focam.redraw_heatmaps(dataset, "cam", threshold=0.3).heatmaps
    259
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise CamError(f"threshold is {threshold!r}, expected a share of the run's scale: 0 to 1")
    collection, run = finished_run(samples, key)
    known = heatmap_fields(run)
    if field is not None and field not in known:
        raise FieldError(f"{field!r} is no heatmap of run {key!r}: expected one of {', '.join(known)}")
    paths = known if field is None else [field]
    bulk.require(collection, paths)
    drawn = 0
    for rows in bulk.chunks(collection, paths, progress):
        values: dict[str, dict[str, Any]] = {}
        for row in rows:
            new = {path: _redrawn(row[path], run, path, threshold) for path in paths if row[path] is not None}
            if new:
                values[row["id"]] = new
                drawn += len(new)
        bulk.write(run.dataset, values)
    if field is None and len(collection) == len(run.dataset):
        run.update(threshold=float(threshold), schema_version=SCHEMA_VERSION)
    return Redrawn(drawn, list(paths), float(threshold))


def heatmap_fields(run: CamRun) -> list[str]:
    """The fields of a run that hold its heatmaps.

    >>> heatmap_fields(focam.load_run(dataset, "cam"))
    ['cam_heatmap', 'cam_contrast']
    """
    drawn = (HEATMAP, CONTRAST, EXPLAINED)
    return [path for path, name in run.fields.items() if name in drawn or name.startswith(f"{HEATMAP}_")]


def _redrawn(document: Mapping[str, Any], run: CamRun, path: str, threshold: float) -> dict[str, Any]:
    """The document of a heatmap with another drawing in it; whatever else it holds stays."""
    holder = document.get("cam", document)  # the first versions did not nest it
    cam = {name: holder[name] for name in CAM}
    contrast = run.fields[path] == CONTRAST
    grid = bulk.array(cam["grid"])
    before = bulk.array(document["map"])
    assert grid is not None
    assert before is not None
    first = holder is document  # which drew smaller maps
    size = display_size(*before.shape[:2]) if first else before.shape[:2]
    evidence = lay_out(grid, as_box(cam["box"]), as_box(cam["seen"]), *size)
    scale = run.record.contrast_scale if contrast else run.record.scale
    drawing = packed_drawing(drawn_values(evidence, scale, threshold, both_signs=contrast))
    rest = {name: value for name, value in document.items() if name not in CAM}
    return {**rest, **drawing, "cam": nested_cam(cam)}
