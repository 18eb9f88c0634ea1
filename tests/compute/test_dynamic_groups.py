"""The App's *Group by*: all samples of the groups, in Python and in the App."""

from __future__ import annotations

import fiftyone_cam as focam
from fiftyone_cam.dataset.internals import stages_of
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.export_overlays import ExportOverlays
from tests.helpers.operators import context_of, execute


def grouped_by_scene(photos):
    photos.set_values("scene", [f"scene {number % 3}" for number in range(12)])
    return photos.group_by("scene")


def test_every_function_takes_all_samples_of_the_groups(photos, classifier, tmp_path):
    grouped = grouped_by_scene(photos)
    assert focam.compute_cam(grouped, classifier, ground_truth="ground_truth").counts.computed == 12
    assert len(focam.audit(grouped, "cam", ground_truth="ground_truth").samples) == 12
    assert photos.count("cam_spread") == 12
    assert focam.export_overlays(grouped, "cam", tmp_path / "out", progress=False).written == 12
    assert focam.score_faithfulness(grouped, classifier, count=5, sanity=False, progress=False).count == 5
    focam.localize(grouped, "cam")
    assert photos.count("cam_boxes") == 12
    brain_key = focam.visualize(grouped, "cam", classifier)
    assert len(photos.load_brain_results(brain_key).points) == 12


def test_so_does_the_app(photos, tmp_path):
    grouped = grouped_by_scene(photos)
    focam.load_classifier("squeezenet1_1", weights=None).save(tmp_path / "checkpoint")
    params = {"source": "checkpoint", "checkpoint": str(tmp_path / "checkpoint"), "key": "cam"}
    drawn = ComputeCam().resolve_input(context_of(photos, params, view=stages_of(grouped)))
    assert not [name for name, prop in drawn.type.properties.items() if prop.invalid]
    execute(ComputeCam(), photos, params, view=stages_of(grouped))
    assert photos.count("cam_heatmap") == 12
    execute(ExportOverlays(), photos, {"key": "cam", "out_dir": str(tmp_path / "out")}, view=stages_of(grouped))
    assert len(list((tmp_path / "out").glob("photo*.png"))) == 12
