"""Pictures for people without the App: photos with their heatmaps at full resolution, a list, and a contact sheet."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np

from fiftyone_cam.core.boxes import as_box
from fiftyone_cam.core.contact_sheet import Card, contact_sheet, shrink
from fiftyone_cam.core.display import OPACITY
from fiftyone_cam.core.errors import CamError, FieldError, ImageError, NotDoneError
from fiftyone_cam.core.files import folder_of, write_atomically
from fiftyone_cam.core.image import call_reader, read_image
from fiftyone_cam.core.limits import limits
from fiftyone_cam.core.names import ERROR, HEATMAP, PREDICTION
from fiftyone_cam.core.overlay import APP, Picture, blend, caption, check_style, stack
from fiftyone_cam.core.tables import Summary, percent
from fiftyone_cam.core.workers import Workers, default_count
from fiftyone_cam.dataset import bulk, internals
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.dataset.ground_truth import Translation
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import cam_of, signed_map

MANIFEST, CONTACT_SHEET = "manifest.csv", "contact_sheet.png"
COLUMNS = (
    *("file", "id", "filepath", "run", "label", "confidence", "truth", "right", "logit", "bias", "scale"),
    *("left", "top", "width", "height", "error", "schema_version"),
)
"""The columns of the manifest. ``left`` to ``height``: where the photo lies in the picture, in pixels."""

SCHEMA_VERSION = 1
"""Of the manifest: in each row, so that whatever reads CSV reads it; in the last column, so that none moves."""

ON_SHEET = 24


@dataclass(frozen=True)
class Overlays:
    """What :func:`export_overlays` wrote; ``print`` gives the summary.

    ``skipped``: how many samples have no picture, by reason.

    >>> overlays = focam.export_overlays(wrong, "cam", "overlays")
    >>> overlays.skipped
    {'truncated file': 2}
    """

    folder: Path
    written: int
    skipped: dict[str, int]
    manifest: Path
    contact_sheet: Path | None

    def describe(self) -> Summary:
        """What was written, in words.

        >>> overlays.describe().rows
        [('the worst', 'contact_sheet.png: wrong ones first, …'), ('no picture', '2 x truncated file')]
        """
        rows = []
        if self.contact_sheet is not None:
            rows.append(("the worst", f"{self.contact_sheet.name}: wrong ones first, the most confident of them first"))
        rows += [("no picture", f"{count:,} x {reason}") for reason, count in self.skipped.items()]
        return Summary(f"{self.written:,} overlays in {self.folder}, listed in {self.manifest.name}", rows)

    def __str__(self) -> str:
        return self.describe().text()


def export_overlays(
    samples: Collection,
    key: str,
    out_dir: str | os.PathLike[str],
    colormap: str = APP,
    alpha: float = OPACITY,
    text: bool = True,
    side_by_side: bool = False,
    *,
    read: Callable[[str], Any] | None = None,
    progress: bool | Callable[[Any], None] | None = None,
) -> Overlays:
    """Write each photo with the heatmap of its prediction, as PNG at the photo's full resolution.

    All pictures share the run's scale: a weak map looks weak. What the network did not see stays clear. Two more files
    are written: ``manifest.csv`` (see :data:`COLUMNS`), and ``contact_sheet.png`` with the worst pictures: first wrong
    ones, the most confident first, then right ones, the least confident first.

    A picture is named after the photo, in harmless letters, and after the sample's id. So names never collide, and a
    second export of a sample replaces its first. Files that no export wrote are never overwritten.

    Args:
        samples: a dataset or view; each sample with a map gives a picture.
        key: a run of :func:`compute_cam`.
        out_dir: a folder.
        colormap: ``"heat"`` as in the App, or one of OpenCV's: ``"jet"`` as in the posts, ``"viridis"``, …
        alpha: the heatmap's share in the sum.
        text: write class and confidence above the photo, and the truth where the class is wrong.
        side_by_side: show the photo alone, at the left of the one with the heatmap.
        read: for a run whose pictures a function of yours has read, ``Preprocessing(read=…)``: that function.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        an :class:`Overlays`.

    Raises:
        RunError: there is no such run, there are no samples, or they are no whole images.
        CamError: the style is unknown, the run's own function was not passed, or the folder holds other files of these
            names, or cannot be written.

    >>> print(focam.export_overlays(wrong, "cam", "overlays"))
    12 overlays in overlays, listed in manifest.csv
    """
    check_style(colormap, alpha)
    samples = require_images(samples)
    run = catalog.load_run(samples, key)
    made = run.record.classifier.preprocessing
    if "read" in made and read is None:
        raise CamError(
            f"the pictures of run {key!r} were read by {made['read']}, which no record can hold: pass it again, read=…"
        )
    rows = _rows(samples, run)
    folder = folder_of(out_dir)
    manifest = _Manifest(folder)
    manifest.claim([row["file"] for row in rows if row["file"]])
    full = tuple(made["full"]) if isinstance(made.get("full"), list) else made.get("full")
    worst = sorted((row for row in rows if row["file"]), key=_goodness)[:ON_SHEET]
    wanted = {row["id"] for row in worst}
    small: dict[str, Picture] = {}

    def export(found: tuple[dict[str, Any], fo.Heatmap]) -> None:
        row, heatmap = found
        try:
            photo = _photo(row["filepath"], full, read)
            overlay = _overlay(photo, row, heatmap, colormap, alpha, run.record.threshold)
            picture = _picture(row, photo, overlay, text, side_by_side)
        except (ImageError, FieldError) as error:
            row["error"] = str(error)
            return
        manifest.write(row["file"], _png(picture))
        row["error"] = ""
        if row["id"] in wanted:
            small[row["id"]] = shrink(overlay)

    field = run.field(HEATMAP)
    pending = {row["id"]: row for row in rows if row["file"]}
    for row in pending.values():
        row["error"] = "not written: the export was interrupted"
    manifest.save(rows)
    count = default_count()
    view = samples.view().exists(field).select_fields(field)
    found = ((pending[sample.id], sample[field]) for sample in view if sample.id in pending)  # not those computed since
    try:
        with (
            fou.ProgressBar(total=len(pending), progress=progress) as bar,
            Workers(count, seconds=limits().seconds, name="cam-overlay") as workers,
        ):
            for (row, _), task in workers.imap(export, found, ahead=2 * count):
                try:
                    workers.result(task)
                except NotDoneError as error:
                    row["error"] = str(error)
                bar.update()
    finally:
        manifest.save(rows)

    shown = [row for row in worst if row["id"] in small]
    if shown:
        manifest.write(CONTACT_SHEET, _png(contact_sheet(_sections(shown, small))))
    skipped = Counter(str(row["error"]) for row in rows if row["error"])
    written = len(rows) - sum(skipped.values())
    return Overlays(
        folder, written, dict(skipped.most_common()), manifest.path, folder / CONTACT_SHEET if shown else None
    )


def _rows(samples: Collection, run: CamRun) -> list[dict[str, Any]]:
    """A row of the manifest for each sample, with all that is known before a photo is opened."""
    truth = run.ground_truth
    translation = Translation(run.classes, run.record.settings.class_map)
    heatmap, prediction, error = (run.field(name) for name in (HEATMAP, PREDICTION, ERROR))
    paths = ["id", run.media_field, f"{prediction}.label", f"{prediction}.confidence"]
    paths += [f"{heatmap}.logit", error]
    if truth and internals.dataset_of(samples).has_field(truth):
        bulk.require(samples, [truth])
    else:
        truth = None  # it was deleted since
    bulk.require(samples, paths)
    columns = samples.values(paths)
    truths = samples.values(f"{truth}.label") if truth else [None] * len(columns[0])
    rows = []
    for id, path, label, confidence, logit, reason, true in zip(*columns, truths, strict=True):
        row: dict[str, Any] = {**dict.fromkeys(COLUMNS, ""), "schema_version": SCHEMA_VERSION}
        row |= {"id": id, "filepath": path, "run": run.key, "scale": run.record.scale, "truth": true or ""}
        if logit is None:
            row["error"] = reason or "no map was computed"
        else:
            row |= {"file": _name(path, id), "label": label, "confidence": confidence, "logit": logit}
            right = translation.is_right(label, true)
            row["right"] = "" if right is None else right
        rows.append(row)
    return rows


def _name(path: str, id: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", os.path.splitext(os.path.basename(path))[0])[:60].strip("_-")
    return f"{stem or 'image'}-{id}.png"


def _goodness(row: dict[str, Any]) -> tuple[bool, float]:
    """The lower, the worse: wrong before right; among the wrong the sure ones, among the right the unsure."""
    wrong = row["right"] is False
    confidence = row["confidence"] or 0.0
    return not wrong, -confidence if wrong else confidence


def _sections(worst: Sequence[dict[str, Any]], small: dict[str, Picture]) -> list[tuple[str, list[Card]]]:
    """The contact sheet's: where the wrong ones end, a heading says so."""
    wrong = [row for row in worst if row["right"] is False]
    right = [row for row in worst if row["right"] is True]
    rest = [row for row in worst if row["right"] == ""]
    sections = [
        (f"Wrong: {len(wrong)}, the most confident first", wrong),
        (f"Right: {len(right)}, the least confident first", right),
        (f"{len(rest)} whose true class is not known, the least confident first", rest),
    ]
    return [(heading, [Card(small[row["id"]], _words(row)) for row in rows]) for heading, rows in sections]


