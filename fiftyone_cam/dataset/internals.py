"""FiftyOne's private parts: what this project needs of FiftyOne, and what its public API does not offer.

Only this module names attributes of FiftyOne that begin with an underscore, or imports ``fiftyone.core.odm``;
``tests/test_package.py`` checks that. Each function is one call. ``tests/dataset/test_internals.py`` says what the call
must do, compared with the public API. So a new version of FiftyOne changes these two files and no others.
Written for FiftyOne 1.22.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import fiftyone as fo
import fiftyone.core.frame as fofr
import fiftyone.core.odm as foo
import fiftyone.core.stages as fost
import fiftyone.core.view as fov
from bson import ObjectId
from mongoengine.errors import DoesNotExist
from pymongo import UpdateOne

from fiftyone_cam.dataset.collection import FRAMES, Collection, expect_collection

# samples


def dataset_of(samples: Collection) -> fo.Dataset:
    """The dataset of a view; of a dataset, itself.

    Raises:
        RunError: it is neither.

    >>> dataset_of(dataset.limit(3)) is dataset
    True
    """
    expect_collection(samples)
    return samples._dataset


def home_of(samples: Collection) -> fo.Dataset:
    """The dataset that keeps what is registered of a collection: of a view of frames, that of the videos.

    Raises:
        RunError: it is neither a dataset nor a view.

    >>> home_of(videos.to_frames(sample_frames=True)) is videos
    True
    """
    expect_collection(samples)
    return samples._root_dataset


def is_frames(samples: Collection) -> bool:
    """Whether it is a view of the frames of videos.

    >>> is_frames(videos.to_frames(sample_frames=True)), is_frames(videos)
    (True, False)
    """
    return bool(samples._is_frames) and home_of(samples) is not dataset_of(samples)


def refresh_frames(samples: Collection, names: Sequence[str]) -> None:
    """Give a view of frames what the videos' frames hold in these fields now: it is a copy, made at another time.

    >>> refresh_frames(frames, ["cam_prediction", "cam_heatmap"])
    """
    wanted = {name: {"$ifNull": [f"${name}", None]} for name in names}
    into = {"into": dataset_of(samples)._sample_collection_name, "on": "_id"}
    stages = [{"$project": wanted}, {"$merge": {**into, "whenMatched": "merge", "whenNotMatched": "discard"}}]
    home_of(samples)._frame_collection.aggregate(stages)


def is_generated(samples: Collection) -> bool:
    """Whether FiftyOne makes the samples anew for each view, as it does for patches, clips and frames.

    >>> is_generated(dataset.to_patches("objects"))
    True
    """
    return bool(samples._is_generated)


def select_early(samples: Collection, ids: Sequence[str]) -> fo.DatasetView:
    """The samples with these ids, with the fields as the view has them. The order is the database's.

    Selecting comes first in the pipeline, so the rest of the view is computed for these samples only.

    >>> select_early(dataset, dataset.values("id")[:2]).count()
    2
    """
    if any(isinstance(stage, fost.Flatten) for stage in samples.view()._stages):  # it wants its groups before it
        return samples.select(list(ids))
    return fov.make_optimized_select_view(samples, ids)


def raw_values(samples: Collection, paths: Sequence[str]) -> list[list[Any]]:
    """``samples.values(paths)``, with arrays and points as the database keeps them. Ten times faster for these.

    >>> raw_values(dataset, ["id", "cam_heatmap.cam.grid"])[1][0][:2]
    b'x\\x01'
    """
    return list(samples.values(list(paths), _raw=True))


def aggregate(samples: Collection, stages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The documents that MongoDB's stages make of the samples of a view.

    >>> aggregate(dataset, [{"$group": {"_id": "$ground_truth.label", "n": {"$sum": 1}}}])
    [{'_id': 'cat', 'n': 84}, {'_id': 'dog', 'n': 175}]
    """
    return list(samples._aggregate(post_pipeline=list(stages)))


def bulk_write(samples: Collection, updates: Sequence[UpdateOne], ids: Sequence[str]) -> None:
    """Send updates of samples to the database, and show them on these samples where they are loaded.

    Those of a view of frames go to the videos' frames first, because these are what stays. All go at once: FiftyOne's
    own ``dataset._bulk_write`` begins with one update, and waits for it, to learn how fast the database is.

    >>> bulk_write(dataset, [UpdateOne({"_id": ObjectId(id)}, {"$set": {"mine": 1}})], [id])
    """
    if is_frames(samples):
        home = home_of(samples)
        foo.bulk_write(list(updates), home._frame_collection, batcher=False)
        fofr.Frame._reload_docs(home._frame_collection_name, frame_ids=list(ids))
    dataset = dataset_of(samples)
    foo.bulk_write(list(updates), dataset._sample_collection, batcher=False)
    fo.Sample._reload_docs(dataset._sample_collection_name, sample_ids=list(ids))


