"""Concepts over a dataset: sums add up, what-if is a forward without these cells, and what was interrupted goes on."""

from __future__ import annotations

from collections import Counter

import fiftyone as fo
import numpy as np
import pytest
import torch
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.concepts import find_concepts as finding
from fiftyone_cam.concepts import what_if as whatif
from fiftyone_cam.core.concept_reader import CellReader, affine
from fiftyone_cam.core.concept_sums import summarise
from fiftyone_cam.core.concepts import Concepts
from fiftyone_cam.core.explain import prepare
from fiftyone_cam.core.results import Item
from fiftyone_cam.runs.concept_sums import Sums
from tests.helpers.networks import NAMES, SQUARE, write_photos


@pytest.fixture(scope="module")
def asked(classifier, tmp_path_factory):
    """Twelve photos with a run and its concepts, for what only reads them."""
    paths = write_photos(tmp_path_factory.mktemp("asked"), 12)
    dataset = fo.Dataset()
    dataset.add_samples(
        [fo.Sample(filepath=p, ground_truth=fo.Classification(label=NAMES[i % 3])) for i, p in enumerate(paths)]
    )
    focam.compute_cam(dataset, classifier, ground_truth="ground_truth")
    yield focam.find_concepts(dataset, "cam", classifier, count=6)
    dataset.delete()


@pytest.fixture()
def found(photos, classifier):
    """The same, for what changes them."""
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    return focam.find_concepts(photos, "cam", classifier, count=6)


def features_of(dataset, classifier):
    """Feature maps and logits of every image by one plain forward, by id."""
    result = {}
    for sample in dataset:
        pixels = prepare(Item(sample.id, sample.filepath), SQUARE).pixels[None]
        with classifier.network.evaluating():
            logits, features = classifier.network.forward(pixels)
        result[sample.id] = features[0], logits[0]
    return result


def assigned_cells(report):
    """The concept of each cell, by id, as it was stored."""
    stored = {}
    for chunk in Sums(report.record.folder).chunks():
        end = 0
        for id, (h, w) in zip(chunk["ids"].tolist(), chunk["shape"].tolist(), strict=True):
            start, end = end, end + h * w
            stored[id] = chunk["assigned"][start:end].reshape(h, w)
    return stored


def test_stored_parts_add_up_to_the_logits(classifier, asked):
    photos, found = asked.samples, asked
    forward = features_of(photos, classifier)
    head = classifier.network.head
    for chunk in Sums(found.record.folder).parts():
        sums = np.stack([chunk.parts[a:b].sum(0) for a, b in zip(chunk.starts, chunk.starts[1:], strict=False)])
        np.testing.assert_allclose(sums, chunk.pooled, atol=1e-3)
        logits = chunk.pooled @ head.weight.numpy().T + head.bias.numpy()
        np.testing.assert_allclose(logits, torch.stack([forward[id][1] for id in chunk.ids]).numpy(), atol=1e-5)


@pytest.mark.parametrize("names", [["concept 1"], ["concept 2", "concept 5"]])
def test_what_if_is_a_forward_without_these_cells(classifier, asked, names):
    photos, found = asked.samples, asked
    answer = focam.what_if(photos, "cam", classifier, without=names)
    cells, numbers = assigned_cells(found), [found.concept(name).number for name in names]
    counts = dict.fromkeys((whatif.SAME, whatif.CHANGED, whatif.FIXED, whatif.BROKEN), 0)
    for sample in photos:
        features, logits = features_of(photos.select(sample.id), classifier)[sample.id]
        keep = torch.from_numpy(~np.isin(cells[sample.id], numbers))
        head = classifier.network.head
        without = head.logits((features * keep)[None])[0]
        assert sample.cam_without.label == NAMES[int(without.argmax())]
        assert sample.cam_without.confidence == pytest.approx(float(without.softmax(0).max()), abs=1e-3)
        before, after = NAMES[int(logits.argmax())], sample.cam_without.label
        true = sample.ground_truth.label
        became = "same" if before == after else "fixed" if after == true else "broken" if before == true else "changed"
        assert sample.cam_without_change == became
        counts[became] += 1
    assert {name: getattr(answer, name) for name in counts} == counts
    assert answer.judged == 12
    right = sum(s.cam_without.label == s.ground_truth.label for s in photos)
    assert answer.accuracy == pytest.approx(right / 12)
    if len(names) == 1:
        concept = found.concept(names[0])
        assert (answer.fixed, answer.broken) == (concept.repaired, concept.broken)
    assert "network" not in str(answer)


