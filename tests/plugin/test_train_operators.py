"""Training and exporting from forms, without a browser: what they refuse, and that they do what Python does."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import fiftyone as fo
import pytest
import torch
from fiftyone.operators.executor import ExecutionContext, Executor

import fiftyone_cam as focam
from fiftyone_cam.core import overlay
from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.plugin import installed
from fiftyone_cam.plugin.operators.audit_attention import AuditAttention
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.delete_cam_run import DeleteCamRun
from fiftyone_cam.plugin.operators.export_overlays import COLORMAPS, ExportOverlays
from fiftyone_cam.plugin.operators.train_gap_classifier import TrainGapClassifier, training_arguments
from fiftyone_cam.runs import catalog
from tests.helpers.forms import form, valid
from tests.helpers.stored_runs import registered_run
from tests.helpers.trainings import striped

QUICK = {"arch": "small_gap_net", "size": 16, "epochs": 3, "batch_size": 8}
"""As the form has it."""


def quick(**recipe: Any) -> dict[str, Any]:
    """The same as Python has it."""
    return {"arch": "small_gap_net", "size": 16, "recipe": focam.Recipe(epochs=3, batch_size=8, **recipe)}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture()
def stripes(dataset: fo.Dataset, tmp_path: Path) -> fo.Dataset:
    """Two classes of ten pictures."""
    dataset.add_samples(striped(tmp_path / "photos", {"narrow": 10, "wide": 10}))
    return dataset


def context(dataset: fo.Dataset, params: dict[str, Any], **kwargs: Any) -> ExecutionContext:
    request = {"dataset_name": dataset.name, "params": params, "extended_selection": None}  # as the App sends it
    return ExecutionContext(request, executor=Executor(), **kwargs)


def run(operator: Any, dataset: fo.Dataset, **params: Any) -> list[dict[str, Any]]:
    """Execute an operator as the App does; all that it was asked to do, the summary last."""
    [closing] = operator.execute(context(dataset, params)) if operator.beside else [None]  # leaves the App free
    if closing is not None:
        assert closing.body.operator_uri == operator.uri
        params = closing.body.params
    return [message.body.params for message in operator.execute(context(dataset, params))]


def label(shown: dict[str, Any]) -> str:
    """The words on a bar of progress."""
    return str(shown.get("label") or "")


# training


def test_an_untouched_form_is_valid(stripes: fo.Dataset) -> None:
    """The app fills in the defaults: they go together."""
    assert set(form(TrainGapClassifier, stripes).values()) == {None}
    config = TrainGapClassifier().config
    assert config.default_choice_to_delegated
    assert config.allow_delegated_execution
    filled = {"ground_truth": "ground_truth", "arch": "resnet18", "split": "at random", "fraction": 0.2, "epochs": 5}
    assert valid(TrainGapClassifier, stripes, **filled, out_dir="/nowhere/yet", pretrained=True, freeze=False)


@pytest.mark.parametrize(
    ("params", "field", "reason"),
    [
        ({"ground_truth": "filepath"}, "ground_truth", "no Classification field: expected ground_truth"),
        ({"arch": "resnet81"}, "arch", "did you mean resnet18"),
        ({"key": "1st"}, "key", "is not a valid key"),
        ({"key": "cam"}, "key", "belongs to a run of class activation maps"),
        ({"out_dir": "{tmp}/photos"}, "out_dir", "holds something else"),
        ({"out_dir": "{tmp}/photos/0/0.png"}, "out_dir", "is a file"),
        ({"out_dir": "{tmp}/foreign"}, "out_dir", "was not trained here"),
        ({"advanced": True, "snapshots": "five"}, "snapshots", "expected numbers of epochs"),
        ({"advanced": True, "snapshots": "2, 9"}, "snapshots", "there is no epoch 9"),
        ({"advanced": True, "device": "cuda:99"}, "device", "this machine has no cuda:99"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    stripes: fo.Dataset, tmp_path: Path, params: dict[str, Any], field: str, reason: str
) -> None:
    registered_run(stripes)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "classifier.json").write_text("{}")
    params = {k: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for k, v in params.items()}
    complete = {"ground_truth": "ground_truth", "arch": "resnet18", "out_dir": str(tmp_path / "new"), **params}
    found = form(TrainGapClassifier, stripes, **complete)
    assert reason in str(found[field])
    assert [name for name, error in found.items() if error] == [field]
    assert not valid(TrainGapClassifier, stripes, **complete)


def test_without_labels_or_images_there_is_nothing_to_learn(dataset: fo.Dataset) -> None:
    assert "no Classification field" in str(form(TrainGapClassifier, dataset)["problem"])
    dataset.add_sample(fo.Sample(filepath="/nowhere/a.mp4", ground_truth=fo.Classification(label="a")))
    assert "need images" in str(form(TrainGapClassifier, dataset)["problem"])


def test_only_what_the_network_can_have_is_asked(stripes: fo.Dataset) -> None:
    small = form(TrainGapClassifier, stripes, arch="small_gap_net")
    assert not {"pretrained", "freeze"} & set(small)
    assert {"pretrained", "freeze"} <= set(form(TrainGapClassifier, stripes, arch="resnet18"))
    assert "freeze" not in form(TrainGapClassifier, stripes, arch="resnet18", pretrained=False)
    assert "fraction" not in form(TrainGapClassifier, stripes, split="tags")


def test_what_a_form_asks_for_is_what_python_would_pass() -> None:
    typed = {
        "ground_truth": "ground_truth", "out_dir": "runs/x", "arch": "resnet18", "pretrained": False, "freeze": True,
        "split": "at random", "fraction": 0.3, "epochs": 50, "snapshots": "5, 50", "key": None, "advanced": True,
        "patience": 7, "seed": 0, "size": None, "overwrite": False,
    }  # fmt: skip
    assert training_arguments(typed) == {
        "ground_truth": "ground_truth", "out_dir": "runs/x", "arch": "resnet18", "weights": None, "split": 0.3,
        "snapshots": [5, 50], "overwrite": False, "recipe": focam.Recipe(epochs=50, patience=7, seed=0),
    }  # fmt: skip
    frozen = training_arguments({"arch": "efficientnet_lite0", "freeze": True, "split": "tags"})
    assert frozen == {"arch": "efficientnet_lite0", "split": "tags", "recipe": focam.Recipe(freeze="backbone")}
    ticked_before = training_arguments({"arch": "small_gap_net", "freeze": True})  # before the network was changed
    assert ticked_before["recipe"].freeze is None


def test_the_form_trains_as_python_does_and_shows_the_loss(stripes: fo.Dataset, tmp_path: Path) -> None:
    by_python = focam.train_classifier(stripes, "ground_truth", tmp_path / "python", **quick(seed=3))
    out = tmp_path / "form"
    typed = {
        "ground_truth": "ground_truth",
        "out_dir": str(out),
        "split": "at random",
        "fraction": 0.2,
        "seed": 3,
        **QUICK,
    }
    *live, last = run(TrainGapClassifier(), stripes, **typed)
    assert live
    assert focam.load_classifier(out).fingerprint == by_python.fingerprint
    training = catalog.load_training(stripes, "form")
    said = last["results"]["summary"]
    assert training.describe().markdown() in said
    assert "16 to train, 4 to validate" in said

    # it ends with an offer, and what that opens can be computed as it is
    offer = last["outputs"]["type"]["properties"]["offer"]["view"]
    assert offer["operator"] == "@fiftyone-cam/cam/open_form"
    assert offer["params"]["operator"] == "@fiftyone-cam/cam/compute_cam"
    filled = offer["params"]["params"]
    assert filled["checkpoint"] == str(out)
    assert valid(ComputeCam, stripes, **filled)
    summary = run(ComputeCam(), stripes, **filled)[-1]["results"]["summary"]
    assert "20 with a map, 0 failed, of 20; 20 new" in summary
    assert focam.load_run(stripes, "form_cam").certificate < 1e-5


def test_a_bar_shows_the_loss_and_a_delegated_run_records_it(
    stripes: fo.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fiftyone_cam.plugin import work
    from fiftyone_cam.training.progress import Clock

    monkeypatch.setattr(Clock, "due", True)
    monkeypatch.setattr(work, "_BEAT", 0.001)
    typed = {"ground_truth": "ground_truth", **QUICK}
    *live, _ = run(TrainGapClassifier(), stripes, out_dir=str(tmp_path / "live"), **{**typed, "epochs": 20})
    bars = [label(shown) for shown in live]
    assert any("epoch 2/20, loss " in bar for bar in bars), bars

    recorded: list[Any] = []
    ctx = context(
        stripes,
        {**typed, "out_dir": str(tmp_path / "delegated")},
        delegated_operation_id="0",
        set_progress=lambda _, progress: recorded.append(progress),
    )
    ctx.request_params["delegated"] = True
    assert ctx.delegated
    list(TrainGapClassifier().execute(ctx))
    assert any("loss " in progress.label for progress in recorded), recorded
    assert recorded[-1].progress == 1
    assert catalog.load_training(stripes, "delegated").record.status == "complete"


def test_what_python_schedules_is_what_it_would_do_at_once(stripes: fo.Dataset, tmp_path: Path) -> None:
    by_python = focam.train_classifier(stripes, "ground_truth", tmp_path / "python", key="p", **quick(seed=3))
    scheduled = {
        "ground_truth": "ground_truth",
        "out_dir": str(tmp_path / "out"),
        "key": "q",
        "arch": "small_gap_net",
        "size": 16,
        "recipe": {"epochs": 3, "batch_size": 8, "seed": 3},
    }
    assert valid(TrainGapClassifier, stripes, arguments=scheduled)
    run(TrainGapClassifier(), stripes, arguments=scheduled)
    assert catalog.list_trainings(stripes) == ["p", "q"]
    assert focam.load_classifier(tmp_path / "out").fingerprint == by_python.fingerprint


def test_the_form_for_maps_lists_what_was_trained_on_the_dataset(stripes: fo.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "stripes"
    assert "checkpoint" in form(ComputeCam, stripes, source="checkpoint")
    focam.train_classifier(stripes, "ground_truth", out, snapshots=[1], **quick())
    instance = ComputeCam()
    resolved = instance.resolve_input(context(stripes, {"source": "checkpoint"}))
    field = resolved.type.properties["checkpoint"]
    assert [choice.value for choice in field.view.choices] == [str(out), str(out / "epoch_1")]
    assert field.default == str(out)
    assert "stripes, epoch 1 in " in field.view.description
    # predictions of a training are nothing to learn, and no ground truth
    assert "stripes_prediction" in stripes.get_field_schema()
    assert "no Classification field" in str(form(TrainGapClassifier, stripes, ground_truth="stripes_prediction"))
    registered_run(stripes)
    truths = AuditAttention().resolve_input(context(stripes, {})).type.properties["ground_truth"]
    assert [choice.value for choice in truths.view.choices] == ["ground_truth"]
    assert form(ComputeCam, stripes, ground_truth="stripes_prediction")["ground_truth"]
    # its folder: goes on, or is replaced
    same = {"ground_truth": "ground_truth", "out_dir": str(out)}
    assert form(TrainGapClassifier, stripes, **same)["overwrite"] is None
    assert "overwrite" not in form(TrainGapClassifier, stripes, **{**same, "out_dir": str(tmp_path / "new")})
    assert "is the training in" in str(
        form(TrainGapClassifier, stripes, **{**same, "out_dir": str(tmp_path / "b"), "key": "stripes"})["key"]
    )


def test_a_training_is_deleted_like_a_run_of_maps_and_its_checkpoint_stays(stripes: fo.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "stripes"
    focam.train_classifier(stripes, "ground_truth", out, **quick())
    registered_run(stripes)
    resolved = DeleteCamRun().resolve_input(context(stripes, {"key": "stripes"}))
    choices = resolved.type.properties["key"].view.choices
    assert [(choice.value, choice.description) for choice in choices] == [("stripes", "a training"), ("cam", "2 maps")]
    assert resolved.type.properties["key"].default == "cam"
    owned = resolved.type.properties["owned"].default.replace("\\", "")
    for words in ("fields: stripes_split, stripes_prediction", "evaluation: stripes_eval", f"{out} stays"):
        assert words in owned
    said = run(DeleteCamRun(), stripes, key="stripes")[-1]["results"]["summary"].replace("\\", "")
    assert all(word in said for word in ("stripes_prediction", "stripes_split"))
    assert not any(name.startswith("stripes") for name in stripes.get_field_schema())
    assert (focam.list_trainings(stripes), focam.list_runs(stripes)) == ([], ["cam"])
    focam.load_classifier(out)


def test_what_stops_a_training_reaches_the_prompt(stripes: fo.Dataset, tmp_path: Path) -> None:
    typed = {"ground_truth": "ground_truth", "out_dir": str(tmp_path / "out"), **QUICK, "learning_rate": 1e30}
    with pytest.raises(TrainingError, match="lower learning rate"):
        run(TrainGapClassifier(), stripes, **typed)
    assert "the loss became" in catalog.load_training(stripes, "out").record.stopped_by


def test_architectures_that_the_form_offers_can_be_built() -> None:
    from fiftyone_cam.networks import architectures

    assert set(installed.torchvision_names()) <= set(architectures())


# overlays


@pytest.fixture()
def computed(stripes: fo.Dataset) -> fo.Dataset:
    classifier = focam.load_classifier("squeezenet1_1", weights=None)
    focam.compute_cam(stripes, classifier, key="cam", progress=False)
    return stripes


def test_the_form_exports_as_python_does(computed: fo.Dataset, tmp_path: Path) -> None:
    assert set(form(ExportOverlays, computed).values()) == {None}
    style = {"colormap": "inferno", "alpha": 0.0, "text": False, "side_by_side": True}
    said = run(ExportOverlays(), computed, key="cam", out_dir=str(tmp_path / "form"), **style)[-1]["results"]
    assert said["summary"].startswith("20 overlays in ")
    assert said["sheet"].startswith("data:image/jpeg;base64,")
    focam.export_overlays(computed, "cam", tmp_path / "python", progress=False, **style)
    by_form, by_python = (sorted(path for path in (tmp_path / name).iterdir()) for name in ("form", "python"))
    assert [path.name for path in by_form] == [path.name for path in by_python]
    assert [path.read_bytes() for path in by_form] == [path.read_bytes() for path in by_python]
    with (tmp_path / "form" / "manifest.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 20


def test_what_cannot_be_exported_is_said_at_its_field(computed: fo.Dataset, tmp_path: Path) -> None:
    photo = computed.first().filepath
    found = form(ExportOverlays, computed, key="cam", out_dir=photo)
    assert "is a file" in str(found["out_dir"])
    assert not valid(ExportOverlays, computed, key="cam", out_dir=photo, colormap="jet")
    assert not valid(ExportOverlays, computed, key="cam", out_dir=str(tmp_path / "new"), colormap="jet", alpha=1.5)
    focam.delete_run(computed, "cam")
    assert not valid(ExportOverlays, computed)


def test_colours_that_the_form_offers_exist() -> None:
    assert set(COLORMAPS) <= set(overlay.COLORMAPS)
