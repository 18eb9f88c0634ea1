"""A classifier that can be saved, on photos, with its concepts."""

from __future__ import annotations

import fiftyone as fo
import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.networks import build
from tests.helpers.networks import NAMES, SQUARE, write_photos

COUNT = 60


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Random weights, of an architecture that has a name."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    module = build("small_gap_net", 3).train()
    with torch.no_grad():
        for _ in range(30):  # else its norms let hardly anything of a picture through
            module(torch.randn(4, 3, 64, 64))
    torch.save(module.state_dict(), path)
    return focam.load_classifier(path, NAMES, arch="small_gap_net", preprocessing=SQUARE)


@pytest.fixture(scope="module")
def photos(classifier, tmp_path_factory):
    """Sixty photos with a run and its concepts; the run is right on half of them."""
    dataset = fo.Dataset()
    paths = write_photos(tmp_path_factory.mktemp("photos"), COUNT)
    dataset.add_samples([fo.Sample(filepath=path) for path in paths])
    focam.compute_cam(dataset, classifier)
    for i, sample in enumerate(dataset.iter_samples(autosave=True)):
        label = sample.cam_prediction.label
        sample["ground_truth"] = fo.Classification(label=label if i % 2 else NAMES[(NAMES.index(label) + 1) % 3])
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def report(photos, classifier):
    return focam.find_concepts(photos, "cam", classifier, ground_truth="ground_truth", count=6)
