"""The logits of one sample, each split exactly into evidence on the object, evidence off it, and bias.

:func:`split_logits` runs the network. :func:`stored_logits` reads the maps that a run has stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.analysis.audit_report import AuditReport
from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.core import evidence
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import HEATMAP, PREDICTION, TOP
from fiftyone_cam.core.regions import Cells, Shape, partition
from fiftyone_cam.core.results import Failure
from fiftyone_cam.dataset import bulk
from fiftyone_cam.dataset.annotations import Scene
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import MapReader


def split_logits(
    samples: Collection,
    sample_id: str,
    classifier: Any,
    key: str = "cam",
    labels: Sequence[str] | None = None,
    top_k: int = 5,
) -> list[dict[str, Any]]:
    """Split the strongest logits of one sample, or those of ``labels``, into their parts. Runs the network once.

    Args:
        samples: the dataset or view.
        sample_id: of the sample.
        classifier: as for :func:`compute_cam`; the one that the run was made with.
        key: an audited run. If its audit has objects, evidence is split into inside and outside.
        labels: classes instead of the strongest.
        top_k: how many of the strongest.

    Returns:
        for each class ``label``, ``confidence``, ``logit``, ``bias``, ``evidence_in`` and ``evidence_out``. The last
        three add up to the logit. ``evidence_in`` is None if no object is known.

    Raises:
        RunError: there is no such run, or it was made with other weights.
        CamError: the image has no result; the message is the reason.

    >>> split_logits(dataset, sample.id, classifier)[0]
    {'label': 'tabby', 'confidence': 0.61, 'logit': 7.9, 'bias': 0.02, 'evidence_in': 6.7, 'evidence_out': 1.2}
    """
    run = catalog.load_run(samples, key)
    sample = run.dataset.select(sample_id)
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    run.require_pixels(classifier.network.preprocessing.to_dict())
    top_k = min(top_k, len(classifier.classes))
    result = classifier.explain(sample.values(run.media_field)[0] or "", labels, top_k=top_k)
    if isinstance(result, Failure):
        raise CamError(f"the sample cannot be explained: {result.reason}")
    scene = audited_scene(run)
    [[row]] = bulk.chunks(sample, scene.paths if scene else [], progress=False)
    shapes = _object(scene, row)
    return [
        {
            "label": found.label,
            "confidence": found.confidence,
            "logit": found.logit,
            "bias": found.bias,
            **_split(found.grid, Cells.of(found.grid.shape, result.box, result.seen), shapes),
        }
        for found in result.maps
    ]


def stored_logits(samples: Collection, sample_id: str, key: str = "cam") -> list[dict[str, Any]]:
    """Split the logits whose maps a run has stored, the strongest first. No network is run.

    Args:
        samples: the dataset or view.
        sample_id: of the sample.
        key: the run.

    Returns:
        as :func:`split_logits`, and for each class also ``field``, where its map is. Empty if the sample has no map.

    >>> stored_logits(dataset, sample.id, "cam")[0]["field"]
    'cam_heatmap'
    """
    run = catalog.load_run(samples, key)
    ranks = range(2, run.record.settings.top_k + 1)
    readers = [MapReader(run, name) for name in (HEATMAP, *(f"{HEATMAP}_{rank}" for rank in ranks))]
    readers = [reader for reader in readers if run.dataset.has_field(reader.field)]
    paths = [path for reader in readers for path in reader.paths]
    confidences = [run.field(PREDICTION)] + ([f"{run.field(TOP)}.classifications"] if len(readers) > 1 else [])
    paths += [f"{path}.{name}" for path in confidences for name in ("label", "confidence")]
    scene = audited_scene(run)
    [[row]] = bulk.chunks(run.dataset.select(sample_id), [*paths, *(scene.paths if scene else ())], progress=False)

    sure = {row[f"{confidences[0]}.label"]: row[f"{confidences[0]}.confidence"]}
    for path in confidences[1:]:
        sure.update(zip(row[f"{path}.label"] or (), row[f"{path}.confidence"] or (), strict=True))
    shapes = _object(scene, row)
    parts = []
    for reader in readers:
        stored = reader.read(row)
        if stored is not None:
            parts.append(
                {
                    "label": stored.label,
                    "confidence": sure.get(stored.label),
                    "logit": stored.logit,
                    "bias": stored.bias,
                    **_split(stored.grid, stored.cells, shapes),
                    "field": reader.field,
                }
            )
    return parts


def audited_scene(run: CamRun) -> Scene | None:
    """The annotations that a run's audit used; None where it used no objects, or is stale.

    >>> audited_scene(focam.load_run(dataset, "cam")).object(row)
    [Polygon(rings=…)]
    """
    record = run.record.audit
    if record is None or not record.objects or AuditReport(run, run.dataset).stale is not None:
        return None
    return Scene.of_settings(
        run.dataset,
        ground_truth=record.ground_truth,
        objects=record.objects,
        object_labels=record.object_labels,
        object_labels_of_all=record.object_labels_of_all,
    )


def _object(scene: Scene | None, row: Mapping[str, Any]) -> list[Shape]:
    if scene is not None:
        with contextlib.suppress(OSError):  # a mask that cannot be read: no object is known
            return scene.object(row)
    return []


def _split(grid: NDArray[np.float32], cells: Cells, shapes: Sequence[Shape]) -> dict[str, float | None]:
    if not shapes:
        return {"evidence_in": None, "evidence_out": float(grid.mean(dtype=np.float64))}
    inside, outside = evidence.split(grid, partition([shapes], cells)[0])
    return {"evidence_in": float(inside), "evidence_out": float(outside)}
