"""A classifier whose head was mended, with the report of what that does."""

from __future__ import annotations

from fiftyone_cam.classifiers.classifier import Classifier
from fiftyone_cam.repair.report import RepairReport


class MendedClassifier(Classifier):
    """What :func:`edit_head` and :func:`retrain_head` give: a :class:`Classifier` like any other.

    Its maps are certified anew. How it was made stands in its ``origin``, in the records of its runs, and in the folder
    that it is saved in.

    Attributes:
        preview: every group before and after, on samples that had no part in how it was made; None where no true class
            is known.

    >>> edited = focam.edit_head(classifier, report, remove=["watermark"])
    >>> edited.preview.overall.repaired
    12
    """

    preview: RepairReport | None = None
