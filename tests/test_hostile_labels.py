"""Labels that a path, a page or a database could stumble over are stored and shown as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fiftyone as fo
import pytest
from fiftyone.operators.executor import ExecutionContext, Executor

import fiftyone_cam as focam
from fiftyone_cam.analysis.export_overlays import export_overlays
from fiftyone_cam.core.tables import escape_markdown
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.explain_sample import ExplainSample
from fiftyone_cam.plugin.panels.audit import AuditPanel
from fiftyone_cam.plugin.panels.why import WhyPanel
from tests.helpers.networks import SQUARE, tiny_gap, write_photos
from tests.helpers.operators import context_of, execute

HOSTILE = [
    "../../x",
    "<script>alert(1)</script>",
    "y" * 10_000,
    "🐈‍⬛\u202egnp.exe",
    "a\nb\r\n# c",
    "$set",
    "St. Bernard",
    "[x](javascript:alert(1))",
    "{0.__class__} %(x)s %{y}",
]
"""Labels that a path, a page, a database, a table or a format string could stumble over."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    """Photos with hostile labels as truth, as classes and as places; computed and audited."""
    dataset = fo.Dataset()
    for index, path in enumerate(write_photos(tmp_path_factory.mktemp("hostile"), 18)):
        label = HOSTILE[index % len(HOSTILE)]
        box = fo.Detection(label=label, bounding_box=[0, 0, 0.5, 0.5])
        wall = fo.Detection(label=HOSTILE[(index + 1) % len(HOSTILE)], bounding_box=[0.5, 0, 0.5, 1])
        dataset.add_sample(
            fo.Sample(
                filepath=path,
                ground_truth=fo.Classification(label=label),
                things=fo.Detections(detections=[box, wall]),
            )
        )
    classifier = focam.load_classifier(tiny_gap(len(HOSTILE)), HOSTILE, preprocessing=SQUARE)
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth", top_k=3)
    focam.audit(dataset, "cam", "ground_truth", "things")
    yield dataset
    dataset.delete()


def test_hostile_labels_are_stored_and_filtered_as_they_are(hostile):
    assert set(hostile.distinct("cam_prediction.label")) <= set(HOSTILE)
    assert set(hostile.distinct("cam_top.classifications.label")) <= set(HOSTILE)
    assert hostile.count("cam_heatmap") == 18
    assert focam.load_run(hostile, "cam").classes == HOSTILE
    for label in hostile.distinct("cam_prediction.label"):
        found = hostile.match(fo.ViewField("cam_prediction.label") == label)
        assert len(found) == hostile.values("cam_prediction.label").count(label)
    assert len(str(focam.load_run(hostile, "cam"))) < 5000


def test_hostile_labels_reach_no_file_name(hostile, tmp_path):
    out = tmp_path / "deep" / "out"
    written = export_overlays(hostile, "cam", out, progress=False)
    assert written.written == 18
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}
    assert all(path.suffix in (".png", ".csv") and len(path.name) < 120 for path in out.iterdir())


def test_hostile_labels_are_text_in_summaries_and_forms(hostile):
    said = str(focam.load_audit(hostile, "cam"))
    assert "Traceback" not in said
    for operator, params in (
        (AuditAttention(), {"key": "cam", "ground_truth": "ground_truth", "objects": ["things"]}),
    ):
        *_, last = execute(operator, hostile, params)
        words = last.body.params["results"]["summary"]
        assert "<script>" not in words.replace("\\<", "")
        assert "](javascript" not in words
        assert len(words) < 10_000
    for label in HOSTILE:
        shown = escape_markdown(label)
        assert "\n" not in shown
        assert len(shown) <= 610
        assert "<" not in shown.replace("\\<", "")
    context = context_of(hostile, {"key": "cam"}, current_sample=hostile.first().id)
    assert json.dumps(ExplainSample().resolve_type(context, "inputs").to_json())


def strings(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every string in plain data, with the names that lead to it."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from strings(entry, (*where, str(name)))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from strings(entry, where)


@pytest.mark.parametrize("panel", [AuditPanel, WhyPanel])
def test_hostile_labels_are_text_in_the_panels(hostile, panel):
    """What a panel sends to the browser: Plotly reads names, ticks and annotations as HTML, Markdown is Markdown."""
    for sample in hostile.limit(9):
        request = {"dataset_name": hostile.name, "current_sample": sample.id}
        request["params"] = {"panel_id": "p", "panel_state": {}}
        context = ExecutionContext(request, executor=Executor())
        instance = panel()
        instance.on_load(context)
        if panel is AuditPanel:
            instance.toggle_maps(context)
        data, state = context.panel.data._data, dict(context.panel.state._data)
        assert not state.get("missing"), state
        drawn = [text for where, text in strings([data, state.get("layout")]) if {"name", "y", "text"} & set(where)]
        assert drawn
        assert all("<" not in text.replace("<br>", "") and len(text) < 200 for text in drawn)
        shown = instance.render(context).to_json()
        written = [text for where, text in strings(shown) if "MarkdownView" in str(where) or where[-1] == "label"]
        assert all(len(text) < 1000 for text in written if text not in HOSTILE)
        json.dumps([data, state, shown])
