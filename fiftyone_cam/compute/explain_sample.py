"""One class of one sample: what would speak for it?"""

from __future__ import annotations

import os
from typing import Any

import fiftyone as fo
from bson import ObjectId

from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.names import EXPLAINED
from fiftyone_cam.core.results import Failure
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.heatmaps import heatmap


def explain_sample(
    samples: Collection, sample_id: str, classifier: Any, label: str | None = None, key: str = "cam"
) -> fo.Heatmap:
    """Write one class's map of one sample into ``{key}_explained``: what would speak for *this* class?

    Args:
        samples: the dataset or view.
        sample_id: of the sample.
        classifier: as for :func:`compute_cam`; the one that the run was made with.
        label: the class; by default the predicted one.
        key: a run of this project on the dataset, made by :func:`compute_cam`.

    Returns:
        the heatmap as stored, in the run's own display scale.

    Raises:
        RunError: there is no such run, or it was made with other weights.
        SourceError: the classifier has no such class.
        CamError: the image has no result; the message is the reason.

    >>> focam.explain_sample(dataset, sample.id, classifier, "tabby").logit
    4.2
    """
    run = catalog.load_run(samples, key)
    if not isinstance(sample_id, (str, ObjectId)) or not ObjectId.is_valid(sample_id):
        found = f"{type(sample_id).__name__} {str(sample_id)[:40]!r}"
        raise CamError(f"expected a sample's id, found {found}: pass sample.id")
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    run.require_pixels(classifier.network.preprocessing.to_dict())
    found = samples if run.frames else run.dataset
    try:
        sample = found[str(sample_id)]
    except KeyError:
        hint = ": pass the view of frames, and a frame's id" if run.frames else ""
        raise CamError(f"dataset {run.dataset.name!r} has no sample of id {sample_id}{hint}") from None
    result = classifier.explain(sample[run.media_field] or "", None if label is None else [label])
    if isinstance(result, Failure):
        raise CamError(f"{os.path.basename(sample.filepath)} cannot be explained: {result.reason}")
    heat = heatmap(result.maps[0], result, run.record.scale, run.record.threshold)
    run.claim_field(EXPLAINED, ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    found.set_values(run.field(EXPLAINED), {sample_id: heat}, key_field="id")  # of frames it gets to the videos
    run.arrange()
    return heat