def _words(row: dict[str, Any]) -> list[str]:
    lines = [f"{row['label']} {percent(row['confidence'])}"]
    return [*lines, f"truth: {row['truth']}"] if row["right"] is False else lines


def _photo(path: str, full: Any, read: Callable[[str], Any] | None) -> Picture:
    """A photo as the run's network got it, but for the size: its colours, or the first three of its channels."""
    if read is None:
        return read_image(path, full=full)
    pixels = call_reader(read, path, full)
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)


def _overlay(
    photo: Picture, row: dict[str, Any], heatmap: fo.Heatmap, colormap: str, alpha: float, threshold: float
) -> Picture:
    cam = cam_of(heatmap)
    evidence = signed_map(heatmap, photo.shape[:2])
    overlay = blend(photo, evidence, as_box(cam["seen"]), row["scale"], colormap, alpha, threshold)
    row["bias"] = cam["bias"]
    return overlay


def _picture(row: dict[str, Any], photo: Picture, picture: Picture, text: bool, side_by_side: bool) -> Picture:
    height, width = photo.shape[:2]
    left = top = 0
    if side_by_side:
        picture = stack([photo, picture], axis=1)
        left = picture.shape[1] - width
    if text:
        captioned = caption(picture, _words(row))
        top = captioned.shape[0] - height
        picture = captioned
    row |= {"left": left, "top": top, "width": width, "height": height}
    return picture


