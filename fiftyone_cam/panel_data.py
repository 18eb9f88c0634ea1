"""What the App's forms and panels ask of a dataset, answered without torch and in one look at the database."""

from __future__ import annotations

from functools import lru_cache

import fiftyone as fo

from fiftyone_cam.runs import Collection

THRESHOLD = 0.6
"""The focus from which evidence is on the object: the default of :func:`fiftyone_cam.audit`, which imports torch."""

_PLACES = (fo.Detections, fo.Detection, fo.Polylines, fo.Polyline, fo.Segmentation)
"""Label types that say where something is, as an audit reads them."""

_ENOUGH = 5000


def place_fields(samples: Collection) -> list[str]:
    """The fields that can say where the object is.

    >>> place_fields(dataset)
    ['animals']
    """
    schema = samples.get_field_schema(ftype=fo.EmbeddedDocumentField)
    return [path for path, field in schema.items() if issubclass(field.document_type, _PLACES)]


def class_words(samples: Collection, field: str) -> tuple[list[str], int | None]:
    """The words of a ground truth, and how many of the first samples were looked at if not all.

    Remembered until the dataset changes: a form asks at every keystroke.

    >>> class_words(dataset, "ground_truth")
    (['cat', 'dog'], None)
    """
    dataset = samples._dataset
    return _class_words(dataset.name, field, str(dataset.last_modified_at))


@lru_cache(maxsize=16)
def _class_words(name: str, field: str, _modified: str) -> tuple[list[str], int | None]:
    dataset = fo.load_dataset(name)
    many = dataset.count() > _ENOUGH  # from the collection's metadata
    words = (dataset.limit(_ENOUGH) if many else dataset).distinct(f"{field}.label")
    return sorted(str(word) for word in words if word is not None), _ENOUGH if many else None
