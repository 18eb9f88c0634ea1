"""Reading and writing in bulk: the same values as FiftyOne's own road gives, in chunks, one update a sample."""

from __future__ import annotations

import io
import zlib

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.dataset import bulk

kinds = st.sampled_from([np.float32, np.float64, np.uint8, np.bool_, np.int64])
shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
arrays = st.tuples(kinds, shapes).flatmap(lambda pair: hnp.arrays(*pair))


@settings(deadline=None, max_examples=100)
@given(array=arrays, fortran=st.booleans())
def test_arrays_are_decoded_as_fiftyone_does(array, fortran):
    stored = fou.serialize_numpy_array(np.asfortranarray(array) if fortran else array)
    found, expected = bulk.array(stored), fou.deserialize_numpy_array(stored)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=100)
@given(array=arrays, fast=st.booleans())
def test_what_is_packed_is_read_back_by_fiftyone_too(array, fast):
    """By ISA-L or, where it is not installed, by zlib."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "_isal", bulk._isal if fast else None)
        packed = bulk.pack(array)
    for read in (fou.deserialize_numpy_array, bulk.array):
        found = read(packed)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_arrays_in_other_versions_of_the_format_are_decoded_too():
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.eye(3), version=(2, 0))
    np.testing.assert_array_equal(bulk.array(zlib.compress(stream.getvalue())), np.eye(3))
    assert bulk.array(None) is None
    np.testing.assert_array_equal(bulk.array([[1, 2]]), [[1, 2]])


@pytest.fixture()
def eleven(dataset):
    dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg", number=float(i)) for i in range(11)])
    dataset.add_sample_field("label", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    return dataset


@pytest.mark.parametrize("size", [1, 3, 11, 500])
def test_chunks_are_all_samples_once(eleven, monkeypatch, size):
    monkeypatch.setattr(bulk, "CHUNK", size)
    view = eleven.match(fo.ViewField("number") > 2).sort_by("number", reverse=True).skip(1).limit(6)
    found = list(bulk.chunks(view, ["number", "label.label", "number"], progress=False))
    assert [len(rows) for rows in found[:-1]] == [size] * (len(found) - 1)
    rows = [row for rows in found for row in rows]
    assert {row["id"]: row["number"] for row in rows} == dict(zip(*view.values(["id", "number"]), strict=True))
    assert len(rows) == 6
    assert rows[0]["label.label"] is None


def test_what_is_written_is_what_fiftyone_reads(eleven):
    before = eleven.values("last_modified_at")
    make = bulk.document(fo.Classification(label="", confidence=0.0))
    ids = eleven.values("id")
    held = eleven.first()  # a sample in memory sees it too
    bulk.write(eleven, {i: {"label": make(label="grass", confidence=0.5)} for i in ids[:4]})
    bulk.write(eleven, {})
    assert held.label.label == "grass"
    assert eleven.values("label.label") == ["grass"] * 4 + [None] * 7
    labels = eleven.values("label.id")[:4]
    assert len(set(labels)) == 4  # each has an id of its own
    after = eleven.values("last_modified_at")
    assert [a > b for a, b in zip(after, before, strict=True)] == [True] * 4 + [False] * 7
    bulk.write(eleven, {ids[0]: {"label": None}})
    assert not eleven[ids[0]].label


def test_a_view_that_leaves_a_field_out_is_refused(eleven):
    with pytest.raises(FieldError, match="leaves out the field 'label'"):
        bulk.require(eleven.exclude_fields("label"), ["number", "label.label"])
    bulk.require(eleven, ["number", "label.label"])


def test_what_is_written_beside_the_reading_is_all_there(eleven, monkeypatch):
    """Chunks are read ahead and written behind; each sample gets its own value, and an error comes out."""
    monkeypatch.setattr(bulk, "CHUNK", 2)
    with bulk.writing(eleven) as write:
        for rows in bulk.chunks(eleven, ["number"], progress=False):
            write({row["id"]: {"number": row["number"] ** 2} for row in rows})
    assert eleven.values("number") == [float(i) ** 2 for i in range(11)]
    with pytest.raises(Exception, match="not a valid ObjectId"), bulk.writing(eleven) as write:
        write({"no id": {"number": 1.0}})
