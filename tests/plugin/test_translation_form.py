"""The form knows both vocabularies, and says what would not match before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest

from fiftyone_cam.classifiers.sources import imagenet_classes
from fiftyone_cam.core.class_maps import imagenet_groups
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.plugin import installed
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.translation_form import as_typed, parse
from tests.helpers.forms import begins_with, form, notices, valid
from tests.helpers.stored_runs import registered_run

MODEL = {"source": "torchvision", "torchvision": "resnet18", "ground_truth": "ground_truth", "key": "cam"}


@pytest.fixture()
def pets(dataset: fo.Dataset) -> fo.Dataset:
    for label, word in (("cat", "tabby"), ("dog", "pug"), ("horse", "no such class")):
        labels = {"ground_truth": fo.Classification(label=label), "exact": fo.Classification(label=word)}
        dataset.add_sample(fo.Sample(filepath=f"/nowhere/{label}.jpg", **labels))
    return dataset


def test_the_names_are_those_of_the_loaded_model() -> None:
    assert list(installed.imagenet_classes()) == imagenet_classes()


def test_labels_that_are_no_classes_begin_with_a_translation_that_fits(pets: fo.Dataset) -> None:
    assert begins_with(ComputeCam, pets, **MODEL)["class_map"] == "imagenet-groups"
    assert notices(ComputeCam, pets, **MODEL)["translated"].startswith(
        "No class of this model is called cat, dog, horse:"
    )
    assert valid(ComputeCam, pets, **MODEL, class_map="imagenet-groups")
    assert "class_map" not in begins_with(ComputeCam, pets, **{**MODEL, "ground_truth": "exact"})  # classes already


def test_what_would_fail_is_said_before(pets: fo.Dataset) -> None:
    found = form(ComputeCam, pets, **MODEL, class_map="")
    assert "No label of ground_truth is a class of this model: it has cat, dog, horse" in str(found["class_map"])
    assert not valid(ComputeCam, pets, **MODEL, class_map="")
    some = notices(ComputeCam, pets, **{**MODEL, "ground_truth": "exact"})
    assert "1 of 3 labels of exact are no class of this model" in some["unmatched"]
    assert valid(ComputeCam, pets, **{**MODEL, "ground_truth": "exact"})


def test_several_labels_are_translated_like_one(dataset: fo.Dataset) -> None:
    for labels in (["cat", "dog"], ["horse"], []):
        several = fo.Classifications(classifications=[fo.Classification(label=label) for label in labels])
        dataset.add_sample(fo.Sample(filepath=f"/nowhere/{len(labels)}.jpg", several=several))
    asked = {**MODEL, "ground_truth": "several"}
    assert begins_with(ComputeCam, dataset, **asked)["class_map"] == "imagenet-groups"
    assert valid(ComputeCam, dataset, **asked, class_map="imagenet-groups")
    found = form(ComputeCam, dataset, **asked, class_map="")
    assert "No label of several is a class of this model: it has cat, dog, horse" in str(found["class_map"])
    partly = notices(ComputeCam, dataset, **asked, class_map='{"tabby": "cat"}')["unmatched"]
    assert partly.startswith("2 of 3 labels of several are no word of this translation")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ('{"taby": "cat"}', "the model has no class taby (did you mean tabby"),
        ('{"tabby": "kitty"}', "No label of ground_truth is a word of this translation"),
        ("imagenet-group", "did you mean imagenet-groups?"),
        ('{"tabby": cat}', "this is no JSON"),
    ],
)
def test_a_slip_is_said_with_what_was_probably_meant(pets: fo.Dataset, typed: str, said: str) -> None:
    registered_run(pets, classes=imagenet_classes())
    for operator in (ComputeCam, AuditAttention):
        model: dict[str, Any] = {**MODEL, "key": "new"} if operator is ComputeCam else {**MODEL, "key": "cam"}
        assert said in str(form(operator, pets, **model, class_map=typed)["class_map"])


def test_a_file_and_the_list_of_classes(pets: fo.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"tabby": "cat"}))
    assert valid(ComputeCam, pets, **MODEL, class_map=str(path))
    assert "Egyptian cat" in begins_with(ComputeCam, pets, **MODEL, show_classes=True)["classes_shown"]


def test_other_sources_say_their_classes_where_they_can(pets: fo.Dataset, tmp_path: Path) -> None:
    (tmp_path / "classifier.json").write_text(json.dumps({"classes": ["cat", "dog", "horse"]}))
    folder = {"source": "checkpoint", "checkpoint": str(tmp_path), "ground_truth": "ground_truth", "key": "cam"}
    assert notices(ComputeCam, pets, **folder) == {}
    typed = {"source": "weights", "weights": __file__, "arch": "resnet18", "classes": "cow", "key": "cam"}
    assert "it has cat" in str(form(ComputeCam, pets, **typed, ground_truth="ground_truth")["class_map"])
    unknown = {"source": "huggingface", "huggingface": "a/b", "ground_truth": "ground_truth", "key": "cam"}
    assert form(ComputeCam, pets, **unknown)["class_map"] is None  # not known, so not refused


def test_a_translation_is_typed_as_it_is_stored() -> None:
    classes = imagenet_classes()
    assert as_typed(imagenet_groups(classes), classes) == "imagenet-groups"
    mine = {"tabby": "cat", "éclair": "cake"}
    assert parse(as_typed(mine, classes)) == mine
    assert as_typed(None, classes) is None
    with pytest.raises(CamError, match="expected an object of words"):
        parse("[1]")
