"""Training over a FiftyOne collection: what is learned from, the checkpoint, the run, and what goes wrong."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from torchvision.transforms import v2

import fiftyone_cam as focam
from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.dataset import app_config
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.progress import Progress
from fiftyone_cam.training.record import checkpoints
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import QUICK, details, quick, same, weights

# a whole training


def test_the_run_is_of_its_own_kind_with_fiftyones_own_evaluation(trained):
    """Accuracy thrice: by training, by FiftyOne, and counted here from an independent forward."""
    dataset, classifier, out = trained
    assert focam.list_runs(dataset) == []
    assert catalog.list_trainings(dataset) == ["stripes"]
    assert checkpoints(dataset) == {"stripes": out}
    run = catalog.load_training(dataset, "stripes")
    assert run.record.status == "complete"
    assert [epoch.epoch for epoch in run.history] == [1, 2, 3]

    validation = dataset.match(F("stripes_split") == "validation")
    assert (len(validation), dataset.count_values("stripes_split")) == (8, {"train": 32, "validation": 8})
    right = [
        classifier.explain(sample.filepath).maps[0].label
        == sample.ground_truth.label
        == sample.stripes_prediction.label
        for sample in validation
    ]
    assert run.metrics.accuracy == np.mean(right)
    assert run.metrics.accuracy == run.history[run.record.epoch - 1].validation_accuracy
    results = dataset.load_evaluation_results(run.evaluation)
    assert results.metrics()["accuracy"] == pytest.approx(np.mean(right))
    assert validation.values(run.evaluation) == right
    assert dataset.get_evaluation_info(run.evaluation).config.type == "classification"
    assert [group["paths"] for group in app_config.groups(dataset)] == (
        [["stripes_prediction", "stripes_split"], ["stripes_eval"]]
    )
    text = str(run)
    assert "32 to train, 8 to validate" in text
    assert dict(run.describe().rows)["best"].startswith(f"epoch {run.record.epoch}: ")


def test_maps_of_the_trained_network_are_certified(trained):
    dataset, classifier, _ = trained
    run = focam.compute_cam(dataset, classifier, key="cam", ground_truth="ground_truth", progress=False)
    assert run.certificate < 1e-5
    validation = dataset.match(F("stripes_split") == "validation")
    assert validation.values("cam_prediction.label") == validation.values("stripes_prediction.label")
    assert focam.list_runs(dataset) == ["cam"]


def test_the_same_call_again_returns_what_is_there(trained):
    dataset, classifier, out = trained
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    stages = []
    again = train_classifier(dataset, "ground_truth", out, progress=stages.append, **QUICK)
    assert again.fingerprint == classifier.fingerprint
    assert not stages
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_dataset_with_the_same_photos_gets_its_evaluation_without_training(trained, tmp_path):
    dataset, classifier, out = trained
    metrics = catalog.load_training(dataset, "stripes").metrics
    other = fo.Dataset()
    other.add_samples([fo.Sample(filepath=s.filepath, ground_truth=s.ground_truth.copy()) for s in dataset])
    stages: list[Progress] = []
    again = train_classifier(other, "ground_truth", out, progress=stages.append, **QUICK)
    assert again.fingerprint == classifier.fingerprint
    assert {progress.stage for progress in stages} == {"evaluating"}
    run = catalog.load_training(other, "stripes")
    assert (run.metrics, len(run.history), run.record.status) == (metrics, 3, "complete")
    other.delete()


def test_a_seed_decides_the_weights(stripes, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_classifier(stripes, "ground_truth", tmp_path / name, **quick(epochs=1, seed=seed))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


# settings


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"recipe": focam.Recipe(freeze="backbone")}, "random weights"),
        ({"snapshots": [2, 9]}, r"epoch \[9\] of 3"),
        ({"size": 4}, "at least 8"),
        ({"recipe": {"epochs": 5}}, "recipe is a dict, expected focam.Recipe"),
        ({"augment": v2.RandomCrop(12)}, "augment gives"),
        ({"recipe": focam.Recipe(precision="float16"), "device": "cpu"}, "needs a GPU"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_written(stripes, tmp_path, change, word):
    with pytest.raises(TrainingError, match=word):
        train_classifier(stripes, "ground_truth", tmp_path / "out", **{**QUICK, **change})
    assert stripes.list_runs() == []
    assert not (tmp_path / "out").exists()


def test_an_augmentation_of_ones_own_replaces_the_usual(stripes, tmp_path):
    once = quick(epochs=1)
    train_classifier(stripes, "ground_truth", tmp_path / "plain", augment=v2.Identity(), **once)
    train_classifier(stripes, "ground_truth", tmp_path / "usual", **once)
    assert details(tmp_path / "plain")["training"]["augment"] == "Identity()"
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "usual"))


# real photos


@pytest.mark.slow
def test_frozen_lite0_tells_cats_from_dogs(data, tmp_path):
    """Trained on 400 photos of one folder, tested on 100 of the other. (All 2,000: 98.2% of the 400 others.)"""
    photos = {
        name: fo.Dataset.from_dir(str(data / name), fo.types.ImageClassificationDirectoryTree)
        for name in ("dogs_vs_cats_train_2000", "dogs_vs_cats_400")
    }
    train, test = (
        dataset.sort_by("filepath").select([id for ids in _by_class(dataset) for id in ids[:count]])
        for dataset, count in zip(photos.values(), (200, 50), strict=True)
    )
    classifier = train_classifier(train, "ground_truth", tmp_path / "cats_dogs", recipe=focam.Recipe(freeze="backbone"))
    run = focam.compute_cam(test, classifier, key="cam", ground_truth="ground_truth", progress=False)
    assert run.record.accuracy >= 0.95
    assert run.certificate < 1e-5
    for dataset in photos.values():
        dataset.delete()


def _by_class(dataset: fo.Dataset) -> list[list[str]]:
    return [dataset.match(F("ground_truth.label") == label).values("id") for label in ("cat", "dog")]
