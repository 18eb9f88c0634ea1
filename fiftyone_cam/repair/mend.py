"""From a run to a mended one: a head edited or trained anew, saved, and its maps beside the old ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiftyone_cam.analysis.compare import compare
from fiftyone_cam.analysis.compare_report import Comparison
from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.compute.compute_cam import compute_cam
from fiftyone_cam.concepts.report import load_concepts
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.dataset import internals
from fiftyone_cam.dataset.annotations import ObjectLabels
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.repair.edit_head import edit_head
from fiftyone_cam.repair.mended import MendedClassifier
from fiftyone_cam.repair.report import RepairReport
from fiftyone_cam.repair.retrain_head import retrain_head
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun


@dataclass
class Mended:
    """What :func:`mend` did.

    Attributes:
        preview: every group before and after; None where no true class is known.
        folder: the checkpoint of the mended classifier; None where it was only previewed, as are the others.
        run: its maps.
        comparison: of these with the run before.
    """

    preview: RepairReport | None
    folder: Path | None = None
    run: CamRun | None = None
    comparison: Comparison | None = None


def mend(
    samples: Collection,
    key: str,
    classifier: Any,
    *,
    remove: Sequence[str] | None = None,
    directions: int | None = None,
    strength: float | None = None,
    groups: Sequence[str] | None = None,
    objects: Sequence[str] | None = None,
    object_labels: ObjectLabels = None,
    off_object: float = 0.0,
    ground_truth: str | None = None,
    into: str | None = None,
    out_dir: str | Path | None = None,
    device: str | None = None,
    progress: Any = None,
) -> Mended:
    """Mend the classifier of a run, save it, and compute its maps under another key.

    Args:
        samples: a dataset or view: it chooses, judges, and gets the new maps.
        key: the run whose classifier is mended.
        classifier: that one, as for :func:`compute_cam`.
        remove: concepts that are taken out of the head (:func:`edit_head`); else the last layer is trained anew.
        directions: how many, instead of a choice.
        strength: how much of them is removed, instead of a choice.
        groups: what :func:`retrain_head` balances over.
        objects: fields that say where the object is.
        object_labels: more labels that mean the object.
        off_object: how much evidence off it costs.
        ground_truth: the field with the true class; by default the run's.
        into: the key of the new maps; None for the preview alone.
        out_dir: the folder of the mended classifier.
        device: to compute on.
        progress: as for :func:`compute_cam`.

    Raises:
        CamError: what the functions above raise; or ``into`` without ``out_dir``.

    >>> mend(dataset, "cam", "efficientnet_lite0", remove=["watermark"]).preview
    """
    if into is not None and out_dir is None:
        raise CamError(f"the mended classifier of {into!r} has to be saved somewhere: pass out_dir=")
    run = catalog.load_run(samples, key)
    if into is not None:
        catalog.check_key(run.dataset, into)
        if into in catalog.list_runs(samples):
            raise CamError(f"there is a run {into!r} already: give another key")
    classifier = load_classifier(classifier)
    truth = ground_truth or run.ground_truth
    of_run = [run.dataset.name, run.key, run.record.updated_at, internals.stages_of(samples.view())]
    how = [remove, directions, strength, groups, objects, object_labels, off_object, truth]
    asked = json.dumps([of_run, classifier.fingerprint, how])
    mended = _last.get(asked)
    if mended is None:
        if remove is not None:
            report = load_concepts(samples, key)
            mended = edit_head(classifier, report, list(remove), directions=directions, strength=strength)
        else:
            mended = retrain_head(
                samples,
                key,
                classifier,
                truth,
                groups=list(groups) if groups else None,
                objects=list(objects) if objects else None,
                object_labels=object_labels,
                off_object=off_object,
                device=device,
                progress=progress,
            )
        _last.clear()  # one is enough, and may be large
        _last[asked] = mended
    if into is None or out_dir is None:
        return Mended(mended.preview)
    folder = mended.save(out_dir)
    settings = run.record.settings
    new = compute_cam(
        samples,
        mended,
        into,
        ground_truth=truth,
        class_map=settings.class_map if truth == settings.ground_truth else None,
        top_k=settings.top_k,
        media_field=settings.media_field,
        device=device,
        progress=progress,
    )
    new.update(loaded_from=[str(folder), {}])
    _last.clear()
    return Mended(mended.preview, folder, new, compare(samples, key, into, ground_truth=truth, progress=False))


_last: dict[str, MendedClassifier] = {}
"""The one that was previewed last: who then wants it does not wait for it twice."""
