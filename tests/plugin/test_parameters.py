"""Parameters from Python and agents, who see no form: taken as they are meant, or refused in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fiftyone.operators.executor import ExecutionContext, ValidationContext

from fiftyone_cam.core.names import PLUGIN
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention, object_labels
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.explain_sample import ExplainSample
from fiftyone_cam.plugin.operators.export_overlays import ExportOverlays
from fiftyone_cam.plugin.operators.localize_from_cam import LocalizeFromCam
from fiftyone_cam.plugin.operators.mend import Mend
from fiftyone_cam.plugin.operators.redraw_heatmaps import RedrawHeatmaps
from fiftyone_cam.plugin.operators.show_embeddings import ShowEmbeddings
from fiftyone_cam.plugin.registry import OPERATORS
from tests.helpers.stored_runs import registered_run

OURS = [operator for operator in OPERATORS if issubclass(operator, CamOperator)]


@pytest.fixture(scope="module")
def labelled() -> Iterator[fo.Dataset]:
    """One sample, boxes, and three runs: the newest is the first by name."""
    dataset = fo.Dataset()
    truth = fo.Classification(label="cat")
    things = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
    dataset.add_sample(fo.Sample(filepath="/none.jpg", ground_truth=truth, things=things))
    run = registered_run(dataset, "module", ground_truth="ground_truth")
    run.update(classifier=replace(run.record.classifier, source="module"))
    registered_run(dataset, "old", ground_truth="ground_truth")
    registered_run(dataset, "cam", ground_truth="ground_truth")
    yield dataset
    dataset.delete()


def asked(operator: type[Any], dataset: fo.Dataset, **params: Any) -> tuple[dict[str, Any], list[str]]:
    """The parameters as the operator then takes them, and why FiftyOne refuses them, who asks for no form."""
    instance = operator()
    instance.plugin_name = PLUGIN
    context = ExecutionContext({"dataset_name": dataset.name, "params": params}, operator_uri=instance.uri)
    found = ValidationContext(context, instance.resolve_type(context, "inputs"), instance)
    return context.params, [error.reason for error in found.errors]


@pytest.mark.parametrize(
    ("operator", "params", "words"),
    [
        (LocalizeFromCam, {"key": "camm"}, "there is no 'camm': expected module, old, cam (did you mean cam?)"),
        (LocalizeFromCam, {"threshold": "0.3"}, "found '0.3', expected a number"),
        (LocalizeFromCam, {"threshold": 7}, "found 7, expected a number from 0.01 to 1"),
        (LocalizeFromCam, {"view_target": "HERE"}, "there is no view_target 'HERE': expected BASE_VIEW"),
        (LocalizeFromCam, {"treshold": 0.3}, "there is no parameter 'treshold': expected key, threshold"),
        (RedrawHeatmaps, {"threshold": 0.3}, "there is no parameter 'threshold': expected key, percent, field"),
        (ComputeCam, {"classifier": "small", "ground_truht": "x"}, "(did you mean ground_truth?)"),
        (ComputeCam, {"classifier": 7}, "found 7, expected text"),
        (AuditAttention, {"objects": 7}, "found 7, expected a list"),
        (AuditAttention, {"object_labels": {"cat": 3}}, 'such as {"cat": ["head", "tail"]}'),
        (
            ShowEmbeddings,
            {"key": "module"},
            "the parameter classifier is missing: The record of run module does not say",
        ),
        (Mend, {"key": "module"}, "the parameter classifier is missing: The record of run module does not say"),
        (Mend, {"how": "retrian"}, "expected edit, retrain (did you mean retrain?)"),
        (Mend, {"preview": "yes"}, "found 'yes', expected true or false"),
        (ExplainSample, {}, "pass sample_id"),
        (ExplainSample, {"sample_id": "/none.jpg"}, "no sample of id '/none.jpg'"),
        (ExplainSample, {"sample_id": "0" * 24}, f"no sample of id '{'0' * 24}'"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_expected(
    labelled: fo.Dataset, operator: type[Any], params: dict[str, Any], words: str
) -> None:
    found = asked(operator, labelled, **params)[1]
    assert words in found[0], "FiftyOne tells the first problem alone"
    assert "Invalid" not in str(found)


def test_parameters_are_taken_as_they_are_meant(labelled: fo.Dataset) -> None:
    for objects in ("things", ("things",), ["things"]):
        for labels in ("thing", ["thing"], ("thing",), {"cat": ["thing"]}, '["thing"]', '{"cat": "thing"}'):
            params, problems = asked(AuditAttention, labelled, objects=objects, object_labels=labels)
            assert problems == []
            assert params["objects"] == ["things"]
            assert object_labels(params["object_labels"]) in (["thing"], {"cat": ["thing"]}, {"cat": "thing"})
    params, problems = asked(LocalizeFromCam, labelled, threshold=np.float32(0.5))
    assert (params["threshold"], problems) == (0.5, [])
    assert params["key"] == "cam", "the newest run"
    given = {"classifier": Path("x"), "key": "new", "class_map": {"cat": "cat"}, "device": "cpu", "top_k": 2}
    params, problems = asked(ComputeCam, labelled, **given)
    assert (params["classifier"], problems) == ("x", [])
    params, problems = asked(ExportOverlays, labelled, out_dir=Path("out"))
    assert (params["out_dir"], problems) == ("out", [])


@pytest.mark.parametrize("operator", OURS, ids=lambda operator: operator.operator)
def test_no_parameter_that_an_operator_reads_is_unknown_to_it(labelled: fo.Dataset, operator: type[Any]) -> None:
    source = inspect.getsource(inspect.getmodule(operator))  # type: ignore[arg-type]
    read = set(re.findall(r"params(?:\.get\(|\[)\"(\w+)\"", source))
    assert read
    for name in read - {operator.operator}:
        assert f"no parameter '{name}'" not in str(asked(operator, labelled, **{name: None})[1])
