"""Which samples of a collection a training learns from, and which validate."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.results import Item
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.media import read_files
from fiftyone_cam.runs.record import TrainingCounts
from fiftyone_cam.runs.training_run import TRAIN, VALIDATION
from fiftyone_cam.training.pictures import choose_validation

logger = logging.getLogger(__name__)

_SPLIT_WORDS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "val", "valid"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class TrainingData:
    """Which samples are learned from and which validate."""

    items: list[Item]
    labels: list[str]
    validates: NDArray[np.bool_]
    classes: list[str]
    counts: TrainingCounts
    untested: list[str]

    @classmethod
    def read(
        cls, samples: Collection, ground_truth: str, split: float | str, seed: int, media_field: str = "filepath"
    ) -> TrainingData:
        ids, paths = zip(*read_files(samples, media_field), strict=True)
        labels = samples.values(f"{ground_truth}.label")
        labelled = np.array([label is not None for label in labels])
        names = [label for label in labels if label is not None]
        kinds = Counter(names)
        if len(kinds) < 2:
            found = f"only the class {next(iter(kinds))!r}" if kinds else "no label"
            raise FieldError(f"{ground_truth!r} holds {found} on {len(labels):,} samples: expected two classes or more")

        part = np.full(len(labels), "", dtype=object)
        if isinstance(split, str):
            part[labelled] = np.array(_parts(samples, split), dtype=object)[labelled]
        else:
            part[labelled] = np.where(choose_validation(names, split, seed), VALIDATION, TRAIN)
        outside = labelled & (part == "")

        learned = {label for label, where in zip(labels, part, strict=True) if where == TRAIN}
        if len(learned) < 2:
            raise FieldError(f"the training samples have {len(learned)} class(es), expected two or more: {learned}")
        unknown = (part == VALIDATION) & ~np.array([label in learned for label in labels])
        used = np.flatnonzero((part != "") & ~unknown)
        validates = part[used] == VALIDATION
        if not validates.any():
            raise FieldError("there are no validation samples of classes that are trained: no epoch can be told best")

        tested = {labels[index] for index in used[validates]}
        untested = sorted(learned - tested)
        if untested:
            logger.warning("%d classes have no validation samples: %s", len(untested), ", ".join(untested[:10]))
        return cls(
            items=[Item(ids[index], paths[index]) for index in used],
            labels=[labels[index] for index in used],
            validates=validates,
            classes=sorted(learned),
            counts=TrainingCounts(
                samples=len(labels),
                train=int((~validates).sum()),
                validation=int(validates.sum()),
                unlabelled=int((~labelled).sum()),
                outside=int(outside.sum()),
                unknown=int(unknown.sum()),
            ),
            untested=untested,
        )

    @property
    def digest(self) -> str:
        """Of all paths, labels and parts: a training goes on only with the same."""
        lines = (
            f"{item.path}\0{label}\0{validates}"
            for item, label, validates in zip(self.items, self.labels, self.validates.tolist(), strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def part(self, name: str) -> tuple[list[Item], Tensor]:
        indices = np.flatnonzero(self.validates == (name == VALIDATION))
        numbers = {label: index for index, label in enumerate(self.classes)}
        targets = torch.tensor([numbers[self.labels[index]] for index in indices])
        return [self.items[index] for index in indices], targets

    def split(self) -> dict[str, str]:
        parts = np.where(self.validates, VALIDATION, TRAIN).tolist()
        return {item.id: part for item, part in zip(self.items, parts, strict=True)}


def _parts(samples: Collection, split: str) -> list[str]:
    """For each sample ``"train"``, ``"validation"`` or nothing, by its tags or a field."""
    if split != "tags" and samples.get_field(split) is None:
        raise FieldError(f"there is no field {split!r} to split by: expected 'tags', a field's name, or a fraction")
    values = samples.values(split)
    words = [
        {str(word).lower() for word in (value if isinstance(value, (list, tuple)) else [value]) if word is not None}
        for value in values
    ]
    found: dict[str, int] = Counter(word for several in words for word in several)
    tests = "test" if not any(word in found for word in _SPLIT_WORDS[VALIDATION]) else VALIDATION
    parts = []
    for several in words:
        trains = not several.isdisjoint(_SPLIT_WORDS[TRAIN])
        validates = not several.isdisjoint(_SPLIT_WORDS[tests])
        if trains and validates:
            raise FieldError(f"a sample is in both parts by {split!r}: {sorted(several)}")
        parts.append(TRAIN if trains else VALIDATION if validates else "")
    if TRAIN not in parts or VALIDATION not in parts:
        raise FieldError(
            f"{split!r} does not split the samples: expected 'train' and 'validation' (or 'val', 'test'), "
            f"found {sorted(found)[:8]}"
        )
    return parts
