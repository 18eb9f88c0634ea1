"""A run with ground truth is in FiftyOne's Model Evaluation panel, with its verdicts; it goes with the run."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from fiftyone.operators.executor import ExecutionContext
from plugins.panels.model_evaluation import EvaluationPanel
from plugins.utils.model_evaluation import get_scenarios

import fiftyone_cam as focam
from fiftyone_cam.dataset import app_config
from tests.helpers.networks import NAMES, SQUARE, tiny_gap

WORDS = {"cat": "animal", "dog": "animal", "fish": "food"}


def test_the_evaluation_counts_what_the_run_counts(photos: fo.Dataset, classifier: focam.Classifier) -> None:
    unknown = photos.first()
    unknown["ground_truth"] = fo.Classification(label="horse")  # no class can match it
    unknown.save()
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth", progress=False)
    results = photos.load_evaluation_results("cam_eval")
    assert results.metrics()["accuracy"] == pytest.approx(run.record.accuracy)
    assert len(results.ytrue) == 11
    known = photos.match(F("ground_truth.label") != "horse")
    right = [p.label == t.label for p, t in zip(*known.values(["cam_prediction", "ground_truth"]), strict=True)]
    assert known.values("cam_eval") == right
    labels, numbers = app_config.groups(photos)  # with the run's other fields, and not in a group of the App's making
    assert (numbers["name"], numbers["paths"]) == (app_config.NUMBERS, ["cam_eval"])
    assert "cam_prediction" in labels["paths"]
    before = photos.get_evaluation_info("cam_eval").timestamp
    focam.compute_cam(photos, classifier, ground_truth="ground_truth", progress=False)
    assert photos.get_evaluation_info("cam_eval").timestamp == before  # nothing new, nothing done

    focam.delete_run(photos, "cam")
    assert photos.list_evaluations() == []
    assert not photos.has_field("cam_eval")
    assert app_config.groups(photos) == []


def test_the_class_map_is_applied_and_predictions_keep_their_words(
    photos: fo.Dataset, classifier: focam.Classifier
) -> None:
    for sample in photos:
        sample["truth"] = fo.Classification(label=WORDS[sample.ground_truth.label])
        sample.save()
    run = focam.compute_cam(photos, classifier, ground_truth="truth", class_map=WORDS, progress=False)
    assert set(photos.distinct("cam_prediction.label")) <= set(NAMES)
    results = photos.load_evaluation_results("cam_eval")
    assert set(results.classes) <= {"animal", "food"}
    assert results.metrics()["accuracy"] == pytest.approx(run.record.accuracy)
    stored = photos.load_evaluation_view("cam_eval")  # what a click in the panel filters
    assert set(stored.distinct("cam_prediction.label")) <= {"animal", "food"}


def test_a_dollar_in_a_label_is_no_field(photos: fo.Dataset) -> None:
    names = ["$cam_error", "$$ROOT", "plain"]
    photos.set_values("truth", [fo.Classification(label=names[i % 3]) for i in range(12)])
    classifier = focam.load_classifier(tiny_gap(), names, preprocessing=SQUARE)
    run = focam.compute_cam(photos, classifier, ground_truth="truth", progress=False)
    results = photos.load_evaluation_results("cam_eval")
    assert len(results.ytrue) == 12
    assert results.metrics()["accuracy"] == pytest.approx(run.record.accuracy)


def test_an_evaluation_of_somebody_else_is_left_alone(
    photos: fo.Dataset, classifier: focam.Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    photos.add_sample_field("cam_eval", fo.StringField)
    photos.set_values("cam_eval", ["mine"] * 12)
    with caplog.at_level(logging.WARNING):
        run = focam.compute_cam(photos, classifier, ground_truth="ground_truth", progress=False)
    assert "'cam_eval' exists already" in caplog.text
    assert run.complete
    focam.delete_run(photos, "cam")
    assert photos.values("cam_eval") == ["mine"] * 12


def test_the_verdicts_are_a_scenario_of_the_evaluation(photos: fo.Dataset, classifier: focam.Classifier) -> None:
    things = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
    photos.set_values("things", [things.copy() for _ in range(12)])
    focam.compute_cam(photos, classifier, ground_truth="ground_truth", progress=False)
    report = focam.audit(photos, "cam", "ground_truth", "things", object_labels=["thing"], progress=False)

    context = ExecutionContext({"dataset_name": photos.name})
    [scenario] = get_scenarios(context).values()
    assert scenario["name"] == "cam verdicts"
    assert EvaluationPanel().validate_scenario_subsets(context, dict(scenario)) == (scenario, [])  # it has no objection
    assert set(scenario["subsets"]) == {verdict for verdict, count in report.verdicts.items() if count}
    results = photos.load_evaluation_results("cam_eval")
    for verdict in scenario["subsets"]:
        with results.use_subset({"type": "field", "field": scenario["field"], "value": verdict}):
            assert len(results.ytrue) == report.verdicts[verdict]
            assert np.mean(results.ytrue == results.ypred) == (verdict in ("trusted", "shortcut"))

    class PanelContext(ExecutionContext):
        panel = SimpleNamespace(get_state=lambda name: {})

    def counted() -> dict[str, int]:
        """As the panel shows them, which keeps what it has counted before."""
        shown = EvaluationPanel().get_scenario_data_cacheable(
            PanelContext({"dataset_name": photos.name, "params": {"key": "cam_eval"}}), dict(scenario)
        )
        metrics = {name: data["metrics"] for name, data in shown["subsets_data"].items()}
        return {name: each["correct"] + each["incorrect"] for name, each in metrics.items()}

    for corner in (0, 0.5):  # another audit counts anew
        elsewhere = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[corner, corner, 0.5, 0.5])])
        photos.set_values("things", [elsewhere.copy() for _ in range(12)])
        report = focam.audit(photos, "cam", "ground_truth", "things", object_labels=["thing"], progress=False)
        assert counted() == {name: report.verdicts[name] for name in scenario["subsets"]}, corner

    focam.audit(photos, "cam", "ground_truth", progress=False)  # without objects there are no verdicts
    assert get_scenarios(context) == {}
    focam.audit(photos, "cam", "ground_truth", "things", object_labels=["thing"], progress=False)
    assert len(get_scenarios(context)) == 1
    focam.delete_run(photos, "cam")
    assert get_scenarios(context) == {}


def test_the_groups_of_a_comparison_are_a_scenario_for_both_evaluations(photos: fo.Dataset) -> None:
    for key, seed in (("before", 0), ("after", 4)):
        classifier = focam.load_classifier(tiny_gap(seed=seed), NAMES, preprocessing=SQUARE)
        focam.compute_cam(photos, classifier, key=key, ground_truth="ground_truth", progress=False)
    photos.set_values("place", ["road", "field", "field"] * 4)
    found = focam.compare(photos, "before", "after", groups="place", progress=False)
    context = ExecutionContext({"dataset_name": photos.name})
    [scenario] = get_scenarios(context).values()
    assert (scenario["name"], scenario["field"]) == ("after vs before groups", "after_vs_before_group")
    assert EvaluationPanel().validate_scenario_subsets(context, dict(scenario)) == (scenario, [])
    for group in found.groups:
        for key, accuracy in (("before", group.before), ("after", group.after)):
            results = photos.load_evaluation_results(f"{key}_eval")
            with results.use_subset({"type": "field", "field": scenario["field"], "value": group.name}):
                assert len(results.ytrue) == group.samples
                assert np.mean(results.ytrue == results.ypred) == pytest.approx(accuracy)

    things = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
    photos.set_values("things", [things.copy() for _ in range(12)])
    for _ in range(2):  # an audit replaces its own scenario, and no other
        focam.audit(photos, "after", "ground_truth", "things", object_labels=["thing"], progress=False)
    assert {each["name"] for each in get_scenarios(context).values()} == {"after verdicts", "after vs before groups"}
    focam.delete_run(photos, "after")
    assert get_scenarios(context) == {}
