"""Ready translations: every class has the word that its own name says, and no class has two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fiftyone_cam.core.class_maps import _GROUPS, READY, imagenet_groups, resolve
from fiftyone_cam.core.errors import FieldError


@pytest.fixture(scope="module")
def classes() -> list[str]:
    models = pytest.importorskip("torchvision.models")
    return list(models.ResNet18_Weights.DEFAULT.meta["categories"])


# the first and the last class of each run, by the names that torchvision gives them
ENDS = {
    "fish": "tench stingray barracouta puffer",
    "bird": "cock great+grey+owl black+grouse black+swan white+stork albatross",
    "amphibian": "European+fire+salamander tailed+frog",
    "turtle": "loggerhead box+turtle",
    "lizard": "banded+gecko Komodo+dragon",
    "crocodile": "African+crocodile American+alligator",
    "snake": "thunder+snake sidewinder",
    "spider": "black+and+gold+garden+spider wolf+spider",
    "whale": "grey+whale killer+whale",
    "dog": "Chihuahua Mexican+hairless",
    "wolf": "timber+wolf red+wolf",
    "fox": "red+fox grey+fox",
    "cat": "tabby Egyptian+cat",
    "big cat": "cougar cheetah",
    "bear": "brown+bear sloth+bear",
    "insect": "tiger+beetle damselfly",
    "butterfly": "admiral lycaenid",
    "rabbit": "wood+rabbit Angora",
    "horse": "sorrel",
    "zebra": "zebra",
    "pig": "hog wild+boar",
    "sheep": "ram bighorn",
    "camel": "Arabian+camel",
    "monkey": "guenon squirrel+monkey",
    "ape": "orangutan siamang chimpanzee gorilla gibbon",
    "elephant": "Indian+elephant African+elephant",
    "panda": "giant+panda",
    "airplane": "airliner warplane",
    "bicycle": "bicycle-built-for-two mountain+bike",
    "motorcycle": "moped motor+scooter",
    "bus": "minibus school+bus trolleybus",
    "car": "beach+wagon cab convertible jeep limousine minivan Model+T racer sports+car",
    "truck": "fire+engine garbage+truck moving+van pickup police+van tow+truck trailer+truck",
    "train": "bullet+train electric+locomotive steam+locomotive",
    "boat": "canoe fireboat gondola lifeboat speedboat trimaran yawl",
    "ship": "aircraft+carrier container+ship liner pirate",
}


def test_the_ends_of_every_run_are_what_the_word_says(classes):
    assert ENDS.keys() == _GROUPS.keys()
    groups = imagenet_groups(classes)
    for word, names in ENDS.items():
        for name in names.split():
            assert groups[name.replace("+", " ")] == word
    for word, runs in _GROUPS.items():
        ends = {classes[end] for run in runs for end in run}
        assert ends <= {name.replace("+", " ") for name in ENDS[word].split()}, word


def test_no_class_has_two_words(classes):
    indices = [index for runs in _GROUPS.values() for first, last in runs for index in range(first, last + 1)]
    assert len(indices) == len(set(indices))
    assert len([word for word in imagenet_groups(classes).values() if word == "dog"]) == 118


def test_names_say_so_themselves(classes):
    groups = imagenet_groups(classes)
    for ending, word in (
        (" terrier", "dog"),
        (" snake", "snake"),
        (" fox", "fox"),
        (" bear", "bear"),
        (" shark", "fish"),
    ):
        named = [name for name in classes if name.endswith(ending) and name in groups]
        assert named
        assert {groups[name] for name in named} == {word}


def test_a_translation_comes_by_name_by_file_or_as_it_is(classes, tmp_path: Path):
    assert resolve("imagenet-groups", classes) == imagenet_groups(classes)
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"tabby": "cat"}))
    assert resolve(path, classes) == resolve(str(path), classes) == {"tabby": "cat"}
    assert resolve(None, classes) is None


def test_what_cannot_be_a_translation_is_refused_in_words(classes, tmp_path: Path):
    with pytest.raises(FieldError, match="did you mean imagenet-groups"):
        resolve("imagenet-group", classes)
    with pytest.raises(FieldError, match="has 2 others"):
        resolve("imagenet-groups", ["cat", "dog"])
    with pytest.raises(FieldError, match="1,000 classes"):
        resolve("imagenet-groups", list(reversed(classes)))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(FieldError, match="cannot be read as JSON"):
        resolve(tmp_path / "broken.json", classes)
    assert set(READY) == {"imagenet-groups"}
