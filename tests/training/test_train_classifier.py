"""Training over a FiftyOne collection: what is learned from, the checkpoint, the run, and what goes wrong."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import torch
from fiftyone import ViewField as F
from safetensors.torch import load_file
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

import fiftyone_cam as focam
from fiftyone_cam.core.errors import CamError, FieldError, HeadError, RunError, SourceError, TrainingError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.networks import build
from fiftyone_cam.networks.small_gap_net import SmallGapNet
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.record import to_plain
from fiftyone_cam.training.progress import Clock, Progress
from fiftyone_cam.training.record import checkpoints
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.networks import striped

QUICK = {"arch": "small_gap_net", "size": 16, "epochs": 3, "batch_size": 8}


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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def details(folder: Path) -> dict:
    return json.loads((folder / "classifier.json").read_text())


# a whole training


@pytest.fixture()
def trained(stripes, tmp_path):
    classifier = focam.train_classifier(stripes, "ground_truth", tmp_path / "runs" / "stripes", **QUICK)
    return stripes, classifier, tmp_path / "runs" / "stripes"


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
    text = str(run)
    assert "32 to train, 8 to validate" in text
    assert f"best         epoch {run.record.epoch}" in text


def test_maps_of_the_trained_network_are_certified(trained):
    dataset, classifier, _ = trained
    run = focam.compute_cam(dataset, classifier, key="cam", ground_truth="ground_truth", progress=False)
    assert run.certificate < 1e-5
    validation = dataset.match(F("stripes_split") == "validation")
    assert validation.values("cam_prediction.label") == validation.values("stripes_prediction.label")
    assert focam.list_runs(dataset) == ["cam"]


def test_deleting_the_run_leaves_the_dataset_as_it_was_and_the_checkpoint(trained, tmp_path):
    dataset, _, out = trained
    assert focam.list_trainings(dataset) == ["stripes"]
    focam.delete_run(dataset, "stripes")
    assert set(dataset.get_field_schema()) == set(fo.Dataset().get_field_schema()) | {"ground_truth"}
    assert (dataset.list_evaluations(), dataset.list_runs()) == ([], [])
    focam.load_classifier(out)


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


# the same result


def test_a_seed_decides_the_weights(stripes, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_classifier(stripes, "ground_truth", tmp_path / name, seed=seed, **{**QUICK, "epochs": 1})
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_killed_in_the_middle_of_an_epoch_it_ends_as_if_unbroken(stripes, tmp_path):
    script = f"""
import os, signal
import fiftyone as fo
import torch
from fiftyone_cam.training.progress import Clock
from fiftyone_cam.training.train_classifier import train_classifier

def die(progress):
    if progress.stage == "training" and progress.epoch == 2 and progress.done > 1.5 / 3:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
Clock.due = property(lambda self: True)
train_classifier(
    fo.load_dataset({stripes.name!r}), "ground_truth", {str(tmp_path / "killed")!r}, progress=die, **{QUICK!r}
)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    stripes.reload()
    run = catalog.load_training(stripes, "killed")
    assert (run.record.status, len(run.history)) == ("running", 1)
    assert not details(tmp_path / "killed")["complete"]
    focam.load_classifier(tmp_path / "killed")  # usable already

    train_classifier(stripes, "ground_truth", tmp_path / "killed", **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    killed_history, whole_history = (
        [replace(epoch, seconds=0) for epoch in catalog.load_training(stripes, key).history]
        for key in ("killed", "whole")
    )
    assert killed_history == whole_history
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"model.safetensors", "classifier.json"}


def test_what_the_progress_callback_raises_stops_it_and_it_can_go_on(stripes, tmp_path, monkeypatch):
    """That is how an operator that is cancelled ends a training."""
    monkeypatch.setattr(Clock, "due", True)

    def cancel(progress: Progress) -> None:
        if progress.epoch == 2:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError):
        train_classifier(stripes, "ground_truth", tmp_path / "out", progress=cancel, **QUICK)
    run = catalog.load_training(stripes, "out")
    assert (run.record.status, run.record.stopped_by) == ("interrupted", "InterruptedError: cancelled")
    seen: list[Progress] = []
    train_classifier(stripes, "ground_truth", tmp_path / "out", progress=seen.append, **QUICK)
    assert min(progress.epoch for progress in seen if progress.epoch) == 2
    assert [progress.stage for progress in seen][-1] == "evaluating"
    assert all(0 <= progress.done <= 1 for progress in seen)
    run = catalog.load_training(stripes, "out")
    assert (run.record.status, run.record.stopped_by) == ("complete", None)