def test_rows_say_what_effects_say_and_come_in_order(asked):
    photos, found = asked.samples, asked
    gains = [concept.gain for concept in found.concepts]
    assert gains == sorted(gains, reverse=True)
    assert [concept.name for concept in found.concepts] == [f"concept {i}" for i in range(1, 7)]
    assert sorted(concept.number for concept in found.concepts) == list(range(6))
    assert sum(concept.share for concept in found.concepts) == pytest.approx(1, abs=1e-5)
    assert found.judged == 12
    assert found.errors == len(photos.match(F("cam_prediction.label") != F("ground_truth.label")))
    for concept in found.concepts:
        check = concept.pixels
        assert check.changes + check.stays == min(50, round(concept.present * 12))
        assert 0 <= check.changed <= check.changes
        assert 0 <= check.stayed <= check.stays
        assert concept.examples
        assert {example.sample for example in concept.examples} <= set(photos.values("id"))
        assert not set(concept.speaks_for) & set(concept.speaks_against)
    shares = [concept.share for concept in found.by_share]
    assert shares == sorted((concept.share for concept in found.concepts), reverse=True)
    text = str(found)
    assert f"{found.by_share[0].name} (" in text
    for concept in found.concepts:
        assert concept.name in text
    assert "pixel check" in found.describe().markdown()


def test_places_are_detections_with_masks(asked):
    photos, found = asked.samples, asked
    cells = assigned_cells(found)
    for sample in photos:
        detections = sample.cam_concepts.detections
        assert 1 <= len(detections) <= 8
        assert sum(d.confidence for d in detections) <= 1 + 1e-6
        wrong = sample.cam_prediction.label != sample.ground_truth.label
        for detection in detections:
            assert (detection.blame is not None) == wrong
            assert detection.correct == (not wrong)
            x, y, w, h = detection.bounding_box
            grid = cells[sample.id] == found.concept(detection.label).number
            rows, columns = grid.shape
            inside = grid[round(y * rows) : round((y + h) * rows), round(x * columns) : round((x + w) * columns)]
            assert (inside | ~detection.mask[4::8, 4::8]).all()  # where the mask is, the concept is
            assert detection.mask.any(0).all()
            assert detection.mask.any(1).all()
    patches = photos.to_patches("cam_concepts")
    assert len(patches) == photos.count("cam_concepts.detections")
    first = found.concepts[0].name
    assert len(found.view(first)) == len(photos.match(F("cam_concepts.detections.label").contains(first)))
    assert len(found.patches(first)) == photos.count_values("cam_concepts.detections.label").get(first, 0)


def test_the_map_is_in_the_embeddings_panel(asked):
    photos, found = asked.samples, asked
    results = photos.load_brain_results("cam_concepts")
    assert results.points.shape == (photos.count("cam_concepts.detections"), 2)
    assert np.isfinite(results.points).all()
    assert found.record.brain


def test_of_many_places_the_map_has_some_of_each_concept(photos, found, classifier):
    counts = photos.count_values("cam_concepts.detections.label")
    assert found.record.left_off is None
    few = focam.find_concepts(photos, "cam", classifier, count=6, map_places=len(counts) + 3)
    results = photos.load_brain_results("cam_concepts")
    values = photos.values(["cam_concepts.detections.id", "cam_concepts.detections.label"], unwind=True)
    labels = dict(zip(*values, strict=True))
    shown = Counter(labels[id] for id in results.label_ids)
    assert sum(shown.values()) == len(results.points) == few.record.mapped == len(counts) + 3
    assert set(shown) == set(counts)
    highest = max(shown.values())
    assert all(highest - shown[name] <= 1 or shown[name] == counts[name] for name in counts)
    assert f"{len(counts) + 3} of {sum(counts.values())} places" in str(few)


def test_the_same_twice_and_no_matter_how_it_is_cut(asked, classifier, monkeypatch):
    photos, before = asked.samples, [vars(concept) for concept in asked.concepts]
    focam.compute_cam(photos, classifier, "again", ground_truth="ground_truth")
    again = focam.find_concepts(photos, "again", classifier, count=6)
    assert [vars(concept) for concept in again.concepts] == before
    monkeypatch.setattr(finding, "CHUNK", 5)
    small = focam.find_concepts(photos, "again", classifier, count=6, batch_size=1)
    assert [(c.name, c.number, c.net) for c in small.concepts] == [(c.name, c.number, c.net) for c in again.concepts]
    other = focam.find_concepts(photos, "again", classifier, count=6, seed=3)
    assert [c.share for c in other.concepts] != [c["share"] for c in before]


