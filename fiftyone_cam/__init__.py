"""Exact class activation maps over a FiftyOne dataset: where an image classifier looks, as fields to filter.

>>> import fiftyone as fo, fiftyone_cam as focam
>>> dataset = fo.load_dataset("pets")
>>> run = focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth")
>>> print(run)

Names are imported when they are first used: the App imports this package where it may not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "AuditReport": "report",
    "Bound": "core.geometry",
    "CamError": "core.errors",
    "CamRun": "runs",
    "CenterCrop": "core.geometry",
    "Classifier": "classifier",
    "Comparison": "comparison_report",
    "FieldError": "core.errors",
    "HeadError": "core.errors",
    "ImageError": "core.errors",
    "Pad": "core.geometry",
    "Preprocessing": "core.geometry",
    "Resize": "core.geometry",
    "RunError": "core.errors",
    "SourceError": "core.errors",
    "audit": "auditing",
    "compare": "comparison",
    "compute_cam": "compute",
    "delete_run": "runs",
    "explain_sample": "compute",
    "export_overlays": "overlays",
    "list_runs": "runs",
    "list_trainings": "trainings",
    "load_audit": "report",
    "load_classifier": "classifier",
    "load_comparison": "comparison_report",
    "load_run": "runs",
    "load_training": "trainings",
    "localize": "localization",
    "signed_map": "fields",
    "split_logits": "logits",
    "train_classifier": "train",
}

__all__ = [
    "AuditReport",
    "Bound",
    "CamError",
    "CamRun",
    "CenterCrop",
    "Classifier",
    "Comparison",
    "FieldError",
    "HeadError",
    "ImageError",
    "Pad",
    "Preprocessing",
    "Resize",
    "RunError",
    "SourceError",
    "__version__",
    "audit",
    "compare",
    "compute_cam",
    "delete_run",
    "explain_sample",
    "export_overlays",
    "list_runs",
    "list_trainings",
    "load_audit",
    "load_classifier",
    "load_comparison",
    "load_run",
    "load_training",
    "localize",
    "signed_map",
    "split_logits",
    "train_classifier",
]

if TYPE_CHECKING:
    from fiftyone_cam.auditing import audit
    from fiftyone_cam.classifier import Classifier, load_classifier
    from fiftyone_cam.comparison import compare
    from fiftyone_cam.comparison_report import Comparison, load_comparison
    from fiftyone_cam.compute import compute_cam, explain_sample
    from fiftyone_cam.core.errors import CamError, FieldError, HeadError, ImageError, RunError, SourceError
    from fiftyone_cam.core.geometry import Bound, CenterCrop, Pad, Preprocessing, Resize
    from fiftyone_cam.fields import signed_map
    from fiftyone_cam.localization import localize
    from fiftyone_cam.logits import split_logits
    from fiftyone_cam.overlays import export_overlays
    from fiftyone_cam.report import AuditReport, load_audit
    from fiftyone_cam.runs import CamRun, delete_run, list_runs, load_run
    from fiftyone_cam.train import train_classifier
    from fiftyone_cam.trainings import list_trainings, load_training


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
