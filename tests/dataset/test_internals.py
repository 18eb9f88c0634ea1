"""What this project needs of FiftyOne's private parts, each compared with what FiftyOne's public API says."""

from __future__ import annotations

from datetime import datetime

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np
import pytest
from bson import ObjectId
from fiftyone import ViewField as F
from pymongo import UpdateOne

from fiftyone_cam.dataset import internals

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture()
def five(dataset: fo.Dataset) -> fo.Dataset:
    dataset.add_samples(
        [
            fo.Sample(
                filepath=f"/nowhere/{number}.jpg",
                number=number,
                truth=fo.Classification(label="cat" if number < 2 else "dog"),
                heat=fo.Heatmap(map=np.full((2, 3), number, np.uint8)),
                box=fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0, 0, 0.5, 0.5])]),
            )
            for number in range(5)
        ],
        progress=False,
    )
    return dataset


def config(dataset: fo.Dataset) -> fo.RunConfig:
    return dataset.init_run(method="test", value=1)


def schema(dataset: fo.Dataset) -> set[str]:
    """All fields. FiftyOne lists ``media_reference`` always, and keeps it only where a dataset uses it."""
    return set(dataset.get_field_schema(include_private=True)) - {"media_reference"}


def register(dataset: fo.Dataset, key: str) -> None:
    dataset.register_run(key, config(dataset))


# samples


def test_the_dataset_of_a_view_is_the_dataset(five):
    for view in (five, five.view(), five.limit(2), five.match(F("number") > 1).sort_by("number")):
        assert internals.dataset_of(view) is five


def test_generated_samples_have_other_ids_than_the_datasets(five):
    for view in (five, five.view(), five.limit(2), five.to_patches("box")):
        assert internals.is_generated(view) == (not set(view.values("id")) <= set(five.values("id")))


def test_selecting_early_selects_the_same_samples_with_the_views_fields(five):
    ids = five.values("id")
    view = five.exclude_fields("heat").filter_labels("box", F("label") == "dog", only_matches=False)
    found = internals.select_early(view, [ids[3], ids[1]])
    plain = view.select([ids[3], ids[1]])
    assert sorted(found.values("id")) == sorted(plain.values("id")) == sorted([ids[1], ids[3]])
    assert found.get_field_schema().keys() == plain.get_field_schema().keys()
    assert found.values("box.detections.label") == plain.values("box.detections.label") == [[], []]


def test_raw_values_are_the_public_ones_but_for_arrays(five):
    view = five.limit(3)
    plain, raw = (
        view.values(["id", "number", "truth.label", "heat.map"]),
        internals.raw_values(view, ["id", "number", "truth.label", "heat.map"]),
    )
    assert raw[:3] == list(plain[:3])
    for stored, array in zip(raw[3], plain[3], strict=True):
        assert isinstance(stored, bytes)
        np.testing.assert_array_equal(fou.deserialize_numpy_array(stored), array)


def test_aggregating_counts_as_the_public_aggregations_do(five):
    view = five.match(F("number") > 0)
    found = internals.aggregate(
        view, [{"$group": {"_id": "$truth.label", "n": {"$sum": 1}, "mean": {"$avg": "$number"}}}]
    )
    assert {entry["_id"]: entry["n"] for entry in found} == view.count_values("truth.label") == {"cat": 1, "dog": 3}
    for entry in found:
        assert entry["mean"] == view.match(F("truth.label") == entry["_id"]).mean("number")


def test_bulk_writes_are_in_the_database_and_on_loaded_samples(five):
    first, second = five.limit(2)
    loaded = five[first.id]
    internals.bulk_write(five, [UpdateOne({"_id": ObjectId(first.id)}, {"$set": {"number": 70}})], [first.id])
    assert five.values("number") == [70, 1, 2, 3, 4]
    assert loaded.number == 70
    assert second.number == 1


# views


def test_a_view_comes_back_from_its_stages(five):
    for view in (five.view(), five.limit(2), five.match(F("number") > 1).sort_by("number", reverse=True)):
        again = internals.view_of(five, internals.stages_of(view))
        assert again == view
        assert again.values("number") == view.values("number")
    assert internals.stages_of(None) == internals.stages_of(five.view()) == []


# the dataset's document


def test_the_datasets_document_is_found_by_its_id(five):
    found = internals.datasets().find_one({"_id": internals.dataset_id(five)})
    assert found["name"] == five.name
    assert {field["name"] for field in found["sample_fields"]} == schema(five)


def test_a_document_that_another_changed_is_seen_when_it_is_reloaded(five):
    sample = five.first()
    internals.datasets().update_one({"_id": internals.dataset_id(five)}, {"$set": {"info": {"mine": 1}}})
    assert five.info == {}
    internals.reload_document(five)
    assert five.info == {"mine": 1}
    sample["number"] = 8  # its class is the one that it had
    sample.save()
    assert five.first().number == 8


