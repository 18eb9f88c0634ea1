"""Who is right: predicted labels in the words of the ground truth."""

from __future__ import annotations

import fiftyone as fo
import pytest

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.dataset.ground_truth import GroundTruth, Translation

CLASSES = ["tabby", "laptop", "Persian cat", "pug"]
MAPS = [None, {"tabby": "cat", "Persian cat": "cat", "pug": "dog"}, {"tabby": "laptop", "laptop": "tabby"}]


@pytest.mark.parametrize("class_map", MAPS)
def test_right_are_exactly_the_logits_that_count_as_right(class_map):
    translation = Translation(CLASSES, class_map)
    for true in {*CLASSES, "cat", "dog", "horse", None}:
        counted = [CLASSES[index] for index in translation.indices(true)]
        found = [translation.is_right(predicted, true) for predicted in CLASSES]
        assert found == ([name in counted for name in CLASSES] if counted else [None] * len(CLASSES))
        assert translation.is_right(None, true) is None
    matched = [index for word in translation.words for index in translation.indices(word)]
    assert sorted(matched) == [i for i, name in enumerate(CLASSES) if translation.translate(name) is not None]


def test_a_label_that_has_no_word_is_wrong_and_a_true_label_that_no_class_matches_is_not_known():
    translation = Translation(CLASSES, {"tabby": "cat"})
    assert translation.is_right("laptop", "cat") is False
    assert translation.is_right("laptop", "laptop") is None
    assert translation.is_right("tabby", "dog") is None


def test_labels_that_match_no_class_are_counted(dataset):
    labels = ["cat", "cat", "horse", "horse", "cow", None]
    dataset.add_samples(
        [
            fo.Sample(filepath=f"/none/{i}.jpg", truth=label and fo.Classification(label=label))
            for i, label in enumerate(labels)
        ]
    )
    truth = GroundTruth.read(dataset, "truth", CLASSES, {"tabby": "cat"})
    assert (truth.field, truth.unmatched) == ("truth", {"horse": 2, "cow": 1})
    assert GroundTruth.read(dataset[2:], "truth", CLASSES, {"tabby": "cat"}).unmatched == truth.unmatched
    with pytest.raises(FieldError, match=r"no label of 'truth' matches a class: found \['cat', 'cow', 'horse'\]"):
        GroundTruth.read(dataset, "truth", CLASSES)
    assert GroundTruth.read(dataset, None, CLASSES).unmatched == {}


def test_a_refusal_says_what_to_do(dataset):
    """Words that differ by capitals or spaces alone, and a field of plain words: its advice works as it stands."""
    dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg", word=w) for i, w in enumerate(["Tabby", "laptop "])])
    with pytest.raises(FieldError, match=r"StringField, expected Classification: (.*) makes one of its words") as found:
        GroundTruth.read(dataset, "word", CLASSES)
    exec(str(found.value).split(": ", 1)[1].split(" makes one")[0], {"dataset": dataset, "fo": fo})
    with pytest.raises(FieldError, match="some differ by capitals or spaces alone"):
        GroundTruth.read(dataset, "truth", CLASSES)