def test_streamed_images_are_as_all_at_once(photos, classifier, monkeypatch):
    """Three images make the clusters; the nine others are what the same clusters make of them by hand."""
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    monkeypatch.setattr(finding, "MOST_FITTED", 3)
    report = focam.find_concepts(photos, "cam", classifier, count=6)
    clusters = Concepts.from_arrays(Sums(report.record.folder).load_concepts())
    network = classifier.network.for_inference()
    stored = assigned_cells(report)
    assert len(stored) == 12
    for sample in photos:
        [cells] = CellReader(network)([prepare(Item(sample.id, sample.filepath), SQUARE)])
        np.testing.assert_array_equal(stored[sample.id], summarise(cells, clusters, affine(network.head)).assigned)


def test_what_was_interrupted_goes_on(photos, classifier, monkeypatch):
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    monkeypatch.setattr(finding, "MOST_FITTED", 3)
    monkeypatch.setattr(finding, "CHUNK", 2)
    expected = [vars(c) for c in focam.find_concepts(photos, "cam", classifier, count=6, batch_size=2).concepts]
    focam.delete_concepts(photos, "cam")

    def stop(bar):
        if bar.iteration >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        focam.find_concepts(photos, "cam", classifier, count=6, batch_size=2, progress=stop)
    record = focam.load_run(photos, "cam").record.concepts
    assert not record.complete
    with pytest.raises(focam.RunError, match="interrupted"):
        focam.load_concepts(photos, "cam")
    done = len(Sums(record.folder).done())
    assert 3 <= done < 12
    read = []
    original = finding.SumsReader._results
    monkeypatch.setattr(
        finding.SumsReader,
        "_results",
        lambda self, batch, forward: read.extend(batch) or original(self, batch, forward),
    )
    again = focam.find_concepts(photos, "cam", classifier, count=6, batch_size=2)
    assert len(read) == 12 - done
    assert again.record.folder == record.folder
    assert [vars(concept) for concept in again.concepts] == expected


def test_a_view_is_answered_from_sums(asked):
    photos, found = asked.samples, asked
    errors = photos.match(F("cam_prediction.label") != F("ground_truth.label"))
    report = focam.load_concepts(errors, "cam")
    assert report.judged == report.errors == len(errors)
    assert all(concept.broken == 0 for concept in report.concepts)
    by_name = {concept.name: concept for concept in report.concepts}
    for concept in found.concepts:
        assert by_name[concept.name].repaired == concept.repaired
        assert by_name[concept.name].blame == pytest.approx(concept.blame)
    again = focam.load_concepts(photos, "cam")
    assert [vars(c) for c in again.concepts] == [vars(c) for c in found.concepts]
    with pytest.raises(focam.RunError, match="none of these samples"):
        focam.load_concepts(photos.match(F("filepath") == "nowhere"), "cam")


def test_concepts_of_errors_alone(photos, classifier):
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    errors = photos.match(F("cam_prediction.label") != F("ground_truth.label"))
    report = focam.find_concepts(errors, "cam", classifier, count=4)
    assert report.record.samples == len(errors)
    assert photos.exists("cam_concepts").values("id") == errors.values("id")


def test_a_concept_gets_a_name(photos, found):
    places = photos.count_values("cam_concepts.detections.label")
    report = focam.name_concept(photos, "cam", "concept 2", "watermark")
    assert report.concepts[1].name == "watermark"
    after = photos.count_values("cam_concepts.detections.label")
    assert after.get("watermark") == places.get("concept 2")
    assert "concept 2" not in after
    assert focam.load_concepts(photos, "cam").concept("watermark").number == found.concepts[1].number
    focam.what_if(photos, "cam", without="watermark", into="clean")
    assert photos.count("cam_clean") == 12
    for wrong, message in ((("concept 2", "x"), "no concept"), (("concept 1", "watermark"), "already")):
        with pytest.raises(focam.CamError, match=message):
            focam.name_concept(photos, "cam", *wrong)


