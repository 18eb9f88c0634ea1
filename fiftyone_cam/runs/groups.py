"""Groups of samples: by a field, a verdict, a tag, a concept, or several of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import fiftyone as fo

from fiftyone_cam.core.errors import CamError, FieldError, did_you_mean
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_sums import Sums
from fiftyone_cam.runs.record import CamRecord

CLASSES = 10
"""Up to so many true classes, groups are those of each class: a shortcut misleads some classes and helps others."""


def read_groups(samples: Collection, run: CamRun, groups: str | Sequence[str]) -> dict[str, str]:
    """The group of each sample, by id, in words.

    Args:
        samples: a dataset or view.
        run: whose concepts are meant.
        groups: what makes the groups: a field (its values, or the labels in it), a tag, or the name of a concept that
            was found; several are combined.

    Raises:
        FieldError: there is neither a field nor a tag nor a concept of that name.

    >>> read_groups(dataset, run, ["cam_verdict", "watermark"])
    {'…': 'trusted, without watermark', …}
    """
    names = [groups] if isinstance(groups, str) else groups
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise FieldError(f"groups is {groups!r:.80}, expected names of fields, tags or concepts")
    return _combined(samples, [_values(samples, run, name) for name in names])


def mended_by(record: CamRecord) -> list[str]:
    """What the classifier of a run was mended by: concepts that were removed, or what made the groups; else nothing.

    >>> mended_by(focam.load_run(dataset, "cam_mended").record)
    ['watermark']
    """
    details = record.classifier.details
    found = (details.get("edit") or {}).get("removed") or (details.get("retrained") or {}).get("groups")
    return [str(name) for name in found or ()]


def known_groups(samples: Collection, run: CamRun, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The groups by those of the names that this dataset knows, and these names; a mended classifier may be elsewhere.

    >>> known_groups(dataset, run, ["watermark", "no such"])[0]
    ['watermark']
    """
    parts = {}
    for name in names:
        with suppress(CamError):  # no such concept or field here, or its sums are on another machine
            parts[name] = _values(samples, run, name)
    return list(parts), _combined(samples, list(parts.values())) if parts else {}


def of_classes(groups: Sequence[str | None], labels: Sequence[str | None]) -> list[str | None]:
    """Groups of each class, where there are few classes; what has no label or no group is in none.

    >>> of_classes(["with sticker", "without sticker"], ["cat", "cup"])
    ['cat: with sticker', 'cup: without sticker']
    """
    if len(set(labels) - {None}) > CLASSES:
        return list(groups)
    return [
        None if group is None or label is None else f"{label}: {group}"
        for group, label in zip(groups, labels, strict=True)
    ]


def _combined(samples: Collection, parts: Sequence[Sequence[str]]) -> dict[str, str]:
    return {id: ", ".join(words) for id, *words in zip(samples.values("id"), *parts, strict=True)}


def _values(samples: Collection, run: CamRun, name: str) -> list[str]:
    if samples.has_field(name):
        found = samples.get_field(name)
        labels = isinstance(found, fo.EmbeddedDocumentField) and issubclass(found.document_type, fo.Classification)
        if not labels and isinstance(found, (fo.EmbeddedDocumentField, fo.ListField, fo.DictField, fo.VectorField)):
            kind = getattr(found, "document_type", type(found)).__name__
            raise FieldError(f"groups: {name!r} is of type {kind}, expected a field of one word, number or class")
        return [_word(name, value) for value in samples.values(f"{name}.label" if labels else name)]
    record = run.record.concepts
    concepts = {} if record is None else {concept.name: concept.number for concept in record.concepts}
    if name in concepts and record is not None:
        ids, effects = Sums(record.folder).effects(len(record.concepts))
        there = dict(zip(ids.tolist(), (effects.held[:, concepts[name]] > 0).tolist(), strict=True))
        return [f"{'with' if there.get(id) else 'without'} {name}" for id in samples.values("id")]
    tags = samples.distinct("tags")
    if name in tags:
        return [f"{'with' if name in (of_sample or ()) else 'without'} {name}" for of_sample in samples.values("tags")]
    known = [*samples.get_field_schema(), *concepts, *tags]
    raise FieldError(
        f"groups: there is no field, tag or concept {name!r}{did_you_mean(name, known)}: expected one of them, such as "
        f"'{run.key}_verdict' after focam.audit"
    )


def _word(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    return f"{name} {value}" if isinstance(value, (bool, int, float)) else str(value)
