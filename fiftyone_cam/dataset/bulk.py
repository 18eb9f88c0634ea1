"""Reading and writing many samples: bounded chunks, plain values instead of label objects, one update a sample.

Making FiftyOne's label objects costs about a millisecond each, ten times what is computed from them here.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
import numpy as np
from bson import ObjectId
from numpy.typing import NDArray
from pymongo import UpdateOne

from fiftyone_cam.core.errors import FieldError
from fiftyone_cam.core.workers import Task, Workers
from fiftyone_cam.dataset import database, internals
from fiftyone_cam.dataset.collection import Collection

CHUNK = 500

_SMALL = 512
"""Bytes of an array, with its header, below which it is not compressed."""

Row = dict[str, Any]


def chunks(samples: Collection, paths: Sequence[str], progress: Any = None) -> Iterator[list[Row]]:
    """The values at ``paths`` of all samples, in chunks of rows; each row has its ``"id"`` too.

    The next chunk is read in a thread while one is worked on: reading is mostly waiting for the database.

    Args:
        samples: a dataset or view.
        paths: fields, or fields of fields; in lists of labels the value is a list.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    >>> for rows in chunks(dataset, ["cam_heatmap.logit"]): ...
    """
    ids = samples.values("id")
    columns = ["id", *dict.fromkeys(paths)]
    parts = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]

    def read(part: Sequence[str]) -> list[Row]:
        values = internals.raw_values(internals.select_early(samples, part), columns)
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    with (
        fou.ProgressBar(total=len(ids), progress=progress) as bar,
        Workers(1, name="cam-read") as reader,
    ):
        for part, task in reader.imap(read, parts, ahead=2):
            yield reader.result(task)
            bar.update(len(part))


@contextlib.contextmanager
def writing(dataset: fo.Dataset) -> Iterator[Callable[[Mapping[str, Mapping[str, Any]]], None]]:
    """:func:`write` in a thread, beside what computes the next values; all is written when the block is left.

    Raises:
        RunError: the database cannot be written; at the next call, or at the end.

    >>> with writing(dataset) as put:
    ...     for rows in chunks(dataset, paths):
    ...         put({row["id"]: {"cam_inside": 0.5} for row in rows})
    """
    pending: list[Task[None]] = []
    with Workers(1, name="cam-write") as writer:

        def put(values: Mapping[str, Mapping[str, Any]]) -> None:
            if pending:
                writer.result(pending.pop())
            pending.append(writer.submit(write, dataset, values))

        yield put
        if pending:
            writer.result(pending.pop())


def require(samples: Collection, paths: Sequence[str]) -> None:
    """Check that there is what is to be read, before anything is written.

    Raises:
        FieldError: the view leaves out one of the fields, or the dataset has not got it.

    >>> require(dataset, ["cam_heatmap.logit"])
    """
    for path in paths:
        name = path.partition(".")[0]
        if not samples.has_field(name):
            if internals.dataset_of(samples).has_field(name):
                raise FieldError(f"the view leaves out the field {name!r}: take one that has it")
            raise FieldError(
                f"the dataset has no field {name!r}: where it was a run's and was deleted, compute again with "
                "overwrite=True"
            )


def write(samples: Collection, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Set fields of samples by id, all fields of a sample in one update. Labels are plain documents.

    Args:
        samples: a dataset or view; of a view of frames, fields of the videos' frames are set, too.
        values: of each sample, by its id, the fields by name.

    Raises:
        RunError: the database cannot be written.

    >>> write(dataset, {sample.id: {"cam_inside": 0.5, "cam_verdict": "trusted"}})
    """
    now = datetime.now(timezone.utc)
    updates = [
        UpdateOne({"_id": ObjectId(id)}, {"$set": {**fields, "last_modified_at": now}}) for id, fields in values.items()
    ]
    if not updates:
        return
    with database.writing():
        internals.bulk_write(samples, updates, list(values))


def document(template: fo.Label) -> Callable[..., dict[str, Any]]:
    """A maker of plain documents for labels like ``template``, each with an id of its own.

    >>> make = document(fo.Classification(label="", confidence=0.0))
    >>> make(label="grass", confidence=0.7)["label"]
    'grass'
    """
    fields = template.to_dict()
    return lambda **values: {**fields, "_id": ObjectId(), **values}


def array(value: Any) -> NDArray[Any] | None:
    """An array as :func:`chunks` reads it, from the bytes in the database; None for None.

    >>> array(fou.serialize_numpy_array(np.eye(2)))
    array([[1., 0.],
           [0., 1.]])
    """
    if not isinstance(value, bytes):
        return None if value is None else np.asarray(value)
    data = zlib.decompress(value)
    start = 10 + int.from_bytes(data[8:10], "little")
    if data[6:8] != b"\x01\x00":  # another version of NumPy's format
        return fou.deserialize_numpy_array(value)
    shape, fortran, dtype = _header(data[:start])
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def pack(values: NDArray[Any], level: int = 1) -> bytes:
    """An array as FiftyOne keeps it in the database; :func:`array` is the inverse.

    It is compressed lightly: zlib's level 1, where FiftyOne takes 6. Of a square display map, level 3 leaves 6.8 kB in
    0.6 ms, level 1 9.3 kB in 0.5 ms, level 6 4.6 kB in 1.8 ms. ISA-L, the extra ``fast``, leaves 9.8 kB in 0.1 ms, in
    zlib's format.

    >>> array(pack(np.eye(2)))
    array([[1., 0.],
           [0., 1.]])
    """
    data = b"".join((_header_of(values.shape, values.dtype.str), np.ascontiguousarray(values).data))
    if len(data) < _SMALL:
        return zlib.compress(data, 0)
    return zlib.compress(data, level) if _isal is None else _isal(data, 1)


def _find_isal() -> Callable[[bytes, int], bytes] | None:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib.compress


_isal = _find_isal()


@lru_cache(maxsize=256)
def _header_of(shape: tuple[int, ...], dtype: str) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


@lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Remembered, because NumPy parses a header as Python source. That takes longer than the work on a small grid."""
    stream = io.BytesIO(header)
    np.lib.format.read_magic(stream)
    return np.lib.format.read_array_header_1_0(stream)
