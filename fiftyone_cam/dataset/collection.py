"""Collections of images: datasets and views whose samples can keep results."""

from __future__ import annotations

from typing import Any, TypeAlias

import fiftyone as fo
import fiftyone.core.clips as foc
import fiftyone.core.media as fom
import fiftyone.core.patches as fop
import fiftyone.core.video as fov

from fiftyone_cam.core.errors import RunError

Collection: TypeAlias = "fo.Dataset | fo.DatasetView"


FRAMES = "frames."
"""How FiftyOne begins the path of a field that belongs to the frames of videos."""


def require_images(samples: Collection, *, frames: bool = False) -> Collection:
    """The collection, if its samples are images that can keep results. Of groups, the images of the active slice.

    Args:
        samples: a dataset or view.
        frames: whether it may be a view of frames, whose results stand on the videos' frames.

    Raises:
        RunError: they are made anew for each view, as patches are; they are no images; or there are none.

    >>> require_images(dataset.limit(3)).count()
    3
    """
    if isinstance(samples, (fop.PatchesView, fop.EvaluationPatchesView)):
        raise RunError(
            f"expected whole images, found a {type(samples).__name__}: its samples refer to their whole image. "
            "Cut the objects out first: focam.crop_patches(patches, 'crops') makes a dataset of them"
        )
    if isinstance(samples, fov.FramesView):
        return _require_frames(samples, frames)
    if isinstance(samples, foc.ClipsView):
        raise RunError(
            f"expected a dataset or a view of whole images, found a {type(samples).__name__}, whose samples are made "
            "anew each time. Export it as a dataset of its own: view.clone()"
        )
    expect_collection(samples)
    try:
        samples.media_type  # noqa: B018 - of a deleted dataset all that is asked raises
    except ValueError as error:
        raise RunError(f"{error}: load another, or make it again") from error
    samples = flattened(samples)
    if samples.media_type == "group":
        samples = samples.select_group_slices(samples.group_slice)
    if _are_cloned_patches(samples):
        raise RunError(
            "the samples are patches that were cloned, and their files are the whole images: every patch of an image "
            "would get the same map. Cut the objects out: focam.crop_patches(dataset.to_patches(…), 'crops')"
        )
    if samples.media_type is not None and samples.media_type != "image":
        hint = (
            ": compute_cam takes the frames of videos, dataset.to_frames(sample_frames=True)"
            if samples.media_type == "video"
            else ""
        )
        raise RunError(f"expected images, found media of type {samples.media_type!r}{hint}")
    if samples.count("id") == 0:  # count() takes MongoDB's estimate, which is 0 after MongoDB crashed
        raise RunError("there are no samples: add some, or widen the view")
    return samples


def expect_collection(samples: Any) -> None:
    """Refuse what is neither a dataset nor a view.

    Raises:
        RunError: it is something else.

    >>> expect_collection(dataset.limit(3))
    """
    if not isinstance(samples, (fo.Dataset, fo.DatasetView)):
        named = f": fo.load_dataset({samples!r}) loads it" if isinstance(samples, str) else ""
        raise RunError(f"expected a FiftyOne dataset or view, found {type(samples).__name__}{named}")


def flattened(samples: Collection) -> Collection:
    """The samples themselves where a view groups them by a field, as the App's *Group by* does.

    >>> flattened(dataset.group_by("scene")).count() == dataset.count()
    True
    """
    grouped = samples.media_type == "group" and isinstance(samples, fo.DatasetView)
    if grouped and fo.load_dataset(samples.dataset_name).media_type != "group":
        return samples.flatten()
    return samples


def _require_frames(samples: fov.FramesView, allowed: bool) -> fov.FramesView:
    if not allowed:
        raise RunError(
            "expected a dataset or a view of images, found a view of the frames of videos, which only compute_cam, "
            "explain_sample and apply_model take. For all else make a dataset of the frames, frames.clone(), and "
            "compute a run on that"
        )
    if samples.count("id") == 0:
        raise RunError(
            "the view of frames is empty: it has those frames whose pictures are on disk. "
            "dataset.to_frames(sample_frames=True) writes them"
        )
    if fom.get_media_type(samples.limit(1).values("filepath")[0]) == "video":  # sample_frames="dynamic"
        raise RunError(
            "the frames of this view have no pictures of their own, only their videos: take "
            "dataset.to_frames(sample_frames=True), which writes the pictures beside the videos"
        )
    return samples


def _are_cloned_patches(samples: Collection) -> bool:
    """Whether it is the clone of a patches view: the id of an image beside a single object, and no crop."""
    schema = samples.get_field_schema()
    objects = samples.get_field_schema(embedded_doc_type=(fo.Detection, fo.Polyline))
    return isinstance(schema.get("sample_id"), fo.ObjectIdField) and bool(objects)
