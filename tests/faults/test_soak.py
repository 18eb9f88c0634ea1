"""Ten runs and deletions in a row: memory, open files, threads, database and temporary files are as they were.

``make soak`` is the full one, ``FIFTYONE_CAM_SOAK=50000 pytest -s tests/faults/test_soak.py``; the table that it prints
stands in docs/reliability.md.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import fiftyone as fo
import fiftyone.core.odm as foo
import psutil
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.runs.record import Counts
from tests.helpers.networks import Brightness, write_photos

SAMPLES = int(os.environ.get("FIFTYONE_CAM_SOAK", "600"))
ROUNDS = 10
RESULTS = 4096
"""Bytes that the results of a sample take at most."""


class Usage(NamedTuple):
    """What there is after a deletion: memory in MiB, and Python's blocks of it; the database's documents in MiB, what
    they take in its files, and how large those are."""

    resident: float
    blocks: int
    files: int
    threads: int
    documents: float
    stored: float
    disk: float
    indexes: int
    others: int
    temporary: int

    @classmethod
    def now(cls, dataset: fo.Dataset, folder: Path) -> Usage:
        gc.collect()
        process, database = psutil.Process(), foo.get_db_conn()
        database.client.admin.command("fsync")  # what is in use is known to the last checkpoint
        stats = database.command("collstats", dataset._sample_collection_name)
        others = sum(database[name].count_documents({}) for name in ("runs", "views", "fs.files", "fs.chunks"))
        return cls(
            resident=process.memory_info().rss / 2**20,
            blocks=sys.getallocatedblocks(),
            files=process.num_fds(),
            threads=threading.active_count(),
            documents=stats["size"] / 2**20,
            stored=(stats["storageSize"] - stats["freeStorageSize"]) / 2**20,
            disk=(stats["storageSize"] + stats["totalIndexSize"]) / 2**20,
            indexes=stats["nindexes"],
            others=others,
            temporary=sum(len(files) for _, _, files in os.walk(folder)),
        )


@pytest.mark.slow
def test_ten_runs_and_deletions_leave_nothing_behind(dataset, tmp_path, monkeypatch):
    photos, temporary = tmp_path / "photos", tmp_path / "temporary"
    photos.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    paths = write_photos(photos, 50, (32, 48))
    dataset.add_samples([fo.Sample(filepath=paths[i % 50]) for i in range(SAMPLES)], progress=False)
    dataset.set_values("ground_truth", [fo.Classification(label="light") for _ in range(SAMPLES)], progress=False)
    schema, indexes = set(dataset.get_field_schema()), set(dataset.list_indexes())
    small = Preprocessing((Resize(size=(32, 32)),))
    classifier = focam.load_classifier(Brightness(8), ["light", "dark"], preprocessing=small)

    print(f"\n{SAMPLES:,} samples\nround  seconds  {'  '.join(f'{name:>9}' for name in Usage._fields)}")
    usages = [Usage.now(dataset, temporary)]
    for number in range(ROUNDS + 1):
        if number:
            began = time.monotonic()
            run = focam.compute_cam(dataset, classifier, "soak", ground_truth="ground_truth", progress=False)
            assert run.counts == Counts(samples=SAMPLES, computed=SAMPLES, failed=0, new=SAMPLES)
            assert dataset.count("soak_heatmap") == SAMPLES
            focam.delete_run(dataset, "soak")
            usages.append(Usage.now(dataset, temporary))
        seconds = time.monotonic() - began if number else 0.0
        print(f"{number:>5}  {seconds:>7.1f}  {'  '.join(f'{value:>9.4g}' for value in usages[-1])}", flush=True)

    before, first, last = usages[0], usages[2], usages[-1]  # in the second, all that is loaded once has been
    assert set(dataset.get_field_schema()) == schema
    assert set(dataset.list_indexes()) == indexes
    assert not dataset.list_runs()
    for name in ("files", "threads", "indexes", "others", "temporary"):
        assert getattr(last, name) <= getattr(first, name), f"{name} grew: {usages}"
    assert (last.indexes, last.others, last.temporary) == (before.indexes, before.others, before.temporary)
    assert last.documents == pytest.approx(before.documents, rel=0.01)
    # MongoDB keeps freed room for itself, and uses it again: its files never hold more than two runs' results
    assert last.stored <= 1.5 * before.stored + 1, f"the database grew: {usages}"
    assert last.disk <= before.disk + 2 * RESULTS * SAMPLES / 2**20 + 1, f"the database's files grew: {usages}"
    assert last.blocks <= 1.001 * first.blocks, f"objects were kept: {usages}"
    assert last.resident <= 1.02 * first.resident, f"memory grew: {usages}"
