"""Striped pictures to learn from, and a training of them."""

from __future__ import annotations

import pytest
import torch

import fiftyone_cam as focam
from tests.helpers.trainings import QUICK, striped


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Pictures this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture()
def stripes(dataset, tmp_path):
    """Two classes of 20 pictures."""
    dataset.add_samples(striped(tmp_path / "photos", {"narrow": 20, "wide": 20}))
    return dataset


@pytest.fixture()
def trained(stripes, tmp_path):
    classifier = focam.train_classifier(stripes, "ground_truth", tmp_path / "runs" / "stripes", **QUICK)
    return stripes, classifier, tmp_path / "runs" / "stripes"
