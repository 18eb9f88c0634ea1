"""Where things are, by the labels of a dataset: boxes, polygons and masks of any label field, as plain shapes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import fiftyone as fo
import numpy as np

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.regions import Mask, Polygon, Shape
from fiftyone_cam.dataset import bulk, collection
from fiftyone_cam.dataset.internals import dataset_of

Labelled = tuple[str | None, Shape]
"""A shape and its label; None where it has none."""

_FAR = 1e6  # relative coordinates beyond this are no place on an image


class Annotations:
    """Label fields that say where things are: ``Detections`` (with boxes or masks), ``Polylines``, ``Segmentation``.

    Args:
        samples: a dataset or view.
        fields: the fields.
        values: values of segmentation masks that serve as names: ``{"1"}``. Values in the dataset's ``mask_targets``
            have their name from there. Without either, all pixels that are not 0 are one thing without a name.

    Attributes:
        paths: what :func:`~fiftyone_cam.dataset.bulk.chunks` has to read.
        ignored: how many labels have no area, by reason; counted while reading.

    Raises:
        FieldError: a field is missing or of a type that says nothing about places.

    >>> annotations = Annotations(dataset, ["animals"])
    >>> [row, *_] = next(bulk.chunks(dataset, annotations.paths))
    >>> list(annotations.read(row))
    [('cat', Polygon(rings=…))]
    """

    def __init__(self, samples: collection.Collection, fields: Sequence[str], values: Collection[str] = ()) -> None:
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


ObjectLabels = Mapping[str, Sequence["str | int"]] | Sequence["str | int"] | None
"""Labels, or values of masks, that are the object: by true class, or of all classes."""


class Scene:
    """What is annotated on a sample, and which of these things are the object.

    A thing is the object if it has no label, if its label is the true class, or if ``object_labels`` says so. All
    others are regions, named by their label. Without a true class all things are the object, unless ``object_labels``
    says which.

    Args:
        samples: a dataset or view.
        fields: the fields that say where things are, as of :class:`Annotations`.
        object_labels: further labels that are the object.
        ground_truth: the ``Classification`` field with the true class.

    Raises:
        FieldError: a field is missing or of a type that says nothing about places.

    >>> scene = Scene(dataset, ["animals"], ["head"], "ground_truth")
    >>> [row, *_] = next(bulk.chunks(dataset, scene.paths))
    >>> scene.regions(row).keys()
    {(True, 'head'), (False, 'grass')}
    """

    def __init__(
        self,
        samples: collection.Collection,
        fields: Sequence[str],
        object_labels: ObjectLabels,
        ground_truth: str | None,
    ) -> None:
        self._by_class, self._of_all = _parse_object_labels(object_labels)
        self._ground_truth = ground_truth
        self._true = f"{ground_truth}.label" if ground_truth else None
        self.annotations = Annotations(samples, fields, {*self._of_all, *itertools.chain(*self._by_class.values())})
        self.paths = [*([self._true] if self._true else []), *self.annotations.paths]

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this scene, as plain data; :meth:`of_settings` is the inverse."""
        return {
            "ground_truth": self._ground_truth,
            "objects": list(self.annotations.fields),
            "object_labels": sorted([label, sorted(labels)] for label, labels in self._by_class.items()),
            "object_labels_of_all": sorted(self._of_all),
        }

    @classmethod
    def of_settings(
        cls,
        samples: collection.Collection,
        *,
        ground_truth: str | None,
        objects: Sequence[str],
        object_labels: Sequence[Sequence[Any]],
        object_labels_of_all: Sequence[str],
    ) -> Scene:
        """The scene that has these :attr:`settings`."""
        labels: ObjectLabels = dict(map(tuple, object_labels)) or object_labels_of_all or None
        return cls(samples, objects, labels, ground_truth)

    def regions(self, row: Mapping[str, Any]) -> dict[tuple[bool, str], list[Shape]]:
        """The shapes of everything that is annotated on a sample, by (is it the object, name).

        Raises:
            OSError: a mask's file cannot be read.
        """
        true = row[self._true] if self._true else None
        regions: dict[tuple[bool, str], list[Shape]] = {}
        for label, shape in self.annotations.read(row):
            regions.setdefault((self._is_object(label, true), label or "object"), []).append(shape)
        return regions

    def object(self, row: Mapping[str, Any]) -> list[Shape]:
        """The shapes of the object; none where nothing annotated is the object."""
        return [shape for (is_object, _), shapes in self.regions(row).items() if is_object for shape in shapes]

    def _is_object(self, label: str | None, true: str | None) -> bool:
        if label is None or label in self._of_all:
            return True
        if self._true is None and not self._by_class and not self._of_all:
            return True
        return true is not None and (label == true or label in self._by_class.get(true, ()))

    def check(self, samples: collection.Collection) -> None:
        """Check that something annotated can be the object at all; else every verdict would be missing.

        Raises:
            FieldError: no label is an object.
        """
        labels = self.annotations.labels()
        if not labels or None in labels or self._true is None:
            return
        true = {str(label) for label in samples.distinct(self._true)}
        if not labels & {*self._of_all, *true, *itertools.chain(*self._by_class.values())}:
            raise FieldError(
                f"no label in {', '.join(map(repr, self.annotations.fields))} is an object: found "
                f"{sorted(map(str, labels))[:5]}, the true classes are {sorted(true)[:5]}; pass object_labels= to say "
                "which labels are the object: for all classes ['animal'], or by class {'cat': ['head']}"
            )


