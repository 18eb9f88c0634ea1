"""Ultralytics' classifiers, where the package is installed: fed by their own transforms, pickles on trust alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.classifiers.yolo import is_of_ultralytics


def test_without_trust_no_pickle_is_loaded():
    assert not is_of_ultralytics(torch.nn.Identity())
    with pytest.raises(focam.SourceError, match=r"ultralytics is not installed|pass trust_pickle=True"):
        focam.load_classifier("ultralytics:yolo11n-cls")


@pytest.fixture(scope="module")
def yolo():
    return pytest.importorskip("ultralytics").YOLO("yolov8n-cls.yaml")


def test_an_object_and_its_module_are_exact_and_fed_by_their_own_transforms(yolo, tmp_path):
    from ultralytics.data.augment import classify_transforms

    rng = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((400, 300)).save(path)
    yolo.model.eval()
    with torch.no_grad():
        _, expected = yolo.model(classify_transforms(224)(Image.open(path))[None])
    for source in (yolo, yolo.model):
        classifier = focam.load_classifier(source)
        assert classifier.checks["pixels"].passed
        assert classifier.network.head.grade == "exact"
        assert classifier.network.head.error < 1e-5
        assert len(classifier.classes) == 1000
        found = classifier.explain(path).maps[0]
        best = int(expected.argmax())
        assert found.label == classifier.classes[best]
        assert found.logit == pytest.approx(float(expected[0, best]), rel=1e-2, abs=1e-3)  # the resize is another one
    assert yolo.model.training is False


def test_its_files_are_pickles_and_loaded_on_trust_alone(yolo, tmp_path):
    path = tmp_path / "trained-cls.pt"
    torch.save({"epoch": 1, "model": yolo.model, "ema": None}, path)
    with pytest.raises(focam.SourceError, match=r"trust_pickle=True"):
        focam.load_classifier(path, ["a"] * 1000, arch="resnet18")
    loaded = focam.load_classifier(path, trust_pickle=True)
    assert loaded.origin["source"] == "ultralytics"
    assert loaded.fingerprint == focam.load_classifier(yolo).fingerprint


def test_an_architecture_by_name_needs_no_trust(yolo):
    assert len(focam.load_classifier("ultralytics:yolov8n-cls.yaml").classes) == 1000


def test_what_is_no_classifier_is_named():
    ultralytics = pytest.importorskip("ultralytics")
    with pytest.raises(focam.SourceError, match=r"expected a classifier of Ultralytics .* found a model for detect"):
        focam.load_classifier(ultralytics.YOLO("yolov8n.yaml"))
    with pytest.raises(focam.SourceError, match=r"Ultralytics cannot load"):
        focam.load_classifier("ultralytics:nothing-cls.yaml")
