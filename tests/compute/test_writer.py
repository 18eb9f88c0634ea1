"""What is written, chunk by chunk: the same whatever fails or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.runs.record import Counts
from tests.helpers.networks import write_photos
from tests.helpers.stored_runs import snapshot


def test_the_scale_is_of_the_first_maps_wherever_the_failures_are(dataset, tmp_path, classifier):
    paths = write_photos(tmp_path, 100)
    bad = [f"/nowhere/{i}.png" for i in range(30)]
    orders = {"none": paths, "first": bad + paths, "last": paths + bad, "among": [*paths[:50], *bad, *paths[50:]]}
    scales = []
    for key, order in orders.items():
        ids = dataset.add_samples([fo.Sample(filepath=path) for path in order], progress=False)
        for batch_size in (8, 128):
            view = dataset.select(ids, ordered=True)
            run = focam.compute_cam(view, classifier, f"{key}_{batch_size}", batch_size=batch_size, device="cpu")
            scales.append(run.record.scale)
    tops = [max(0.0, heat.cam.grid.max()) for heat in dataset.limit(64).values("none_8_heatmap")]
    assert scales == pytest.approx([np.percentile(tops, 90)] * 8, rel=1e-5)


KILLED = """
import sys
import fiftyone as fo, fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import tiny_gap
dataset = fo.load_dataset(sys.argv[1])
square = Preprocessing((Resize(size=(64, 64)),))
classifier = focam.load_classifier(tiny_gap(), ["cat", "dog", "fish"], preprocessing=square)
focam.compute_cam(dataset, classifier, batch_size=16)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_800_loses_at_most_a_chunk(dataset, tmp_path, classifier):
    paths = write_photos(tmp_path, 40)
    dataset.persistent = True  # the other process must find it after this one's session
    dataset.add_samples([fo.Sample(filepath=paths[i % 40]) for i in range(800)])
    root = str(Path(__file__).parents[2])
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, dataset.name], cwd=root, env={**os.environ, "PYTHONPATH": root}
        )
        before = dataset.count("cam_heatmap") if dataset.has_sample_field("cam_heatmap") else 0
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            dataset.reload()
            if dataset.has_sample_field("cam_heatmap") and dataset.count("cam_heatmap") > before:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        dataset.reload()
        if dataset.count("cam_heatmap") == 800:
            break
    done = set(dataset.exists("cam_heatmap").values("id"))
    half_done = dataset.count("cam_prediction") - len(done)
    assert len(done) > 0
    assert 0 <= half_done <= 128  # one chunk
    before = snapshot(dataset, "cam_heatmap")
    run = focam.compute_cam(dataset, classifier, batch_size=16)
    assert run.counts == Counts(samples=800, computed=800, failed=0, new=800 - len(done))
    after = snapshot(dataset, "cam_heatmap")
    assert all(after[id] == before[id] for id in done), "a finished sample was computed again"
    assert len(dataset) == 800
    assert len(set(dataset.values("cam_heatmap.id"))) == 800
    for path in paths[:3]:  # the same file gives the same map, whichever process made it
        logits = dataset.match(F("filepath") == path).values("cam_heatmap.logit")
        np.testing.assert_allclose(logits, logits[0], rtol=1e-4, atol=1e-6)
