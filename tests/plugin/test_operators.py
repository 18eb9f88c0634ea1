"""The operators without an App: called by an agent or from Python, now or scheduled, they take defaults and answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionError

import fiftyone_cam as focam
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.plugin.operators.base import CamOperator
from fiftyone_cam.plugin.registry import OPERATORS
from tests.helpers.networks import small_checkpoint, tiny_gap, write_photos

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ["cat", "dog", "fish"]
OURS = [operator for operator in OPERATORS if issubclass(operator, CamOperator)]


@pytest.fixture(autouse=True, scope="module")
def plugin() -> Iterator[None]:
    """The plugin where FiftyOne looks for it."""
    link = Path(fo.config.plugins_dir) / "fiftyone_cam"
    link.parent.mkdir(parents=True, exist_ok=True)
    made = not link.exists()
    if made:
        link.symlink_to(REPOSITORY, target_is_directory=True)
    yield
    if made:
        link.unlink()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fo.Dataset]:
    """Twelve photos of three classes, each with a thing on it."""
    dataset = fo.Dataset()
    for index, path in enumerate(write_photos(tmp_path_factory.mktemp("photos"), 12)):
        things = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
        truth = fo.Classification(label=NAMES[index % 3])
        dataset.add_sample(fo.Sample(filepath=path, ground_truth=truth, things=things))
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def with_two_runs(labelled: fo.Dataset) -> Iterator[fo.Dataset]:
    dataset = labelled.clone()
    square = focam.Preprocessing((focam.Resize(size=(64, 64)),))
    for key, seed in (("first", 0), ("second", 5)):
        classifier = focam.load_classifier(tiny_gap(seed=seed), NAMES, preprocessing=square)
        focam.compute_cam(dataset, classifier, key=key, ground_truth="ground_truth", progress=False)
    yield dataset
    dataset.delete()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "small"
    small_checkpoint(folder)
    return folder


@pytest.fixture()
def photos(labelled: fo.Dataset) -> Iterator[fo.Dataset]:
    yield from clone(labelled)


@pytest.fixture()
def computed(with_two_runs: fo.Dataset) -> Iterator[fo.Dataset]:
    yield from clone(with_two_runs)


@pytest.fixture()
def with_concepts(computed: fo.Dataset, small: Path) -> fo.Dataset:
    """Their sums lie on disk, and are of this dataset alone."""
    focam.compute_cam(computed, small, "third", ground_truth="ground_truth", progress=False)
    focam.find_concepts(computed, "third", small, count=3, progress=False)
    return computed


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that can be loaded by its path."""
    folder = tmp_path_factory.mktemp("checkpoints") / "checkpoint"
    return focam.load_classifier("squeezenet1_1", weights=None).save(folder)


def clone(dataset: fo.Dataset) -> Iterator[fo.Dataset]:
    """A copy with its runs: what was computed once serves each test that changes it."""
    copy = dataset.clone()
    yield copy
    copy.delete()


def ask(name: str, dataset: fo.Dataset, **params: Any) -> dict[str, Any]:
    """What an operator answers who calls it with these parameters, through JSON as an agent gets it."""
    answer = foo.execute_operator(f"@fiftyone-cam/cam/{name}", {"dataset": dataset}, params=params).result
    dataset.reload()
    found: dict[str, Any] = json.loads(json.dumps(answer))
    return found


def test_redrawing_answers_with_what_it_drew(computed: fo.Dataset) -> None:
    before = [heat.map for heat in computed.values("second_heatmap")]
    answer = ask("redraw_heatmaps", computed, percent=40)  # the run is the form's default, the last one
    maps = computed.count("second_heatmap") + computed.count("second_contrast")
    assert answer == {"heatmaps": maps, "fields": ["second_heatmap", "second_contrast"], "threshold": 0.4}
    assert focam.load_run(computed, "second").record.threshold == 0.4
    assert all(
        (heat.map != 0).sum() <= (old != 0).sum()
        for heat, old in zip(computed.values("second_heatmap"), before, strict=True)
    )
    answer = ask("redraw_heatmaps", computed, key="first", percent=0, field="first_contrast")
    assert answer["fields"] == ["first_contrast"]
    assert focam.load_run(computed, "first").record.threshold == 0.15


