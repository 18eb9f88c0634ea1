"""Groups of samples: by a field, a verdict, a tag, a concept, or several of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo

from fiftyone_cam.core.errors import FieldError, did_you_mean
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.concept_sums import Sums


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
    names = [groups] if isinstance(groups, str) else list(groups)
    ids = samples.values("id")
    parts = [_values(samples, run, name) for name in names]
    return {id: ", ".join(part[i] for part in parts) for i, id in enumerate(ids)}


def _values(samples: Collection, run: CamRun, name: str) -> list[str]:
    if samples.has_field(name):
        found = samples.get_field(name)
        labels = isinstance(found, fo.EmbeddedDocumentField) and issubclass(found.document_type, fo.Classification)
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
