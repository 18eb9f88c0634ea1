"""The fields that a run leaves on a sample: how results become labels, and how labels are read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.boxes import Box, as_box
from fiftyone_cam.core.display import THRESHOLD, display_size, draw_evidence, lay_out
from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.names import CONTRAST, ERROR, FALSE, HEATMAP, MISSED, PREDICTION, PREDICTIONS, TOP
from fiftyone_cam.core.regions import Cells
from fiftyone_cam.core.results import ClassMap, Explanation
from fiftyone_cam.dataset import bulk
from fiftyone_cam.runs.run import Run


def prediction(class_map: ClassMap) -> fo.Classification:
    """The predicted class with its confidence."""
    return fo.Classification(label=class_map.label, confidence=class_map.confidence)


def heatmap(
    class_map: ClassMap, where: Explanation, scale: float | None = None, threshold: float = THRESHOLD
) -> fo.Heatmap:
    """A class's map as the App draws it, carrying all that restores the signed map in logit units.

    A class's map is drawn where evidence speaks for it; a contrastive map with both signs and a symmetric range.

    Args:
        class_map: the map.
        where: the explanation that it belongs to, for its place on the image.
        scale: evidence, in logit units, that is drawn in full colour; the same for a whole run, so that a weak map
            looks weak. None: the map's own maximum.
        threshold: the share of the scale below which evidence is not drawn.
    """
    evidence = lay_out(class_map.grid, where.box, where.seen, *display_size(*where.size))
    return fo.Heatmap(
        **drawn_values(evidence, scale, threshold, both_signs=class_map.versus is not None),
        **_words(class_map),
        cam=fo.DynamicEmbeddedDocument(**_cam(class_map, where)),
    )


def drawn_values(
    evidence: NDArray[np.float32], scale: float | None, threshold: float, *, both_signs: bool
) -> dict[str, Any]:
    """What the App draws of a map that is laid out: ``map`` in logit units, and its ``range``.

    >>> drawn_values(np.float32([[0.1, 8.0]]), 8.0, 0.15, both_signs=False)["range"]
    [0.0, 8.0]
    """
    drawn, ceiling = draw_evidence(evidence, scale, threshold, both_signs=both_signs)
    return {"map": drawn, "range": [-ceiling if both_signs else 0.0, ceiling]}


def _words(class_map: ClassMap) -> dict[str, Any]:
    """What the App's tooltip says."""
    words = {name: getattr(class_map, name) for name in WORDS}
    return {name: value for name, value in words.items() if value is not None}


def _cam(class_map: ClassMap, where: Explanation) -> dict[str, Any]:
    """What restores the signed map. It is nested, because the App's tooltip shows all that is not."""
    return {"grid": class_map.grid, "bias": class_map.bias, "box": list(where.box), "seen": list(where.seen)}


def cam_of(label: fo.Heatmap) -> Any:
    """What a heatmap carries of its map: ``grid``, ``bias``, ``box`` and ``seen``, as attributes and by name.

    Raises:
        FieldError: the heatmap was not written by this project.

    >>> cam_of(sample.cam_heatmap)["bias"]
    0.25
    """
    try:
        holder = label["cam"] if label.has_attribute("cam") else label  # the first versions did not nest it
        for name in CAM:
            holder[name]
    except (KeyError, TypeError, AttributeError) as error:
        raise FieldError(
            "expected a heatmap with the attribute cam, as compute_cam writes it, "
            f"found {type(label).__name__} without: {error}"
        ) from error
    return holder


def grid_of(label: fo.Heatmap) -> tuple[NDArray[np.float32], Box, Box]:
    """A heatmap's signed grid, its box, and what the network saw.

    Raises:
        FieldError: the heatmap was not written by this project.
    """
    cam = cam_of(label)
    return np.asarray(cam["grid"], np.float32), as_box(cam["box"]), as_box(cam["seen"])


def signed_map(label: fo.Heatmap, size: tuple[int, int]) -> NDArray[np.float32]:
    """The signed class activation map over the whole image at any size, in logit units.

    Bilinear between the measured centres of the grid's cells; exactly 0 where the network saw nothing.

    Args:
        label: a heatmap that :func:`compute_cam` wrote.
        size: height and width.

    Raises:
        FieldError: the heatmap was not written by this project, or the size is none.

    >>> focam.signed_map(sample.cam_heatmap, (480, 640)).shape
    (480, 640)
    """
    if not (isinstance(size, Sequence) and len(size) == 2 and all(isinstance(n, Integral) and n > 0 for n in size)):
        raise FieldError(f"expected a size as (height, width) in pixels, found {size!r}")
    return lay_out(*grid_of(label), *size)


def field_schema(
    top_k: int, contrast: bool, independent: bool = False, judged: bool = False
) -> dict[str, dict[str, Any]]:
    """What ``compute_cam`` writes: for each field its type, as ``add_sample_field`` takes it.

    ``independent``: labels do not exclude each other; ``judged``: and there are true ones.
    """
    several = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classifications}
    classification = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Classification}
    heat = {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Heatmap}
    fields: dict[str, dict[str, Any]] = {PREDICTION: classification, HEATMAP: heat}
    for rank in range(2, top_k + 1):
        fields[f"{HEATMAP}_{rank}"] = heat
    if top_k > 1:
        fields[TOP] = several
    if independent:
        fields |= dict.fromkeys((PREDICTIONS, FALSE, MISSED) if judged else (PREDICTIONS,), several)
    if contrast:
        fields[CONTRAST] = heat
    fields[ERROR] = {"ftype": fo.StringField}
    return fields


