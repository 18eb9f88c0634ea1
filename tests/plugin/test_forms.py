"""The forms: drawn without torch, right before anything is computed, and of the same words as the SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
import yaml
from fiftyone.operators.executor import ExecutionContext

import fiftyone_cam as focam
from fiftyone_cam.core.names import PRECISIONS
from fiftyone_cam.engines.settings import ENGINES
from fiftyone_cam.plugin import compute_form, installed, source_forms
from fiftyone_cam.plugin import model_sources as sources
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam, chosen_engine, engine_params
from fiftyone_cam.plugin.operators.delete_cam_run import DeleteCamRun
from fiftyone_cam.plugin.operators.explain_sample import ExplainSample
from fiftyone_cam.plugin.operators.train_gap_classifier import TrainGapClassifier
from fiftyone_cam.plugin.registry import OPERATORS
from fiftyone_cam.runs.record import Counts
from tests.helpers.forms import begins_with, form, required, valid
from tests.helpers.stored_runs import registered_run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture()
def labelled(dataset: fo.Dataset) -> fo.Dataset:
    dataset.add_samples(
        fo.Sample(
            filepath=f"/nowhere/{label}.jpg",
            ground_truth=fo.Classification(label=label),
            boxes=fo.Detections(),
            taken_heatmap="mine",
        )
        for label in ("cat", "dog")
    )
    return dataset


# what the forms know


def test_what_the_packages_answer_is_the_truth_and_what_is_offered_before_is_part_of_it() -> None:
    import torch
    import torchvision

    assert list(installed.torchvision_names()) == sorted(torchvision.models.list_models(module=torchvision.models))
    assert set(installed.TORCHVISION) <= set(installed.torchvision_names())
    assert [name for name in installed.devices() if name not in ("cpu", "mps")] == [
        f"cuda:{index}" for index in range(torch.cuda.device_count())
    ]
    assert ("mps" in installed.devices()) == torch.backends.mps.is_available()
    timm = pytest.importorskip("timm")
    assert list(installed.timm_names()) == sorted(timm.list_models())
    assert set(installed.TIMM) <= set(installed.timm_names())


def test_a_form_has_words_for_all_that_can_be_chosen() -> None:
    assert tuple(compute_form.PRECISIONS) == PRECISIONS
    assert set(compute_form.ENGINES) == set(ENGINES)


def test_zoo_names_are_in_the_zoo() -> None:
    import fiftyone.zoo as foz

    assert {"resnet50-imagenet-torch", "densenet121-imagenet-torch"} <= set(installed.zoo_names())
    assert set(installed.zoo_names()) <= set(foz.list_zoo_models())
    assert not any("yolo" in name for name in installed.zoo_names())  # they cannot be loaded through the zoo


def test_timm_models_of_ones_own_on_the_hub_pass_the_form() -> None:
    timm = source_forms.SOURCES["timm"]
    assert timm.problem("hf_hub:someone/pets_resnet18") is None
    assert "has no" in str(timm.problem("resnet18x"))


def test_the_manifest_lists_every_operator_and_the_app_no_torch() -> None:
    """Registering the plugin and drawing every form, in a process of its own: nothing of it may wait for torch.

    What the form will need is imported in a thread beside it, which is left out here.
    """
    code = """
import json, sys
import fiftyone as fo, fiftyone.operators as foo
from fiftyone.operators.executor import ExecutionContext
from fiftyone_cam.plugin import installed, work
from fiftyone_cam.plugin.registry import OPERATORS
work.import_ahead = installed.ask = lambda *_: None
dataset = fo.Dataset()
dataset.add_sample(fo.Sample(filepath="/nowhere/a.jpg", ground_truth=fo.Classification(label="cat")))
names = []
for cls in OPERATORS:
    operator = cls()
    operator.plugin_name = "@fiftyone-cam/cam"
    names.append(operator.name)
    for params in ({}, {"advanced": True, "ground_truth": "ground_truth", "source": "timm", "engine": "ray"}):
        context = ExecutionContext({"dataset_name": dataset.name, "params": params}, operator_uri=operator.uri)
        if isinstance(operator, foo.Panel):
            continue
        operator.resolve_placement(context)
        resolved = operator.resolve_type(context, "inputs")
        json.dumps(resolved.to_json() if resolved else None)