def test_computing_answers_with_what_the_run_holds(photos: fo.Dataset, checkpoint: Path) -> None:
    answer = ask("compute_cam", photos, classifier=str(checkpoint))  # the key is the form's default
    run = focam.load_run(photos, "cam")
    assert answer["key"] == "cam"
    assert answer["counts"] == {"samples": 12, "computed": 12, "failed": 0, "new": 12} == asdict(run.counts)
    assert set(answer["fields"]) == set(run.fields) >= {"cam_heatmap", "cam_prediction"}
    assert answer["certificate"] == run.certificate < 1e-5
    assert answer["accuracy"] is None

    one = photos.first()
    explained = ask("explain_sample", photos, sample_id=one.id, classifier=str(checkpoint))  # key and class: defaults
    assert explained["label"] == one.cam_prediction.label
    assert explained["logit"] == pytest.approx(photos[one.id].cam_explained.logit)
    with pytest.raises(ExecutionError, match="Open a sample, or select one"):
        ask("explain_sample", photos)


def test_the_others_answer_with_what_they_found(computed: fo.Dataset, tmp_path: Path) -> None:
    audited = ask("audit_attention", computed, key="second", object_labels="thing")
    report = focam.audit(computed, "second", "ground_truth", "things", object_labels=["thing"], progress=False)
    assert audited["verdicts"] == report.verdicts
    assert sum(audited["verdicts"].values()) + sum(audited["unjudged"].values()) == 12
    assert audited["classes"][-1]["accuracy"] == report.classes[-1].accuracy

    boxes = ask("localize_from_cam", computed)
    assert boxes == {"field": "second_boxes", "boxes": computed.count("second_boxes.detections"), "samples": 12}
    with pytest.raises(ExecutionError, match="expected whole images, found a PatchesView"):
        foo.execute_operator("@fiftyone-cam/cam/show_boxes", {"view": computed.to_patches("second_boxes")})

    scored = ask("score_attention", computed, key="second", object_labels="thing")
    assert scored["samples"] == 12
    assert scored["scores"]["energy"] == pytest.approx(computed.mean("second_energy"))
    assert set(scored["baselines"]) == {"whole", "centre", "random"}

    compared = ask("compare_cam_runs", computed)
    assert (compared["before"], compared["after"]) == ("first", "second")
    assert compared["classes"][-1]["same"] == focam.load_comparison(computed, "first", "second").classes[-1].same

    exported = ask("export_overlays", computed, out_dir=str(tmp_path / "out"))
    assert exported["written"] == 12 == len(Path(exported["manifest"]).read_text().splitlines()) - 1

    deleted = ask("delete_cam_run", computed, key="first")
    assert "first_heatmap" in deleted["deleted"]
    assert focam.list_runs(computed) == ["second"]


def test_every_operator_answers_whoever_gives_it_the_least(
    photos: fo.Dataset, checkpoint: Path, tmp_path: Path
) -> None:
    """All that somebody can call, with the least that it must be told, each after what it needs."""
    least: dict[str, dict[str, Any]] = {
        "compute_cam": {"classifier": str(checkpoint)},
        "explain_sample": {"sample_id": photos.first().id},
        "audit_attention": {},
        "localize_from_cam": {},
        "score_attention": {"object_labels": "thing", "class_free": True},
        "redraw_heatmaps": {},
        "show_boxes": {},
        "show_embeddings": {},
        "train_gap_classifier": {"arch": "small_gap_net", "size": 16, "epochs": 1, "out_dir": str(tmp_path / "out")},
        "export_overlays": {"out_dir": str(tmp_path / "pictures")},
        "compare_cam_runs": {},
        "delete_cam_run": {"key": "cam"},
    }
    listed = {operator().config for operator in OPERATORS if not issubclass(operator, foo.Panel)}
    elsewhere = {
        "find_concepts",
        "name_concept",
        "what_if",
        "mend",
    }  # in test_concept_operators.py, test_mend_operator.py
    assert set(least) | elsewhere == {config.name for config in listed if not config.unlisted}
    answers = {}
    for name, params in least.items():
        if name == "compare_cam_runs":
            ask("compute_cam", photos, classifier=str(checkpoint), key="again")
        answers[name] = ask(name, photos, **params)
        assert answers[name], name
    assert set(answers["score_attention"]["baselines"]) == {"whole", "centre", "random", "class_free"}
    assert answers["show_boxes"] == {"field": "cam_boxes", "patches": answers["localize_from_cam"]["boxes"]}
    assert answers["show_embeddings"] == {"brain_key": "cam_points", "points": 12, "color_by": "cam_prediction.label"}
    assert photos.list_brain_runs() == []  # the layout went with its run


