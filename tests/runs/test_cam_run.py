"""What a run says of itself."""

from __future__ import annotations

from dataclasses import asdict, replace

import fiftyone as fo
import pytest

from fiftyone_cam.core.timing import Timing
from fiftyone_cam.runs import cam_run
from fiftyone_cam.runs.cam_run import where_the_time_went
from fiftyone_cam.runs.record import Counts
from tests.helpers.stored_runs import registered_run


@pytest.mark.parametrize(
    ("waited_for", "advice"), [("decode", "try more workers"), ("writes", "the database"), ("nothing", "")]
)
def test_a_run_says_where_its_time_went_and_what_to_do_if_it_took_any(waited_for, advice):
    timing = Timing(forward=3.0, maps=1.0, seconds=10.0)
    if waited_for != "nothing":
        setattr(timing, f"waiting_for_{waited_for}", 6.0)
    said = where_the_time_went(timing)
    assert "forward 30%" in said
    assert advice in said
    assert (";" in said) == bool(advice)
    brief = where_the_time_went(
        Timing(**{name: seconds / 100 for name, seconds in asdict(timing).items() if name != "device"})
    )
    assert brief == said.partition(";")[0]


def test_a_long_run_on_a_cpu_says_what_would_compile_it_where_that_is_not_installed(monkeypatch):
    timing = Timing(forward=90.0, maps=5.0, seconds=100.0, device="cpu")
    assert ";" not in where_the_time_went(timing)
    monkeypatch.setattr(cam_run, "find_spec", lambda name: None)  # as if it were not installed
    assert "fiftyone_cam[onnx]" in where_the_time_went(timing)
    for other in ({"device": "cuda:0"}, {"forward": 50.0}):
        assert ";" not in where_the_time_went(replace(timing, **other))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (Counts(samples=1500, computed=221, new=1500), "221 with a map, 0 failed, of 1,500; 1,279 left"),
        (Counts(samples=6, computed=2, failed=4, new=6), "2 with a map, 4 failed, of 6; 6 new"),
        (Counts(samples=60, computed=60), "60 with a map, 0 failed, of 60; 0 new"),
    ],
)
def test_a_run_says_how_many_samples_are_left(dataset: fo.Dataset, counts: Counts, said: str) -> None:
    assert said in str(registered_run(dataset, counts=counts))


def test_a_run_that_took_no_time_says_so(dataset: fo.Dataset) -> None:
    run = registered_run(dataset)
    run.update(timing=Timing(device="cpu", images=2, seconds=0.01, forward=0.01))
    assert "(less than 0.1 s, float32)" in str(run)
