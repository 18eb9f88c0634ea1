"""The plain documents that are written are the label objects that FiftyOne would have written."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
import fiftyone.core.odm as foo
import numpy as np
import pytest

from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.results import ClassMap, Explanation
from fiftyone_cam.dataset import bulk, database
from fiftyone_cam.runs.heatmaps import (
    CONTRAST,
    HEATMAP,
    PREDICTION,
    TOP,
    MapReader,
    cam_of,
    field_schema,
    heatmap,
    prediction,
    sample_documents,
    signed_map,
)
from tests.helpers.stored_runs import Made, as_version_1, made_run

ARRAYS = ("map", "grid")


def comparable(document: Any) -> Any:
    """A document without its ids, and with its arrays unpacked."""
    if isinstance(document, dict):
        return {
            key: (bulk.array(value).dtype.str, bulk.array(value).tolist()) if key in ARRAYS else comparable(value)
            for key, value in document.items()
            if key != "_id"
        }
    return [comparable(entry) for entry in document] if isinstance(document, list) else document


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("scale", [None, 2.0])
@pytest.mark.parametrize("wrong", [False, True])
def test_documents_are_what_label_objects_become(rng, top_k, scale, wrong):
    grids = rng.normal(size=(top_k + 1, 5, 7)).astype(np.float32)
    maps = tuple(ClassMap(f"class {i}", 3.0 - i, 0.25, grid, 0.5) for i, grid in enumerate(grids[:-1]))
    contrast = ClassMap("class 0", 1.5, 0.0, grids[-1], None, "truth") if wrong else None
    box, seen = (-0.1, 0.05, 1.1, 0.9), (0.0, 0.05, 1.0, 0.9)
    explanation = Explanation("1", maps, contrast, box, seen, (480, 640), 0.0)

    expected: dict[str, fo.Label] = {
        PREDICTION: prediction(maps[0]),
        HEATMAP: heatmap(maps[0], explanation, scale),
    }
    for rank, class_map in enumerate(maps[1:], 2):
        expected[f"{HEATMAP}_{rank}"] = heatmap(class_map, explanation, scale)
    if top_k > 1:
        expected[TOP] = fo.Classifications(classifications=[prediction(entry) for entry in maps])
    if contrast is not None:
        expected[CONTRAST] = heatmap(contrast, explanation, 0.5)

    found = sample_documents(explanation, scale, 0.5)
    assert {name: comparable(document) for name, document in found.items()} == {
        name: comparable(label.to_dict()) for name, label in expected.items()
    }
    assert set(found) < set(field_schema(top_k, contrast=True))
    ids = [document["_id"] for document in found.values() if "_id" in document]
    ids += [entry["_id"] for entry in found.get(TOP, {}).get("classifications", [])]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("size", [480, (480, 640, 3), (0, 10), (480.5, 640), "ab", None])
def test_a_size_that_is_none_is_named(size):
    cam = {"grid": np.ones((7, 7), np.float32), "bias": 0.0, "box": [0.0, 0.0, 1.0, 1.0], "seen": [0.0, 0.0, 1.0, 1.0]}
    heat = fo.Heatmap(cam=fo.DynamicEmbeddedDocument(**cam))
    assert signed_map(heat, (np.int64(48), 64)).shape == (48, 64)
    with pytest.raises(FieldError, match=r"expected a size as \(height, width\)"):
        signed_map(heat, size)


@pytest.mark.parametrize(
    "kwargs", [*field_schema(2, contrast=True).values(), {"ftype": fo.ListField, "subfield": fo.StringField}]
)
def test_a_field_is_declared_as_fiftyone_declares_it(dataset, kwargs):
    def told(entry: Any) -> Any:
        if isinstance(entry, list):
            return [told(part) for part in entry]
        if isinstance(entry, dict):
            return {key: told(value) for key, value in entry.items() if key != "created_at"}
        return entry.removeprefix("ours_") if isinstance(entry, str) else entry

    dataset.add_sample(fo.Sample(filepath="/nowhere.jpg"))
    held, held_of_a_view = dataset.first(), dataset.view().first()
    dataset.add_sample_field("theirs", **kwargs)
    database.declare_fields(dataset, {"ours_theirs": kwargs})
    database.declare_fields(dataset, {"ours_theirs": kwargs})  # which does nothing
    stored = foo.get_db_conn()["datasets"].find_one({"_id": dataset._doc.id})["sample_fields"][-2:]
    assert [entry["name"] for entry in stored] == ["theirs", "ours_theirs"]
    assert told(stored[0]) == told(stored[1])
    assert all(entry["created_at"] is not None for entry in stored)
    for sample in (held, held_of_a_view):
        sample.reload()
        assert sample["ours_theirs"] == sample["theirs"]
    dataset.add_sample_field("later", fo.FloatField)  # FiftyOne's own goes on from there
    assert list(dataset.get_field_schema())[-3:] == ["theirs", "ours_theirs", "later"]


@pytest.mark.parametrize("earlier", [False, True])
def test_what_was_stored_is_what_is_read(dataset, rng, earlier):
    box, seen = (-0.1, 0.05, 1.1, 0.9), (0.0, 0.05, 1.0, 0.9)
    made = [Made("cat", rng.normal(size=(5, 7)), -0.5, box=box, seen=seen, runner_up=("dog", -2.0)), None]
    ids = dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg") for i in range(2)])
    run = made_run(dataset, dict(zip(ids, made, strict=True)), ["cat", "dog"], top_k=2)
    if earlier:
        as_version_1(run)
    readers = [MapReader(run), MapReader(run, f"{HEATMAP}_2")]
    [rows] = bulk.chunks(dataset, [path for reader in readers for path in reader.paths], progress=False)
    first, second = (reader.read(rows[0]) for reader in readers)
    assert (first.label, first.bias, first.box, first.seen) == ("cat", -0.5, box, seen)
    np.testing.assert_array_equal(first.grid, made[0].grid.astype(np.float32))
    assert (second.label, second.logit) == ("dog", -2.0)
    for stored in (first, second):
        assert stored.grid.mean() + stored.bias == pytest.approx(stored.logit, abs=1e-6)
        assert stored.cells.areas.sum() == pytest.approx(0.9)  # all that was seen
    assert [reader.read(rows[1]) for reader in readers] == [None, None]
    heat = dataset.first().cam_heatmap
    np.testing.assert_array_equal(cam_of(heat)["grid"], first.grid)
    np.testing.assert_array_equal(signed_map(heat, (5, 7)), lay_out(first.grid, box, seen, 5, 7))


def test_the_apps_tooltip_says_class_logit_and_evidence_and_nothing_else(dataset, rng):
    """It shows attributes that are numbers, words and lists; ``range`` and the pixel's value are always there."""
    [id] = dataset.add_samples([fo.Sample(filepath="/none.jpg")])
    grid = rng.uniform(0, 9, (7, 7)).astype(np.float32)
    run = made_run(dataset, {id: Made("cat", grid)}, ["cat", "dog"])
    document = dataset.first().cam_heatmap.to_dict()
    shown = {name for name, value in document.items() if not (name.startswith("_") or isinstance(value, dict))}
    assert shown - {"tags", "map", "map_path"} == {"label", "logit", "range"}
    drawn = dataset.first().cam_heatmap.map
    evidence = signed_map(dataset.first().cam_heatmap, drawn.shape)
    assert run.record.scale is None
    assert np.abs(drawn - np.clip(evidence, 0, 1))[drawn > 0].max() <= 1 / 32  # made_run draws to a scale of 1