# views


def stages_of(view: fo.DatasetView | None) -> list[dict[str, Any]]:
    """The stages of a view as plain data; none for no view. :func:`view_of` is the inverse.

    >>> len(stages_of(dataset.limit(3)))
    1
    """
    return [] if view is None else list(view._serialize(include_uuids=False))


def view_of(dataset: fo.Dataset, stages: Sequence[Mapping[str, Any]]) -> fo.DatasetView:
    """The view that :func:`stages_of` was given.

    >>> view_of(dataset, stages_of(dataset.limit(3))) == dataset.limit(3)
    True
    """
    return fo.DatasetView._build(dataset, list(stages))


# the dataset's document


def datasets() -> Any:
    """MongoDB's collection of the documents of all datasets: names, fields, runs, settings.

    >>> datasets().find_one({"_id": dataset_id(dataset)})["name"] == dataset.name
    True
    """
    return foo.get_db_conn()["datasets"]


def dataset_id(dataset: fo.Dataset) -> ObjectId:
    """The id of a dataset's document."""
    return ObjectId(dataset._doc.id)


def reload_document(dataset: fo.Dataset) -> None:
    """Read a dataset's document again: its name, runs and settings, also those that another process has changed.

    Samples that are loaded keep their class, which ``dataset.reload()`` would replace.
    """
    dataset._doc.reload()


MEDIA_FIELDS = {"filepath", "media_reference"}
"""A schema lists both of them; a dataset's document only the one that the dataset uses."""


def known_fields(dataset: fo.Dataset) -> set[str]:
    """The fields of samples, and of frames, in the dataset's document, as it was when it was last read."""
    frames = {FRAMES + field.name for field in dataset._doc.frame_fields or ()}
    return {field.name for field in dataset._doc.sample_fields} | frames


def loaded_fields(dataset: fo.Dataset) -> set[str]:
    """The same fields as this process has loaded them."""
    frames = dataset.get_frame_field_schema(include_private=True) or {}
    return {*dataset.get_field_schema(include_private=True), *(FRAMES + name for name in frames)}


def make_field(path: str, created_at: datetime, **kwargs: Any) -> tuple[fo.Field, dict[str, Any]]:
    """A new field of samples or of frames, and the entry for it in the dataset's document.

    Args:
        path: the name.
        created_at: when, in UTC and without a time zone, as FiftyOne keeps it.
        kwargs: the type, as ``dataset.add_sample_field`` takes it.

    >>> make_field("mine", datetime(2026, 1, 1), ftype=fo.StringField)[1]["name"]
    'mine'
    """
    field = foo.create_field(path, **kwargs)
    field._set_created_at(created_at)
    return field, dict(foo.SampleFieldDocument.from_field(field).to_mongo())


def declare_on_loaded(dataset: fo.Dataset, path: str, field: fo.Field) -> None:
    """Give samples, or frames, that are loaded a field that is in the database. Their class stays the same.

    ``dataset.reload()`` would replace the class under samples that are in use.
    """
    kind = dataset._frame_doc_cls if path.startswith(FRAMES) else dataset._sample_doc_cls
    kind._declare_field(dataset, path.removeprefix(FRAMES), field)


# runs


def runs() -> Any:
    """MongoDB's collection of the documents of all runs, of all datasets."""
    return foo.get_db_conn()["runs"]


def add_run_document(dataset: fo.Dataset, key: str, config: fo.RunConfig, timestamp: datetime) -> ObjectId:
    """Write the document of a run, which the dataset does not know yet; its id."""
    document = foo.RunDocument(
        dataset_id=dataset._doc.id, key=key, version=fo.__version__, timestamp=timestamp, config=config.serialize()
    )
    document.save()
    return ObjectId(document.id)


def run_id(dataset: fo.Dataset, key: str) -> ObjectId:
    """The id of a run's document, as this process knows it."""
    return ObjectId(dataset._doc.runs[key].id)


def reload_run(dataset: fo.Dataset, key: str) -> bool:
    """Let ``dataset.get_run_info`` give what the database holds now; False where the run's document was deleted."""
    try:
        dataset._doc.runs[key].reload()
    except DoesNotExist:
        return False
    return True


# the App and the zoo


def session_colors() -> fo.ColorScheme:
    """The colour scheme of the session that this process serves to the App. What is changed in it stays."""
    from fiftyone.server.events import get_state  # seconds

    return get_state().color_scheme


def network_of(model: fo.Model) -> Any:
    """The ``torch.nn.Module`` of a torch model of FiftyOne's zoo."""
    return model._model
