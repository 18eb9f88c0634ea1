"""A training is held by one process at a time: others are refused, and go on where it was killed or stopped."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import fiftyone as fo
import pytest
from safetensors.torch import load_file

import fiftyone_cam as focam
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.runs import catalog, lease
from fiftyone_cam.runs.record import Process
from fiftyone_cam.training import record as training_record
from fiftyone_cam.training.progress import Clock, Progress
from tests.helpers.processes import TrainingChild
from tests.helpers.trainings import QUICK, quick, striped


@pytest.fixture()
def stripes(dataset: fo.Dataset, tmp_path: Path) -> fo.Dataset:
    dataset.persistent = True  # while other processes have it
    dataset.add_samples(striped(tmp_path / "photos", {"narrow": 10, "wide": 10}))
    return dataset


def test_a_second_one_is_refused_and_goes_on_when_the_first_is_killed(stripes: fo.Dataset, tmp_path: Path) -> None:
    first = TrainingChild(stripes, tmp_path / "out", hold=2, **QUICK).go()
    first.until(2)
    stripes.reload()
    training = catalog.load_training(stripes, "out")
    assert training.status == "running"
    assert f"Training 'out' on {stripes.name!r}: running" in str(training)
    fields = set(stripes.get_field_schema())
    who = f"is being computed by process {first.process.pid}"
    for refused in (
        lambda: focam.train_classifier(stripes, "ground_truth", tmp_path / "out", **QUICK),
        lambda: focam.train_classifier(stripes, "ground_truth", tmp_path / "out", overwrite=True, **QUICK),
        lambda: focam.delete_run(stripes, "out"),
    ):
        with pytest.raises(RunError, match=who):
            refused()
    assert set(stripes.get_field_schema()) == fields  # nothing was deleted under it
    assert (tmp_path / "out" / "training.safetensors").is_file()

    first.kill()
    training = catalog.load_training(stripes, "out")
    assert (training.status, training.complete) == ("interrupted", False)
    seen: list[Progress] = []
    focam.train_classifier(stripes, "ground_truth", tmp_path / "out", progress=seen.append, **QUICK)
    assert min(progress.epoch for progress in seen if progress.epoch) == 2  # the first epoch was kept
    training = catalog.load_training(stripes, "out")
    assert (training.status, training.record.process, len(training.history)) == ("complete", None, 3)

    focam.train_classifier(stripes, "ground_truth", tmp_path / "whole", **QUICK)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)


@pytest.mark.slow
def test_two_at_once_under_one_key_one_trains_and_the_other_is_refused(stripes: fo.Dataset, tmp_path: Path) -> None:
    children = [TrainingChild(stripes, tmp_path / "out", pause=0.1, **QUICK) for _ in range(2)]
    for child in children:
        child.go()
    ends = [child.end() for child in children]
    assert any(said.get("done") for status, said, _ in ends if status == 0), ends
    for status, _, complaint in ends:
        assert status == 0 or "RunError: run 'out' " in complaint, complaint[-2000:]
    stripes.reload()
    assert catalog.list_trainings(stripes) == ["out"]
    training = catalog.load_training(stripes, "out")
    assert (training.status, len(training.history)) == ("complete", 3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_and_the_record_says_so(stripes: fo.Dataset, tmp_path: Path, number: signal.Signals) -> None:
    child = TrainingChild(stripes, tmp_path / "out", hold=2, **QUICK).go()
    child.until(2)
    child.process.send_signal(number)
    status, said, complaint = child.end()
    assert status == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 128 + signal.SIGTERM}[number], complaint[-2000:]
    assert not said
    stripes.reload()
    record = catalog.load_training(stripes, "out").record
    assert (record.status, record.process) == ("interrupted", None)
    assert record.stopped_by.startswith({signal.SIGINT: "KeyboardInterrupt", signal.SIGTERM: "Terminated"}[number])
    assert focam.train_classifier(stripes, "ground_truth", tmp_path / "out", **QUICK).classes == ("narrow", "wide")
    assert catalog.load_training(stripes, "out").record.stopped_by is None


def test_it_gives_signs_of_life_with_its_progress_and_ends_where_another_took_over(
    stripes: fo.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_record, "BEAT", 0.0)
    monkeypatch.setattr(Clock, "due", True)
    seen: list[str | None] = []

    def taken_over(progress: Progress) -> None:
        training = catalog.load_training(stripes, "out")
        seen.append(training.record.alive_at)
        if progress.epoch == 2:  # by another machine, which thinks this one dead
            training.update(process=Process(host="elsewhere", pid=1, started=0.0, token="theirs"))

    with pytest.raises(RunError, match="was deleted, or taken over, while it was computed: nothing more is written"):
        focam.train_classifier(stripes, "ground_truth", tmp_path / "out", progress=taken_over, **QUICK)
    assert len(set(seen)) > 1
    assert sorted(filter(None, seen)) == seen
    training = catalog.load_training(stripes, "out")
    assert lease.holder(training.record) == "process 1 on elsewhere"
    assert (training.status, training.record.stopped_by) == ("running", None)  # what is theirs was left alone


def test_killed_before_its_parts_were_written_they_are_written_by_the_next(stripes: fo.Dataset, tmp_path: Path) -> None:
    focam.train_classifier(stripes, "ground_truth", tmp_path / "out", **quick(epochs=1))
    before = stripes.values("out_split")
    training = catalog.load_training(stripes, "out")
    training.clear_field("split")
    training.update(status="running", process=Process(host=socket.gethostname(), pid=2**22 + 1, started=0.0))
    assert training.status == "interrupted"
    focam.train_classifier(stripes, "ground_truth", tmp_path / "out", **quick(epochs=1))
    assert stripes.values("out_split") == before
    assert catalog.load_training(stripes, "out").complete