# snapshots, frozen backbones, given weights


def test_snapshots_are_checkpoints_of_their_epochs(stripes, tmp_path):
    out = tmp_path / "out"
    train_classifier(stripes, "ground_truth", out, snapshots=[1, 3], patience=1, **QUICK)
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


def test_a_frozen_backbone_keeps_every_weight_but_the_last_layers(dataset, tmp_path):
    """Batch normalisation's statistics included; and what was learned on features is what the whole network does."""
    dataset.add_samples(striped(tmp_path / "photos", {"narrow": 10, "wide": 10}, size=(60, 60)))
    classifier = train_classifier(
        dataset, "ground_truth", tmp_path / "out", freeze="backbone", size=64, epochs=4, split=0.4
    )
    given = focam.load_classifier("efficientnet_lite0").network.module.state_dict()
    found = weights(tmp_path / "out")
    changed = {name for name in found if found[name].shape != given[name].shape or not found[name].equal(given[name])}
    assert changed == {"_fc.weight", "_fc.bias"}
    run = catalog.load_training(dataset, "out")
    assert run.metrics.accuracy == run.history[run.record.epoch - 1].validation_accuracy
    assert run.metrics.accuracy >= 0.75  # stripes are easy
    assert classifier.network.preprocessing.mean == pytest.approx((127 / 255,) * 3)


