"""All operators and panels of the plugin, as FiftyOne registers them."""

from __future__ import annotations

from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.compare_cam_runs import CompareCamRuns
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.delete_cam_run import DeleteCamRun
from fiftyone_cam.plugin.operators.explain_sample import ExplainSample
from fiftyone_cam.plugin.operators.export_overlays import ExportOverlays
from fiftyone_cam.plugin.operators.find_concepts import FindConcepts
from fiftyone_cam.plugin.operators.localize_from_cam import LocalizeFromCam
from fiftyone_cam.plugin.operators.mend import Mend
from fiftyone_cam.plugin.operators.name_concept import NameConcept
from fiftyone_cam.plugin.operators.redraw_heatmaps import RedrawHeatmaps
from fiftyone_cam.plugin.operators.restore_colors import RestoreColors
from fiftyone_cam.plugin.operators.score_attention import ScoreAttention
from fiftyone_cam.plugin.operators.show_boxes import ShowBoxes
from fiftyone_cam.plugin.operators.show_embeddings import ShowEmbeddings
from fiftyone_cam.plugin.operators.stop_work import StopWork
from fiftyone_cam.plugin.operators.train_gap_classifier import TrainGapClassifier
from fiftyone_cam.plugin.operators.what_if import WhatIf
from fiftyone_cam.plugin.panels.audit import AuditPanel
from fiftyone_cam.plugin.panels.concepts import ConceptsPanel
from fiftyone_cam.plugin.panels.why import WhyPanel

OPERATORS = [
    ComputeCam,
    ExplainSample,
    AuditAttention,
    LocalizeFromCam,
    ScoreAttention,
    FindConcepts,
    NameConcept,
    WhatIf,
    Mend,
    ShowBoxes,
    ShowEmbeddings,
    CompareCamRuns,
    TrainGapClassifier,
    ExportOverlays,
    RedrawHeatmaps,
    DeleteCamRun,
    RestoreColors,
    StopWork,
    AuditPanel,
    ConceptsPanel,
    WhyPanel,
]
"""``fiftyone.yml`` lists the names of the same."""
