"""Mend this… without a browser: its form, its preview, and what it writes, for the App and for callers without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
from fiftyone.operators.executor import ExecutionContext, Executor

import fiftyone_cam as focam
from fiftyone_cam.plugin.operators.mend import Mend
from fiftyone_cam.plugin.panels.audit import AuditPanel
from fiftyone_cam.plugin.panels.concepts import ConceptsPanel
from fiftyone_cam.runs import catalog
from tests.helpers.forms import begins_with, form, valid
from tests.helpers.mendable import COUNT, mendable
from tests.helpers.operators import execute
from tests.helpers.stored_runs import registered_run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    dataset = fo.Dataset()
    mendable(dataset, tmp_path_factory.mktemp("mendable"))
    yield dataset
    dataset.delete()


@pytest.fixture()
def mended(found: fo.Dataset) -> Iterator[fo.Dataset]:
    """The same, without what a test has added."""
    yield found
    for key in catalog.list_runs(found):
        if key != "cam":
            focam.delete_run(found, key)


def answer(dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """What it answers a caller without an App, through JSON."""
    context = ExecutionContext({"dataset_name": dataset.name, "params": params}, executor=Executor())
    Mend().resolve_input(context)  # the form's defaults
    answered: dict[str, Any] = json.loads(json.dumps(Mend().execute(context)))
    dataset.reload()
    return answered


def test_the_form_is_valid_from_the_beginning_and_says_what_is_wrong(found: fo.Dataset, tmp_path: Path) -> None:
    first = focam.load_concepts(found).concepts[0].name
    begins = begins_with(Mend, found)
    assert (begins["how"], begins["remove"], begins["preview"]) == ("edit", [first], True)
    assert "into" not in begins
    begins = begins_with(Mend, found, preview=False)
    assert begins["into"] == "cam_mended"
    for params in ({}, {"preview": False}, {"how": "retrain"}, {"how": "retrain", "groups": [first]}):
        assert valid(Mend, found, **{**begins_with(Mend, found, **params), **params})
    (tmp_path / "there").write_text("something")
    for params, field, words in (
        ({"remove": ["nothing"]}, "remove", "no concept 'nothing'"),
        ({"remove": []}, "remove", "no concept is chosen"),
        ({"preview": False, "into": "cam"}, "into", "there is a run cam already"),
        ({"preview": False, "out_dir": str(tmp_path)}, "out_dir", "holds something already"),
    ):
        assert words in form(Mend, found, **params)[field]
        assert not valid(Mend, found, **params)


def test_a_run_without_concepts_has_its_last_layer_trained(dataset: fo.Dataset) -> None:
    dataset.add_sample(fo.Sample(filepath="/none.jpg", truth=fo.Classification(label="cat")))
    assert "compute class activation maps first" in form(Mend, dataset)["none"]
    registered_run(dataset, ground_truth="truth")
    assert begins_with(Mend, dataset)["how"] == "retrain"
    assert "find concepts first" in form(Mend, dataset, how="edit")["remove"]
    dataset.add_sample_field("things", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    assert "choose Objects" in form(Mend, dataset, off_object=1)["off_object"]


def test_a_preview_writes_nothing_and_offers_the_rest(mended: fo.Dataset) -> None:
    fields, first = set(mended.get_field_schema()), focam.load_concepts(mended).concepts[0].name
    params = {**begins_with(Mend, mended), "key": "cam"}
    *_, last = (message.body for message in execute(Mend(), mended, params))
    mended.reload()
    assert (set(mended.get_field_schema()), catalog.list_runs(mended)) == (fields, ["cam"])
    said = last.params["results"]["summary"].replace("\\", "")
    expected = focam.edit_head(
        focam.load_run(mended, "cam").record.loaded_from[0], focam.load_concepts(mended), [first]
    )
    assert said.startswith(f"**{expected.preview.describe().title}**")
    offered = last.params["outputs"]["type"]["properties"]["offer"]["view"]
    assert offered["params"]["operator"].endswith("/mend")
    assert offered["params"]["params"]["preview"] is False
    assert valid(Mend, mended, **{**offered["params"]["params"], **begins_with(Mend, mended, preview=False)})


def test_without_an_app_all_of_it_is_done_and_answered(mended: fo.Dataset, tmp_path: Path) -> None:
    first = focam.load_concepts(mended).concepts[0].name
    answered = answer(mended, remove=[first], out_dir=str(tmp_path / "out"))
    checkpoint = focam.load_run(mended, "cam").record.loaded_from[0]
    expected = focam.edit_head(checkpoint, focam.load_concepts(mended), [first])
    assert expected.origin["edit"]["strength"] > 0
    assert answered["summary"] == expected.preview.describe().title
    assert answered["overall"]["repaired"] == expected.preview.overall.repaired > 0
    assert [group["name"] for group in answered["groups"]] == [group.name for group in expected.preview.groups]
    run = focam.load_run(mended, "cam_mended")
    assert (answered["key"], answered["folder"]) == ("cam_mended", str(tmp_path / "out"))
    assert answered["accuracy"] == run.record.accuracy > focam.load_run(mended, "cam").record.accuracy
    assert run.certificate < 1e-5
    assert focam.load_classifier(answered["folder"]).fingerprint == expected.fingerprint == run.record.classifier.sha256
    assert run.record.loaded_from == [answered["folder"], {}]
    assert run.record.comparisons["cam"].groups == [first]
    assert {"cam_eval", "cam_mended_eval"} <= set(mended.list_evaluations())
    assert {name.split(": ")[1] for name in mended.distinct("cam_mended_vs_cam_group")} <= {
        f"with {first}",
        f"without {first}",
    }


def test_in_the_app_maps_before_and_after_are_seen_beside_each_other(mended: fo.Dataset, tmp_path: Path) -> None:
    first = focam.load_concepts(mended).concepts[0].name
    params = {"key": "cam", "how": "edit", "remove": [first], "preview": False, "into": "better",
              "out_dir": str(tmp_path / "out")}  # fmt: skip
    *_, last = (message.body for message in execute(Mend(), mended, params))
    results = last.params["results"]
    mended.reload()
    fixed = mended.load_saved_view("better vs cam fixed")
    assert len(fixed) > 0
    sample = fixed.first()
    before, after = sample.cam_prediction.label, sample.better_prediction.label
    assert results["fixed_0_words"].replace("\\", "") == f"**fixed: {before} before, {after} after**"
    assert results["fixed_0"].startswith("data:image/jpeg;base64,")
    assert "with a map" not in results["summary"]
    assert "worst group" in results["summary"]


def test_the_last_layer_is_trained_over_groups(mended: fo.Dataset, tmp_path: Path) -> None:
    first = focam.load_concepts(mended).concepts[0].name
    preview = answer(mended, how="retrain", groups=[first], preview=True)
    assert (preview["key"], preview["folder"]) == (None, None)
    assert preview["summary"].startswith("Last layer trained anew")
    answered = answer(mended, how="retrain", groups=[first], into="trained", out_dir=str(tmp_path / "out"))
    assert answered["summary"] == preview["summary"]
    details = focam.load_run(mended, "trained").record.classifier.details
    assert details["retrained"]["groups"] == [first]


def test_panels_lead_to_it(found: fo.Dataset) -> None:
    first = focam.load_concepts(found).concepts[0].name
    things = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
    found.set_values("things", [things.copy() for _ in range(COUNT)])
    focam.audit(found, "cam", "ground_truth", "things", object_labels=["thing"], progress=False)
    for panel, asked in ((ConceptsPanel(), {"concept": first}), (AuditPanel(), {})):
        ctx = ExecutionContext(
            {"dataset_name": found.name, "view": [], "params": {"panel_id": "p", "panel_state": {}, **asked}},
            executor=Executor(),
        )
        panel.on_load(ctx)
        drawn = json.dumps(panel.render(ctx).to_json())
        assert "Mend this\\u2026" in drawn
        panel.mend(ctx)
        [prompt] = [r["params"] for r in ctx.executor.to_json()["requests"] if "prompt" in r["operator_uri"]]
        assert prompt["operator_uri"].endswith("/mend")
        assert valid(Mend, found, **{**begins_with(Mend, found, **prompt["params"]), **prompt["params"]})
