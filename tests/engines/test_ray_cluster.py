"""The Ray engine on a real cluster of two nodes, of one CPU each, on this machine: the same fields, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
import psutil
import pytest
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.concepts import find_concepts as finding
from fiftyone_cam.core.explain import Explainer
from fiftyone_cam.core.logits_check import IMAGES
from fiftyone_cam.core.results import Explanation, Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.engines import ray as ray_engine
from fiftyone_cam.runs.record import Counts
from tests.helpers import grades
from tests.helpers.networks import NAMES, SQUARE, write_photos
from tests.helpers.ray_spy import Spy, seen

ROOT = Path(__file__).parents[2]


class TwoNodes:
    """A head and a second node that can be killed and replaced; this process is connected to it."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.second = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()
        ray.init(self.cluster.address, log_to_driver=False)

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)

    def replace_second(self) -> None:
        self.second = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()

    def stop(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)  # set by it; other tests' processes would look for what is gone


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    two = TwoNodes()
    yield two
    two.stop()


@pytest.fixture()
def watched(tmp_path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


def load(folder: Path, **kwargs: Any) -> focam.Classifier:
    return focam.load_classifier(Spy(folder, **kwargs), NAMES, preprocessing=SQUARE)


def fill(dataset: fo.Dataset, folder: Path, count: int) -> None:
    paths = write_photos(folder, 40)
    dataset.add_samples(
        [
            fo.Sample(filepath=paths[i % 40], ground_truth=fo.Classification(label=NAMES[i % 3]), number=i)
            for i in range(count)
        ]
    )


def stored(dataset: fo.Dataset, key: str) -> dict[str, Any]:
    """All that a run wrote, as it lies in the database, by sample and field; labels without their ids."""
    found = {}
    for document in dataset._sample_collection.find({}):
        fields = {name.removeprefix(key): value for name, value in document.items() if name.startswith(f"{key}_")}
        found[str(document["_id"])] = json.loads(json.dumps(fields, default=repr), object_hook=_without_id)
    return found


def _without_id(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "_id"}


def once(action: Callable[[], None], after: int) -> Callable[[Any], None]:
    """A progress function that does something when so many samples are done."""
    left = [action]

    def report(bar: Any) -> None:
        if bar.iteration >= after and left:
            left.pop()()

    return report


@pytest.mark.slow
def test_two_nodes_write_what_one_process_writes_bit_for_bit(nodes, dataset, tmp_path, watched):
    fill(dataset, tmp_path, 600)
    Path(dataset.skip(5).first().filepath).write_text("no picture")
    dataset.skip(133).limit(1).set_values("filepath", ["/nowhere/a.png"])
    classifier = load(watched, meet=2)
    reports = []
    settings = {"ground_truth": "ground_truth", "top_k": 2, "batch_size": 16}
    one = focam.compute_cam(dataset, classifier, "one", **settings, engine=focam.Local(num_workers=1))
    two = focam.compute_cam(
        dataset,
        classifier,
        "two",
        **settings,
        engine=focam.Ray(num_actors=2),
        progress=lambda bar: reports.append(bar.iteration),
    )
    assert stored(dataset, "one") == stored(dataset, "two")
    for entry in ("counts", "failures", "certificate", "scale", "contrast_scale", "accuracy", "settings", "classifier"):
        assert getattr(one.record, entry) == getattr(two.record, entry), entry
    assert two.checks["logits"].passed  # made by the actors, where it is computed
    assert 0 <= two.checks["logits"].difference < 1e-4
    assert two.complete
    assert two.counts.failed == 16
    assert reports == sorted(reports)
    assert reports[-1] == 600

    forwards = seen(watched)
    again = sum(forward.images for forward in forwards) - (600 - 16)
    assert 0 < again <= 2 * IMAGES, "each actor's check takes a few images; no other is computed twice"
    assert len({forward.process for forward in forwards}) == 2
    assert len({forward.node for forward in forwards}) == 2
    assert not any(forward.database for forward in forwards), "an actor knows FiftyOne or MongoDB"
    assert {forward.threads for forward in forwards} == {1}, "an actor takes more than the CPU that it reserved"
    assert two.record.timing.images == 584
    assert two.record.timing.device == "cpu, 2 Ray actors"

    again = focam.compute_cam(dataset, classifier, "two", **settings, engine=focam.Ray(num_actors=2))
    assert again.counts.new == 0
    assert len(seen(watched)) == len(forwards)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer norm", "class token"])
def test_actors_compute_maps_of_any_grade(nodes, dataset, tmp_path, kind):
    fill(dataset, tmp_path, 40)
    model = grades.classifier(kind)
    settings = {"ground_truth": "ground_truth", "top_k": 2, "batch_size": 16}
    one = focam.compute_cam(dataset, model, "one", **settings, engine=focam.Local(num_workers=1))
    two = focam.compute_cam(dataset, model, "two", **settings, engine=focam.Ray(num_actors=1))
    assert stored(dataset, "one") == stored(dataset, "two")
    assert one.grade == two.grade == grades.KINDS[kind][1]


@pytest.mark.slow
def test_two_nodes_find_the_concepts_that_one_process_finds(nodes, dataset, tmp_path, watched, monkeypatch):
    fill(dataset, tmp_path, 120)
    dataset.skip(3).limit(1).set_values("filepath", ["/nowhere/a.png"])
    classifier = load(watched)
    monkeypatch.setattr(finding, "MOST_FITTED", 60)  # half of the images make the clusters, the others are assigned
    engines: list[tuple[str, focam.Local | focam.Ray]] = [("one", focam.Local()), ("two", focam.Ray(num_actors=2))]
    found = []
    for key, engine in engines:
        focam.compute_cam(dataset, classifier, key, ground_truth="ground_truth", batch_size=8)
        found.append(focam.find_concepts(dataset, key, classifier, count=6, batch_size=8, engine=engine))
    one, two = found
    assert [vars(concept) for concept in one.concepts] == [vars(concept) for concept in two.concepts]
    assert one.record.failures == two.record.failures
    assert sum(two.record.failures.values()) == 1
    assert stored(dataset, "one") == stored(dataset, "two")
    assert dataset.count("two_concepts.detections") > 0
    checked = sum(concept.pixels.changes + concept.pixels.stays for concept in two.concepts if concept.pixels)
    assert sum(forward.images for forward in seen(watched)) >= 119 + checked, "the actors computed all of it"


@pytest.mark.slow
def test_an_actor_and_a_node_die_in_the_middle_and_nothing_is_missing_or_doubled(nodes, dataset, tmp_path, watched):
    fill(dataset, tmp_path, 800)
    classifier = load(watched, seconds=0.2, meet=2)
    killed: list[Any] = []

    def kill_actor() -> None:
        killed.append(seen(watched)[0].process)
        os.kill(killed[0], signal.SIGKILL)

    def kill_node() -> None:
        nodes.kill_second()
        killed.append(nodes.second)

    actor, node = once(kill_actor, 100), once(kill_node, 300)

    def report(bar: Any) -> None:
        actor(bar)
        node(bar)

    try:
        run = focam.compute_cam(dataset, classifier, batch_size=16, engine=focam.Ray(num_actors=2), progress=report)
    finally:
        nodes.replace_second()
    assert len(killed) == 2
    assert len({forward.process for forward in seen(watched)}) >= 3, "nothing took the place of what was killed"
    assert run.complete
    assert run.counts == Counts(samples=800, computed=800, failed=0, new=800)
    assert len(set(dataset.values("cam_heatmap.id"))) == 800
    assert len(dataset) == 800
    focam.compute_cam(dataset, classifier, "local", batch_size=16, engine=focam.Local(num_workers=1))
    for alone, together in zip(*dataset.values(["local_heatmap", "cam_heatmap"]), strict=True):
        np.testing.assert_allclose(
            alone.cam.grid, together.cam.grid, rtol=1e-4, atol=1e-6
        )  # of batches put together anew


@pytest.mark.slow
def test_images_that_kill_whatever_touches_them_end_as_failures_of_their_own(nodes, dataset, tmp_path, watched):
    fill(dataset, tmp_path, 200)
    poison = tmp_path / "poison.png"
    Image.new("RGB", (64, 48), (200, 30, 90)).save(poison)
    dataset.match({"number": {"$in": [70, 131]}}).set_values("filepath", [str(poison)] * 2)
    run = focam.compute_cam(dataset, load(watched, poison=True), batch_size=16, engine=focam.Ray(num_actors=2))
    assert run.failures == {"the process that computes it dies, 3 times of 3": 2}
    assert run.counts == Counts(samples=200, computed=198, failed=2, new=200)
    assert dataset.exists("cam_error").values("number") == [70, 131]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sick", "error", "reason"),
    [
        ("detour", focam.HeadError, "takes another path than probed"),
        ("unloadable", focam.CamError, "Ray's actors compute nothing: .*the weights are not here"),
    ],
)
def test_what_is_wrong_with_all_images_ends_the_run_with_a_reason(
    nodes, dataset, tmp_path, watched, sick, error, reason
):
    fill(dataset, tmp_path, 8)
    with pytest.raises(error, match=reason):
        focam.compute_cam(dataset, load(watched, **{sick: True}), engine=focam.Ray(num_actors=2))
    assert focam.load_run(dataset, "cam").record.status == "interrupted"
    assert not dataset.exists("cam_error")