def field_names(objects: str | Sequence[str] | None) -> list[str]:
    """The fields that say where things are, where one, several, or none were given.

    Raises:
        FieldError: they are no names.

    >>> field_names("animals"), field_names(None)
    (['animals'], [])
    """
    if objects is None or isinstance(objects, str):
        return [objects] if objects else []
    if not isinstance(objects, Sequence) or not all(isinstance(name, str) for name in objects):
        raise FieldError(f"objects is {objects!r:.80}, expected names of fields, such as ['animals']")
    return list(objects)


def _parse_object_labels(given: ObjectLabels) -> tuple[dict[str, set[str]], set[str]]:
    """Labels by true class, and those of all classes."""
    if given is None:
        return {}, set()
    if not isinstance(given, Iterable):
        raise FieldError(
            f"object_labels is {given!r:.80}, expected labels, ['animal'], or by class {{'cat': ['head']}}"
        )
    if isinstance(given, Mapping):
        lists = {true: [labels] if isinstance(labels, (str, int)) else labels for true, labels in given.items()}
        return {true: set(map(str, labels)) for true, labels in lists.items()}, set()
    return {}, {given} if isinstance(given, str) else set(map(str, given))


def _candidates(samples: collection.Collection) -> str:
    fields = [
        name for name, field in samples.get_field_schema().items() if getattr(field, "document_type", None) in _READERS
    ]
    expected = ", ".join(kind.__name__ for kind in _READERS)
    return f": expected one of {expected}" + (f"; this dataset has {', '.join(fields)}" if fields else "")


class _Reader:
    """Reads one field. ``attributes``: the paths, below a label, of what it needs."""

    root = ""
    attributes: tuple[str, ...] = ()

    def __init__(
        self, samples: collection.Collection, field: str, values: Collection[str], ignored: Counter[str]
    ) -> None:
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

    def labels(self, samples: collection.Collection) -> set[str | None]:
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

    def __init__(
        self, samples: collection.Collection, field: str, values: Collection[str], ignored: Counter[str]
    ) -> None:
        super().__init__(samples, field, values, ignored)
        dataset = dataset_of(samples)
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

    def labels(self, samples: collection.Collection) -> set[str | None]:
        return set(self.names.values()) if self.named else {None}


_READERS: dict[type, type[_Reader]] = {
    fo.Detections: _Detections,
    fo.Detection: _Detection,
    fo.Polylines: _Polylines,
    fo.Polyline: _Polyline,
    fo.Segmentation: _Segmentation,
}

PLACES = tuple(_READERS)
"""The label types that say where something is."""


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