@pytest.mark.parametrize("classes", [3, 1000])
def test_given_weights_go_everywhere_but_into_the_last_layer(tmp_path, monkeypatch, classes):
    """Torchvision's weights, as from its cache; 1000 classes of one's own are not ImageNet's."""
    from fiftyone_cam.training.initial_network import new_network

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(3)
    given = build("resnet18", 1000).state_dict()
    cache = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.DEFAULT.url).name
    cache.parent.mkdir(parents=True)
    torch.save(given, cache)
    network = new_network("resnet18", "DEFAULT", [str(i) for i in range(classes)], 64, seed=0)
    found = network.module.state_dict()
    changed = {name for name in found if found[name].shape != given[name].shape or not found[name].equal(given[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert torch.equal(network.head.weight, found["fc.weight"])
    assert network.preprocessing.input_size() == (64, 64)


# what is learned from


def test_a_split_by_tags_or_by_a_field_is_the_one_that_they_say(stripes, tmp_path):
    for index, sample in enumerate(stripes.iter_samples(autosave=True)):
        sample.tags = [("train", "val", "holdout")[index % 3]]
        sample["fold"] = ("Training", "test", None)[index % 3]
    quick = {**QUICK, "epochs": 1}
    for key, split in (("tagged", "tags"), ("folded", "fold")):
        train_classifier(stripes, "ground_truth", tmp_path / key, split=split, **quick)
        parts = [part for _, part in zip(range(40), ["train", "validation", None] * 14, strict=False)]
        assert stripes.values(f"{key}_split") == parts
        assert catalog.load_training(stripes, key).counts.outside == 13


@pytest.mark.parametrize(
    ("split", "word"), [("tags", "does not split"), ("nope", "no field 'nope'"), (1.0, "between 0 and 1")]
)
def test_a_split_that_is_none_is_refused(stripes, tmp_path, split, word):
    with pytest.raises(CamError, match=word):
        train_classifier(stripes, "ground_truth", tmp_path / "out", split=split, **QUICK)
    assert not (tmp_path / "out").exists()
    assert stripes.list_runs() == []


def test_missing_labels_lone_samples_and_broken_files_are_counted_and_left_out(stripes, tmp_path, caplog):
    stripes.add_samples(striped(tmp_path / "more", {"lone": 1}))
    stripes.add_samples([fo.Sample(filepath=str(tmp_path / "unlabelled.png")) for _ in range(3)])
    broken, gone = stripes.match(F("ground_truth.label") == "wide").limit(2)
    Path(broken.filepath).write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Path(gone.filepath).unlink()
    reasons = {}
    for sample in (broken, gone):
        with pytest.raises(CamError) as error:
            read_image(sample.filepath)
        reasons[sample.id] = str(error.value)

    classifier = train_classifier(stripes, "ground_truth", tmp_path / "out", **QUICK)
    assert classifier.classes == ("lone", "narrow", "wide")
    run = catalog.load_training(stripes, "out")
    assert (run.counts.samples, run.counts.unlabelled, run.counts.failed) == (44, 3, 2)
    assert run.record.untested == ["lone"]
    assert "no validation samples: lone" in caplog.text
    stored = dict(zip(*stripes.exists("out_error").values(["id", "out_error"]), strict=True))
    assert stored == reasons
    assert run.failures == dict.fromkeys(reasons.values(), 1)
    assert "2 unreadable" in str(run)


def test_validation_samples_of_a_class_that_is_not_trained_are_left_out(stripes, tmp_path):
    stripes.add_samples(striped(tmp_path / "more", {"new": 2}))
    stripes.tag_samples("train")
    stripes.match(F("ground_truth.label") == "new").untag_samples("train")
    stripes.match(F("ground_truth.label") == "new").tag_samples("val")
    held = stripes.match(F("ground_truth.label") != "new").limit(25).skip(15)
    held.untag_samples("train")
    held.tag_samples("val")
    classifier = train_classifier(stripes, "ground_truth", tmp_path / "out", split="tags", **QUICK)
    assert classifier.classes == ("narrow", "wide")
    counts = catalog.load_training(stripes, "out").counts
    assert (counts.unknown, counts.validation) == (2, 10)


@pytest.mark.parametrize(
    ("labels", "word"), [({"only": 4}, "only the class 'only'"), ({}, "no label"), ({"a": 1, "b": 1}, "no validation")]
)
def test_labels_that_cannot_be_learned_are_refused_before_anything_is_written(dataset, tmp_path, labels, word):
    dataset.add_samples(striped(tmp_path / "photos", labels) or [fo.Sample(filepath="a.png")])
    dataset.add_sample_field("ground_truth", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    with pytest.raises(FieldError, match=word):
        train_classifier(dataset, "ground_truth", tmp_path / "out", **QUICK)
    assert dataset.list_runs() == []
    assert not (tmp_path / "out").exists()


def test_a_field_of_another_kind_is_refused(stripes, tmp_path):
    with pytest.raises(FieldError, match="the Classification fields are ground_truth"):
        train_classifier(stripes, "truth", tmp_path / "out", **QUICK)
    with pytest.raises(FieldError, match="expected Classification"):
        train_classifier(stripes, "filepath", tmp_path / "out", **QUICK)


# networks


@pytest.mark.parametrize(
    ("arch", "error", "word"),
    [
        ("vgg11", HeadError, "no exact head"),
        ("vit_b_16", HeadError, "no exact head"),
        ("resnet8", SourceError, "did you mean resnet"),
        ("timm:resnet18", SourceError, "load_classifier"),
    ],
)
def test_an_architecture_that_will_not_do_is_refused_before_anything_is_written(stripes, tmp_path, arch, error, word):
    with pytest.raises(error, match=word):
        train_classifier(stripes, "ground_truth", tmp_path / "out", arch=arch, weights=None)
    assert stripes.list_runs() == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"freeze": "backbone"}, "random weights"),
        ({"freeze": "head"}, "expected None or 'backbone'"),
        ({"snapshots": [2, 9]}, r"epoch \[9\] of 3"),
        ({"size": 4}, "at least 8"),
        ({"epochs": 0}, "epochs is 0"),
        ({"augment": v2.RandomCrop(12)}, "augment gives"),
        ({"precision": "float16", "device": "cpu"}, "needs a GPU"),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_written(stripes, tmp_path, change, word):
    with pytest.raises(TrainingError, match=word):
        train_classifier(stripes, "ground_truth", tmp_path / "out", **{**QUICK, **change})
    assert stripes.list_runs() == []
    assert not (tmp_path / "out").exists()


def test_an_augmentation_of_ones_own_replaces_the_usual(stripes, tmp_path):
    quick = {**QUICK, "epochs": 1}
    train_classifier(stripes, "ground_truth", tmp_path / "plain", augment=v2.Identity(), **quick)
    train_classifier(stripes, "ground_truth", tmp_path / "usual", **quick)
    assert details(tmp_path / "plain")["training"]["augment"] == "Identity()"
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "usual"))


