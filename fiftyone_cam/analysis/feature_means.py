"""The class-free baseline of a scorecard: it cannot be had from stored maps, so the network runs once an image."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from fiftyone_cam.classifiers.classifier import load_classifier
from fiftyone_cam.core.class_free import ClassFreeReader, FeatureMean
from fiftyone_cam.core.network import resolve_device
from fiftyone_cam.core.results import Failure, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.media import read_files
from fiftyone_cam.engines import local
from fiftyone_cam.runs.cam_run import CamRun


def read_feature_means(samples: Collection, run: CamRun, classifier: Any) -> Generator[FeatureMean | Failure]:
    """The mean of the feature maps of each sample, in the samples' order.

    Raises:
        RunError: the run was made with other weights, or fed with other pixels.

    >>> next(read_feature_means(dataset, run, classifier)).grid.shape
    (7, 7)
    """
    classifier = load_classifier(classifier)
    run.require_weights(classifier.fingerprint)
    run.require_pixels(classifier.network.preprocessing.to_dict())
    network = classifier.network.for_inference().to(resolve_device(None))
    items = [Item(*file) for file in read_files(samples, run.media_field)]
    return local.explain_all(items, ClassFreeReader(network), network.batch_size(), None, Timing())
