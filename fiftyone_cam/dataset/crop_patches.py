"""Patches as pictures of their own: a dataset of crops, with their labels and where each was cut out."""

from __future__ import annotations

import os
from typing import Any

import cv2
import fiftyone as fo
import fiftyone.core.patches as fop
import numpy as np

from fiftyone_cam.core.errors import ImageError, RunError, is_number
from fiftyone_cam.core.files import folder_of
from fiftyone_cam.core.image import read_image


def crop_patches(
    patches: fo.DatasetView, out_dir: str | os.PathLike[str], *, name: str | None = None, margin: float = 0.0
) -> fo.Dataset:
    """Cut the objects out of their images, as a dataset of whole pictures that a classifier can be run on.

    FiftyOne keeps patches by reference to their image: what reads a patch's ``filepath`` reads the whole image. The
    crops carry the object's label as a ``Classification`` under the field's own name, their tags, and in ``source_id``,
    ``source_filepath`` and ``source_box`` where they are from.

    Args:
        patches: ``dataset.to_patches("ground_truth")``.
        out_dir: a folder for the PNG files; made where it is absent. Files of other crops are replaced.
        name: of the dataset; by default one that FiftyOne makes up. Set ``dataset.persistent`` to keep it.
        margin: how much of the object's width and height is added on each side.

    Returns:
        the dataset. An object whose image cannot be read, or that lies outside it, is left out; its id and the reason
        stand in ``dataset.info["left_out"]``.

    Raises:
        RunError: it is no view of patches, the folder is a file, or there is a dataset of that name.

    >>> crops = focam.crop_patches(dataset.to_patches("ground_truth"), "crops")
    >>> focam.compute_cam(crops, "efficientnet_lite0", ground_truth="ground_truth")
    """
    if not isinstance(patches, fop.PatchesView) or isinstance(patches, fop.EvaluationPatchesView):
        raise RunError(
            f"expected a view of patches, dataset.to_patches('ground_truth'), found a {type(patches).__name__}"
        )
    field = _field(patches)
    folder = folder_of(out_dir)
    if folder.is_file():
        raise RunError(f"{folder} is a file: give a folder")
    if not is_number(margin) or margin < 0:
        raise RunError(f"margin is {margin!r}, expected a share of the object's sides, from 0")
    if name is not None and fo.dataset_exists(name):
        raise RunError(f"there is a dataset {name!r} already: give another name, or fo.delete_dataset({name!r})")
    folder.mkdir(parents=True, exist_ok=True)
    samples, left_out = [], {}
    path, image, problem = None, np.zeros((0, 0, 3), np.uint8), ""
    for patch in patches.sort_by("sample_id").iter_samples():
        label = patch[field]
        if patch.filepath != path:  # patches of one image follow each other: it is read once
            path, problem = patch.filepath, ""
            try:
                image = read_image(path)
            except ImageError as error:
                problem = str(error)
        crop = None if problem or label is None else _crop(image, _box(label), margin)
        if crop is None:
            left_out[str(patch.id)] = problem or "it lies outside the image"
            continue
        target = folder / f"{label.id}.png"
        if not cv2.imwrite(str(target), crop[..., ::-1]):
            raise RunError(f"{target} cannot be written")
        sample = fo.Sample(filepath=str(target), tags=list(patch.tags))
        sample[field] = fo.Classification(label=label.label, tags=list(label.tags))
        sample["source_id"], sample["source_filepath"] = str(patch.sample_id), patch.filepath
        sample["source_box"] = list(_box(label))
        samples.append(sample)
    dataset = fo.Dataset(name)
    dataset.add_samples(samples, progress=False)
    dataset.info["left_out"] = left_out
    dataset.save()
    return dataset


def _field(patches: fo.DatasetView) -> str:
    """The field whose objects the patches are."""
    schema = patches.get_field_schema(embedded_doc_type=(fo.Detection, fo.Polyline))
    if len(schema) != 1:
        raise RunError(f"expected one field of objects in the patches, found {', '.join(schema) or 'none'}")
    return next(iter(schema))


def _box(label: Any) -> tuple[float, float, float, float]:
    """Of a detection or a polyline, relative to the image."""
    if isinstance(label, fo.Polyline):
        points = np.concatenate([np.asarray(shape, float).reshape(-1, 2) for shape in label.points])
        (left, top), (right, bottom) = points.min(0), points.max(0)
        return float(left), float(top), float(right - left), float(bottom - top)
    left, top, width, height = map(float, label.bounding_box)
    return left, top, width, height


def _crop(
    image: np.ndarray[Any, np.dtype[np.uint8]], box: tuple[float, float, float, float], margin: float
) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    height, width = image.shape[:2]
    left, top, w, h = box
    x0, x1 = (round(width * value) for value in (left - margin * w, left + (1 + margin) * w))
    y0, y1 = (round(height * value) for value in (top - margin * h, top + (1 + margin) * h))
    crop = image[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    return crop if crop.size else None
