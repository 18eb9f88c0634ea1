"""The fields that a run leaves on a sample, and how labels are made of results and read back."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.cam import quantize
from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.explain import ClassMap, Explanation
from fiftyone_cam.core.geometry import Box, as_box, display_size, lay_out

PREDICTION, HEATMAP, CONTRAST, ERROR, TOP = "prediction", "heatmap", "contrast", "error", "top"


def prediction(class_map: ClassMap) -> fo.Classification:
    """The predicted class with its confidence."""
    return fo.Classification(label=class_map.label, confidence=class_map.confidence)


def heatmap(class_map: ClassMap, where: Explanation, scale: float | None = None) -> fo.Heatmap:
    """A class's map as the App draws it, carrying all that restores the signed map in logit units.

    A class's map is drawn where evidence speaks for it; a contrastive map with both signs and a symmetric range.

    Args:
        class_map: the map.
        where: the explanation that it belongs to, for its place on the image.
        scale: evidence, in logit units, that is drawn in full colour; the same for a whole run, so that a weak map
            looks weak. None: the map's own maximum.
    """
    both_signs = class_map.versus is not None
    evidence = lay_out(class_map.grid, where.box, where.seen, *display_size(*where.size))
    levels, step = quantize(evidence, scale, both_signs=both_signs)
    top = scale / step if scale and step else float(np.iinfo(levels.dtype).max)
    label = fo.Heatmap(
        map=levels,
        range=[-top if both_signs else 0.0, top],
        label=class_map.label,
        logit=class_map.logit,
        bias=class_map.bias,
        grid=class_map.grid,
        box=list(where.box),
        seen=list(where.seen),
    )
    if both_signs:
        label["versus"] = class_map.versus
    return label


def grid_of(label: fo.Heatmap) -> tuple[NDArray[np.float32], Box, Box]:
    """A heatmap's signed grid, its box, and what the network saw.

    Raises:
        FieldError: the heatmap was not written by this project.
    """
    try:
        return np.asarray(label["grid"], np.float32), as_box(label["box"]), as_box(label["seen"])
    except (KeyError, TypeError, AttributeError) as error:
        raise FieldError(
            "expected a heatmap with the attributes grid, box and seen, as compute_cam writes them, "
            f"found {type(label).__name__} without: {error}"
        ) from error


def signed_map(label: fo.Heatmap, size: tuple[int, int]) -> NDArray[np.float32]:
    """The signed class activation map over the whole image at any size, in logit units.

    Bilinear between the measured centres of the grid's cells; exactly 0 where the network saw nothing.

    Args:
        label: a heatmap that :func:`compute_cam` wrote.
        size: height and width.

    Raises:
        FieldError: the heatmap was not written by this project.

    >>> focam.signed_map(sample.cam_heatmap, (480, 640)).shape
    (480, 640)
    """
    return lay_out(*grid_of(label), *size)


def declared(top_k: int, contrast: bool) -> dict[str, dict[str, Any]]:
    """What ``compute_cam`` writes: for each field its type, as ``add_sample_field`` takes it."""
    classification = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classification}
    heat = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Heatmap}
    fields: dict[str, dict[str, Any]] = {PREDICTION: classification, HEATMAP: heat}
    for rank in range(2, top_k + 1):
        fields[f"{HEATMAP}_{rank}"] = heat
    if top_k > 1:
        fields[TOP] = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classifications}
    if contrast:
        fields[CONTRAST] = heat
    fields[ERROR] = {"ftype": fo.StringField}
    return fields


def labels(result: Explanation, scale: float | None) -> dict[str, fo.Label]:
    """All labels of one explanation, by field name without the key."""
    found: dict[str, fo.Label] = {PREDICTION: prediction(result.maps[0])}
    for rank, class_map in enumerate(result.maps[1:], 2):
        found[f"{HEATMAP}_{rank}"] = heatmap(class_map, result, scale)
    if len(result.maps) > 1:
        found[TOP] = fo.Classifications(classifications=[prediction(class_map) for class_map in result.maps])
    if result.contrast is not None:
        found[CONTRAST] = heatmap(result.contrast, result, scale)
    found[HEATMAP] = heatmap(result.maps[0], result, scale)
    return found
