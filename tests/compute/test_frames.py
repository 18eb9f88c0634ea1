"""The frames of videos: a run on them is the videos', and its results stand in their ``frames.``."""

from __future__ import annotations

from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.dataset.app_config import visible
from fiftyone_cam.dataset.internals import stages_of
from fiftyone_cam.plugin.operators.compute_cam import ComputeCam
from fiftyone_cam.plugin.operators.delete_cam_run import DeleteCamRun
from fiftyone_cam.runs.heatmaps import cam_of
from tests.helpers.networks import NAMES
from tests.helpers.operators import context_of, execute

FRAMES = 5


def film(path: Path, seed: int) -> None:
    """A video, and its frames as pictures where FiftyOne looks for them before it takes ffmpeg for it."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(FRAMES):
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        writer.write(cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_NEAREST))
    writer.release()
    (path.parent / path.stem).mkdir()
    reader = cv2.VideoCapture(str(path))
    for number in range(1, FRAMES + 1):
        found, picture = reader.read()
        assert found
        cv2.imwrite(str(path.parent / path.stem / f"{number:06d}.png"), picture)


@pytest.fixture()
def videos(dataset, tmp_path) -> fo.Dataset:
    for seed, name in enumerate(("one", "two")):
        film(tmp_path / f"{name}.mp4", seed)
        metadata = fo.VideoMetadata(frame_width=64, frame_height=48, frame_rate=5, total_frame_count=FRAMES, duration=1)
        sample = fo.Sample(filepath=str(tmp_path / f"{name}.mp4"), metadata=metadata)
        for number in range(1, 4):  # the others have no document yet
            sample.frames[number] = fo.Frame(truth=fo.Classification(label=NAMES[(number + seed) % 3]))
        dataset.add_sample(sample)
    return dataset


def sampled(videos: fo.Dataset, **options: object) -> fo.DatasetView:
    return videos.to_frames(sample_frames=True, frames_patt="%06d.png", **options)


def paths_of(videos: fo.Dataset) -> list[str]:
    return videos.values("frames.filepath", unwind=True)


def test_a_run_on_frames_is_the_videos(videos, classifier):
    frames = sampled(videos)
    run = focam.compute_cam(frames, classifier, ground_truth="truth", top_k=2)
    assert (run.counts.samples, run.counts.computed, run.counts.failed) == (10, 10, 0)
    assert run.dataset is videos
    assert focam.list_runs(videos) == focam.list_runs(frames) == ["cam"]
    assert set(focam.load_run(videos, "cam").fields) == {
        f"frames.cam_{name}" for name in ("prediction", "heatmap", "heatmap_2", "top", "contrast", "error")
    }
    labels, known = [], []
    for sample in videos:
        for number, frame in sample.frames.items():
            expected = classifier.explain(frame.filepath).maps[0]
            assert frame.cam_prediction.label == frame.cam_heatmap.label == expected.label
            np.testing.assert_allclose(cam_of(frame.cam_heatmap)["grid"], expected.grid, rtol=1e-4, atol=1e-6)
            labels.append(expected.label)
            if number < 4:
                known.append(frame.truth.label == expected.label)
                assert (frame.cam_contrast is None) == known[-1]
    assert run.record.accuracy == pytest.approx(np.mean(known))
    assert frames.values("cam_prediction.label") == labels == sampled(videos).values("cam_prediction.label")


def test_a_run_on_frames_goes_on_with_what_is_new(videos, classifier):
    before = sampled(videos)  # a copy from before there were any results
    first = before.match(F("frame_number") <= 2)
    assert focam.compute_cam(first, classifier).counts.new == 4
    assert videos.count("frames.cam_heatmap") == 4
    made = [frame.cam_heatmap.id for sample in videos for _, frame in sample.frames.items() if frame.cam_heatmap]
    Path(paths_of(videos)[4]).write_bytes(b"no picture")
    run = focam.compute_cam(sampled(videos), classifier)
    assert (run.counts.new, run.counts.computed, run.counts.failed) == (6, 9, 1)
    assert [reason for reason in videos.values("frames.cam_error", unwind=True) if reason] == list(run.failures)
    after = [frame.cam_heatmap.id for sample in videos for _, frame in sample.frames.items() if frame.cam_heatmap]
    assert set(made) < set(after)
    again = focam.compute_cam(before, classifier)  # the older copy has none of the six
    assert (again.counts.new, again.counts.computed, again.status) == (0, 9, "complete")
    assert before.count("cam_heatmap") == 9


def test_deleting_a_run_on_frames_leaves_nothing_and_an_older_view_computes_anew(videos, classifier):
    frames = sampled(videos)
    schema, indexes = set(videos.get_frame_field_schema()), set(videos.list_indexes())
    settings = videos.app_config.to_dict()
    run = focam.compute_cam(frames, classifier, ground_truth="truth")
    assert "frames.cam_prediction.label" in videos.list_indexes()
    explained = focam.explain_sample(frames, frames.first().id, classifier, NAMES[2])
    assert videos.first().frames[1].cam_explained.label == explained.label == NAMES[2]
    with pytest.raises(focam.CamError, match="pass the view of frames, and a frame's id"):
        focam.explain_sample(videos, frames.first().id, classifier)
    focam.delete_run(videos, "cam")
    assert set(videos.get_frame_field_schema()) == schema
    assert set(videos.list_indexes()) == indexes
    assert focam.list_runs(frames) == []
    assert not [path for path in str(videos.app_config.to_dict()).split("'") if path.startswith("frames.cam_")]
    assert settings["plugins"] == videos.app_config.to_dict()["plugins"]
    assert focam.compute_cam(frames, classifier).counts.new == 10
    assert videos.count("frames.cam_heatmap") == 10
    assert run.key == "cam"


def test_what_a_run_on_frames_does_not_own_stays(videos, classifier):
    videos.add_frame_field("cam_heatmap", fo.StringField)
    with pytest.raises(focam.FieldError, match=r"'frames.cam_heatmap' exists .*delete_frame_fields\(\['cam_heatmap'"):
        focam.compute_cam(sampled(videos), classifier)
    focam.delete_run(videos, "cam")
    assert isinstance(videos.get_field("frames.cam_heatmap"), fo.StringField)


def test_the_app_computes_frames(videos, tmp_path):
    frames = sampled(videos)
    focam.load_classifier("squeezenet1_1", weights=None).save(tmp_path / "checkpoint")
    params = {"source": "checkpoint", "checkpoint": str(tmp_path / "checkpoint"), "key": "cam"}
    execute(ComputeCam(), videos, params, view=stages_of(frames))
    assert videos.count("frames.cam_heatmap") == 10
    assert "frames.cam_heatmap" in visible(videos)
    assert properties(context_of(videos, params, view=stages_of(frames)))["ground_truth"].view.values() == ["truth"]
    assert "holds videos" in str(properties(context_of(videos, params))["problem"].error_message)
    execute(DeleteCamRun(), videos, {"key": "cam"})
    assert "cam_heatmap" not in videos.get_frame_field_schema()


def properties(context):
    return ComputeCam().resolve_input(context).type.properties


def test_frames_get_results_by_apply_model(videos, classifier):
    """FiftyOne itself carries what a view of frames gets to ``frames.`` of the videos.

    It forgets single frames on the way (1.22.1): its thread that writes takes the ids of samples whose changes it has
    not taken yet. ``save`` carries all.
    """
    frames = sampled(videos)
    frames.apply_model(classifier, "am", batch_size=2)
    frames.save()
    paths = ["frames.filepath", "frames.am_prediction.label", "frames.am_heatmap"]
    for path, label, heat in zip(*(videos.values(each, unwind=True) for each in paths), strict=True):
        expected = classifier.explain(path).maps[0]
        assert label == expected.label
        np.testing.assert_allclose(cam_of(heat)["grid"], expected.grid, rtol=1e-4, atol=1e-6)


def test_what_takes_no_frames_says_what_to_do_and_that_works(videos, classifier):
    with pytest.raises(focam.RunError, match=r"compute_cam takes the frames .*to_frames\(sample_frames=True\)"):
        focam.compute_cam(videos, classifier)
    with pytest.raises(focam.RunError, match=r"is empty.*to_frames\(sample_frames=True\)"):
        focam.compute_cam(videos.to_frames(), classifier)
    with pytest.raises(focam.RunError, match=r"no pictures of their own.*to_frames\(sample_frames=True\)"):
        focam.compute_cam(videos.to_frames(sample_frames="dynamic"), classifier)
    frames = sampled(videos)
    focam.compute_cam(frames, classifier, ground_truth="truth")
    with pytest.raises(focam.RunError, match=r"make a dataset of the frames, frames.clone\(\)"):
        focam.audit(frames, "cam", ground_truth="truth")
    own = frames.clone()
    try:
        focam.compute_cam(own, classifier, "own", ground_truth="truth")
        assert focam.export_overlays(own, "own", Path(paths_of(videos)[0]).parent / "out", progress=False).written == 10
    finally:
        own.delete()
