"""Concepts in the App without a browser: operators answer as Python does, and the panel draws what was found."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fiftyone.operators.executor import ExecutionContext, Executor

import fiftyone_cam as focam
from fiftyone_cam.plugin import crops
from fiftyone_cam.plugin.operators.base import ALONE
from fiftyone_cam.plugin.operators.find_concepts import FindConcepts
from fiftyone_cam.plugin.operators.name_concept import NameConcept
from fiftyone_cam.plugin.operators.what_if import WhatIf
from fiftyone_cam.plugin.panels import concepts_drawing
from fiftyone_cam.plugin.panels.audit import AuditPanel
from fiftyone_cam.plugin.panels.concepts import ConceptsPanel
from fiftyone_cam.plugin.panels.concepts_drawing import ROWS, headline, says
from fiftyone_cam.runs.concept_record import Concept, PixelCheck
from tests.helpers.forms import form, valid
from tests.helpers.networks import small_checkpoint, write_photos
from tests.helpers.operators import execute

COUNT = 11


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "small")


@pytest.fixture()
def computed(photos: fo.Dataset, checkpoint: Path) -> fo.Dataset:
    """A run as the App makes it: its record says where the classifier is."""
    run = focam.compute_cam(photos, checkpoint, ground_truth="ground_truth", progress=False)
    run.update(loaded_from=[str(checkpoint), {}])
    return photos


@pytest.fixture()
def found(computed: fo.Dataset, checkpoint: Path) -> fo.Dataset:
    focam.find_concepts(computed, "cam", checkpoint, count=COUNT, progress=False)
    return computed


def answer(operator: Any, dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """What an operator answers who has no App, through JSON."""
    context = ExecutionContext({"dataset_name": dataset.name, "params": params}, executor=Executor())
    operator.resolve_input(context)  # the form's defaults
    answered: dict[str, Any] = json.loads(json.dumps(operator.execute(context)))
    dataset.reload()
    return answered


def panel(dataset: fo.Dataset, view: fo.DatasetView | None = None, **params: Any) -> tuple[ConceptsPanel, Any]:
    stages = [] if view is None else view._serialize(include_uuids=False)
    state = params.pop("state", {})
    request = {
        "dataset_name": dataset.name,
        "view": stages,
        "params": {"panel_id": "p", "panel_state": dict(state), **params},
    }
    return ConceptsPanel(), ExecutionContext(request, executor=Executor())


def triggers(ctx: Any, name: str) -> list[dict[str, Any]]:
    """What a panel asked the App to do, of one kind."""
    asked = ctx.executor.to_json()["requests"]
    return [request["params"] for request in asked if request["operator_uri"].split("/")[-1] == name]


def test_the_form_knows_the_classifier_and_the_answer_is_the_report(computed: fo.Dataset, checkpoint: Path) -> None:
    assert "classifier" not in form(FindConcepts, computed, key="cam")
    assert valid(FindConcepts, computed, key="cam")
    assert not valid(FindConcepts, computed, key="cam", class_map="{")
    answered = answer(FindConcepts(), computed, count=4)  # the key, and the rest, by the form's defaults
    report = focam.load_concepts(computed, "cam")
    assert (answered["key"], answered["field"]) == ("cam", "cam_concepts")
    assert (answered["samples"], answered["judged"], answered["errors"]) == (12, 12, report.errors)
    assert [row["name"] for row in answered["concepts"]] == [concept.name for concept in report.concepts]
    assert [row["net"] for row in answered["concepts"]] == [concept.net for concept in report.concepts]
    by_python = focam.find_concepts(computed, "cam", checkpoint, count=4, progress=False)
    assert [vars(concept) for concept in by_python.concepts] == [vars(concept) for concept in report.concepts]

    focam.load_run(computed, "cam").update(loaded_from=None)  # a module, made in Python
    assert form(FindConcepts, computed, key="cam")["classifier"] is None


def test_in_the_app_the_panel_opens_at_the_end(computed: fo.Dataset) -> None:
    """And one that is open already is drawn anew."""
    spaces = fo.Space(children=[fo.Panel(type="Samples"), fo.Panel(type="cam_concepts")]).to_dict()
    params = {"key": "cam", "count": 4, ALONE: True}
    *_, shown, last = (message.body for message in execute(FindConcepts(), computed, params, spaces=spaces))
    *_, opened, drawn = shown.params["operators"]
    assert (opened[0], opened[1]["name"]) == ("open_panel", "cam_concepts")
    assert drawn[1] == {"panel_id": spaces["children"][1]["component_id"], "__method__": "on_load"}
    assert "12 samples, 4 concepts" in last.params["results"]["summary"].replace("\\", "")


def test_what_if_answers_as_python_does(found: fo.Dataset) -> None:
    assert not valid(WhatIf, found, key="cam", without=["nothing"])
    assert not valid(WhatIf, found, key="cam", without=["concept 1"], into="a b")
    answered = answer(WhatIf(), found, without=["concept 1", "concept 2"], into="less")
    python = focam.what_if(found, "cam", without=["concept 1", "concept 2"], into="again")
    for name in ("same", "changed", "fixed", "broken", "accuracy", "accuracy_before"):
        assert answered[name] == getattr(python, name), name
    assert found.values("cam_less.label") == found.values("cam_again.label")
    assert sum(answered[name] for name in ("same", "changed", "fixed", "broken")) == 12


def test_a_name_is_given_once(found: fo.Dataset) -> None:
    assert not valid(NameConcept, found, key="cam", concept="concept 1", name="concept 2")
    answered = answer(NameConcept(), found, key="cam", concept="concept 2", name="*snow*")
    assert answered["names"][:2] == ["concept 1", "*snow*"]
    assert "concept 2" not in found.count_values("cam_concepts.detections.label")


def test_forms_say_that_there_are_no_concepts(computed: fo.Dataset) -> None:
    for operator in (WhatIf, NameConcept):
        assert "find concepts first" in form(operator, computed)["none"]


def test_the_panel_has_a_row_and_crops_for_each_concept(found: fo.Dataset) -> None:
    report = focam.load_concepts(found, "cam")
    shown, ctx = panel(found)
    shown.on_load(ctx)
    state = ctx.panel.state
    assert (state.missing, state.body["concepts"], state.body["errors"]) == (None, COUNT, report.errors)
    assert [row["name"] for row in state.body["rows"]] == [concept.name for concept in report.concepts[:ROWS]]
    pictures = ctx.panel.data._data
    for i, concept in enumerate(report.concepts[:ROWS]):
        examples = concept.examples[:6]
        assert state.body["rows"][i]["samples"] == [example.sample for example in examples]
        for j, example in enumerate(examples):
            url = pictures[f"row_{i}"]["crops"][f"crop_{j}"]
            pixels = cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR_RGB)
            again = crops.crop(found[example.sample].filepath, tuple(example.box))
            assert np.abs(pixels.astype(int) - again).mean() < 6  # a JPEG of it
    drawn = shown.render(ctx)
    json.dumps(drawn.to_json())
    assert [name for name in drawn.type.properties if name.startswith("row_")] == [f"row_{i}" for i in range(ROWS)]

    shown, ctx = panel(found, state=dict(ctx.panel_state), page=1)
    shown.turn(ctx)
    assert [row["name"] for row in ctx.panel.state.body["rows"]] == [c.name for c in report.concepts[ROWS:]]
    last = shown.render(ctx).type.properties["pages"].type.properties
    assert set(last) == {"previous", "words"}

    shown, ctx = panel(found, state=dict(ctx.panel_state), value="share")
    shown.sort(ctx)
    assert [row["name"] for row in ctx.panel.state.body["rows"]] == [c.name for c in report.by_share[:ROWS]]
    assert ctx.panel.state.page == 0
    assert shown.render(ctx).type.properties["order"].type.values == list(concepts_drawing.ORDERS)


def test_its_buttons_set_the_view(found: fo.Dataset) -> None:
    report = focam.load_concepts(found, "cam")
    name = report.concepts[0].name
    shown, ctx = panel(found, found.limit(10))
    shown.on_load(ctx)
    state = dict(ctx.panel_state)

    def view(method: str) -> Any:
        shown, ctx = panel(found, found.limit(10), state=state, concept=name)
        getattr(shown, method)(ctx)
        [asked] = triggers(ctx, "set_view")
        assert ctx.panel.state.filter == name
        after = fo.DatasetView._build(found, asked["view"])
        for told in (dict(ctx.panel_state), state):  # the App may tell of it with the state from before
            _, came = panel(found, after, state=dict(told))
            shown.on_change_view(came)
            assert came.panel.state.filter == name  # it is the panel's own view
            assert fo.DatasetView._build(found, came.panel.state.before) == found.limit(10)
        shown.back(came)
        assert fo.DatasetView._build(found, triggers(came, "set_view")[0]["view"]) == found.limit(10)
        return after, ctx

    holds, _ = view("show")
    assert holds.values("id") == report.view(name).values("id")
    assert set(holds.count_values("cam_concepts.detections.label")) == {name}
    patches, _ = view("patches")
    assert len(patches) == found.count_values("cam_concepts.detections.label")[name]
    on_map, ctx = view("embeddings")
    assert on_map.values("id") == holds.values("id")
    assert triggers(ctx, "open_panel")[0]["name"] == "Embeddings"
    assert "lit up" in shown.render(ctx).type.properties["hint"].default
    assert "The map has" not in ctx.panel.state.hint  # all of it
    report = focam.load_concepts(found, "cam")
    report.record.mapped = report.record.places - 2
    report.run.update(concepts=report.record)
    shown.on_load(ctx)
    assert ctx.panel.state.hint is None
    shown.embeddings(ctx)
    assert f"The map has {report.record.mapped} of {report.record.places} places" in ctx.panel.state.hint


def test_a_view_is_counted_on_request(found: fo.Dataset) -> None:
    errors = found.match(F("cam_prediction.label") != F("ground_truth.label"))
    shown, ctx = panel(found, errors)
    shown.on_load(ctx)
    assert ctx.panel.state.body["judged"] == 12
    assert "count_view" in shown.render(ctx).type.properties["scope"].type.properties
    shown.count_view(ctx)
    body = ctx.panel.state.body
    assert (body["judged"], body["errors"], body["samples"]) == (len(errors),) * 3
    assert [row["name"] for row in body["rows"]] == [c.name for c in focam.load_concepts(errors, "cam").concepts[:ROWS]]
    shown.count_all(ctx)
    assert ctx.panel.state.body["judged"] == 12


def test_the_panel_says_what_is_missing(photos: fo.Dataset, checkpoint: Path, tmp_path: Path) -> None:
    def missing() -> tuple[str | None, bool]:
        shown, ctx = panel(photos)
        shown.on_load(ctx)
        shown.render(ctx)
        return ctx.panel.state.missing, ctx.panel.state.body is not None

    assert missing() == ("run", False)
    focam.compute_cam(photos, checkpoint, ground_truth="ground_truth", progress=False)
    assert missing() == ("concepts", False)

    def stop(bar: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        focam.find_concepts(photos, "cam", checkpoint, count=3, progress=stop)
    assert missing() == ("rest", False)
    focam.find_concepts(photos, "cam", checkpoint, count=3, progress=False)
    assert missing() == (None, True)
    photos.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 1, seed=7)])
    focam.compute_cam(photos, checkpoint, ground_truth="ground_truth", progress=False)
    assert missing() == ("fresh", True)


def test_what_is_gone_costs_no_more_than_itself(found: fo.Dataset) -> None:
    report = focam.load_concepts(found, "cam")
    shown, ctx = panel(found)
    shown.on_load(ctx)
    first, second = (example.sample for example in report.concepts[0].examples[:2])
    Path(found[second].filepath).unlink()
    crops._crop.cache_clear()
    found.delete_samples([first])
    shown, again = panel(found, state=dict(ctx.panel_state))
    shown.refresh(again)
    for row in again.panel.state.body["rows"]:
        assert not {first, second} & set(row["samples"])
    focam.delete_concepts(found, "cam")
    shown, last = panel(found, state=dict(ctx.panel_state), concept="concept 1")
    shown.show(last)
    assert (last.panel.state.missing, triggers(last, "set_view")) == ("concepts", [])


def test_the_audit_shows_the_first_concepts(found: fo.Dataset) -> None:
    focam.audit(found, "cam", progress=False)
    _, ctx = panel(found)
    audit = AuditPanel()
    audit.on_load(ctx)
    concepts = focam.load_concepts(found, "cam").concepts[:3]
    assert ctx.panel.state.body["concepts"] == [[concept.name, headline(concept)] for concept in concepts]
    drawn = audit.render(ctx).type.properties
    assert all(concept.name in drawn["concepts_words"].default.replace("\\", "") for concept in concepts)
    assert "open_concepts" in drawn


def test_numbers_in_words() -> None:
    concept = Concept(name="x", number=0, present=0.204, share=0.051, repaired=7, broken=2, p=0.003)
    assert headline(concept) == (
        "Removing it would put **7 errors right** and cost **2 hits**. Unlikely to be chance (p = 0.003)."
    )
    concept.p, concept.interval = 0.0005, [-1.2, 9.0]
    assert headline(concept).endswith("but the difference could be none (95%: -1 to +9).")
    concept.interval = [1.0, 9.0]
    assert headline(concept).endswith("Unlikely to be chance (p < 0.001).")
    concept.p = 0.05
    assert headline(concept).endswith("Could be chance (p = 0.050).")
    concept.repaired, concept.broken = 1, 1
    assert headline(concept) == "Removing it would put **1 error right** and cost **1 hit**."
    concept.repaired = concept.broken = 0
    assert headline(concept) == "Removing it would put no error right, and cost no hit."
    concept.blame, concept.lift, concept.interval = 0.12, 2.04, [-1.2, 9.0]
    concept.speaks_for, concept.pixels = ["a_b"], PixelCheck(changes=12, changed=7, stays=38, stayed=36)
    assert says(concept) == (
        "Present in 20% of the photos · 5.1% of the evidence, 12.0% of the blame for errors · errors are 2.0 times as "
        "frequent where it speaks · 95% interval of the difference: -1 to +9 · speaks for *a\\_b* · with its places "
        "blurred, the network did what the sum said in 43 of 50 photos"
    )
    concept.blame = 1.2
    assert "120.0% of the blame for errors, against which others speak · " in says(concept)
    concept.blame = -0.1
    assert "no blame for errors: there it speaks for the true class · " in says(concept)
    bare = Concept(name="x", number=0, present=1.0, share=0.5)
    assert headline(bare) == "It holds **50.0% of the evidence** for what is predicted."
    assert says(bare) == "Present in 100% of the photos"
    assert concepts_drawing.counted(1200, "hit") == "1,200 hits"
