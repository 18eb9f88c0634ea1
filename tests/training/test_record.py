"""The run of a training and its key."""

from __future__ import annotations

import fiftyone as fo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import FieldError, RunError
from fiftyone_cam.runs import catalog
from fiftyone_cam.training.train_classifier import train_classifier
from tests.helpers.trainings import QUICK, quick


def test_deleting_the_run_leaves_the_dataset_as_it_was_and_the_checkpoint(trained, tmp_path):
    dataset, _, out = trained
    assert focam.list_trainings(dataset) == ["stripes"]
    focam.delete_run(dataset, "stripes")
    assert set(dataset.get_field_schema()) == set(fo.Dataset().get_field_schema()) | {"ground_truth"}
    assert (dataset.list_evaluations(), dataset.list_runs()) == ([], [])
    focam.load_classifier(out)


def test_a_key_that_is_taken_is_refused_and_nothing_is_changed(trained, tmp_path):
    dataset, classifier, _ = trained
    focam.compute_cam(dataset.limit(2), classifier, key="cam", progress=False)
    dataset.add_sample_field("mine_split", fo.StringField)
    dataset.add_sample_field("yours_eval", fo.BooleanField)
    runs, schema = dataset.list_runs(), set(dataset.get_field_schema())
    for key, error, word in (
        ("cam", RunError, "class activation maps"),
        ("stripes", RunError, "that of the training in"),
        ("not a name", RunError, "is not a valid key"),
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
    train_classifier(stripes, "ground_truth", tmp_path / name, **quick(epochs=1))
    assert catalog.list_trainings(stripes) == [key]
