"""The App's layer: forms in, one call of the SDK, triggers out.

To add an operator or a panel: a module here, its class in :data:`OPERATORS`, its name in ``fiftyone.yml``. Nothing that
runs while a form is drawn may import torch or count a big collection: it runs on the server's event loop, at every
keystroke.
"""

from __future__ import annotations

from fiftyone_cam.plugin.audit_attention import AuditAttention
from fiftyone_cam.plugin.compare_cam_runs import CompareCamRuns
from fiftyone_cam.plugin.compute_cam import ComputeCam
from fiftyone_cam.plugin.delete_cam_run import DeleteCamRun
from fiftyone_cam.plugin.explain_sample import ExplainSample
from fiftyone_cam.plugin.export_overlays import ExportOverlays
from fiftyone_cam.plugin.localize_from_cam import LocalizeFromCam
from fiftyone_cam.plugin.panel_audit import AuditPanel
from fiftyone_cam.plugin.panel_why import WhyPanel
from fiftyone_cam.plugin.restore_colors import RestoreColors
from fiftyone_cam.plugin.stop_work import StopWork
from fiftyone_cam.plugin.train_gap_classifier import TrainGapClassifier

OPERATORS = [
    ComputeCam,
    ExplainSample,
    AuditAttention,
    LocalizeFromCam,
    CompareCamRuns,
    TrainGapClassifier,
    ExportOverlays,
    DeleteCamRun,
    RestoreColors,
    StopWork,
    AuditPanel,
    WhyPanel,
]
"""Operators and panels, as FiftyOne registers them."""
