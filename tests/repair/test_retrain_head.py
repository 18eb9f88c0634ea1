"""The last layer trained anew over a dataset: maps stay exact, groups are read, what cannot be trained is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
import torch
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.explain import prepare
from fiftyone_cam.core.last_layer_fit import off_object_evidence
from fiftyone_cam.core.pooled_reader import AnnotatedItem, PooledReader, SecondMoment
from fiftyone_cam.core.regions import Polygon
from fiftyone_cam.repair.retrain_head import _chosen, _groups, _Tried
from fiftyone_cam.runs.groups import read_groups
from tests.helpers.heads import After
from tests.helpers.networks import NAMES, SQUARE, write_photos


@pytest.fixture(scope="module")
def grouped(photos, report):
    """Tags, a field and objects on the photos."""
    for i, sample in enumerate(photos.iter_samples(autosave=True)):
        sample.tags = ["night"] if i % 3 == 0 else []
        sample["place"] = ["road", "field"][i % 2]
        sample["animals"] = fo.Detections(
            detections=[fo.Detection(label=sample.ground_truth.label, bounding_box=[0.25, 0.25, 0.5, 0.5])]
            if i % 4
            else []
        )
    return photos


def test_it_is_a_classifier_like_any_other(grouped, classifier, tmp_path):
    better = focam.retrain_head(grouped, "cam", classifier, "ground_truth", tmp_path / "better", groups="place")
    assert better.network.head.error < 1e-5
    loaded = focam.load_classifier(tmp_path / "better")
    assert loaded.fingerprint == better.fingerprint != classifier.fingerprint
    assert loaded.origin["retrained"]["groups"] == ["place"]
    own = {name: value for name, value in classifier.network.module.state_dict().items() if "classifier" not in name}
    new = better.network.module.state_dict()
    assert all(torch.equal(new[name], value) for name, value in own.items())
    run = focam.compute_cam(grouped, better, key="better", ground_truth="ground_truth")
    assert run.certificate < 1e-5
    assert run.record.classifier.details["retrained"]["from"] == classifier.fingerprint
    assert better.preview.overall.samples == 15


def test_the_same_call_gives_the_same_weights(grouped, classifier):
    one, two, other = (focam.retrain_head(grouped, "cam", classifier, "ground_truth", seed=s) for s in (1, 1, 2))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_every_group_is_counted_before_and_after(grouped, classifier):
    better = focam.retrain_head(grouped, "cam", classifier, "ground_truth", groups=["place", "night"])
    report = better.preview
    assert sum(group.samples for group in report.groups) == report.overall.samples
    assert sum(row.samples for row in report.classes) == report.overall.samples
    assert all("road" in group.name or "field" in group.name for group in report.groups)
    for row in (report.overall, *report.groups):
        assert row.after - row.before == pytest.approx((row.repaired - row.broken) / row.samples)
        assert row.interval[0] <= row.change <= row.interval[1]


def test_evidence_off_the_object_costs(grouped, classifier):
    off = {}
    for cost in (0.0, 100.0):
        better = focam.retrain_head(grouped, "cam", classifier, "ground_truth", objects="animals", off_object=cost)
        [words] = [text for label, text in better.preview.settings if label == "off the object"]
        off[cost] = float(words.split("(")[1].split("%")[0])
        [share] = [text for label, text in better.preview.settings if "judged samples (95%" in text]
        before, after = (float(number) for number in re.findall(r"([\d.]+)% ", share)[:2])
        low, high = (float(number) for number in re.findall(r"[+-][\d.]+", share))
        assert low <= round(after - before, 1) <= high
        assert 0 < after < 100
    assert off[100.0] < 0.5 * off[0.0]


def test_labels_that_mean_the_object_are_as_good_as_the_class_itself(grouped, classifier):
    grouped.clone_sample_field("animals", "things")
    grouped.map_labels("things", dict.fromkeys(NAMES, "thing")).save("things")
    arguments = {"groups": "place", "off_object": 1.0, "progress": False}
    weights = [
        focam.retrain_head(grouped, "cam", classifier, "ground_truth", **arguments, **objects).network.head.weight
        for objects in ({"objects": "animals"}, {"objects": "things", "object_labels": ["thing"]})
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    with pytest.raises(focam.FieldError, match="pass object_labels="):
        focam.retrain_head(grouped, "cam", classifier, "ground_truth", objects="things", **arguments)


def test_the_path_of_costs_is_shown_and_less_off_the_object_would_cost_accuracy(grouped, classifier):
    better = focam.retrain_head(
        grouped, "cam", classifier, "ground_truth", objects="animals", off_object=[0.0, 1.0, 100.0]
    )
    path = {label: text for label, text in better.preview.settings if label.startswith("cost ")}
    assert list(path) == ["cost 0", "cost 1", "cost 100"]
    shares = {label: [float(share) for share in re.findall(r"([\d.]+)%", text)] for label, text in path.items()}
    worst, mean, off = shares[f"cost {better.origin['retrained']['off_object']:g}"]
    for _, (other_worst, other_mean, other_off) in shares.items():
        assert off <= other_off or min(other_worst - worst, other_mean - mean) < 0


def test_of_what_is_nearly_as_accurate_that_with_least_off_the_object_is_chosen():
    tried = [
        _Tried(worst=1.0, mean=1.0, near=10, strength=1, off=0.9),
        _Tried(worst=0.99, mean=0.99, near=0.1, strength=1, off=0.5),
        _Tried(worst=0.9, mean=0.99, near=0.1, strength=10, off=0.1),
    ]
    assert _chosen(tried, 0.02) is tried[1]
    assert _chosen(tried, 0.0) is tried[0]
    assert _chosen(tried, 0.2) is tried[2]


def test_small_groups_are_one_so_that_few_samples_do_not_excuse_everything():
    data = SimpleNamespace(names=lambda: ["a"] * 30 + [f"class {i}" for i in range(40)])
    sizes = [int(group.sum()) for group in _groups(data, np.arange(70))]
    assert sizes == [30, 40]


def test_the_penalty_is_that_of_the_maps_off_the_object(grouped, classifier):
    """From signed maps of all classes in pixels, instead of from features in cells."""
    sample = grouped.skip(1).first()
    box = Polygon.box((0.25, 0.25, 0.5, 0.5))
    prepared = prepare(AnnotatedItem(sample.id, sample.filepath, objects=(box,)), SQUARE)
    [found] = PooledReader(classifier.network)([prepared])
    moment = SecondMoment(len(found.pooled))
    moment.add(found.cells, found.off)
    explanation = classifier.explain(sample.filepath, labels=NAMES)
    squares = sum(each.grid.astype(float) ** 2 for each in explanation.maps)
    side = 16 * 32
    fine = np.kron(squares, np.ones((side // squares.shape[0],) * 2))
    outside = np.ones((side, side), bool)
    outside[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = False
    weight = classifier.network.head.weight.numpy()
    assert off_object_evidence(weight, moment.mean) == pytest.approx(fine[outside].mean(), rel=0.05)
    assert moment.share(weight) == pytest.approx(fine[outside].sum() / fine.sum(), rel=0.05)
    assert moment.share(3 * weight) == pytest.approx(moment.share(weight))


def test_groups_come_from_fields_tags_and_concepts(grouped, report):
    run = report.run
    ids = grouped.values("id")
    found = read_groups(grouped, run, ["place", "night", "ground_truth"])
    assert found[ids[0]] == f"road, with night, {grouped.first().ground_truth.label}"
    concept = read_groups(grouped, run, "concept 1")
    assert set(concept.values()) <= {"with concept 1", "without concept 1"}
    there = {sample.id for sample in report.view("concept 1")}
    assert there <= {id for id, name in concept.items() if name == "with concept 1"}
    with pytest.raises(focam.FieldError, match=r"no field, tag or concept 'nigth' \(did you mean night"):
        read_groups(grouped, run, "nigth")
    with pytest.raises(focam.FieldError, match="'animals' is of type Detections, expected a field of one word"):
        read_groups(grouped, run, "animals")
    with pytest.raises(focam.FieldError, match="groups is 7, expected names"):
        read_groups(grouped, run, 7)


def test_what_makes_no_sense_is_refused(grouped, classifier, tmp_path):
    with pytest.raises(focam.CamError, match="nothing says where the object is"):
        focam.retrain_head(grouped, "cam", classifier, "ground_truth", off_object=1.0)
    with pytest.raises(focam.CamError, match="expected a number from 0"):
        focam.retrain_head(grouped, "cam", classifier, "ground_truth", objects="animals", off_object=-1)
    for settings, words in (
        ({"off_object": "x"}, "off_object is 'x'"),
        ({"seed": "x"}, "seed is 'x', expected a whole"),
    ):
        with pytest.raises(focam.CamError, match=words):
            focam.retrain_head(grouped, "cam", classifier, "ground_truth", objects="animals", **settings)
    with pytest.raises(focam.CamError, match="expected at least 40"):
        focam.retrain_head(grouped.limit(12), "cam", classifier, "ground_truth")


@pytest.mark.parametrize(
    ("tail", "layers", "objects", "reason"),
    [
        (
            lambda m, x: torch.cat([-m.fc(x.mean((2, 3))), m.fc(x.mean((2, 3)))[:, :2]], 1),
            {"fc": nn.Linear(6, 1)},
            None,
            "not the output of one linear layer|several layers",
        ),
        (
            lambda m, x: m.fc(m.norm(x.mean((2, 3)))),
            {"norm": nn.LayerNorm(6), "fc": nn.Linear(6, 3)},
            "animals",
            "exact for this image",
        ),
    ],
)
def test_other_heads_are_refused_with_the_reason(tail, layers, objects, reason, tmp_path, dataset):
    torch.manual_seed(0)
    names = NAMES if objects else NAMES[:2]
    classifier = focam.load_classifier(After(tail, **layers), names, preprocessing=SQUARE)
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 4)])
    focam.compute_cam(dataset, classifier)
    with pytest.raises(focam.HeadError, match=reason):
        focam.retrain_head(dataset, "cam", classifier, "ground_truth", objects=objects)


def test_a_head_with_gates_can_be_trained_without_objects(tmp_path, dataset):
    torch.manual_seed(0)
    tail = After(lambda m, x: m.fc(m.norm(x.mean((2, 3)))), norm=nn.LayerNorm(6), fc=nn.Linear(6, 3))
    classifier = focam.load_classifier(tail, NAMES, preprocessing=SQUARE)
    paths = write_photos(tmp_path, 60)
    dataset.add_samples(
        [fo.Sample(filepath=p, ground_truth=fo.Classification(label=NAMES[i % 3])) for i, p in enumerate(paths)]
    )
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth")
    better = focam.retrain_head(dataset, "cam", classifier)
    assert better.network.head.grade == "exact for this image"
    run = focam.compute_cam(dataset, better, key="better")
    assert run.certificate < 1e-5
