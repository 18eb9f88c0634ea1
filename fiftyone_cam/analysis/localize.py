"""Boxes from evidence: weakly supervised localization, by the rule of the CAM paper."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import fiftyone as fo

from fiftyone_cam.core.errors import CamError, is_number
from fiftyone_cam.core.evidence import evidence_box
from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.core.workers import Workers, default_count
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.ground_truth import Translation
from fiftyone_cam.runs.catalog import finished_run
from fiftyone_cam.runs.heatmaps import MapReader
from fiftyone_cam.runs.record import LocalizationRecord

BOXES = "boxes"

_DETECTION = bulk.document(fo.Detection(label="", bounding_box=[0.0, 0.0, 1.0, 1.0], confidence=0.0))


def localize(samples: Collection, key: str = "cam", threshold: float = 0.2, *, progress: Any = None) -> str:
    """Write ``{key}_boxes``: one box a sample, around the largest connected part of the evidence.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 3.2: keep the part of the
    map above a share of its maximum, take its largest connected component, draw a tight box around it. The label is
    the predicted class, in the ground truth's words if the run has a ``class_map``; the confidence is that of the
    prediction. A sample without a map gets None, a sample without positive evidence gets no box.

    Args:
        samples: a dataset or view with the results of :func:`compute_cam`.
        key: its run.
        threshold: the share of the map's maximum.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the field's name, ready for ``evaluate_detections``, ``to_patches`` and patch embeddings.

    Raises:
        RunError: there is no such run, or it is being computed.

    >>> boxes = focam.localize(dataset, "cam")
    >>> dataset.evaluate_detections(boxes, gt_field="objects", eval_key="loc", classwise=True)
    """
    if not is_number(threshold) or not 0 < threshold <= 1:
        raise CamError(f"threshold is {threshold!r}, expected a share of the maximum: above 0, at most 1")
    threshold = float(threshold)  # the database keeps no NumPy's
    collection, run = finished_run(samples, key)
    translation = Translation(run.classes, run.record.settings.class_map)
    reader = MapReader(run)
    confidence = f"{run.field(PREDICTION)}.confidence"
    paths = [*reader.paths, confidence]
    bulk.require(collection, paths)

    path = run.claim_field(BOXES, ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)

    def boxes(rows: Sequence[bulk.Row]) -> dict[str, dict[str, Any]]:
        values: dict[str, dict[str, Any]] = {}
        for row in rows:
            stored = reader.read(row)
            if stored is None:
                values[row["id"]] = {path: None}
                continue
            place = evidence_box(stored.grid, stored.box, stored.seen, threshold)
            detections = []
            if place is not None:
                word = translation.translate(stored.label) or stored.label
                detections.append(_DETECTION(label=word, bounding_box=list(place), confidence=row[confidence]))
            values[row["id"]] = {path: {"_cls": "Detections", "detections": detections}}
        return values

    threads = default_count()  # OpenCV finds the parts of a map without the GIL
    with Workers(threads, name="cam-boxes") as workers, bulk.writing(run.dataset) as write:
        for rows in bulk.chunks(collection, paths, progress):
            found = [workers.submit(boxes, rows[first::threads]) for first in range(threads)]
            write({id: values for task in found for id, values in workers.result(task).items()})
    run.update(
        localization=LocalizationRecord(
            threshold=threshold,
            revision=run.record.revision,
            localized_at=datetime.now(timezone.utc).isoformat(),
        )
    )
    run.arrange()
    return path
