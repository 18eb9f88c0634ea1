"""Translations of classes that are ready to use, by name: ``class_map="imagenet-groups"``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fiftyone_cam.core.errors import FieldError, did_you_mean, first_line

# ImageNet-1k's classes lie in the order of their WordNet ids, so that most animals of a kind are neighbours.
_GROUPS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "fish": ((0, 6), (389, 397)),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "amphibian": ((25, 32),),
    "turtle": ((33, 37),),
    "lizard": ((38, 48),),
    "crocodile": ((49, 50),),
    "snake": ((52, 68),),
    "spider": ((72, 77),),
    "whale": ((147, 148),),
    "dog": ((151, 268),),
    "wolf": ((269, 271),),
    "fox": ((277, 280),),
    "cat": ((281, 285),),
    "big cat": ((286, 293),),
    "bear": ((294, 297),),
    "insect": ((300, 320),),
    "butterfly": ((321, 326),),
    "rabbit": ((330, 332),),
    "horse": ((339, 339),),
    "zebra": ((340, 340),),
    "pig": ((341, 342),),
    "sheep": ((348, 349),),
    "camel": ((354, 354),),
    "monkey": ((370, 382),),
    "ape": ((365, 369),),
    "elephant": ((385, 386),),
    "panda": ((388, 388),),
    "airplane": ((404, 404), (895, 895)),
    "bicycle": ((444, 444), (671, 671)),
    "motorcycle": ((665, 665), (670, 670)),
    "bus": ((654, 654), (779, 779), (874, 874)),
    "car": ((436, 436), (468, 468), (511, 511), (609, 609), (627, 627), (656, 656), (661, 661), (751, 751), (817, 817)),
    "truck": ((555, 555), (569, 569), (675, 675), (717, 717), (734, 734), (864, 864), (867, 867)),
    "train": ((466, 466), (547, 547), (820, 820)),
    "boat": ((472, 472), (554, 554), (576, 576), (625, 625), (814, 814), (871, 871), (914, 914)),
    "ship": ((403, 403), (510, 510), (628, 628), (724, 724)),
}
"""First and last class of each run of neighbours, both included."""

_ANCHORS = {0: "tench", 151: "chihuahua", 281: "tabby", 511: "convertible", 999: "toilet tissue"}
"""Classes by which ImageNet's order is known."""


def imagenet_groups(classes: Sequence[str]) -> dict[str, str]:
    """ImageNet-1k's classes in everyday words: the breeds are dogs, the tabby is a cat. Other classes have no word.

    Args:
        classes: the 1,000 names, in ImageNet's order.

    Raises:
        FieldError: the classes are not ImageNet's.

    >>> imagenet_groups(classifier.classes)["tabby"]
    'cat'
    """
    fits = len(classes) == 1000 and all(classes[i].lower().startswith(name) for i, name in _ANCHORS.items())
    if not fits:
        raise FieldError(
            f"imagenet-groups translates ImageNet's 1,000 classes, and the classifier has {len(classes):,} others, "
            f"such as {list(classes[:3])}: give a translation of your own"
        )
    return {
        classes[index]: word
        for word, runs in _GROUPS.items()
        for first, last in runs
        for index in range(first, last + 1)
    }


READY: Mapping[str, Callable[[Sequence[str]], dict[str, str]]] = {"imagenet-groups": imagenet_groups}
"""The translations that have a name."""


def resolve(class_map: Mapping[str, str] | str | Path | None, classes: Sequence[str]) -> Any:
    """A translation as a mapping: given as one, by a name of :data:`READY`, or as the path of a JSON file.

    Args:
        class_map: what was given. What is neither text nor a path is returned as it is.
        classes: the classifier's.

    Raises:
        FieldError: there is no such name nor file, or the file holds something else.

    >>> resolve({"tabby": "cat"}, ["tabby", "pug"])
    {'tabby': 'cat'}
    """
    if not isinstance(class_map, (str, Path)):
        return class_map
    if str(class_map) in READY:
        return READY[str(class_map)](classes)
    path = Path(class_map).expanduser()
    if not path.is_file():
        near = did_you_mean(str(class_map), READY)
        raise FieldError(
            f"class_map is {str(class_map)!r}, neither a ready translation{near} nor a JSON file: expected "
            f"{', '.join(READY)}, a path, or classes with their labels, such as {{'tabby': 'cat'}}"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FieldError(f"{path} cannot be read as JSON: {first_line(error)}") from error
    return found
