"""The ground truth's words and the classifier's: which predicted labels match a true label, and so who is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import fiftyone as fo

from fiftyone_cam.core.errors import FieldError, did_you_mean
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.internals import dataset_of


class Translation:
    """The classifier's labels in the ground truth's words, many to one. It is pure: no dataset is read.

    Args:
        classes: the classifier's labels.
        class_map: each label with the ground truth's word for it; a label that is not in it has no word. None where
            both use the same words.

    Raises:
        FieldError: ``class_map`` is not a mapping of labels, or translates a label that is not a class.

    >>> translation = Translation(["tabby", "Persian cat", "laptop"], {"tabby": "cat", "Persian cat": "cat"})
    >>> translation.translate("tabby"), translation.translate("laptop"), translation.indices("cat")
    ('cat', None, (0, 1))
    >>> [translation.is_right(predicted, "cat") for predicted in ("tabby", "laptop")]
    [True, False]
    """

    def __init__(self, classes: Sequence[str], class_map: Mapping[str, str] | None = None) -> None:
        if class_map is not None and not (
            isinstance(class_map, Mapping) and all(isinstance(word, str) for pair in class_map.items() for word in pair)
        ):
            raise FieldError(
                f"class_map is {class_map!s:.80}, expected classes with their labels, such as {{'tabby': 'cat'}}"
            )
        unknown = [label for label in class_map or () if label not in set(classes)]
        if unknown:
            raise FieldError(
                f"class_map translates {unknown[:5]}, which the classifier does not predict"
                f"{did_you_mean(unknown[0], classes)}: expected its classes, such as {list(classes[:3])}"
            )
        self.class_map = None if class_map is None else dict(class_map)
        self._indices: dict[str, tuple[int, ...]] = {}
        for index, name in enumerate(classes):
            word = self.translate(name)
            if word is not None:
                self._indices[word] = (*self._indices.get(word, ()), index)

    @property
    def words(self) -> list[str]:
        """The ground truth's words that a prediction can match, sorted."""
        return sorted(self._indices)

    def translate(self, predicted: str | None) -> str | None:
        """The ground truth's word for a predicted label; None where it has none."""
        if self.class_map is None or predicted is None:
            return predicted
        return self.class_map.get(predicted)

    def indices(self, true: str | None) -> tuple[int, ...]:
        """The logits that count as right for a true label; empty where none does."""
        return () if true is None else self._indices.get(true, ())

    def is_right(self, predicted: str | None, true: str | None) -> bool | None:
        """Whether a prediction is right. A predicted label without a word is wrong.

        None where nobody can know: there is no prediction or no true label, or the true label matches no class.
        """
        if predicted is None or not self.indices(true):
            return None
        return self.translate(predicted) == true


class GroundTruth(Translation):
    """A translation with the field of a dataset that has the true labels; :meth:`read` makes it.

    Attributes:
        field: the ``Classification`` field with the true class; None if there is none.
        several: whether that field holds several labels of a sample.
        unmatched: the labels in ``field`` that match no class, and how many samples have each.

    >>> truth = GroundTruth.read(dataset, "ground_truth", classifier.classes, {"tabby": "cat", "Persian cat": "cat"})
    >>> truth.is_right("tabby", "cat"), truth.unmatched
    (True, {'horse': 3})
    """

    field: str | None = None
    several: bool = False
    unmatched: Mapping[str, int] = MappingProxyType({})

    @classmethod
    def read(
        cls,
        samples: Collection,
        field: str | None,
        classes: Sequence[str],
        class_map: Mapping[str, str] | None = None,
        *,
        several: bool = False,
    ) -> GroundTruth:
        """Read which labels a field has, and check that a class can match them.

        Args:
            samples: a dataset or view.
            field: the ``Classification`` field with the true class; None if there is none.
            classes: the classifier's labels.
            class_map: see :class:`Translation`.
            several: the field may hold several labels of a sample, as ``Classifications``.

        Raises:
            FieldError: the field is missing or of another type, ``class_map`` translates a label that is not a class,
                or no label in the field matches a class.
        """
        truth = cls(classes, class_map)
        if field is None:
            return truth
        truth.several = check_field(samples, field, several=several)
        truth.field = field
        labels = {str(k): int(v) for k, v in samples.count_values(truth.labels_path).items() if k is not None}
        truth.unmatched = {label: count for label, count in labels.items() if not truth.indices(label)}
        # Where these samples match nothing, but the whole dataset does, they only happen to have no such label.
        if labels and len(labels) == len(truth.unmatched) and not truth._matches_any(dataset_of(samples)):
            alike = {word.strip().casefold() for word in truth.words} & {label.strip().casefold() for label in labels}
            hint = " (some differ by capitals or spaces alone)" if alike else ""
            raise FieldError(
                f"no label of {field!r} matches a class: found {sorted(labels)[:5]}, the classes are "
                f"{truth.words[:5]}, …{hint}; translate classes into labels: class_map= in Python, Translation of "
                "classes in the form"
            )
        return truth

    def _matches_any(self, dataset: fo.Dataset) -> bool:
        return any(self.indices(str(label)) for label in dataset.count_values(self.labels_path))

    @property
    def labels_path(self) -> str:
        """Where the true labels are."""
        return f"{self.field}.classifications.label" if self.several else f"{self.field}.label"


def check_field(samples: Collection, field: str, *, several: bool = False) -> bool:
    """Check that a field can be the ground truth; whether it holds several labels of a sample.

    Args:
        samples: a dataset or view.
        field: its name.
        several: whether it may hold several labels of a sample.

    Raises:
        FieldError: it is missing or of another type.
    """
    if not isinstance(field, str):
        raise FieldError(f"the ground truth is {field!r:.80}, expected the name of a field")
    found = samples.get_field(field)
    if found is None and isinstance(samples, fo.DatasetView) and dataset_of(samples).has_field(field):
        raise FieldError(f"the view leaves out the field {field!r}, which is the ground truth: take one that has it")
    if found is None:
        candidates = list(samples.get_field_schema(embedded_doc_type=fo.Classification))
        raise FieldError(
            f"there is no field {field!r} for the ground truth{did_you_mean(field, candidates)}: "
            + (
                f"the Classification fields are {', '.join(candidates)}"
                if candidates
                else "nor any Classification field"
            )
        )
    if not (isinstance(found, fo.EmbeddedDocumentField) and issubclass(found.document_type, fo.Classification)):
        document = getattr(found, "document_type", type(found))
        name = document.__name__
        if document is fo.Classifications:
            if several:
                return True
            raise FieldError(
                f"{field!r} holds several labels of a sample (Classifications), expected one (Classification). Only "
                "compute_cam takes several, for a classifier of independent labels: "
                "load_classifier(…, activation='sigmoid')"
            )
        advice = (
            f": dataset.set_values('truth', [fo.Classification(label=word) for word in dataset.values({field!r})]) "
            "makes one of its words"
            if isinstance(found, fo.StringField)
            else ""
        )
        raise FieldError(f"the ground truth {field!r} is of type {name}, expected Classification{advice}")
    return False
