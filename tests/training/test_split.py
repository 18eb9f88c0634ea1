"""What is learned from, and what is left out."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import pytest
from fiftyone import ViewField as F

from fiftyone_cam.core.errors import CamError, FieldError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import QUICK, quick, striped


def test_a_split_by_tags_or_by_a_field_is_the_one_that_they_say(stripes, tmp_path):
    for index, sample in enumerate(stripes.iter_samples(autosave=True)):
        sample.tags = [("train", "val", "holdout")[index % 3]]
        sample["fold"] = ("Training", "test", None)[index % 3]
    once = quick(epochs=1)
    for key, split in (("tagged", "tags"), ("folded", "fold")):
        train_classifier(stripes, "ground_truth", tmp_path / key, split=split, **once)
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