@pytest.mark.parametrize("delete", [focam.delete_concepts, focam.delete_run], ids=["concepts", "run"])
def test_deleting_leaves_nothing(photos, found, delete):
    focam.what_if(photos, "cam", without=["concept 1"])
    folder = Sums(found.record.folder).path
    assert folder.is_dir()
    assert focam.list_concepts(photos) == ["cam"]
    delete(photos, "cam")
    assert not folder.exists()
    assert focam.list_concepts(photos) == []
    assert photos.list_brain_runs() == []
    left = [name for name in photos.get_field_schema() if name.startswith(("cam_concepts", "cam_without"))]
    assert left == []
    assert photos.has_field("cam_heatmap") == (delete is focam.delete_concepts)


def test_a_record_from_elsewhere_deletes_nothing_else(photos, found, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    found.record.folder = str(precious)
    found.run.update(concepts=found.record)
    focam.delete_run(photos, "cam")
    assert precious.is_dir()


def test_sums_that_are_gone_are_missed_in_words(photos, found):
    Sums(found.record.folder).delete()
    assert focam.load_concepts(photos, "cam").concepts  # the rows are in the database
    for call in (
        lambda: focam.load_concepts(photos.limit(3), "cam"),
        lambda: focam.what_if(photos, "cam", without=["concept 1"]),
    ):
        with pytest.raises(focam.RunError, match="find the concepts again"):
            call()


def test_a_head_of_another_grade_has_concepts_and_no_repair(photos):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=4, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 3),
    )
    classifier = focam.load_classifier(module, NAMES, preprocessing=SQUARE)
    assert classifier.network.head.grade != "exact"
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    report = focam.find_concepts(photos, "cam", classifier, count=5)
    assert {concept.net for concept in report.concepts} == {None}
    blames = [concept.blame for concept in report.concepts]
    assert blames == sorted(blames, reverse=True)
    assert "not known" in str(report)
    with pytest.raises(focam.CamError, match="grade 'exact'"):
        focam.what_if(photos, "cam", without=["concept 1"])


def test_without_ground_truth_there_are_shares_and_classes(photos, classifier):
    focam.compute_cam(photos, classifier)
    report = focam.find_concepts(photos, "cam", classifier, count=5)
    shares = [concept.share for concept in report.concepts]
    assert shares == sorted(shares, reverse=True)
    assert {concept.net for concept in report.concepts} == {None}
    assert all(concept.speaks_for for concept in report.concepts)
    answer = focam.what_if(photos, "cam", without=["concept 1"])
    assert (answer.judged, answer.accuracy, answer.fixed, answer.broken) == (0, None, 0, 0)
    assert answer.same + answer.changed == 12


def test_an_unreadable_image_costs_itself(photos, classifier, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    photos.add_sample(fo.Sample(filepath=str(broken), ground_truth=fo.Classification(label="cat")))
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    report = focam.find_concepts(photos, "cam", classifier, count=5)
    assert report.record.samples == 12
    assert sum(report.record.failures.values()) == 1
    photos.delete_samples(photos.match(F("filepath") != str(broken)))
    with pytest.raises(focam.CamError, match="none of 1 images can be read"):
        focam.find_concepts(photos, "cam", classifier)


def test_what_cannot_be_found_is_refused_in_words(photos, classifier, tmp_path):
    with pytest.raises(focam.RunError, match="compute_cam"):
        focam.find_concepts(photos, "cam", classifier)
    run = focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    with pytest.raises(focam.RunError, match="find_concepts"):
        focam.load_concepts(photos, "cam")
    with pytest.raises(focam.CamError, match="count is 1"):
        focam.find_concepts(photos, "cam", classifier, count=1)
    with pytest.raises(focam.CamError, match="map_places is -1"):
        focam.find_concepts(photos, "cam", classifier, map_places=-1)
    with pytest.raises(focam.CamError, match="cannot be 5000 concepts"):
        focam.find_concepts(photos, "cam", classifier, count=5000)
    report = focam.find_concepts(photos, "cam", classifier, count=5)
    assert report.stale is None
    with pytest.raises(focam.CamError, match="did you mean concept"):
        report.concept("concept l")
    photos.add_samples([fo.Sample(filepath=path) for path in write_photos(tmp_path, 1, seed=7)])
    focam.compute_cam(photos, classifier, ground_truth="ground_truth")
    assert "find its concepts again" in focam.load_concepts(photos, "cam").stale
    assert run.dataset.has_field("cam_concepts")
