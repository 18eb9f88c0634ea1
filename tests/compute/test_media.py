"""Which file of a sample is read, and what is said of pictures that hold almost nothing."""

from __future__ import annotations

import logging

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.plugin import queries
from fiftyone_cam.plugin.operators.train_gap_classifier import training_arguments
from fiftyone_cam.runs.heatmaps import cam_of
from fiftyone_cam.training.split import TrainingData
from tests.helpers.networks import NAMES, SQUARE, tiny_gap, write_photos


@pytest.fixture()
def with_copies(dataset, tmp_path) -> fo.Dataset:
    """Photos whose file is no picture, with a field that names one; the third has none."""
    (tmp_path / "raw.png").write_bytes(b"no picture")
    for number, path in enumerate(write_photos(tmp_path, 3)):
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / "raw.png"), png_path=path if number < 2 else None, size=1))
    dataset.app_config.media_fields = ["filepath", "png_path"]
    dataset.save()
    return dataset


def test_maps_are_those_of_the_files_in_the_media_field(with_copies, classifier, tmp_path):
    run = focam.compute_cam(with_copies, classifier, media_field="png_path")
    assert (run.counts.computed, run.counts.failed) == (2, 1)
    assert run.record.settings.media_field == "png_path"
    sample = with_copies.first()
    expected = classifier.explain(sample.png_path)
    np.testing.assert_allclose(cam_of(sample.cam_heatmap)["grid"], expected.maps[0].grid, rtol=1e-4, atol=1e-6)
    heat = focam.explain_sample(with_copies, sample.id, classifier)
    np.testing.assert_allclose(cam_of(heat)["grid"], cam_of(sample.cam_heatmap)["grid"], rtol=1e-4, atol=1e-6)
    overlays = focam.export_overlays(with_copies, "cam", tmp_path / "out", progress=False)
    assert overlays.written == 2
    with pytest.raises(focam.RunError, match="media_field was 'png_path', now 'filepath'"):
        focam.compute_cam(with_copies, classifier)


def test_what_else_reads_pictures_reads_the_media_field(with_copies, classifier, tmp_path):
    run = focam.compute_cam(with_copies, classifier, media_field="png_path")
    first = with_copies.first()
    report = focam.score_faithfulness(with_copies, classifier, media_field="png_path", sanity=False, progress=False)
    assert report.count == 2
    with pytest.raises(focam.CamError, match="none of the 3 images can be read"):
        focam.score_faithfulness(with_copies, classifier)
    brain_key = focam.visualize(with_copies, "cam", classifier, progress=False)
    assert with_copies.load_brain_results(brain_key).points.shape == (2, 2)
    assert queries.filepaths(with_copies, [first.id], run.media_field) == {first.id: first.png_path}
    found = queries.sample_map(with_copies, first.id, "cam_heatmap", media_field=run.media_field)
    assert found is not None
    assert found.filepath == first.png_path


def test_a_training_reads_the_media_field(photos):
    photos.set_values("small", photos.values("filepath"))
    photos.set_values("filepath", [f"/nowhere/{number}.png" for number in range(12)])
    data = TrainingData.read(photos, "ground_truth", 0.5, 0, "small")
    assert {item.id: item.path for item in data.items} == dict(zip(*photos.values(["id", "small"]), strict=True))
    assert "media_field" not in training_arguments({"arch": "resnet18"})
    assert training_arguments({"arch": "resnet18", "media_field": "small"})["media_field"] == "small"


@pytest.mark.parametrize("wrong", ["nowhere", "size", "metadata"])
def test_a_field_without_paths_is_refused(with_copies, classifier, wrong):
    with pytest.raises(focam.FieldError, match=f"media_field is '{wrong}', expected .* such as filepath, png_path"):
        focam.compute_cam(with_copies, classifier, media_field=wrong)


def twelve_bits(folder, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 4096, (6, 8), dtype=np.uint16)).resize((64, 48), 0)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(np.asarray(coarse).astype(np.uint16)).save(paths[-1])
    return paths


def test_nearly_black_pictures_are_noted_and_those_of_the_right_range_are_not(dataset, tmp_path, classifier, caplog):
    dataset.add_images(twelve_bits(tmp_path, 4))
    with caplog.at_level(logging.WARNING):
        run = focam.compute_cam(dataset, classifier)
    [note] = run.record.notes
    assert note.startswith("4 of 4 are nearly black: is their range right? Preprocessing(full=4095)")
    assert note in str(run)
    assert note in caplog.text
    bright = Preprocessing((Resize(size=(64, 64)),), full=4095)
    right = focam.load_classifier(tiny_gap(), NAMES, preprocessing=bright)
    assert focam.compute_cam(dataset, right, "right").record.notes == []
    assert focam.load_run(dataset, "cam").record.notes == [note]


def test_pictures_of_one_colour_are_noted_where_they_are_most(dataset, tmp_path, classifier):
    for number in range(3):
        Image.new("RGB", (40, 40), (90, 120, 60 * number)).convert("L").save(tmp_path / f"{number}.png")
    dataset.add_images([str(tmp_path / f"{number}.png") for number in range(3)])
    [note] = focam.compute_cam(dataset, classifier).record.notes
    assert note == "3 of 3 are nearly of one colour: are these the right files?"
    dataset.add_images(write_photos(tmp_path, 3))
    assert focam.compute_cam(dataset, classifier, "more").record.notes == []


def read_half(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L")) // 2


def test_pictures_that_a_function_has_read_are_drawn_by_that_function(dataset, tmp_path):
    dataset.add_images(write_photos(tmp_path, 2))
    grey = Preprocessing((Resize(size=(64, 64)),), mean=(0.5,) * 3, std=(0.25,) * 3, read=read_half)
    classifier = focam.load_classifier(tiny_gap(), NAMES, preprocessing=grey)
    focam.compute_cam(dataset, classifier)
    with pytest.raises(focam.CamError, match=r"were read by .*read_half, which no record can hold: pass it again"):
        focam.export_overlays(dataset, "cam", tmp_path / "out", progress=False)
    overlays = focam.export_overlays(dataset, "cam", tmp_path / "out", text=False, alpha=0, read=read_half)
    assert overlays.written == 2
    picture = sorted((tmp_path / "out").glob("photo*.png"))[0]
    expected = np.repeat(read_half(dataset.first().filepath)[..., None], 3, axis=2)
    assert np.abs(np.asarray(Image.open(picture)).astype(int) - expected).max() <= 1


def test_the_same_weights_fed_otherwise_are_refused(photos, classifier):
    focam.compute_cam(photos, classifier)
    larger = Preprocessing((Resize(size=(96, 96)),))
    other = focam.load_classifier(classifier.network.module, NAMES, preprocessing=larger)
    assert other.fingerprint == classifier.fingerprint
    for explain in (focam.explain_sample, focam.split_logits):
        with pytest.raises(focam.RunError, match=r"fed otherwise than that of run 'cam': expected steps .*64"):
            explain(photos, photos.first().id, other)
    same = focam.load_classifier(classifier.network.module, NAMES, preprocessing=SQUARE)
    assert focam.explain_sample(photos, photos.first().id, same).label in NAMES
