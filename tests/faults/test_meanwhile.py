"""What others do to a dataset while it is computed, each from another process: theirs stays, and the run stays true."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import pytest

import fiftyone_cam as focam
from fiftyone_cam.runs.record import Counts, Process
from tests.helpers.networks import write_photos
from tests.helpers.processes import NAMES, Servant, check, classifier, foreign

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_photos(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture(scope="module")
def network() -> focam.Classifier:
    return classifier()


@pytest.fixture(scope="module")
def somebody() -> Iterator[Servant]:
    """One for all tests: starting it takes long."""
    anything = fo.Dataset(persistent=True)
    servant = Servant(anything)
    yield servant
    servant.dismiss()
    anything.delete()


@pytest.fixture()
def many(dataset, photos) -> fo.Dataset:
    dataset.persistent = True
    dataset.add_samples(
        [
            fo.Sample(filepath=photos[i % 40], ground_truth=fo.Classification(label=NAMES[i % 3]), mine=i, tags=["old"])
            for i in range(600)
        ],
        progress=False,
    )
    return dataset


def compute(dataset: fo.Dataset, network: focam.Classifier, somebody: Servant, code: str) -> focam.CamRun:
    """Compute; a third of the way, somebody does something to the dataset."""
    somebody(f"dataset = fo.load_dataset({dataset.name!r}); dataset.reload()")
    done: list[int] = []

    def meanwhile(bar: Any) -> None:
        if bar.iteration >= 200 and not done:
            done.append(bar.iteration)
            somebody(code)

    run = focam.compute_cam(dataset, network, batch_size=16, ground_truth="ground_truth", progress=meanwhile)
    assert done, "nothing happened meanwhile: the test proves nothing"
    return run


def test_samples_that_are_added_are_counted_as_missing_and_computed_by_the_next_call(many, network, somebody, photos):
    code = f"dataset.add_samples([fo.Sample(filepath={photos[0]!r}, mine=-1) for _ in range(5)], progress=False)"
    run = compute(many, network, somebody, code)
    assert run.complete
    assert run.counts == Counts(samples=605, computed=600, failed=0, new=600)
    assert "5 left: computing again goes on with them" in str(run)
    assert focam.compute_cam(many, network, ground_truth="ground_truth").counts.new == 5
    check(many, foreign(many))
    assert many.values("mine").count(-1) == 5


def test_samples_that_are_removed_stay_removed(many, network, somebody):
    gone = many.values("id")[250::7]  # of those still to come, and of those that are on their way
    before = foreign(many)
    run = compute(many, network, somebody, f"dataset.delete_samples({gone!r})")
    assert run.counts.samples == run.counts.computed == 600 - len(gone)
    check(many, {identity: entry for identity, entry in before.items() if str(identity) not in gone})


def test_tags_and_values_that_are_changed_stay_changed(many, network, somebody):
    code = (
        "dataset.untag_samples('old'); dataset.tag_samples('new'); dataset.set_values('mine', list(range(600)[::-1]));"
        "dataset.set_values('ground_truth.label', ['bird'] * 600)"
    )
    compute(many, network, somebody, code)
    many.reload()
    assert many.count_sample_tags() == {"new": 600}
    assert many.values("mine") == list(range(600)[::-1])
    assert many.distinct("ground_truth.label") == ["bird"]
    check(many, foreign(many))


def test_fields_settings_views_and_runs_that_are_added_stay(many, network, somebody):
    code = """