def test_known_fields_are_the_documents(five):
    assert internals.known_fields(five) == schema(five)
    entry = internals.make_field("another", NOW, ftype=fo.IntField)[1]
    internals.datasets().update_one({"_id": internals.dataset_id(five)}, {"$push": {"sample_fields": entry}})
    assert "another" not in internals.known_fields(five)
    internals.reload_document(five)
    assert "another" in internals.known_fields(five)
    assert "another" not in five.get_field_schema()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"ftype": fo.StringField},
        {"ftype": fo.ListField, "subfield": fo.FloatField},
        {"ftype": fo.EmbeddedDocumentField, "embedded_doc_type": fo.Heatmap},
    ],
    ids=["string", "list", "label"],
)
def test_a_field_made_here_is_the_one_that_fiftyone_adds(five, kwargs):
    five.add_sample_field("theirs", **kwargs)
    field, entry = internals.make_field("ours", NOW, **kwargs)
    find = internals.datasets().find_one({"_id": internals.dataset_id(five)})["sample_fields"]
    [theirs] = [stored for stored in find if stored["name"] == "theirs"]

    def plain(stored):
        own = {"name", "db_field", "created_at", "fields"}
        inner = [plain(inside) for inside in stored.get("fields") or []]
        return {name: value for name, value in stored.items() if name not in own}, stored["name"] and inner

    assert plain(entry) == plain(theirs)
    assert (entry["name"], entry["created_at"], field.created_at) == ("ours", NOW, NOW)


def test_a_field_that_is_declared_is_there_for_samples_that_are_loaded(five):
    sample = five.first()
    field, entry = internals.make_field("mine", NOW, ftype=fo.IntField)
    internals.datasets().update_one({"_id": internals.dataset_id(five)}, {"$push": {"sample_fields": entry}})
    internals.declare_on_loaded(five, "mine", field)
    sample["mine"] = 9
    sample.save()
    assert isinstance(five.get_field("mine"), fo.IntField)
    five.reload()
    assert five.values("mine") == [9, None, None, None, None]


# runs


def test_a_run_document_is_the_one_that_fiftyone_registers(five):
    register(five, "theirs")
    id = internals.add_run_document(five, "ours", config(five), NOW)
    theirs, ours = (internals.runs().find_one({"_id": each}) for each in (internals.run_id(five, "theirs"), id))
    own = {"_id", "key", "timestamp"}
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    assert (ours["key"], ours["timestamp"]) == ("ours", NOW)
    assert five.list_runs() == ["theirs"], "a document alone is no run of the dataset"

    internals.datasets().update_one({"_id": internals.dataset_id(five)}, {"$set": {"runs.ours": id}})
    internals.reload_document(five)
    assert five.list_runs() == ["ours", "theirs"]
    assert five.get_run_info("ours").config.serialize() == five.get_run_info("theirs").config.serialize()
    assert internals.run_id(five, "ours") == id


def test_a_run_that_another_changed_is_seen_when_it_is_reloaded(five):
    register(five, "run")
    internals.runs().update_one({"_id": internals.run_id(five, "run")}, {"$set": {"config.value": 2}})
    assert five.get_run_info("run").config.value == 1
    assert internals.reload_run(five, "run")
    assert five.get_run_info("run").config.value == 2
    internals.runs().delete_one({"_id": internals.run_id(five, "run")})
    assert not internals.reload_run(five, "run")


# the App and the zoo


def test_the_sessions_colors_are_remembered():
    scale = {"path": "heat", "name": "jet", "list": None, "rgb": [[0, 0, 0]] * 256}
    scheme = internals.session_colors()
    before = scheme.colorscales
    try:
        scheme.colorscales = [scale]
        assert internals.session_colors().colorscales == [scale]
    finally:
        scheme.colorscales = before


def test_the_network_of_a_zoo_model_computes_what_the_model_does():
    import torch
    from fiftyone.utils.torch import TorchImageModel, TorchImageModelConfig

    model = TorchImageModel(
        TorchImageModelConfig(
            {
                "entrypoint_fcn": "torchvision.models.resnet18",
                "entrypoint_args": {"weights": None, "num_classes": 2},
                "image_dim": 32,
                "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
                "labels_string": "cat,dog",
            }
        )
    )
    network = internals.network_of(model)
    assert isinstance(network, torch.nn.Module)
    image = torch.zeros(3, 32, 32)
    there = image.to(next(network.parameters()).device)  # FiftyOne takes a GPU where there is one
    with torch.no_grad():
        probabilities = network(there[None]).softmax(1)[0]
    found = model.predict(image)
    assert (found.label, found.confidence) == (
        ["cat", "dog"][int(probabilities.argmax())],
        pytest.approx(float(probabilities.max()), rel=1e-5),
    )
