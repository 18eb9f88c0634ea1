"""The ground truth's words and the classifier's: which predicted labels say what a true label says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fiftyone as fo

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.dataset.collection import Collection


class GroundTruth:
    """Translates predicted labels into the ground truth's words, many to one; a prediction without a word is wrong.

    Args:
        samples: a dataset or view.
        field: the ``Classification`` field with the true class; None if there is none.
        class_map: predicted label to the ground truth's word; None where both use the same words.
        classes: the classifier's.

    Attributes:
        unmatched: the labels in ``field`` that no class means, and how many samples have each.

    Raises:
        FieldError: the field is missing or of another type, ``class_map`` translates what is no class, or no label in
            the field is what any class means.

    >>> truth = GroundTruth(dataset, "ground_truth", {"tabby": "cat", "Persian cat": "cat"}, classifier.classes)
    >>> truth.translate("tabby"), truth.translate("laptop"), truth.indices("cat")
    ('cat', None, (281, 283))
    """

    def __init__(
        self, samples: Collection, field: str | None, class_map: Mapping[str, str] | None, classes: Sequence[str]
    ) -> None:
        if class_map is not None and not (
            isinstance(class_map, Mapping) and all(isinstance(word, str) for word in class_map.values())
        ):
            raise FieldError(
                f"class_map is {class_map!s:.80}, expected classes with their labels, such as {{'tabby': 'cat'}}"
            )
        self.field = field
        self.class_map = None if class_map is None else dict(class_map)
        self.unmatched: dict[str, int] = {}
        self._indices: dict[str, tuple[int, ...]] = {}
        unknown = [label for label in self.class_map or () if label not in set(classes)]
        if unknown:
            raise FieldError(
                f"class_map translates {unknown[:5]}, which the classifier does not predict: expected its classes, "
                f"such as {list(classes[:3])}"
            )
        for index, name in enumerate(classes):
            word = self.translate(name)
            if word is not None:
                self._indices[word] = (*self._indices.get(word, ()), index)
        if field is not None:
            check_field(samples, field)
            labels = {str(k): int(v) for k, v in samples.count_values(f"{field}.label").items() if k is not None}
            self.unmatched = {label: count for label, count in labels.items() if label not in self._indices}
            if labels and len(labels) == len(self.unmatched) and not self._match_elsewhere(samples):
                raise FieldError(
                    f"no label of {field!r} is a class: found {sorted(labels)[:5]}, the classes are "
                    f"{sorted(self._indices)[:5]}, …; pass class_map= to translate classes into labels"
                )

    def _match_elsewhere(self, samples: Collection) -> bool:
        """Whether the whole dataset has labels that are classes: then these few samples only happen to have none."""
        labels = samples._dataset.count_values(f"{self.field}.label")
        return any(str(label) in self._indices for label in labels)

    def translate(self, predicted: str | None) -> str | None:
        """A predicted label in the ground truth's words; None where it has none."""
        if self.class_map is None or predicted is None:
            return predicted
        return self.class_map.get(predicted)

    def indices(self, label: str | None) -> tuple[int, ...]:
        """The logits that count as right for a true label; empty where none does."""
        return () if label is None else self._indices.get(label, ())


def check_field(samples: Collection, field: str) -> None:
    """Whether a field can be the ground truth.

    Raises:
        FieldError: it is missing or of another type.
    """
    found = samples.get_field(field)
    if found is None:
        candidates = list(samples.get_field_schema(embedded_doc_type=fo.Classification))
        raise FieldError(
            f"there is no field {field!r} for the ground truth: "
            + (
                f"the Classification fields are {', '.join(candidates)}"
                if candidates
                else "nor any Classification field"
            )
        )
    if not (isinstance(found, fo.EmbeddedDocumentField) and issubclass(found.document_type, fo.Classification)):
        name = getattr(found, "document_type", type(found)).__name__
        raise FieldError(f"the ground truth {field!r} is of type {name}, expected Classification")
