"""Processes that are killed, stopped, or two at once: nothing lost, nothing doubled, and the record tells the truth."""

from __future__ import annotations

import random
import signal
import threading

import fiftyone as fo
import psutil
import pytest

import fiftyone_cam as focam
from fiftyone_cam.runs.record import Counts
from tests.helpers.networks import write_photos
from tests.helpers.processes import NAMES, Child, check, classifier, foreign, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture()
def many(dataset, tmp_path) -> fo.Dataset:
    """2,000 samples of 40 photos, with fields of the user's own."""
    paths = write_photos(tmp_path, 40)
    dataset.persistent = True  # another process must find it
    dataset.add_samples(
        [
            fo.Sample(filepath=paths[i % 40], ground_truth=fo.Classification(label=NAMES[i % 3]), mine=i, tags=["old"])
            for i in range(2000)
        ],
        progress=False,
    )
    return dataset


def test_kill_9_at_twenty_random_moments(many):
    """From before the run is registered to after its last chunk; two are always loading, so that it takes minutes."""
    chance = random.Random(6)
    before = foreign(many)
    waiting = [Child(many) for _ in range(2)]
    kept = 0
    for _ in range(20):
        child = waiting.pop(0).go()
        waiting.append(Child(many))
        timer = threading.Timer(chance.uniform(0, 4.0), child.process.kill)
        timer.start()
        status, _, complaint = child.end()
        timer.cancel()
        assert status in (0, -signal.SIGKILL), complaint[-2000:]
        many.reload()
        if many.has_sample_field("cam_heatmap"):
            done = many.count("cam_heatmap")
            assert done >= kept, "what was computed is gone"
            kept = done
            run = focam.load_run(many, "cam")
            assert run.counts.computed == done, "the record says another number than there is"
            assert run.status == ("complete" if status == 0 else "interrupted") or (run.complete and done == 2000)
        if kept == 2000:
            focam.delete_run(many, "cam")
            assert not many._sample_collection.find_one({"cam_heatmap": {"$exists": True}})
            kept = 0
    for child in waiting:
        child.kill()
    run = focam.compute_cam(many, classifier())
    assert run.counts == Counts(samples=2000, computed=2000, failed=0, new=2000 - kept)
    check(many, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_with_what_was_computed_written_and_says_where(many, number):
    before = foreign(many)
    child = Child(many, pause=0.01).go()
    reached = child.until(300)
    child.process.send_signal(number)
    status, said, complaint = child.end()
    assert status == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 128 + signal.SIGTERM}[number], complaint[-2000:]
    assert not said
    many.reload()
    done = many.count("cam_heatmap")
    assert reached <= done < 2000, "what was computed was not written"
    assert f"run 'cam' stopped ({'KeyboardInterrupt' if number == signal.SIGINT else 'Terminated'}" in complaint
    assert f": {done:,} of 2,000 samples are done and safe; the same call goes on from there" in complaint
    run = focam.load_run(many, "cam")
    assert (run.status, run.counts.computed, run.complete) == ("interrupted", done, False)
    assert focam.compute_cam(many, classifier()).counts.new == 2000 - done
    check(many, before)


def test_two_at_once_under_two_keys_both_complete(many):
    before = foreign(many, ("one", "two"))
    children = [Child(many, key, ground_truth="ground_truth") for key in ("one", "two")]
    for child in children:
        child.go()
    for child in children:
        status, said, complaint = child.end()
        assert status == 0, complaint[-2000:]
        assert said["counts"] == {"samples": 2000, "computed": 2000, "failed": 0, "new": 2000}
    check(many, before, "one", "two")
    assert many.values("one_heatmap.label") == many.values("two_heatmap.label")
    assert {"one_contrast", "two_contrast", "one_error", "two_error"} <= set(many.get_field_schema())
    for key in ("one", "two"):
        focam.delete_run(many, key)
    assert foreign(many, ()) == before, "a field of a run stayed"


def test_two_at_once_under_one_key_one_computes_and_the_other_is_refused(many):
    before = foreign(many)
    children = [Child(many) for _ in range(3)]
    for child in children:
        child.go()
    ends = [child.end() for child in children]
    done = [said for status, said, _ in ends if status == 0]
    assert len(done) >= 1, ends
    assert sum(said["counts"]["new"] for said in done) == 2000, "something was computed twice, or not at all"
    for status, _, complaint in ends:
        assert status == 0 or "RunError: run 'cam' " in complaint, complaint[-2000:]
    check(many, before)


def test_the_second_is_refused_while_the_first_lives_and_takes_over_when_it_is_gone(many):
    before = foreign(many)
    first = Child(many, pause=0.02).go()
    first.until(100)
    with pytest.raises(focam.RunError, match=f"is being computed by process {first.process.pid}"):
        focam.compute_cam(many, classifier())
    run = focam.load_run(many, "cam")
    assert run.status == "running"
    with pytest.raises(focam.RunError, match=f"is being computed by process {first.process.pid}"):
        focam.delete_run(many, "cam")
    first.process.kill()
    dead = psutil.Process(first.process.pid)
    wait_for(
        lambda: dead.status() == psutil.STATUS_ZOMBIE, "its end"
    )  # nobody has waited for it, and its number is kept
    assert focam.load_run(many, "cam").status == "interrupted"
    assert "interrupted" in str(focam.load_run(many, "cam"))
    first.kill()
    assert focam.load_run(many, "cam").status == "interrupted"
    assert focam.compute_cam(many, classifier()).counts.computed == 2000
    check(many, before)
