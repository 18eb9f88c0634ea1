"""Two runs on the same samples: what became of the predictions, and how far the evidence moved."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.runs import catalog
from tests.helpers.networks import tiny_gap, write_photos
from tests.helpers.stored_runs import Made, made_run

CLASSES = ["cat", "dog", "owl"]
LEFT = np.float32([[4, 0]] * 2)
RIGHT = LEFT[:, ::-1]

# truth, before, after, and what that is
CASES = [
    ("cat", "cat", "cat", "same"),
    ("cat", "dog", "dog", "same"),
    ("cat", "dog", "cat", "fixed"),
    ("cat", "cat", "dog", "broken"),
    ("dog", "cat", "owl", "changed"),
    (None, "cat", "owl", "changed"),
    (None, "owl", "owl", "same"),
]


@pytest.fixture()
def two(dataset, rng):
    """A run ``a`` and a run ``b`` on the cases; and one sample that only ``a`` has."""
    labels = [fo.Classification(label=truth) if truth else None for truth, *_ in CASES]
    samples = [fo.Sample(filepath=f"/none/{i}.jpg", ground_truth=label) for i, label in enumerate([*labels, None])]
    ids = dataset.add_samples(samples)
    before = [Made(case[1], rng.normal(size=(7, 7))) for case in CASES] + [Made("cat", LEFT)]
    after = [Made(case[2], rng.normal(size=(4, 5)), seen=(0.1, 0, 0.8, 1), box=(0.1, 0, 0.8, 1)) for case in CASES]
    made_run(dataset, dict(zip(ids, before, strict=True)), CLASSES, "a", ground_truth="ground_truth")
    made_run(dataset, dict(zip(ids, [*after, None], strict=True)), CLASSES, "b", ground_truth="ground_truth")
    return dataset


def test_what_became_of_each_prediction(two):
    found = focam.compare(two, "a", "b")
    assert two.values("b_vs_a_change") == [*(case[3] for case in CASES), None]
    total = found.classes[-1]
    assert (total.samples, total.same, total.fixed, total.broken, total.changed) == (7, 3, 1, 1, 2)
    by_class = {row.label: row for row in found.classes[:-1]}
    assert by_class.keys() == {"cat", "dog"}
    assert (by_class["cat"].fixed, by_class["dog"].changed) == (1, 1)
    for change in ("fixed", "broken", "changed"):
        view = two.load_saved_view(f"b vs a {change}")
        assert set(view.values("b_vs_a_change")) == {change}
    assert f"{total.correlation:.2f}" in str(found)


def test_the_other_way_round_fixed_is_broken_and_agreement_is_the_same(two):
    focam.compare(two, "a", "b")
    focam.compare(two, "b", "a")
    turned = {"fixed": "broken", "broken": "fixed"}
    there, back = two.values("b_vs_a_change"), two.values("a_vs_b_change")
    assert back == [turned.get(change, change) for change in there]
    for name in ("correlation", "overlap"):
        assert two.values(f"a_vs_b_{name}") == pytest.approx(two.values(f"b_vs_a_{name}"))
    assert len(set(two.values("b_vs_a_overlap"))) > 5


def test_every_group_is_counted_before_and_after_and_what_is_worse_stands_in_the_first_line(two):
    two.set_values("place", ["road", "field", "road", "field", "road", "field", "road", "road"])
    found = focam.compare(two, "a", "b", groups="place")
    truth, place = two.values(["ground_truth.label", "place"])
    expected = [f"{t}: {p}" if t else None for t, p in zip(truth, place, strict=True)]
    assert two.values("b_vs_a_group") == [*expected[:7], None]
    groups = {group.name: group for group in found.groups}
    assert {name: (g.samples, g.repaired, g.broken) for name, g in groups.items()} == {
        "cat: road": (2, 1, 0),  # same and right, fixed
        "cat: field": (2, 0, 1),  # same and wrong, broken
        "dog: road": (1, 0, 0),
    }
    assert (groups["cat: field"].before, groups["cat: field"].after) == (0.5, 0)
    first, *others = str(found).splitlines()
    assert first.endswith("WORSE: cat: field (50.0% to 0.0%)")
    assert any("worst group" in line for line in others)
    assert (
        str(focam.compare(two, "b", "a", groups="place")).splitlines()[0].endswith("WORSE: cat: road (100.0% to 50.0%)")
    )
    assert focam.compare(two, "a", "b").groups == []  # nothing says what b was mended by
    assert not two.has_field("b_vs_a_group")
    with pytest.raises(focam.FieldError, match="no field, tag or concept 'plaec'"):
        focam.compare(two, "a", "b", groups="plaec")


def test_two_runs_of_one_classifier_agree_wholly(dataset, tmp_path):
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 6)])
    square = Preprocessing((Resize(size=(64, 64)),))
    for key, seed in (("one", 0), ("again", 0), ("other", 1)):
        classifier = focam.load_classifier(tiny_gap(seed=seed), CLASSES, preprocessing=square)
        focam.compute_cam(dataset, classifier, key)
    focam.compare(dataset, "one", "again")
    assert dataset.values("again_vs_one_change") == ["same"] * 6
    assert dataset.values("again_vs_one_correlation") == pytest.approx([1] * 6)
    assert dataset.values("again_vs_one_overlap") == pytest.approx([1] * 6)
    focam.compare(dataset, "one", "other")
    assert max(dataset.values("other_vs_one_correlation")) < 0.999


def test_evidence_that_changed_sides_has_no_overlap(dataset):
    ids = dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg") for i in range(2)])
    made_run(dataset, {i: Made("cat", LEFT) for i in ids}, CLASSES, "a")
    made_run(dataset, {ids[0]: Made("cat", RIGHT), ids[1]: Made("cat", LEFT)}, CLASSES, "b")
    focam.compare(dataset, "a", "b")
    assert dataset.values("b_vs_a_overlap") == [0, pytest.approx(1)]
    assert dataset.values("b_vs_a_correlation") == pytest.approx([-1, 1])


def test_models_with_different_words_are_compared_in_those_of_the_ground_truth(dataset):
    ids = dataset.add_samples([fo.Sample(filepath="/none/0.jpg", ground_truth=fo.Classification(label="pet"))])
    made_run(dataset, {ids[0]: Made("cat", LEFT)}, CLASSES, "a", "ground_truth", {"cat": "pet", "dog": "pet"})
    made_run(dataset, {ids[0]: Made("pet", LEFT)}, ["pet", "thing"], "b", "ground_truth")
    focam.compare(dataset, "a", "b")
    assert dataset.values("b_vs_a_change") == ["same"]


def test_a_comparison_goes_with_its_later_run_and_knows_when_it_is_stale(two):
    found = focam.compare(two, "a", "b")
    assert found.stale is None
    catalog.load_run(two, "a").update(revision=2)
    assert "computed again" in focam.load_comparison(two, "a", "b").stale
    assert "stale" in str(focam.load_comparison(two, "a", "b"))
    focam.delete_run(two, "a")
    assert "'a' has been deleted" in focam.load_comparison(two, "a", "b").stale
    focam.delete_run(two, "b")
    assert not [name for name in two.get_field_schema() if "_vs_" in name]
    assert not two.list_saved_views()


def test_what_cannot_be_compared_is_refused(two):
    with pytest.raises(focam.RunError, match="'a' twice"):
        focam.compare(two, "a", "a")
    with pytest.raises(focam.RunError, match=r"no CAM run 'c', only 'a', 'b'"):
        focam.compare(two, "a", "c")
    with pytest.raises(focam.RunError, match="not been compared"):
        focam.load_comparison(two, "a", "b")
    with pytest.raises(focam.FieldError, match=r"no field 'truth'"):
        focam.compare(two, "a", "b", ground_truth="truth")
    with pytest.raises(focam.FieldError, match="leaves out"):
        focam.compare(two.exclude_fields("b_heatmap"), "a", "b")
    assert not [name for name in two.get_field_schema() if "_vs_" in name]


def test_the_table_counts_what_the_view_shows(two):
    focam.compare(two, "a", "b")
    assert focam.load_comparison(two[:4], "a", "b").classes[-1].samples == 4
    assert focam.load_comparison(two[:0], "a", "b").classes == []