dataset.add_sample_field("theirs", fo.FloatField)
dataset.set_values("theirs", [0.5] * 600)
dataset.add_sample_field("ground_truth.surely", fo.FloatField)
dataset.save_view("theirs", dataset.match_tags("old"))
dataset.app_config.color_scheme = fo.ColorScheme(color_pool=["#123456"], color_by="instance")
dataset.app_config.active_fields = fo.core.odm.ActiveFields(paths=["theirs"])
dataset.info["theirs"] = 1
dataset.save()
dataset.register_run("theirs", dataset.init_run(method="somebody's"))
dataset.create_index("theirs")
"""
    run = compute(many, network, somebody, code)
    assert run.complete
    for _ in range(2):  # also after the run has been deleted
        fresh = foo.get_db_conn()["datasets"].find_one({"_id": many._doc.id})
        names = [field["name"] for field in fresh["sample_fields"]]
        assert len(set(names)) == len(names), "a field is declared twice"
        many.reload()
        assert many.bounds("theirs") == (0.5, 0.5)
        assert "ground_truth.surely" in many.get_field_schema(flat=True)
        assert many.has_saved_view("theirs")
        assert many.app_config.color_scheme.color_pool == ["#123456"]
        assert many.app_config.color_scheme.color_by == "instance"
        assert "theirs" in many.app_config.active_fields.paths
        assert many.info["theirs"] == 1
        assert "theirs" in many.list_runs()
        assert "theirs" in many.list_indexes()
        if focam.list_runs(many):
            assert many.count("cam_heatmap") == 600
            focam.delete_run(many, "cam")


def test_another_run_that_ends_meanwhile_keeps_its_own(many, network, somebody):
    before = foreign(many, ("cam", "other"))
    compute(many, network, somebody, "focam.compute_cam(dataset, classifier(), 'other', progress=False)")
    check(many, before, "cam", "other")
    groups = {group.name: group.paths for group in many.app_config.sidebar_groups}
    assert {"cam_heatmap", "other_heatmap"} <= set(groups["CAM"])


def test_fields_that_several_declare_at_once_are_all_there(many):
    servants = {who: Servant(many) for who in ("one", "two", "three")}
    code = """
from fiftyone_cam.dataset import database
for i in range(50):
    database.declare_fields(dataset, {{f"{}_{{i}}": {{"ftype": fo.FloatField}}}})
"""
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda who: servants[who](code.format(who)), servants))
    for servant in servants.values():
        servant.dismiss()
    many.reload()
    assert {f"{who}_{i}" for who in servants for i in range(50)} <= set(many.get_field_schema())


def test_a_dataset_that_is_renamed_is_computed_to_the_end(many, network, somebody):
    before, name = foreign(many), f"renamed {many.name}"
    run = compute(many, network, somebody, f"dataset.name = {name!r}")
    assert run.complete
    renamed = fo.load_dataset(name)
    assert focam.load_run(renamed, "cam").complete
    check(renamed, before)


@pytest.mark.parametrize("how", ["dataset.delete()", "fo.delete_dataset(dataset.name)"])
def test_a_dataset_that_is_deleted_is_not_brought_back(many, network, somebody, how):
    name, identity, collection = many.name, many._doc.id, many._sample_collection_name
    with pytest.raises(focam.RunError, match="deleted"):
        compute(many, network, somebody, how)
    database = foo.get_db_conn()
    assert name not in fo.list_datasets()
    assert collection not in database.list_collection_names(), "an empty collection was left"
    assert not database["runs"].count_documents({"_dataset_id": identity})
    assert not database["datasets"].count_documents({"_id": identity})


def test_a_run_that_is_deleted_by_force_gets_nothing_more(many, network, somebody):
    """FiftyOne's own delete_run knows nothing of a run that is being computed."""
    before = foreign(many)
    with pytest.raises(focam.RunError, match="deleted, or taken over, while it was computed"):
        compute(many, network, somebody, "dataset.reload(); dataset.delete_run('cam')")
    many.reload()
    assert focam.list_runs(many) == []
    left = many.count("cam_heatmap")
    assert left < 400, "it went on writing"
    many.delete_sample_fields([path for path in many.get_field_schema() if path.startswith("cam_")])
    focam.compute_cam(many, network)
    check(many, before)


def test_a_run_on_another_machine_is_left_alone_as_long_as_it_gives_signs_of_life(many, network):
    focam.compute_cam(many[:5], network)
    run = focam.load_run(many, "cam")
    process = Process(host="elsewhere", pid=1, started=0.0, token="theirs")
    from datetime import datetime, timedelta, timezone

    now = datetime.now(timezone.utc)
    run.update(status="running", process=process, alive_at=(now - timedelta(seconds=500)).isoformat())
    with pytest.raises(focam.RunError, match="is being computed by process 1 on elsewhere"):
        focam.compute_cam(many, network)
    run.update(alive_at=(now - timedelta(seconds=700)).isoformat())
    assert focam.compute_cam(many, network).counts.computed == 600
    check(many, foreign(many))


def test_two_threads_of_one_process_are_two(many, network):
    """As two tabs of the App are."""
    refused: list[str] = []

    def again(bar: Any) -> None:
        if not refused:
            with pytest.raises(focam.RunError, match="is being computed by this process") as error:
                focam.compute_cam(many, network)
            refused.append(str(error.value))

    focam.compute_cam(many, network, progress=again)
    assert refused
    check(many, foreign(many))
