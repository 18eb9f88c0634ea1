"""An edited head: what it loses, that its maps are still exact, and that the preview is what really happens."""

from __future__ import annotations

from dataclasses import replace

import fiftyone as fo
import numpy as np
import pytest
import torch
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.concepts.rows import held_out
from fiftyone_cam.core.explain import prepare
from fiftyone_cam.core.head_edits import HeadEdit, principal_directions
from fiftyone_cam.core.results import Item
from fiftyone_cam.runs.concept_sums import Sums
from tests.helpers.heads import After
from tests.helpers.networks import NAMES, SQUARE, write_photos


def pooled_and_logits(dataset, classifier):
    """By one plain forward of each image."""
    pixels = torch.stack([prepare(Item("", path), SQUARE).pixels for path in dataset.values("filepath")])
    with classifier.network.evaluating():
        logits, features = classifier.network.forward(pixels)
    return features.mean((2, 3)).numpy(), logits.numpy()


def test_every_logit_loses_the_part_along_the_concept_and_nothing_else(photos, classifier, report):
    edited = focam.edit_head(classifier, report, "concept 1", directions=2, strength=0.75)
    sums = Sums(report.record.folder)
    ids = sorted(sums.done())
    judging = {id for id, test in zip(ids, held_out(ids, report.record.seed), strict=True) if test}
    rows, others, everyone = [], [], []
    for chunk in sums.parts():
        for i, id in enumerate(chunk.ids.tolist()):
            here = slice(chunk.starts[i], chunk.starts[i + 1])
            mine = chunk.parts[here][chunk.concept[here] == report.concepts[0].number]
            if id not in judging:
                rows += list(mine)
                everyone.append(chunk.pooled[i])
                others += [] if len(mine) else [chunk.pooled[i]]
    mean = np.mean(others or everyone, axis=0)
    edit = HeadEdit(principal_directions(np.array(rows), 2), mean, 0.75)
    pooled, logits = pooled_and_logits(photos, classifier)
    _, after = pooled_and_logits(photos, edited)
    np.testing.assert_allclose(after, logits - edit.lost(classifier.network.head.weight.numpy(), pooled), atol=1e-3)
    assert np.abs(after - logits).max() > 0.01


def test_maps_of_an_edited_head_are_exact_and_its_run_says_what_was_removed(photos, classifier, report):
    edited = focam.edit_head(classifier, report, ["concept 1", "concept 2"], directions=3, strength=1.0)
    assert edited.network.head.error < 1e-5
    run = focam.compute_cam(photos, edited, key="edited", ground_truth="ground_truth")
    assert run.certificate < 1e-5
    assert run.record.classifier.details["edit"]["removed"] == ["concept 1", "concept 2"]
    assert run.record.classifier.details["edit"]["from"] == classifier.fingerprint
    counts = focam.compare(photos, "cam", "edited").classes[-1]
    assert counts.same + counts.fixed + counts.broken + counts.changed == len(photos)

    judged = np.array(held_out(sorted(photos.values("id")), report.record.seed))
    order = np.argsort(photos.values("id"))
    change = np.array(photos.values("edited_vs_cam_change"))[order][judged]
    assert edited.preview.overall.samples == judged.sum()
    assert edited.preview.overall.repaired == (change == "fixed").sum()
    assert edited.preview.overall.broken == (change == "broken").sum()


def test_an_edit_of_nothing_is_the_same_classifier(classifier, report):
    for edited in (
        focam.edit_head(classifier, report, []),
        focam.edit_head(classifier, report, "concept 1", directions=4, strength=0),
    ):
        assert edited.fingerprint == classifier.fingerprint
        assert edited.preview.overall.change == 0
        assert "no group is worse" in str(edited.preview)


def test_the_given_classifier_stays_as_it_is(classifier, report):
    before = classifier.network.head.weight.clone()
    focam.edit_head(classifier, report, "concept 1", directions=2, strength=1.0)
    assert torch.equal(classifier.network.head.weight, before)


def test_saved_and_loaded_it_is_equal_and_still_says_what_was_removed(classifier, report, tmp_path):
    edited = focam.edit_head(classifier, report, "concept 1", directions=2, strength=1.0)
    loaded = focam.load_classifier(edited.save(tmp_path / "edited"))
    assert loaded.fingerprint == edited.fingerprint != classifier.fingerprint
    assert loaded.origin["edit"] == edited.origin["edit"]
    again = focam.load_classifier(loaded.save(tmp_path / "again"))
    assert again.origin["edit"]["removed"] == ["concept 1"]


