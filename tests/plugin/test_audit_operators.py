"""The audit's operators and panels as FiftyOne calls them, without a browser."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import pytest
from fiftyone.operators.executor import ExecutionContext, Executor

import fiftyone_cam as focam
from fiftyone_cam.analysis import audit_report
from fiftyone_cam.analysis.split_logits import stored_logits
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.plugin import installed, queries
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention, object_labels
from fiftyone_cam.plugin.operators.compare_cam_runs import CompareCamRuns
from fiftyone_cam.plugin.operators.localize_from_cam import LocalizeFromCam
from fiftyone_cam.plugin.panels.audit import AuditPanel
from fiftyone_cam.plugin.panels.why import WhyPanel
from fiftyone_cam.plugin.plots import mean_maps, region_bars
from fiftyone_cam.plugin.translation_form import parse
from tests.helpers.networks import tiny_gap, write_photos
from tests.helpers.operators import execute

NAMES = ["cat", "dog", "*fish* <b>"]


def network(seed: int = 0) -> focam.Classifier:
    square = focam.Preprocessing((focam.Resize(size=(64, 64)),))
    return focam.load_classifier(tiny_gap(seed=seed), NAMES, preprocessing=square)


@pytest.fixture()
def photos(dataset: fo.Dataset, tmp_path: Path) -> fo.Dataset:
    """Twelve pictures with ground truth, and with boxes: half of the left side is a thing, the right is a wall."""
    for index, path in enumerate(write_photos(tmp_path, 12)):
        boxes = [
            fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5]),
            fo.Detection(label="[wall](x)", bounding_box=[0.5, 0, 0.5, 1]),
        ]
        dataset.add_sample(
            fo.Sample(
                filepath=path,
                ground_truth=fo.Classification(label=NAMES[index % 3]),
                things=fo.Detections(detections=boxes if index else []),
            )
        )
    return dataset


@pytest.fixture()
def computed(photos: fo.Dataset) -> fo.Dataset:
    focam.compute_cam(photos, network(), ground_truth="ground_truth", top_k=3)
    return photos


def context(dataset: fo.Dataset, **params: Any) -> ExecutionContext:
    request = {"dataset_name": dataset.name, "params": params, "extended_selection": None}  # as the App sends it
    return ExecutionContext(request, executor=Executor())


def run(operator: Any, dataset: fo.Dataset, **params: Any) -> str:
    """Execute an operator; what it says in the end."""
    *_, last = execute(operator, dataset, params)
    return shown(last.body.params["results"]["summary"])


def shown(markdown: str) -> str:
    """The text that a person sees of what is escaped."""
    return re.sub(r"\\(\W)", r"\1", markdown)


def refusals(operator: Any, dataset: fo.Dataset, **params: Any) -> list[str]:
    """What a form marks as wrong."""
    properties = operator.resolve_input(context(dataset, **params)).type.properties
    return [str(prop.error_message) for prop in properties.values() if prop.invalid]


def test_the_form_audits_as_python_does(computed: fo.Dataset) -> None:
    form = {"key": "cam", "ground_truth": "ground_truth", "objects": ["things"], "object_labels": "thing"}
    assert refusals(AuditAttention(), computed, **form) == []
    said = run(AuditAttention(), computed, **form, threshold=0.55)
    computed.reload()
    by_form = focam.load_audit(computed, "cam").verdicts
    assert sum(by_form.values()) == 11  # one picture has no boxes
    assert all(f"{n} {word}" in said for word, n in by_form.items())
    assert "1 x no object" in said
    assert said == shown(focam.load_audit(computed, "cam").describe().markdown()) + said[said.index("\n\nThe panel") :]

    focam.audit(computed, "cam", "ground_truth", "things", object_labels=["thing"], threshold=0.55)
    assert focam.load_audit(computed, "cam").verdicts == by_form


def test_the_form_says_what_does_not_match_before_it_runs(computed: fo.Dataset, tmp_path: Path) -> None:
    form = {"key": "cam", "ground_truth": "ground_truth", "objects": ["things"]}
    [said] = refusals(AuditAttention(), computed, **form, class_map='{"horse": "pony"}')
    assert "no class horse" in said
    [said] = refusals(AuditAttention(), computed, **form, class_map='{"cat": "pony"}')
    assert "No label of ground_truth is a word of this translation" in said
    [said] = refusals(AuditAttention(), computed, **form, class_map=str(tmp_path / "nowhere.json"))
    assert "cannot be read" in said
    [said] = refusals(AuditAttention(), computed, **form, object_labels='{"cat": 3}')
    assert "lists of labels" in said

    properties = AuditAttention().resolve_input(context(computed, **form, class_map='{"cat": "dog"}')).type.properties
    assert "2 of 3 labels" in properties["unmatched"].view.label  # some match: a warning, no refusal

    file = tmp_path / "map.json"
    file.write_text('{"cat": "dog"}', encoding="utf-8")
    assert parse(str(file)) == parse('{"cat": "dog"}') == {"cat": "dog"}
    assert object_labels("a, b") == ["a", "b"]
    with pytest.raises(CamError, match="no JSON"):
        object_labels("{a")


def test_localize_and_compare_from_forms(computed: fo.Dataset) -> None:
    said = run(LocalizeFromCam(), computed, key="cam", threshold=0.5)
    computed.reload()
    assert f"**{computed.count('cam_boxes.detections'):,}** boxes" in said
    assert computed.count("cam_boxes.detections") > 0

    assert "only cam" in refusals(CompareCamRuns(), computed)[0]
    other = network(seed=5)
    focam.compute_cam(computed, other, key="other", ground_truth="ground_truth")
    assert "itself" in refusals(CompareCamRuns(), computed, before="cam", after="cam")[0]
    assert refusals(CompareCamRuns(), computed, before="cam", after="other") == []
    said = run(CompareCamRuns(), computed, before="cam", after="other")
    found = focam.load_comparison(computed, "cam", "other").classes[-1]
    [total] = [line for line in said.splitlines() if line.startswith("| all ")]
    cells = [cell.strip() for cell in total.strip("|").split("|")]
    assert cells[1:6] == [str(n) for n in (found.samples, found.same, found.fixed, found.broken, found.changed)]


def test_the_panel_says_what_is_missing(photos: fo.Dataset) -> None:
    def what(samples: Any = photos, key: str | None = "cam") -> str | None:
        found = queries.missing_for_audit(samples, key)
        return found and found.what

    assert what(key=None) == "run"
    focam.compute_cam(photos, network(), ground_truth="ground_truth")
    assert what() == "audit"
    focam.audit(photos)
    assert what() == "objects"
    focam.audit(photos, objects="things", object_labels=["thing"])
    assert what() is None
    assert what(photos.match({"cam_spread": -1})) == "samples"
    assert what(photos.select_fields("things")) == "samples"
    assert what(photos.to_patches("things")) == "samples"
    focam.compute_cam(photos, network(), ground_truth="ground_truth", overwrite=True)
    assert what() in ("audit", "fresh")


def test_stored_logits_add_up(computed: fo.Dataset) -> None:
    focam.audit(computed, objects="things", object_labels=["thing"])
    classifier = network()
    for sample_id in computed.values("id")[:4]:
        stored = stored_logits(computed, sample_id, "cam")
        again = focam.split_logits(computed, sample_id, classifier, top_k=3)
        assert [part["label"] for part in stored] == [part["label"] for part in again]
        for part, other in zip(stored, again, strict=True):
            total = (part["evidence_in"] or 0) + part["evidence_out"] + part["bias"]
            assert total == pytest.approx(part["logit"], abs=1e-4)
            assert part["evidence_in"] == pytest.approx(other["evidence_in"], abs=1e-4)
            assert part["confidence"] == pytest.approx(other["confidence"], abs=1e-5)


def test_bars_add_up_to_the_mean_of_all() -> None:
    rng = np.random.default_rng(3)
    labels = [f"class {index}" for index in range(12)]  # more than have a colour
    sizes = {label: int(rng.integers(1, 9)) for label in labels}
    shares = {(label, region): rng.random() for label in labels for region in ("grass", "sky")}
    n = sum(sizes.values())
    rows = [
        audit_report.RegionRow(label, region, sizes[label], 1, share, 0.1) for (label, region), share in shares.items()
    ]
    means = {r: sum(shares[label, r] * sizes[label] for label in labels) / n for r in ("grass", "sky")}
    rows += [audit_report.RegionRow(None, region, n, 1, mean, 0.1) for region, mean in means.items()]
    traces = region_bars(rows, False, 10)
    bars = [trace["x"] for trace in traces if trace["type"] == "bar"]
    assert dict(zip(traces[0]["y"], np.sum(bars, axis=0), strict=True)) == pytest.approx(means)
    [area] = [trace["x"] for trace in traces if trace["type"] == "scatter"]
    assert area == [0.1, 0.1]


def test_what_is_drawn_of_many_says_so() -> None:
    grid = np.ones((2, 2), np.float32)
    maps = [
        audit_report.MeanMap("cat", grid, 900, 300, grid, 20, 20),
        audit_report.MeanMap("dog", grid, 5, 5, None, 0, 0),
    ]
    traces, drawn, layout = mean_maps(maps)
    titles = [note["text"] for note in layout["annotations"]]
    assert titles == ["cat<br>300 of 900", "wrong<br>20", "dog<br>5", "wrong<br>0"]
    assert len(traces) == len(drawn) == 3
    assert [some for *_, some in drawn] == [True, False, False]

    body = {"samples": 50_000, "verdict": False, "classes": 99, "accuracy": None, "inside": None, "area": None}
    body |= {"points": 2000, "audited": 50_000, "threshold": 0.6, "regions": 40, "errors": True, "looked": 1234}
    panel, ctx = _panel(fo.Dataset(), body=body, maps=True, drawn=drawn, layout=layout)
    shown = panel.render(ctx).type.properties
    said = " ".join(str(shown[name].view.description) for name in shown if name.startswith("heading_"))
    for words in (
        "The 50 most frequent of 99",
        "10 largest of 40",
        "over 1,234 wrong predictions",
        "2,000 of 50,000 samples, drawn at random",
        "6 most frequent of 99 classes",
        "averaged, they are drawn at random",
    ):
        assert words in said


def _panel(dataset: fo.Dataset, view: fo.DatasetView | None = None, **state: Any) -> tuple[AuditPanel, Any]:
    stages: Sequence[Any] = [] if view is None else view._serialize(include_uuids=False)
    request = {
        "dataset_name": dataset.name,
        "view": stages,
        "params": {"panel_id": "p", "panel_state": dict(state)},
    }
    return AuditPanel(), ExecutionContext(request, executor=Executor())


def test_the_panel_keeps_counting_where_one_came_from(computed: fo.Dataset) -> None:
    focam.audit(computed, objects="things", object_labels=["thing"])
    panel, ctx = _panel(computed)
    panel.on_load(ctx)
    counted = ctx.panel.state.body
    assert counted["samples"] == 12
    [verdict, *_] = [word for word, n in focam.load_audit(computed, "cam").verdicts.items() if n]
    ctx.params["verdict"] = verdict
    panel.show_verdict(ctx)
    state = dict(ctx.panel_state)

    shown = focam.load_audit(computed, "cam").verdict_view(verdict)  # the App answers after the panel has set its view
    panel, ctx = _panel(computed, shown, **state)
    panel.on_change_view(ctx)
    assert ctx.panel.state.body == counted
    assert ctx.panel.state.filter == verdict
    ctx.request_params["dataset_name"] = "none such"  # nothing is read for what the panel has set itself
    panel, again = AuditPanel(), ExecutionContext(ctx.request_params, executor=Executor())
    panel.on_change_view(again)
    assert again.panel.state.body == counted
    again.params["__method__"] = "on_change_view"  # and nothing drawn, as the App calls it
    panel.execute(again)
    assert again.executor.to_json()["requests"] == []

    panel, ctx = _panel(computed, computed.limit(5), **state)  # a person's view is counted, and drawn
    ctx.params["__method__"] = "on_change_view"
    panel.execute(ctx)
    assert "show_panel_output" in str(ctx.executor.to_json()["requests"][-1])
    assert ctx.panel.state.body["samples"] == 5
    assert ctx.panel.state.filter is None


def test_the_panel_counts_anew_where_its_run_has_changed(computed: fo.Dataset) -> None:
    focam.compute_cam(computed, network(seed=5), key="other", ground_truth="ground_truth")
    for key in ("cam", "other"):
        focam.audit(computed, key, objects="things", object_labels=["thing"])
    panel, ctx = _panel(computed)
    panel.on_load(ctx)
    assert (ctx.panel.state.keys, ctx.panel.state.key) == (["cam", "other"], "other")
    ctx.params["value"] = "cam"
    panel.pick(ctx)
    assert ctx.panel.state.body["verdicts"] == focam.load_audit(computed, "cam").verdicts

    def click(before: Any) -> Any:
        _, ctx = _panel(computed, **dict(before.panel_state))
        ctx.params["verdict"] = "trusted"
        panel.show_verdict(ctx)
        return ctx

    ctx = click(ctx)
    assert ctx.panel.state.filter == "trusted"
    focam.audit(computed, "cam")  # of no objects: there is no verdict any more
    ctx = click(ctx)
    assert (ctx.panel.state.missing, ctx.panel.state.body["verdict"]) == ("objects", False)
    focam.delete_run(computed, "cam")
    state = click(ctx).panel.state
    assert (state.key, state.missing) == ("other", None)
    assert state.body["verdicts"] == focam.load_audit(computed, "other").verdicts


def test_a_panel_waits_while_another_thread_imports(computed: fo.Dataset) -> None:
    """PyTorch, imported by two threads at once, meets its own beginning."""
    sample = str(computed.first().id)
    request = {"dataset_name": computed.name, "current_sample": sample, "params": {"panel_id": "p", "panel_state": {}}}
    ctx = ExecutionContext(request, executor=Executor())
    opening = threading.Thread(target=WhyPanel().on_load, args=(ctx,))
    with installed.IMPORTING:
        opening.start()
        opening.join(1)
        assert opening.is_alive()
    opening.join(60)
    assert not opening.is_alive()
    assert ctx.panel.state.parts


def test_the_plugin_loads_without_torch() -> None:
    code = "import sys, fiftyone_cam.plugin.registry, fiftyone_cam.plugin.queries; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
