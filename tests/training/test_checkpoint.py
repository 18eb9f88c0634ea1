"""The folder of a training."""

from __future__ import annotations

import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.record import to_plain
from fiftyone_cam.training.record import checkpoints
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import QUICK, details, quick, same, weights


def test_the_checkpoint_is_the_classifier_and_nothing_in_it_is_pickled(trained):
    dataset, classifier, out = trained
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "classifier.json"}
    loaded = focam.load_classifier(out)
    assert loaded.fingerprint == classifier.fingerprint
    assert loaded.classes == ("narrow", "wide")
    assert loaded.network.preprocessing == classifier.network.preprocessing
    assert loaded.network.preprocessing.input_size() == (16, 16)
    assert loaded.network.head.error < 1e-5
    found = details(out)
    assert found["complete"]
    assert (found["arch"], found["dataset"], found["training"]["ground_truth"]) == (
        "small_gap_net",
        dataset.name,
        "ground_truth",
    )
    assert len(found["history"]) == 3
    assert found["metrics"] == to_plain(catalog.load_training(dataset, "stripes").metrics)


def test_snapshots_are_checkpoints_of_their_epochs(stripes, tmp_path):
    out = tmp_path / "out"
    train_classifier(stripes, "ground_truth", out, snapshots=[1, 3], **quick(patience=1))
    run = catalog.load_training(stripes, "out")
    assert len(run.history) == 3  # patience would end before the last snapshot
    assert run.snapshots == {1: out / "epoch_1", 3: out / "epoch_3"}
    assert list(checkpoints(stripes)) == ["out", "out, epoch 1", "out, epoch 3"]
    for epoch, folder in run.snapshots.items():
        assert focam.load_classifier(folder).network.head.error < 1e-5
        assert details(folder)["epoch"] == epoch
    assert not same(weights(out / "epoch_1"), weights(out / "epoch_3"))
    best = run.record.epoch
    if best in run.snapshots:
        assert same(weights(out), weights(run.snapshots[best]))


def test_a_folder_of_something_else_is_left_alone(stripes, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("a file")
    checkpoint = tmp_path / "checkpoint"
    focam.load_classifier("resnet18", weights=None).save(checkpoint)
    for out, word in ((foreign, "something else"), (file, "is a file"), (checkpoint, "not trained here")):
        for overwrite in (False, True):
            with pytest.raises(SourceError, match=word):
                train_classifier(stripes, "ground_truth", out, overwrite=overwrite, **QUICK)
    with pytest.raises(SourceError, match="cannot be written"):
        train_classifier(stripes, "ground_truth", file / "below", **QUICK)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    assert focam.load_classifier(checkpoint).origin["arch"] == "resnet18"
    assert stripes.list_runs() == []


def test_another_training_in_the_folder_is_named_and_replaced_only_when_asked(stripes, tmp_path):
    out = tmp_path / "out"
    once = quick(epochs=1)
    train_classifier(stripes, "ground_truth", out, snapshots=[1], **once)
    before = weights(out)
    with pytest.raises(SourceError, match=r"learning_rate was 0\.001, now 0\.01"):
        train_classifier(stripes, "ground_truth", out, snapshots=[1], **quick(epochs=1, learning_rate=0.01))
    with pytest.raises(SourceError, match="other samples, labels or split"):
        train_classifier(stripes.limit(30), "ground_truth", out, snapshots=[1], **once)
    assert same(weights(out), before)
    train_classifier(stripes, "ground_truth", out, overwrite=True, **quick(epochs=1, learning_rate=0.01))
    assert not same(weights(out), before)
    assert not (out / "epoch_1").exists()
    assert catalog.load_training(stripes, "out").snapshots == {}