# the folder, the key


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
    quick = {**QUICK, "epochs": 1}
    train_classifier(stripes, "ground_truth", out, snapshots=[1], **quick)
    before = weights(out)
    with pytest.raises(SourceError, match=r"learning_rate was 0\.001, now 0\.01"):
        train_classifier(stripes, "ground_truth", out, snapshots=[1], learning_rate=0.01, **quick)
    with pytest.raises(SourceError, match="other samples, labels or split"):
        train_classifier(stripes.limit(30), "ground_truth", out, snapshots=[1], **quick)
    assert same(weights(out), before)
    train_classifier(stripes, "ground_truth", out, learning_rate=0.01, overwrite=True, **quick)
    assert not same(weights(out), before)
    assert not (out / "epoch_1").exists()
    assert catalog.load_training(stripes, "out").snapshots == {}


def test_full_disk_keeps_what_was_saved_and_goes_on(stripes, tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(Clock, "due", True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.epoch == 2:  # writing fails beyond so many bytes, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    out = tmp_path / "out"
    try:
        with pytest.raises(TrainingError, match=r"epoch 2 cannot be saved.* of epoch 1, is in .*out"):
            train_classifier(stripes, "ground_truth", out, progress=fill, **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert details(out)["epoch"] == 1
    focam.load_classifier(out)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "classifier.json", "training.safetensors"}
    train_classifier(stripes, "ground_truth", out, **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(out), weights(tmp_path / "whole"))


def test_a_loss_that_is_no_number_is_told_on_the_run(stripes, tmp_path):
    with pytest.raises(TrainingError, match="lower learning rate than 1e"):
        train_classifier(stripes, "ground_truth", tmp_path / "out", learning_rate=1e30, **QUICK)
    run = catalog.load_training(stripes, "out")
    assert run.record.status == "interrupted"
    assert "the loss became" in run.record.stopped_by
    assert "stopped by" in str(run)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(stripes, tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "due", True)

    def poison(progress: Progress) -> None:
        if progress.epoch == 2:
            for module in [found for found in gc.get_objects() if type(found) is SmallGapNet]:
                next(module.parameters()).data.fill_(torch.nan)

    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 2 of 3.* of epoch 1, is in .*out"):
        train_classifier(stripes, "ground_truth", out, progress=poison, **QUICK)
    assert details(out)["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in weights(out).values())
    train_classifier(stripes, "ground_truth", out, **QUICK)
    train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    assert same(weights(out), weights(tmp_path / "whole"))


def test_a_key_that_is_taken_is_refused_and_nothing_is_changed(trained, tmp_path):
    dataset, classifier, _ = trained
    focam.compute_cam(dataset.limit(2), classifier, key="cam", progress=False)
    dataset.add_sample_field("mine_split", fo.StringField)
    dataset.add_sample_field("yours_eval", fo.BooleanField)
    runs, schema = dataset.list_runs(), set(dataset.get_field_schema())
    for key, error, word in (
        ("cam", RunError, "class activation maps"),
        ("stripes", RunError, "that of the training in"),
        ("not a name", RunError, "cannot begin the names"),
        ("yours", FieldError, "yours_eval"),
        ("mine", FieldError, "mine_split"),
    ):
        with pytest.raises(error, match=word):
            train_classifier(dataset, "ground_truth", tmp_path / key, key=key, **QUICK)
        assert set(dataset.get_field_schema()) == schema
        assert dataset.list_runs() == runs
    with pytest.raises(RunError):
        focam.compute_cam(dataset, classifier, key="stripes", progress=False)


@pytest.mark.parametrize(("name", "key"), [("cats dogs-2", "cats_dogs_2"), ("5", "train_5"), ("_x", "train_x")])
def test_the_key_is_the_folders_name_as_a_field_can_have_it(stripes, tmp_path, name, key):
    train_classifier(stripes, "ground_truth", tmp_path / name, **{**QUICK, "epochs": 1})
    assert catalog.list_trainings(stripes) == [key]


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
    classifier = train_classifier(train, "ground_truth", tmp_path / "cats_dogs", freeze="backbone")
    run = focam.compute_cam(test, classifier, key="cam", ground_truth="ground_truth", progress=False)
    assert run.record.accuracy >= 0.95
    assert run.certificate < 1e-5
    for dataset in photos.values():
        dataset.delete()


def _by_class(dataset: fo.Dataset) -> list[list[str]]:
    return [dataset.match(F("ground_truth.label") == label).values("id") for label in ("cat", "dog")]