_CLASSIFICATION = bulk.document(fo.Classification(label="", confidence=0.0))
_HEATMAP = bulk.document(fo.Heatmap())

CAM = ("grid", "bias", "box", "seen")
"""What a heatmap carries in ``cam``."""

WORDS = ("label", "logit", "versus", "remainder_share", "gap_remainder_share")
"""What a heatmap says beside it, where there is something to say."""

_NESTED = {"_cls": "DynamicEmbeddedDocument"}
_LEVEL = 3
"""Of zlib, for display maps: see :func:`fiftyone_cam.dataset.bulk.pack`."""


def sample_documents(
    result: Explanation, scale: float | None, contrast_scale: float | None = None, threshold: float = THRESHOLD
) -> dict[str, dict[str, Any]]:
    """All labels of one explanation as the database keeps them, by field name without the key.

    They are what :func:`prediction` and :func:`heatmap` become there, without a label object for each.
    """
    classifications = [
        _CLASSIFICATION(label=class_map.label, confidence=class_map.confidence) for class_map in result.maps
    ]
    found = {PREDICTION: classifications[0], HEATMAP: _heatmap_document(result.maps[0], result, scale, threshold)}
    for rank, class_map in enumerate(result.maps[1:], 2):
        found[f"{HEATMAP}_{rank}"] = _heatmap_document(class_map, result, scale, threshold)
    if len(result.maps) > 1:
        found[TOP] = _several((class_map.label, class_map.confidence) for class_map in result.maps)
    if result.labels is not None:
        named = ((PREDICTIONS, result.labels.predicted), (FALSE, result.labels.false), (MISSED, result.labels.missed))
        found |= {name: _several(pairs) for name, pairs in named if pairs is not None}
    if result.contrast is not None:
        found[CONTRAST] = _heatmap_document(result.contrast, result, contrast_scale, threshold)
    return found


def _several(pairs: Iterable[tuple[str, float | None]]) -> dict[str, Any]:
    documents = [_CLASSIFICATION(label=label, confidence=confidence) for label, confidence in pairs]
    return {"_cls": "Classifications", "classifications": documents}


def _heatmap_document(class_map: ClassMap, where: Explanation, scale: float | None, threshold: float) -> dict[str, Any]:
    cam = _cam(class_map, where)
    evidence = lay_out(class_map.grid, where.box, where.seen, *display_size(*where.size))
    return _HEATMAP(
        **_words(class_map),
        **packed_drawing(drawn_values(evidence, scale, threshold, both_signs=class_map.versus is not None)),
        cam=nested_cam({**cam, "grid": bulk.pack(cam["grid"])}),
    )


def packed_drawing(drawn: dict[str, Any]) -> dict[str, Any]:
    """What :func:`drawn_values` gives, as the database keeps it."""
    return {**drawn, "map": bulk.pack(drawn["map"], _LEVEL)}


def nested_cam(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The embedded document ``cam``, as the database keeps it."""
    return {**_NESTED, **entries}


class StoredMap(NamedTuple):
    """A class activation map as a run stored it: ``grid`` is ``(h, w)``, in logit units.

    ``grid.mean() + bias == logit``. ``box`` is where the grid lies on the image, ``seen`` what the network saw of it,
    both ``(x, y, width, height)`` as shares of the image.
    """

    label: str
    grid: NDArray[np.float32]
    bias: float
    logit: float
    box: Box
    seen: Box

    @property
    def cells(self) -> Cells:
        """Where the grid's cells lie on the image."""
        return Cells.of(self.grid.shape, self.box, self.seen)


class MapReader:
    """Reads one field of stored maps in bulk: ``paths`` are what to read of each sample, :meth:`read` decodes them.

    Args:
        run: the run that stored the maps.
        name: the field's name without the run's key.

    >>> reader = MapReader(run)
    >>> for rows in bulk.chunks(dataset, reader.paths):
    ...     maps = [reader.read(row) for row in rows]
    """

    def __init__(self, run: Run[Any], name: str = HEATMAP) -> None:
        self.field = run.field(name)
        self._places = [f"{self.field}.cam."]
        if run.record.schema_version == 1:  # it did not nest them; what was computed since does
            self._places.append(f"{self.field}.")
        self._words = [f"{self.field}.label", f"{self.field}.logit"]
        self.paths = self._words + [place + name for place in self._places for name in CAM]

    def read(self, row: Mapping[str, Any]) -> StoredMap | None:
        """The map in a row of :func:`fiftyone_cam.dataset.bulk.chunks`; None where the sample has no map."""
        label, logit = (row[path] for path in self._words)
        for place in self._places:
            grid, bias, box, seen = (row[place + name] for name in CAM)
            grid = bulk.array(grid)
            if grid is not None:
                return StoredMap(label, grid, bias, logit, as_box(box), as_box(seen))
        return None