dataset.delete()
print(json.dumps({"names": names, "torch": [m for m in ("torch", "torchvision", "timm") if m in sys.modules]}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    declared = yaml.safe_load((REPOSITORY / "fiftyone.yml").read_text())
    assert sorted(answer["names"]) == sorted(declared["operators"] + declared.get("panels", []))
    assert answer["torch"] == []


@pytest.mark.slow
def test_what_computing_needs_is_imported_beside_the_form() -> None:
    """A form that was opened spares its reader the import, which without it is what waits longest after the button."""
    code = """
import sys, threading, time
from fiftyone_cam.plugin import installed, source_forms, work
assert "torch" not in sys.modules
resnet, no_such = (lambda name=name: source_forms.SOURCES["torchvision"].problem(name) for name in ("resnet18", "x"))
slowest = drawn = 0
start = time.monotonic()
before = installed.torchvision_names()
assert (before, resnet(), no_such()) == (installed.TORCHVISION, None, None)  # not known yet, so not refused
threads = [thread for thread in threading.enumerate() if thread.name.startswith("cam-")]
for _ in range(3):  # drawn again at every keystroke
    work.import_ahead()
[thread] = [thread for thread in threading.enumerate() if thread.name == "cam-import"]
while any(thread.is_alive() for thread in [thread, *threads]):
    began = time.monotonic()
    assert "cpu" in installed.devices()
    installed.torchvision_names()
    slowest = max(slowest, time.monotonic() - began)
    drawn += 1
    thread.join(0.02)
assert drawn > 10
took = time.monotonic() - start
assert slowest < took / 2, (slowest, took)  # it waits for no import; for the interpreter's lock it may
assert len(installed.torchvision_names()) > len(before)
assert resnet() is None and "torchvision has no 'x'" in no_such()
assert {"torch", "torchvision", "fiftyone_cam.compute.compute_cam"} <= set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_icons_are_there_for_both_modes() -> None:
    for cls in OPERATORS:
        for icon in (cls().config.dark_icon, cls().config.light_icon):
            assert icon is None or (REPOSITORY / icon.lstrip("/")).is_file(), icon


# computing


def test_an_untouched_form_is_valid(labelled: fo.Dataset) -> None:
    assert set(form(ComputeCam, labelled).values()) == {None}
    assert valid(ComputeCam, labelled, source="torchvision", torchvision="resnet18", key="cam", advanced=False)


@pytest.mark.parametrize("counts", [Counts(samples=2, computed=2), Counts(samples=9, computed=2, failed=1)])
def test_an_untouched_form_is_valid_where_there_is_a_run(labelled: fo.Dataset, counts: Counts) -> None:
    """A finished run is left alone, by a free key; an unfinished one goes on, by its own settings."""
    registered_run(labelled, counts=counts, ground_truth="ground_truth", class_map={"tabby": "cat"}, top_k=3)
    assert set(form(ComputeCam, labelled).values()) == {None}
    filled = begins_with(ComputeCam, labelled)
    assert (filled["source"], filled["lite"]) == ("lite", "efficientnet_lite0")
    assert (filled["ground_truth"], filled["class_map"]) == ("ground_truth", '{"tabby": "cat"}')
    assert set(form(ComputeCam, labelled, **filled).values()) == {None}
    assert valid(ComputeCam, labelled, **filled)
    assert (filled["key"], filled.get("top_k")) == (("cam2", None) if counts.samples == 2 else ("cam", 3))


def test_nothing_is_red_while_a_slow_server_answers(labelled: fo.Dataset) -> None:
    registered_run(labelled, ground_truth="ground_truth")
    for operator in OPERATORS:
        if issubclass(operator, CamOperator):
            assert required(operator, labelled) == [], operator
    assert form(TrainGapClassifier, labelled, out_dir="")["out_dir"] == "Output directory is missing"
    assert not valid(TrainGapClassifier, labelled, out_dir="")


def test_a_proposed_key_is_free_of_runs_and_fields(labelled: fo.Dataset) -> None:
    assert begins_with(ComputeCam, labelled)["key"] == "cam"
    labelled.add_sample_field("cam_mine", fo.StringField)
    assert begins_with(ComputeCam, labelled)["key"] == "cam2"
    registered_run(labelled, "cam2")
    assert begins_with(ComputeCam, labelled)["key"] == "cam3"


def test_the_label_field_of_the_last_run_is_proposed(labelled: fo.Dataset) -> None:
    labelled.add_sample_field("breed", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    for operator in (ComputeCam, TrainGapClassifier):
        assert set(form(operator, labelled).values()) == {None}
    assert "ground_truth" not in begins_with(ComputeCam, labelled)  # nobody has chosen one yet
    registered_run(labelled, ground_truth="breed")
    for operator in (ComputeCam, TrainGapClassifier, AuditAttention):
        assert begins_with(operator, labelled)["ground_truth"] == "breed"


@pytest.mark.parametrize("gpus", [0, 1])
def test_without_a_gpu_the_last_layer_alone_is_trained(
    labelled: fo.Dataset, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    monkeypatch.setitem(installed._answers, "torch", gpus)
    assert begins_with(TrainGapClassifier, labelled)["freeze"] is (gpus == 0)


@pytest.mark.parametrize("source", list(source_forms.SOURCES))
def test_a_source_that_was_just_chosen_is_not_red(labelled: fo.Dataset, source: str) -> None:
    if not installed.is_installed(source_forms.SOURCES[source].package or "fiftyone"):
        pytest.skip("the package of this source is not installed")
    found = form(ComputeCam, labelled, source=source, key="cam")
    assert {name for name, reason in found.items() if reason} <= {"needed"}
    empty = ("huggingface", "checkpoint", "weights")  # no name of theirs would be more than a guess
    assert ("needed" in found) == (source in empty) == (not valid(ComputeCam, labelled, source=source, key="cam"))


@pytest.mark.parametrize(
    ("params", "field", "reason"),
    [
        ({"key": "1st"}, "key", "is not a valid key"),
        ({"key": "a b"}, "key", "is not a valid key"),
        ({"key": ""}, "key", "Run key is missing"),
        ({"key": "taken"}, "key", "taken_heatmap already"),
        ({"ground_truth": "boxes"}, "ground_truth", "boxes holds Detections, expected a Classification field"),
        ({"ground_truth": "nothing"}, "ground_truth", "there is no field nothing"),
        ({"ground_truth": "ground_truth", "class_map": "{"}, "class_map", "this is no JSON"),
        ({"ground_truth": "ground_truth", "class_map": "[1]"}, "class_map", "expected an object of words"),
        ({"source": "torchvision", "torchvision": "resnet81"}, "torchvision", "did you mean resnet18"),
        ({"source": "timm", "timm": "resnet5O"}, "timm", "did you mean resnet50"),
        ({"source": "zoo", "zoo": "resnet50"}, "zoo", "their names end in -torch"),
        ({"source": "checkpoint", "checkpoint": "/nowhere"}, "checkpoint", "no classifier.json"),
        ({"source": "weights", "weights": "/nowhere.pth"}, "weights", "there is no file"),
        ({"source": "weights", "arch": "resnet81"}, "arch", "did you mean resnet18"),
        ({"advanced": True, "device": "cuda:99"}, "device", "this machine has no cuda:99: it has"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    labelled: fo.Dataset, params: dict[str, Any], field: str, reason: str
) -> None:
    complete = {"source": "torchvision", "torchvision": "resnet18", "key": "cam", **params}
    found = form(ComputeCam, labelled, **complete)
    assert reason in str(found[field])
    assert [name for name, error in found.items() if error and name != "needed"] == [field]
    assert not valid(ComputeCam, labelled, **complete)


def test_only_the_field_of_the_chosen_source_is_asked(labelled: fo.Dataset) -> None:
    for source in source_forms.SOURCES:
        assert set(source_forms.SOURCES) & set(form(ComputeCam, labelled, source=source)) == {source}


def test_the_engine_is_asked_where_ray_is_installed_and_its_settings_where_it_is_chosen(labelled: fo.Dataset) -> None:
    pytest.importorskip("ray")
    simple = {"source": "torchvision", "torchvision": "resnet18", "key": "cam"}
    assert "engine" not in form(ComputeCam, labelled, **simple)
    local = form(ComputeCam, labelled, **simple, advanced=True)
    ray = form(ComputeCam, labelled, **simple, advanced=True, engine="ray")
    assert "engine" in local
    assert set(ray) - set(local) == {"num_actors", "gpus_per_actor"}
    assert set(ray.values()) == {None}
    wrong = form(ComputeCam, labelled, **simple, advanced=True, engine="ray", device="cuda:99")
    assert "the device is cuda, not cuda:99" in str(wrong["engine"])


def test_a_video_dataset_is_refused(dataset: fo.Dataset) -> None:
    dataset.add_sample(fo.Sample(filepath="/nowhere/a.mp4"))
    assert "class activation maps need images" in str(form(ComputeCam, dataset)["problem"])
    assert not valid(ComputeCam, dataset)


def test_predictions_of_runs_are_no_ground_truth(labelled: fo.Dataset) -> None:
    registered_run(labelled)
    assert "ground_truth" in form(ComputeCam, labelled)
    found = form(ComputeCam, labelled, ground_truth="cam_prediction", key="other")
    assert "expected a Classification field: ground_truth" in str(found["ground_truth"])


def test_a_run_goes_on_only_with_the_same_configuration(labelled: fo.Dataset) -> None:
    registered_run(labelled)
    same = {"source": "lite", "lite": "efficientnet_lite0", "key": "cam"}
    same |= {"ground_truth": None}
    assert form(ComputeCam, labelled, **same)["key"] is None
    assert "continues" in form(ComputeCam, labelled, **same)
    for change, said in (
        ({"source": "torchvision", "torchvision": "resnet18"}, "efficientnet_lite0 from lite"),
        ({"ground_truth": "ground_truth"}, "no ground truth: use another key, such as cam2"),
        ({"precision": "bfloat16"}, "precision float32"),
        ({"top_k": 3}, "1 class per image"),
    ):
        found = form(ComputeCam, labelled, **same | change)
        assert said in str(found["key"])
        assert form(ComputeCam, labelled, **same | change, overwrite=True)["key"] is None


def test_another_projects_run_is_not_taken(labelled: fo.Dataset) -> None:
    labelled.register_run("cam", labelled.init_run(method="somebody's"))
    assert "did not make" in str(form(ComputeCam, labelled, key="cam")["key"])


# explaining and deleting


def test_without_a_run_there_is_nothing_to_explain_or_delete(labelled: fo.Dataset) -> None:
    for operator in (ExplainSample, DeleteCamRun):
        assert not valid(operator, labelled)


def test_the_true_class_is_suggested(labelled: fo.Dataset) -> None:
    registered_run(labelled, ground_truth="ground_truth")
    instance = ExplainSample()
    context = ExecutionContext({"dataset_name": labelled.name, "params": {}, "current_sample": labelled.first().id})
    label = instance.resolve_input(context).type.properties["label"]
    assert label.default == "cat"
    assert [choice.value for choice in label.view.choices] == ["cat", "dog"]


@pytest.fixture()
def checkpoint(tmp_path: Path) -> Path:
    from fiftyone_cam import Classifier, load_classifier

    classifier: Classifier = load_classifier("squeezenet1_1", weights=None)
    return classifier.save(tmp_path / "checkpoint")


@pytest.mark.slow
def test_the_classifier_stays_warm_until_its_files_change(checkpoint: Path) -> None:
    first = sources.load(str(checkpoint), {})
    assert sources.load(str(checkpoint), {}) is first
    assert sources.load("squeezenet1_1", {"weights": None}) is not first
    again = sources.load(str(checkpoint), {})
    assert again is not first
    assert again.fingerprint == first.fingerprint
    from fiftyone_cam import load_classifier

    load_classifier("squeezenet1_1", weights=None).save(checkpoint)
    assert sources.load(str(checkpoint), {}).fingerprint != first.fingerprint


def test_what_a_form_asks_for_is_what_python_would_pass() -> None:
    assert sources.loader_arguments({"source": "torchvision", "torchvision": "resnet18"}) == ("resnet18", {})
    assert sources.loader_arguments({"source": "timm", "timm": "resnet50.a1_in1k"}) == ("timm:resnet50.a1_in1k", {})
    assert sources.loader_arguments({"source": "huggingface", "huggingface": "a/b"}) == ("hf:a/b", {})
    assert sources.loader_arguments({"classifier": "resnet18", "source": "timm"}) == ("resnet18", {})
    weights = {"source": "weights", "weights": "w.pth", "arch": "resnet18", "classes": "cat, dog"}
    assert sources.loader_arguments(weights) == ("w.pth", {"classes": ["cat", "dog"], "arch": "resnet18"})
    changed = {**weights, "source": "timm", "timm": "resnet50", "classes": None}
    assert sources.loader_arguments(changed) == ("timm:resnet50", {})  # the architecture was typed for the file


def test_class_names_from_lines_commas_and_a_file(tmp_path: Path) -> None:
    names = ["tench, Tinca tinca", "goldfish"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    assert sources.class_names("\n".join(names)) == names
    assert sources.class_names(str(tmp_path / "classes.txt")) == names
    assert sources.class_names("cat, dog") == ["cat", "dog"]
    assert sources.class_names(" ") is None


@pytest.mark.parametrize(
    "engine", [focam.Local(), focam.Local(3), focam.Ray(), focam.Ray(2, 0.5, 4), focam.Ray(None, 0)]
)
def test_an_engine_survives_the_way_through_the_database(engine: focam.Local | focam.Ray) -> None:
    if isinstance(engine, focam.Ray):
        pytest.importorskip("ray")
    assert chosen_engine(json.loads(json.dumps(engine_params(engine)))) == engine


def test_only_the_process_that_computes_chooses_the_cluster() -> None:
    """What a cluster sends back is trusted, so no browser may name one."""
    assert chosen_engine({"engine": "ray", "address": "10.0.0.1:6379"}) == focam.Ray()
    pytest.importorskip("ray")
    with pytest.raises(focam.CamError, match="set RAY_ADDRESS"):
        engine_params(focam.Ray(address="auto"))


def test_what_of_a_picture_is_taken_is_asked_and_passed_on(labelled: fo.Dataset) -> None:
    found = form(ComputeCam, labelled, advanced=True)
    assert {"whole_picture", "input_size"} <= set(found)
    assert "media_field" not in found  # there is no choice
    labelled.app_config.media_fields = ["filepath", "small_path"]
    assert "media_field" in form(ComputeCam, labelled, advanced=True)
    asked = {"source": "timm", "timm": "resnet50", "input_size": 96, "whole_picture": True}
    assert sources.loader_arguments(asked) == ("timm:resnet50", {"input_size": 96, "whole_picture": True})


def test_a_field_of_several_labels_can_be_the_ground_truth_of_maps(labelled: fo.Dataset) -> None:
    labelled.add_sample_field("several", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classifications)
    assert form(ComputeCam, labelled, ground_truth="several")["ground_truth"] is None