@pytest.mark.slow
def test_what_was_computed_before_an_interruption_is_kept_and_actors_go(nodes, dataset, tmp_path, watched):
    fill(dataset, tmp_path, 800)
    classifier = load(watched, seconds=0.05)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        focam.compute_cam(
            dataset, classifier, batch_size=16, engine=focam.Ray(num_actors=2), progress=once(interrupt, 200)
        )
    run = focam.load_run(dataset, "cam")
    done = dataset.count("cam_heatmap")
    assert run.record.status == "interrupted"
    assert 200 <= done < 800
    wait_until(lambda: not any(psutil.pid_exists(forward.process) for forward in seen(watched)))
    run = focam.compute_cam(dataset, classifier, batch_size=16)  # by the other engine
    assert run.counts == Counts(samples=800, computed=800, failed=0, new=800 - done)


DRIVER = """
import sys
from pathlib import Path
import fiftyone as fo, fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.ray_spy import Spy
dataset = fo.load_dataset(sys.argv[1])
square = Preprocessing((Resize(size=(64, 64)),))
classifier = focam.load_classifier(Spy(Path(sys.argv[2]), seconds=0.5), ["cat", "dog", "fish"], preprocessing=square)
print(focam.compute_cam(dataset, classifier, batch_size=16, engine=focam.Ray(num_actors=2)).counts.new)
"""


