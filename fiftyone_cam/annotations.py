"""Where things are, by the labels of a dataset: boxes, polygons and masks of any label field, as plain shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from fiftyone_cam import bulk, runs
from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.regions import Mask, Polygon, Shape

Labelled = tuple[str | None, Shape]
"""A shape and its label; None where it has none."""

_FAR = 1e6  # relative coordinates beyond this are no place on an image


class Annotations:
    """Label fields that say where things are: ``Detections`` (also instance masks), ``Polylines``, ``Segmentation``.

    Args:
        samples: a dataset or view.
        fields: the fields.
        values: values of segmentation masks that are names: ``{"1"}``. Those that the dataset's ``mask_targets`` names
            have that name; without either, all that is not 0 is one thing without a name.

    Attributes:
        paths: what :func:`~fiftyone_cam.bulk.chunks` has to read.
        ignored: how many labels have no area, by reason; counted while reading.

    Raises:
        FieldError: a field is missing or of a type that says nothing about places.

    >>> annotations = Annotations(dataset, ["animals"])
    >>> [row, *_] = next(bulk.chunks(dataset, annotations.paths))
    >>> list(annotations.read(row))
    [('cat', Polygon(rings=…))]
    """

    def __init__(self, samples: runs.Collection, fields: Sequence[str], values: Collection[str] = ()) -> None:
        self.fields = tuple(fields)
        self.ignored: Counter[str] = Counter()
        self._readers: list[_Reader] = []
        self._samples = samples
        for field in self.fields:
            found = samples.get_field(field)
            kind = getattr(found, "document_type", None)
            if found is None:
                raise FieldError(f"there is no field {field!r}{_candidates(samples)}")
            if kind not in _READERS:
                name = kind.__name__ if kind else type(found).__name__
                raise FieldError(f"{field!r} is of type {name}, which says nothing about places{_candidates(samples)}")
            self._readers.append(_READERS[kind](samples, field, values, self.ignored))
        self.paths = [path for reader in self._readers for path in reader.paths]

    def read(self, row: Mapping[str, Any]) -> Iterator[Labelled]:
        """The labelled shapes of one sample; what has no area is counted in ``ignored``.

        Raises:
            OSError: a mask's file cannot be read.
        """
        for reader in self._readers:
            yield from reader.read(row)

    def labels(self) -> set[str | None]:
        """All labels that the fields use, None among them if there are things without one."""
        return {label for reader in self._readers for label in reader.labels(self._samples)}


def _candidates(samples: runs.Collection) -> str:
    fields = [
        name for name, field in samples.get_field_schema().items() if getattr(field, "document_type", None) in _READERS
    ]
    expected = ", ".join(kind.__name__ for kind in _READERS)
    return f": expected one of {expected}" + (f"; this dataset has {', '.join(fields)}" if fields else "")


class _Reader:
    """Reads one field. ``attributes`` are those that it needs, by the path to a label."""

    root = ""
    attributes: tuple[str, ...] = ()

    def __init__(self, samples: runs.Collection, field: str, values: Collection[str], ignored: Counter[str]) -> None:
        self.field = field
        self.ignored = ignored
        self.prefix = f"{field}.{self.root}" if self.root else field
        self.paths = [f"{self.prefix}.{attribute}" for attribute in self.attributes]

    def read(self, row: Mapping[str, Any]) -> Iterator[Labelled]:
        columns = [row[path] for path in self.paths]
        if not self.root:
            columns = [[value] for value in columns]
        count = max((len(column) for column in columns if column is not None), default=0)
        for values in zip(*(column if column is not None else [None] * count for column in columns), strict=True):
            yield from self.shapes(dict(zip(self.attributes, values, strict=True)))

    def shapes(self, label: Mapping[str, Any]) -> Iterator[Labelled]:
        raise NotImplementedError

    def labels(self, samples: runs.Collection) -> set[str | None]:
        return set(samples.exists(self.field).count_values(f"{self.prefix}.label"))


class _Detection(_Reader):
    attributes = ("label", "bounding_box", "mask", "mask_path")

    def shapes(self, label: Mapping[str, Any]) -> Iterator[Labelled]:
        box = label["bounding_box"]
        if box is None:
            return  # FiftyOne keeps a Detection without a box where the field itself is empty
        if len(box) != 4 or not _finite(box) or box[2] <= 0 or box[3] <= 0:
            self.ignored["box without an area"] += 1
            return
        pixels = bulk.array(label["mask"])
        if pixels is None and label["mask_path"] is not None:
            pixels = _from_file(fo.Detection(mask_path=label["mask_path"]).get_mask, label["mask_path"])
        if pixels is None:
            yield label["label"], Polygon.box(tuple(box))
        elif (filled := _flat(pixels) > 0).any():
            yield label["label"], Mask(filled, tuple(box))
        else:
            self.ignored["empty mask"] += 1


class _Detections(_Detection):
    root = "detections"


class _Polyline(_Reader):
    attributes = ("label", "points", "closed", "filled")

    def shapes(self, label: Mapping[str, Any]) -> Iterator[Labelled]:
        if not label["points"]:
            return
        if not (label["closed"] or label["filled"]):
            self.ignored["open line"] += 1
            return
        rings = [np.array(ring, np.float64) for ring in label["points"] if len(ring) >= 3]
        rings = [ring for ring in rings if _finite(ring)]
        if rings:
            yield label["label"], Polygon(tuple(rings))
        else:
            self.ignored["polygon of fewer than three points"] += 1


class _Polylines(_Polyline):
    root = "polylines"


class _Segmentation(_Reader):
    attributes = ("mask", "mask_path")

    def __init__(self, samples: runs.Collection, field: str, values: Collection[str], ignored: Counter[str]) -> None:
        super().__init__(samples, field, values, ignored)
        dataset = samples._dataset
        targets = dataset.mask_targets.get(field) or dataset.default_mask_targets or {}
        self.names = {int(v[1:], 16) if isinstance(v, str) else int(v): str(name) for v, name in targets.items()}
        self.named = bool(targets) or any(value.isdigit() for value in values)

    def shapes(self, label: Mapping[str, Any]) -> Iterator[Labelled]:
        pixels = bulk.array(label["mask"])
        if pixels is None and label["mask_path"] is not None:
            pixels = _from_file(fo.Segmentation(mask_path=label["mask_path"]).get_mask, label["mask_path"])
        if pixels is None:
            return
        pixels = _flat(pixels)
        if not self.named:
            if pixels.any():
                yield None, Mask(pixels != 0)
            else:
                self.ignored["empty mask"] += 1
            return
        for value in np.unique(pixels):
            if value != 0 or 0 in self.names:
                yield self.names.get(int(value), str(value)), Mask(pixels == value)

    def labels(self, samples: runs.Collection) -> set[str | None]:
        return set(self.names.values()) if self.named else {None}


_READERS: dict[type, type[_Reader]] = {
    fo.Detections: _Detections,
    fo.Detection: _Detection,
    fo.Polylines: _Polylines,
    fo.Polyline: _Polyline,
    fo.Segmentation: _Segmentation,
}


def _finite(values: Any) -> bool:
    array = np.asarray(values, np.float64)
    return bool((np.abs(array) < _FAR).all())


def _flat(pixels: np.ndarray) -> np.ndarray:
    """Colours as one number, as the keys of ``mask_targets`` are: ``0xRRGGBB``."""
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] < 3:
        return pixels[..., 0]
    red, green, blue = np.moveaxis(pixels[..., :3].astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue


def _from_file(read: Callable[[], Any], path: str) -> np.ndarray:
    try:
        pixels = read()
    except Exception as error:  # whatever reads it: FiftyOne tries several libraries
        raise OSError(f"the mask {path} cannot be read: {error}") from error
    if pixels is None:
        raise OSError(f"the mask {path} cannot be read")
    return np.asarray(pixels)