def _png(picture: Picture) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


class _Manifest:
    """The list of what exports wrote into a folder: the only files that another export may overwrite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / MANIFEST
        self._earlier: dict[str, dict[str, Any]] = {}

    def claim(self, names: Sequence[str]) -> None:
        """Make the folder, and see that none of these names is somebody else's."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CamError(f"{self.folder} cannot be made: {error.strerror}; give another folder") from error
        owned = [MANIFEST, CONTACT_SHEET]
        if self.path.exists() and (earlier := self._read()) is not None:
            self._earlier, owned = earlier, []
        taken = [name for name in (*owned, *names) if name not in self._earlier and (self.folder / name).exists()]
        if taken:
            raise CamError(
                f"{self.folder} holds {len(taken)} file(s) that no export wrote, such as {taken[0]}: "
                "give another folder"
            )

    def _read(self) -> dict[str, dict[str, Any]] | None:
        """The rows of an earlier export by file, or None if the file is not one of ours."""
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns, rows = tuple(reader.fieldnames or ()), list(reader)
        except (OSError, ValueError, csv.Error):
            return None
        if columns == COLUMNS[:-1]:  # the first ones had no version
            columns, rows = COLUMNS, [{**row, "schema_version": str(SCHEMA_VERSION)} for row in rows]
        elif not {"file", "run", "schema_version"} <= set(columns):
            return None
        others = {str(row["schema_version"]) for row in rows} - {str(SCHEMA_VERSION)}
        if others or not set(COLUMNS) <= set(columns):
            found = ", ".join(sorted(others)) or "unknown"
            raise CamError(
                f"{self.path} is of version {found}, expected {SCHEMA_VERSION}: give another folder, or use the "
                "version of fiftyone_cam that wrote it"
            )
        return {row["file"]: {name: row[name] for name in COLUMNS} for row in rows}

    def save(self, rows: Sequence[dict[str, Any]]) -> None:
        """These rows, and those of earlier exports whose files are still there."""
        new = {row["file"] for row in rows}
        old = [row for name, row in self._earlier.items() if name and name not in new and (self.folder / name).exists()]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows([*rows, *old])
        self.write(MANIFEST, text.getvalue().encode())

    def write(self, name: str, data: bytes) -> None:
        """One file, whole or not at all."""
        try:
            with write_atomically(self.folder / name) as new:
                new.write_bytes(data)
        except OSError as error:
            raise CamError(
                f"{name} cannot be written to {self.folder}: {error.strerror}. What was written before is whole"
            ) from error
