"""Which file of a sample is read: the one place that knows. Datasets may have several, such as thumbnails."""

from __future__ import annotations

import fiftyone as fo

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.dataset.collection import Collection, flattened
from fiftyone_cam.dataset.internals import dataset_of


def check_media_field(samples: Collection, media_field: str) -> None:
    """Check that a field can say where the images are.

    Raises:
        FieldError: it is missing, or holds no text.

    >>> check_media_field(dataset, "filepath")
    """
    if not (isinstance(media_field, str) and isinstance(samples.get_field(media_field), fo.StringField)):
        known = ", ".join(dataset_of(samples).app_config.media_fields)
        raise FieldError(
            f"media_field is {media_field!r}, expected a string field with paths of images, such as {known}"
        )


def read_files(samples: Collection, media_field: str = "filepath") -> list[tuple[str, str]]:
    """Each sample's id and file, in the samples' order; "" where the field holds none.

    Raises:
        FieldError: there is no such field, or it holds no text.

    >>> read_files(dataset.limit(1))
    [('68f1c2…', '/photos/dog.jpg')]
    """
    samples = flattened(samples)
    check_media_field(samples, media_field)
    ids, paths = samples.values(["id", media_field])
    return [(str(id), path or "") for id, path in zip(ids, paths, strict=True)]
