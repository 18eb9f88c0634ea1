"""Classifiers whose labels do not exclude each other: every class above a threshold, what is false, what is missed."""

from __future__ import annotations

import fiftyone as fo
import pytest
import torch
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import NAMES, SQUARE, tiny_gap, write_photos

COLOURS = ["red", "green", "blue"]


class Colours(torch.nn.Module):
    """A logit for each colour: positive where more than half of the light of that colour is on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 3)
        with torch.no_grad():
            self.fc.weight.copy_(8 * torch.eye(3))
            self.fc.bias.fill_(-4)

    def forward(self, input):
        pooled = torch.nn.functional.avg_pool2d(input, 4)
        return self.fc(torch.nn.functional.adaptive_avg_pool2d(pooled, 1).flatten(1))


@pytest.fixture()
def colours() -> focam.Classifier:
    plain = Preprocessing((Resize(size=(16, 16)),), mean=(0, 0, 0), std=(1, 1, 1))
    return focam.load_classifier(Colours(), COLOURS, preprocessing=plain, activation="sigmoid")


PICTURES = {  # what is in it, and what somebody said of it
    (255, 255, 0): ["red", "blue"],
    (0, 0, 255): ["blue"],
    (0, 0, 0): [],
    (255, 0, 0): None,
    (255, 255, 255): ["red", "green", "blue", "violet"],
}


@pytest.fixture()
def pictures(dataset, tmp_path) -> fo.Dataset:
    for number, (colour, labels) in enumerate(PICTURES.items()):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20, 20), colour).save(path)
        truth = None if labels is None else fo.Classifications(classifications=[])
        for label in labels or ():
            truth.classifications.append(fo.Classification(label=label))
        dataset.add_sample(fo.Sample(filepath=str(path), truth=truth))
    return dataset


def test_every_class_above_the_threshold_is_predicted_and_errors_are_fields_that_filter(pictures, colours):
    run = focam.compute_cam(pictures, colours, ground_truth="truth")
    said, false, missed = (
        pictures.values(f"cam_{name}.classifications.label") for name in ("predictions", "false", "missed")
    )
    assert [sorted(labels) for labels in said] == [["green", "red"], ["blue"], [], ["red"], sorted(COLOURS)]
    assert false == [["green"], [], [], None, []]
    assert missed == [["blue"], [], [], None, []]
    assert run.record.precision == pytest.approx(5 / 6)  # red, green | blue | red, green, blue: one of six is wrong
    assert run.record.recall == pytest.approx(5 / 6)
    assert run.record.accuracy is None
    assert run.record.unknown_labels == 1  # violet
    assert "precision 83.3%, recall 83.3% at 0.5 against 'truth'" in str(run)
    assert len(pictures.filter_labels("cam_false", F("label") == "green")) == 1
    [blue] = pictures.first().cam_missed.classifications
    assert blue.confidence == pytest.approx(1 / (1 + torch.e**4), rel=1e-4)
    assert not pictures.has_field("cam_contrast")
    assert pictures.count("cam_heatmap") == 5
    assert "cam_predictions" in run.fields
    run.delete()
    assert not [name for name in pictures.get_field_schema() if name.startswith("cam_")]


def test_the_threshold_is_the_callers_and_another_one_is_another_run(pictures, colours):
    run = focam.compute_cam(pictures, colours, threshold=0.99)
    assert pictures.count("cam_predictions.classifications") == 0
    assert not pictures.has_field("cam_false")
    assert run.record.precision is None
    with pytest.raises(focam.RunError, match=r"threshold was 0\.99, now 0\.5"):
        focam.compute_cam(pictures, colours)


def test_labels_are_compared_in_the_ground_truths_words(pictures, colours):
    words = {"red": "warm", "green": "warm", "blue": "cold"}
    for sample in pictures:
        for label in sample.truth.classifications if sample.truth else ():
            label.label = words.get(label.label, "cold")
        sample.save()
    focam.compute_cam(pictures, colours, ground_truth="truth", class_map=words)
    assert pictures.values("cam_false.classifications.label") == [[], [], [], None, []]
    assert pictures.values("cam_missed.classifications.label") == [["blue"], [], [], None, []]


def test_a_single_true_class_is_judged_as_ever(photos):
    classifier = focam.load_classifier(tiny_gap(), NAMES, preprocessing=SQUARE, activation="sigmoid")
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    assert run.record.accuracy is not None
    assert photos.has_field("cam_contrast")
    assert photos.has_field("cam_predictions")


def test_what_makes_no_sense_is_refused_in_words(pictures, colours, classifier, tmp_path):
    with pytest.raises(focam.FieldError, match=r"several labels of a sample .* activation='sigmoid'"):
        focam.compute_cam(pictures, classifier, ground_truth="truth")
    with pytest.raises(focam.CamError, match="threshold is for independent labels"):
        focam.compute_cam(pictures, classifier, threshold=0.5)
    for wrong in (0, 1, "high", -0.5):
        with pytest.raises(focam.CamError, match="expected a confidence between 0 and 1"):
            focam.compute_cam(pictures, colours, threshold=wrong)
    focam.compute_cam(pictures, colours, ground_truth="truth")
    with pytest.raises(focam.FieldError, match="several labels of a sample"):
        focam.audit(pictures, "cam", ground_truth="truth")
    one_logit = focam.load_classifier(tiny_gap(1), ["ok", "defect"], preprocessing=SQUARE)
    assert not one_logit.independent
    pictures.add_images(write_photos(tmp_path, 1))
    with pytest.raises(focam.FieldError, match="several labels of a sample"):
        focam.compute_cam(pictures, one_logit, "one", ground_truth="truth")


def test_hugging_faces_word_for_it_is_read():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        problem_type="multi_label_classification",
        num_labels=3,
    )
    model = transformers.ResNetForImageClassification(config)
    assert focam.load_classifier(model, preprocessing=SQUARE, classes=NAMES).independent