def test_how_much_is_removed_is_chosen_on_one_half_and_judged_on_the_other(classifier, report):
    edited = focam.edit_head(classifier, report, "concept 1")
    assert edited.preview.overall.samples == 30
    assert "chosen by 30 samples" in str(edited.preview)
    groups = {group.name: group.samples for group in edited.preview.groups}
    assert sum(groups.values()) == 30
    assert set(groups) <= {f"{name}: {side} concept 1" for name in NAMES for side in ("with", "without")}


def test_where_nothing_helps_nothing_is_removed_and_the_first_line_says_so(classifier, report):
    """True classes are by lot here: there is nothing to repair."""
    for concept in report.concepts[:3]:
        edited = focam.edit_head(classifier, report, concept.name)
        first = str(edited.preview).splitlines()[0]
        assert first.startswith(f"Nothing is removed of {concept.name}, since ")
        assert edited.preview.overall.change == 0
        assert edited.fingerprint == classifier.fingerprint


def test_without_true_classes_nobody_can_choose(classifier, report):
    found = report.record
    report.run.update(concepts=replace(found, ground_truth=None))
    try:
        with pytest.raises(focam.CamError, match="without a ground truth"):
            focam.edit_head(classifier, report, "concept 1")
        edited = focam.edit_head(classifier, report, "concept 1", directions=1, strength=1)
        assert edited.preview is None
    finally:
        report.run.update(concepts=found)


def test_what_an_edit_by_hand_worsens_stands_in_the_first_line(classifier, report):
    found = [
        focam.edit_head(classifier, report, concept.name, directions=8, strength=2.0) for concept in report.concepts
    ]
    worse = [edited.preview for edited in found if edited.preview.worse]
    assert worse
    for preview in worse:
        assert f"WORSE: {preview.worse[0].name} (" in str(preview).splitlines()[0]


def test_settings_that_make_no_sense_are_refused(classifier, report):
    for settings, words in (
        ({"remove": "concept 99"}, "there is no concept 'concept 99'"),
        ({"remove": "concept 1", "directions": 0}, "expected a whole number from 1"),
        ({"remove": "concept 1", "strength": 3}, "expected a number from 0"),
    ):
        with pytest.raises(focam.CamError, match=words):
            focam.edit_head(classifier, report, **settings)


def test_what_is_no_report_or_no_name_is_refused(classifier, report):
    for arguments, words in (
        (("cam", "concept 1"), "expected the report of find_concepts or load_concepts, found str"),
        ((report, None), "remove is None, expected names"),
        ((report, [7]), "remove is .7., expected names"),
    ):
        with pytest.raises(focam.CamError, match=words):
            focam.edit_head(classifier, *arguments)
    with pytest.raises(focam.CamError, match="strength is 'x', expected a number"):
        focam.edit_head(classifier, report, "concept 1", strength="x")


def test_another_classifier_is_refused(report):
    torch.manual_seed(1)
    other = focam.load_classifier(
        After(lambda m, x: m.fc(x.mean((2, 3))), fc=nn.Linear(6, 3)), NAMES, preprocessing=SQUARE
    )
    with pytest.raises(focam.RunError, match="other weights"):
        focam.edit_head(other, report, "concept 1")


@pytest.mark.parametrize(
    ("tail", "layers", "reason"),
    [
        (
            lambda m, x: m.fc(m.norm(x.mean((2, 3)))),
            {"norm": nn.LayerNorm(6), "fc": nn.Linear(6, 3)},
            "exact for this image",
        ),
        (
            lambda m, x: m.fc(m.first(x.mean((2, 3)))),
            {"first": nn.Linear(6, 6), "fc": nn.Linear(6, 3)},
            "several layers come between",
        ),
    ],
)
def test_other_heads_are_refused_with_the_reason(tail, layers, reason, tmp_path, dataset):
    torch.manual_seed(0)
    classifier = focam.load_classifier(After(tail, **layers), NAMES, preprocessing=SQUARE)
    dataset.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 6)])
    focam.compute_cam(dataset, classifier)
    report = focam.find_concepts(dataset, "cam", classifier, count=3)
    with pytest.raises(focam.HeadError, match=reason):
        focam.edit_head(classifier, report, "concept 1")
