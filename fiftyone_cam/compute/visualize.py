"""All images of a run as points: near where the classifier sees them alike. For FiftyOne's Embeddings panel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import fiftyone.brain as fob
import fiftyone.core.utils as fou

from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.core.errors import CamError, HeadError, RunError, did_you_mean
from fiftyone_cam.core.explain import Explainer
from fiftyone_cam.core.names import PREDICTION
from fiftyone_cam.core.results import Explanation, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.media import read_files
from fiftyone_cam.engines import local
from fiftyone_cam.runs import catalog

_METHODS = ("umap", "tsne", "pca")

_FEW, _MANY = 100, 10_000
"""Of fewer images t-SNE makes nothing, of more it takes minutes."""


def visualize(
    samples: Collection,
    key: str = "cam",
    classifier: Any = None,
    *,
    method: str | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[Any], None] | None = None,
) -> str:
    """Compute the pooled features of a run's classifier, and lay them out in a plane, for the Embeddings panel.

    Coloured by ``cam_verdict`` it shows which errors are alike. The layout belongs to the run and is deleted with it.

    Args:
        samples: a dataset or view.
        key: a run of this project on the dataset, made by :func:`compute_cam`.
        classifier: as for :func:`compute_cam`; the one that the run was made with.
        method: ``"umap"`` (where ``umap-learn`` is installed), ``"tsne"`` or ``"pca"``; by default the first of them
            that suits the number of images.
        overwrite: compute it again where the run has one.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the brain key: ``dataset.load_brain_results(brain_key)``.

    Raises:
        RunError: there is no such run, it has no result, was made with other weights, or the brain key is taken.
        HeadError: the network has no pooled features.
        CamError: there is no such method, or its package is not installed.

    >>> brain_key = focam.visualize(dataset, "cam", classifier)
    >>> dataset.load_brain_results(brain_key).points.shape
    (259, 2)
    """
    if method not in (None, *_METHODS):
        raise CamError(f"method is {method!r}{did_you_mean(method, _METHODS)}: expected one of {', '.join(_METHODS)}")
    if method == "umap" and find_spec("umap") is None:
        raise CamError("method='umap' needs the package umap-learn: install it, or take 'tsne' or 'pca'")
    collection, run = catalog.finished_run(samples, key)
    dataset, brain_key = run.dataset, run.visualization
    if dataset.has_brain_run(brain_key):
        if not run.record.visualized:
            raise RunError(f"the brain run {brain_key!r} exists and is not of run {key!r}: delete or rename it")
        if not overwrite:
            return brain_key
        run.clear_visualization()
    if classifier is None:
        raise RunError(f"run {key!r} has no layout yet: pass its classifier, {run.record.classifier.model}")
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    if not classifier.has_embeddings:
        raise HeadError(f"{classifier.origin.get('model')} has no pooled features, so there is nothing to lay out")
    view = collection.exists(run.field(PREDICTION))
    items = [Item(*file) for file in read_files(view, run.media_field)]
    if len(items) < 2:
        raise RunError(f"run {key!r} has {len(items)} results in this view, expected two at least")

    explainer = Explainer(classifier.network.for_inference(), vectors=True)
    results = local.explain_all(items, explainer, explainer.network.batch_size(), None, Timing())
    found = {}
    with contextlib.closing(results), fou.ProgressBar(total=len(items), progress=progress) as bar:
        for result in results:
            if isinstance(result, Explanation):
                found[result.id] = result.pooled
            bar.update()
    run.update(visualized=True)  # before it is made, so that deleting the run deletes it in any case
    fob.compute_visualization(
        view, embeddings=found, method=method or _method(len(found)), brain_key=brain_key, progress=False, verbose=False
    )
    return brain_key


def _method(count: int) -> str:
    if find_spec("umap") is not None and count >= _FEW:
        return "umap"
    return "tsne" if _FEW <= count <= _MANY else "pca"