@pytest.mark.slow
def test_a_driver_is_killed_its_actors_end_and_the_next_call_finishes(dataset, tmp_path, watched):
    fill(dataset, tmp_path, 800)
    dataset.persistent = True  # the other process must find it
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", DRIVER, dataset.name, str(watched)]
    driver = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_until(lambda: _written(dataset) > 0 or driver.poll() is not None, 240)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = set(dataset.exists("cam_heatmap").values("id"))
    assert 0 < len(done) < 800
    wait_until(lambda: not any(psutil.pid_exists(forward.process) for forward in seen(watched)))

    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert int(said.stdout.split()[-1]) == 800 - len(done)
    dataset.reload()
    assert dataset.count("cam_heatmap") == len(set(dataset.values("cam_heatmap.id"))) == 800


def _written(dataset: fo.Dataset) -> int:
    dataset.reload()
    return int(dataset.count("cam_heatmap")) if dataset.has_sample_field("cam_heatmap") else 0


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.2)


@pytest.mark.slow
def test_actors_wait_for_a_slow_writer_and_the_drivers_memory_stays_flat(nodes, tmp_path, watched):
    count, weight = 12_000, 3 * 64 * 64 * 4  # three maps of 16 kB a result: 590 MB of results in all
    [path] = write_photos(tmp_path, 1, (64, 64))
    explainer = Explainer(load(watched, wide=True).network, top_k=3)
    timing = Timing()
    process = psutil.Process()
    memory, ahead, taken = [], [], 0
    items = [Item(str(i), path) for i in range(count)]
    for result in ray_engine.explain_all(items, explainer, 32, timing, focam.Ray(num_actors=2)):
        assert isinstance(result, Explanation)
        assert result.id == str(taken)
        taken += 1
        if taken % 200 == 0 and taken < 6000:
            time.sleep(0.5)  # the writer's pace, a tenth of the actors'
            memory.append(process.memory_info().rss)
            ahead.append(sum(forward.images for forward in seen(watched)) - taken)
    assert taken == count
    assert max(ahead) * weight < 150 * 2**20, "actors do not wait"
    assert max(memory[5:]) - memory[4] < 150 * 2**20, "the driver's memory grows"
    assert timing.images == count
