"""The three checks of a run: kept with it, said in one line, and a run that fails one is refused."""

from __future__ import annotations

import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.network import GapNetwork
from tests.helpers.networks import NAMES, SQUARE, tiny_gap, write_photos


def test_a_run_keeps_its_checks_and_says_them_in_one_line(photos, classifier):
    run = focam.compute_cam(photos, classifier, device="cpu")
    for found in (run, focam.load_run(photos, "cam")):
        assert list(found.checks) == ["pixels", "logits", "maps"]
        assert found.checks["pixels"].passed is None
        assert found.checks["logits"].passed
        assert 0 < found.checks["logits"].difference < 1e-5
        assert found.checks["logits"].detail == "float32 on cpu, 4 images of the run"
        assert found.checks["maps"].difference == found.certificate
        assert found.checks["maps"].detail.endswith("12 images")
        assert found.record.checks == {name: check.to_dict() for name, check in found.checks.items()}
    [line] = [line for line in str(run).splitlines() if line.lstrip().startswith("checks")]
    assert "pixels not compared (the preprocessing was given as data" in line
    assert "; logits equal to " in line
    assert f"; maps equal to {run.certificate:.2g}" in line


def test_a_call_that_computes_nothing_forgets_no_check(photos, classifier):
    before = focam.compute_cam(photos, classifier).checks
    assert focam.compute_cam(photos, classifier).checks == before


def test_a_device_that_computes_wrongly_ends_the_run_before_anything_is_written(photos, monkeypatch):
    classifier = focam.load_classifier(tiny_gap(), NAMES, preprocessing=SQUARE)
    right = GapNetwork._input
    monkeypatch.setattr(GapNetwork, "_input", lambda self, batch: right(self, batch * 0))
    with pytest.raises(focam.RunError, match=r"not the network that was loaded: its logits differ by .* expected at"):
        focam.compute_cam(photos, classifier)
    run = focam.load_run(photos, "cam")
    assert run.status == "interrupted"
    assert photos.count("cam_heatmap") == 0
    monkeypatch.undo()
    assert focam.compute_cam(photos, classifier).counts.computed == 12


def test_a_single_image_is_checked_too(dataset, tmp_path, classifier):
    dataset.add_images(write_photos(tmp_path, 1))
    check = focam.compute_cam(dataset, classifier, device="cpu").checks["logits"]
    assert check.passed
    assert check.detail == "float32 on cpu, 1 image of the run"