def test_training_answers_with_its_checkpoint_and_metrics(photos: fo.Dataset, tmp_path: Path) -> None:
    asked = {"arch": "small_gap_net", "size": 16, "epochs": 1, "out_dir": str(tmp_path / "out")}
    answer = ask("train_gap_classifier", photos, **asked)
    assert answer["metrics"] == asdict(focam.load_training(photos, "out").metrics)
    assert sorted(focam.load_classifier(answer["checkpoint"]).classes) == sorted(answer["classes"]) == sorted(NAMES)


def test_errors_reach_the_caller_in_words(computed: fo.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="compared with itself"):
        ask("compare_cam_runs", computed, before="second", after="second")
    with pytest.raises(ExecutionError, match=r"neither|no classifier"):
        ask("compute_cam", computed, classifier=str(tmp_path / "nowhere"), key="new")


@pytest.mark.parametrize("operator", [cls for cls in OURS if cls.delegable], ids=lambda cls: cls.operator)
def test_what_can_be_scheduled_takes_delegate_and_a_target(
    operator: type[CamOperator[Any]], request: pytest.FixtureRequest, checkpoint: Path, small: Path, tmp_path: Path
) -> None:
    """Scheduled and then executed, it leaves on the dataset what the call at once leaves, and its record answers."""
    of_concepts = operator.operator in ("find_concepts", "what_if", "mend")
    computed = request.getfixturevalue("with_concepts" if of_concepts else "computed")
    args: tuple[Any, ...] = {
        "compute_cam": (checkpoint, "later"),
        "audit_attention": ("second", "ground_truth"),
        "localize_from_cam": ("second", 0.3),
        "score_attention": ("second", "things"),
        "find_concepts": ("third", small),
        "what_if": ("third",),
        "mend": ("third", str(small)),
        "show_embeddings": ("there", str(checkpoint)),
        "compare_cam_runs": ("first", "second"),
        "export_overlays": ("second", tmp_path / "out"),
        "redraw_heatmaps": ("second", 0.5),
        "train_gap_classifier": ("ground_truth", tmp_path / "out"),
    }[operator.operator]
    short = {"arch": "small_gap_net", "size": 16, "recipe": focam.Recipe(epochs=1)}
    kwargs: dict[str, Any] = {
        "train_gap_classifier": short,
        "score_attention": {"object_labels": ["thing"]},
        "what_if": {"without": ["concept 1"]},
        "mend": {
            "remove": ["concept 1"],
            "directions": 1,
            "strength": 1.0,
            "into": "m",
            "out_dir": str(tmp_path / "out"),
        },
    }.get(operator.operator, {})
    if operator.operator == "show_embeddings":
        focam.compute_cam(computed, checkpoint, key="there", progress=False)
    uri = f"@fiftyone-cam/cam/{operator.operator}"
    call = foo.get_operator(uri)
    call(computed, *args, delegate=True, delegation_target="somewhere", **kwargs)
    service = DelegatedOperationService()
    [queued] = service.list_operations(operator=uri, dataset_name=computed.name)
    assert queued.delegation_target == "somewhere"
    service.execute_operation(queued)
    [done] = service.list_operations(operator=uri, dataset_name=computed.name)
    assert done.run_state == "completed", done.result
    assert json.loads(json.dumps(done.result.result))
    with pytest.raises(TypeError, match="unexpected keyword"):  # said now, and not in the night
        call(computed, *args, delegate=True, mispelt=1, **kwargs)


def test_what_no_record_can_hold_is_not_scheduled(computed: fo.Dataset) -> None:
    classifier = focam.load_classifier("squeezenet1_1", weights=None)
    with pytest.raises(CamError, match="classifier cannot be scheduled: found Classifier"):
        foo.get_operator("@fiftyone-cam/cam/compute_cam")(computed, classifier, delegate=True)
    with pytest.raises(CamError, match="cannot be scheduled: call it without"):
        foo.get_operator("@fiftyone-cam/cam/delete_cam_run")(computed, "second", delegate=True)
    assert focam.list_runs(computed) == ["first", "second"]


def test_a_call_from_python_is_the_sdks(computed: fo.Dataset) -> None:
    assert foo.get_operator("@fiftyone-cam/cam/localize_from_cam")(computed, "second", threshold=0.5) == "second_boxes"
    assert focam.load_run(computed, "second").record.localization.threshold == 0.5
