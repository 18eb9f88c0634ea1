"""What the App's forms and panels ask of a dataset, answered without torch and in one look at the database."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import fiftyone as fo
from fiftyone import ViewField as F

from fiftyone_cam import report, runs
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


class Missing(NamedTuple):
    """What an audit panel lacks. ``what`` is ``run``, ``results``, ``audit``, ``fresh``, ``objects``, ``truth``,
    ``images`` or ``samples``; ``text`` says it, and what to do."""

    what: str
    text: str


def missing(samples: Collection, key: str | None) -> Missing | None:
    """What stands between these samples and a panel that shows an audit of them; None if nothing does.

    After ``fresh``, ``objects`` and ``truth`` there is something to show all the same.

    >>> missing(dataset, None)
    Missing(what='run', text='This dataset has no class activation maps yet: compute them first.')
    """
    if samples._dataset.media_type not in ("image", "group", None):
        return Missing("images", f"This dataset holds {samples._dataset.media_type}: an audit needs images.")
    if samples._is_generated:
        return Missing("samples", "This view shows parts of images. An audit is of whole images: show the samples.")
    if key is None:
        return Missing("run", "This dataset has no class activation maps yet: compute them first.")
    run = runs.load_run(samples, key)
    audited = run.record.get("audit")
    if run.record["status"] == "running":
        return Missing("results", f"Run {key} is being computed, or was stopped: wait for it, or continue it.")
    if not audited:
        return Missing("audit", f"Run {key} has maps, and no audit: audit it to see where it looked, and where not.")
    spread = run.field("spread")
    if not samples.has_field(spread):
        return Missing("samples", "This view leaves out the audit's fields: show all samples.")
    if not samples.limit(1).exists(spread).values("id") and not samples.exists(spread).limit(1).values("id"):
        return Missing("samples", "None of the samples in this view was audited: show all samples, or audit these.")
    if why := report.stale(run):
        return Missing("fresh", f"{why[0].upper()}{why[1:]}.")
    if not audited["objects"]:
        return Missing("objects", "The audit knows no objects, so there are no verdicts: audit with a field that says "
                       "where things are (boxes, polygons or masks).")  # fmt: skip
    if not audited["ground_truth"]:
        return Missing("truth", "The audit knows no true classes, so there are no verdicts: audit with a ground truth.")
    return None


def unjudged_view(samples: Collection, key: str) -> fo.DatasetView:
    """The audited samples without a verdict.

    >>> unjudged_view(dataset, "cam")
    """
    return samples.exists(f"{key}_unjudged")


def wrong_view(samples: Collection, key: str) -> fo.DatasetView:
    """The audited samples that were predicted wrongly.

    >>> wrong_view(dataset, "cam")
    """
    return samples.match(F(f"{key}_correct") == False)  # noqa: E712, an expression
