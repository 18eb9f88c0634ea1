"""Runs: one computation over a collection, registered on the dataset under a key, with all that it owns.

What a run owns (fields, their indexes, saved views) is written down before it is made, so that whatever happens in
between, deleting the run deletes it, and nothing else is ever overwritten or deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any, TypeAlias

import fiftyone as fo
from mongoengine.errors import DoesNotExist

from fiftyone_cam import ownership
from fiftyone_cam.core.errors import FieldError, RunError

METHOD = "fiftyone_cam"

Collection: TypeAlias = "fo.Dataset | fo.DatasetView"


class CamRun:
    """A run of this project on a dataset: its record, and what it owns.

    ``print(run)`` gives the summary. The record is plain data; every change of it is saved at once.

    >>> run = focam.load_run(dataset, "cam")
    >>> run.record["classifier"]["sha256"], run.counts["computed"]
    ('57934424…', 259)
    """

    def __init__(self, dataset: fo.Dataset, key: str, record: dict[str, Any]) -> None:
        self.dataset = dataset
        self.key = key
        self.record = record

    # the record, as attributes that read well

    @property
    def classes(self) -> list[str]:
        return list(self.record["classifier"]["classes"])

    @property
    def fields(self) -> dict[str, str]:
        """The fields that this run wrote, and for each its name without the key."""
        return dict(self.record["fields"])

    @property
    def counts(self) -> dict[str, int]:
        """``samples`` that were asked for, ``computed`` with a result, ``failed`` without; of the last call ``new``.

        While it is computed, and where it was killed, the results are counted when they are asked for.
        """
        counts = dict(self.record["counts"])
        if self.record["status"] == "running" and self.dataset.has_sample_field(self.field("heatmap")):
            counts["computed"] = self.dataset.exists(self.field("heatmap")).count()
            counts["failed"] = self.dataset.exists(self.field("error")).count()
        return counts

    @property
    def failures(self) -> dict[str, int]:
        """How many samples have no result, by reason."""
        return dict(self.record["failures"])

    @property
    def certificate(self) -> float:
        """The largest relative error of ``mean(map) + bias`` against the logit, over all samples."""
        return float(self.record["certificate"])

    @property
    def status(self) -> str:
        """``new``, ``running``, ``interrupted`` or ``complete``. What a dead process called running is interrupted."""
        running = self.record["status"] == "running"
        return "interrupted" if running and ownership.holder(self.record) is None else str(self.record["status"])

    @property
    def complete(self) -> bool:
        """Whether all samples that were asked for have a result or a reason. Those added since do not count."""
        return self.status == "complete"

    def field(self, name: str) -> str:
        """The full name of one of this run's fields: ``field("heatmap") == "cam_heatmap"``."""
        return f"{self.key}_{name}"

    def update(self, **entries: Any) -> None:
        """Change entries of the record and save it."""
        entries["updated_at"] = datetime.now(timezone.utc).isoformat()
        if not ownership.write(self, entries):
            raise RunError(f"run {self.key!r} was deleted meanwhile")
        self.dataset._doc.runs[self.key].reload()  # what FiftyOne's own get_run_info reads

    def refuse_own(self, paths: Iterable[str], what: str) -> None:
        """A run that is held against what it wrote itself is always right.

        Raises:
            FieldError: one of the fields is this run's.

        >>> run.refuse_own(["ground_truth"], "ground truth")
        """
        for path in paths:
            if path in self.fields:
                raise FieldError(f"the field {path!r} was written by run {self.key!r} itself: it cannot be its {what}")

    def claim_field(self, name: str, *, index: bool | str = False, **kwargs: Any) -> str:
        """Declare a field ``{key}_{name}`` as this run's, or find that it already is.

        Args:
            name: the field's name without the key.
            index: whether the sidebar filters on it; a string names an attribute inside (``"label"``).
            kwargs: the type, as ``dataset.add_sample_field`` takes it.

        Returns:
            the full name.

        Raises:
            FieldError: a field of that name exists that this run did not write.
        """
        path = self.field(name)
        if path not in self.record["fields"]:
            if self.dataset.has_sample_field(path):
                raise FieldError(
                    f"the field {path!r} exists and was not written by run {self.key!r}: rename or delete it, or use "
                    "another key. (Where it is left of a run that was deleted by FiftyOne itself, and not by "
                    f"focam.delete_run: dataset.delete_sample_fields([{path!r}, …]).)"
                )
            self.update(fields={**self.record["fields"], path: name})
        if not self.dataset.has_sample_field(path):
            ownership.declare(self.dataset, path, **kwargs)
        if index:
            self.dataset.create_index(path if index is True else f"{path}.{index}")
        return path

    def clear_field(self, name: str) -> None:
        """Delete one of this run's fields with its indexes, if it is there."""
        path = self.field(name)
        if path in self.record["fields"]:
            _delete_fields(self.dataset, [path])
            self.update(fields={k: v for k, v in self.record["fields"].items() if k != path})

    def save_view(self, name: str, view: fo.DatasetView, **kwargs: Any) -> str:
        """Save a view named ``"{key} {name}"`` that goes when the run goes.

        Raises:
            RunError: a saved view of that name exists that this run did not make.
        """
        full = f"{self.key} {name}"
        mine = full in self.record["views"]
        if self.dataset.has_saved_view(full) and not mine:
            raise RunError(f"a saved view {full!r} exists and is not of run {self.key!r}: rename or delete it")
        if not mine:
            self.update(views=[*self.record["views"], full])
        self.dataset.save_view(full, view, overwrite=True, **kwargs)
        return full

    def delete(self) -> None:
        """Delete the run and all that it owns.

        Raises:
            RunError: it is being computed.
        """
        ownership.refuse_second(self)
        # by its key as well as by its record, which may have come with a dataset from elsewhere
        _delete_fields(self.dataset, [path for path in self.record["fields"] if path.startswith(f"{self.key}_")])
        for name in self.record["views"]:
            if name.startswith(f"{self.key} ") and self.dataset.has_saved_view(name):
                self.dataset.delete_saved_view(name)
        self.dataset.delete_run(self.key)

    def __str__(self) -> str:
        record = self.record
        classifier, counts = record["classifier"], self.counts
        lines = [
            f"CAM run {self.key!r} on {self.dataset.name!r}: {self.status}",
            f"  classifier   {classifier['model']} ({classifier['source']}), {len(classifier['classes'])} classes, "
            f"weights {classifier['sha256'][:12]}",
            f"  samples      {counts['computed']:,} with a map, {counts['failed']:,} failed, of {counts['samples']:,}; "
            f"{counts['new']:,} new",
        ]
        missing = counts["samples"] - counts["computed"] - counts["failed"]
        if missing > 0:
            lines.append(f"               {missing:,} have neither: the same call of compute_cam goes on with them")
        lines += [f"               {count:,} x {reason}" for reason, count in list(self.failures.items())[:10]]
        if record.get("accuracy") is not None:
            unknown = record.get("unknown_labels") or 0
            note = f" (without {unknown:,} whose label is no class)" if unknown else ""
            lines.append(
                f"  accuracy     {record['accuracy']:.1%} against {record['settings']['ground_truth']!r}{note}"
            )
        if counts["computed"]:
            lines.append(f"  certificate  {self.certificate:.1e} relative, largest of all: the maps are the logits")
        timing = record.get("timing") or {}
        if timing.get("images"):
            lines.append(
                f"  throughput   {timing['images'] / timing['seconds']:,.1f} images/s on {timing['device']} "
                f"({timing['seconds']:,.1f} s, {record['settings']['precision']})"
            )
            lines.append(f"  time         {where_the_time_went(timing)}")
        return "\n".join(lines)

    __repr__ = __str__


_BRIEF = 5.0
"""Seconds of a run below which nothing follows from where its time went."""

_LONG = 60.0
"""Seconds of forwards from which on a CPU's are compiled (``engines.local.COMPILING_PAYS``, not read here: it would
import PyTorch)."""


def where_the_time_went(timing: Mapping[str, Any]) -> str:
    """A run's time by what it was spent on, in words; and what to do where it was spent on waiting.

    >>> where_the_time_went({"seconds": 10.0, "waiting_for_decode": 7.1, "forward": 2.5, "images": 100})
    'waiting for decode 71%, forward 25%; try more workers, or faster storage'
    """
    stages = ("forward", "waiting_for_decode", "maps", "waiting_for_writes", "compiling")
    spent = {stage.replace("_", " "): timing.get(stage, 0.0) for stage in stages}
    total = max(timing["seconds"], sum(spent.values()))  # the sum is the larger where many actors work at once
    shares = {name: seconds / total for name, seconds in spent.items()}
    said = [
        f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share >= 0.005
    ]
    advice = ""
    if total >= _BRIEF and shares["waiting for decode"] > 0.4:
        advice = "; try more workers, or faster storage"
    elif total >= _BRIEF and shares["waiting for writes"] > 0.4:
        advice = "; the database is what is slow"
    elif spent["forward"] > _LONG and timing.get("device") == "cpu" and find_spec("onnxruntime") is None:
        advice = "; pip install 'fiftyone_cam[onnx]' compiles most networks in so long a run, from Python or scheduled"
    return ", ".join(said) + advice


def list_runs(samples: Collection) -> list[str]:
    """The keys of this project's runs on a dataset.

    >>> focam.list_runs(dataset)
    ['cam']
    """
    return [str(key) for key in samples._dataset.list_runs(method=METHOD)]


def load_run(samples: Collection, key: str) -> CamRun:
    """A run by its key.

    Raises:
        RunError: there is no such run of this project.

    >>> print(focam.load_run(dataset, "cam"))
    """
    dataset = samples._dataset
    if key not in list_runs(dataset):
        known = list_runs(dataset)
        raise RunError(
            f"dataset {dataset.name!r} has no CAM run {key!r}, "
            + (f"only {', '.join(map(repr, known))}" if known else "nor any other: make one with compute_cam")
        )
    try:
        dataset._doc.runs[key].reload()  # another process may be computing it
    except DoesNotExist:
        ownership.refresh(dataset)
        raise RunError(f"run {key!r} was deleted meanwhile") from None
    record = dataset.get_run_info(key).config.serialize()
    for entry in ("cls", "type", "method"):
        record.pop(entry, None)
    return CamRun(dataset, key, dict(record))


def delete_run(samples: Collection, key: str) -> None:
    """Delete a run with its fields, indexes and saved views; or a training, with its fields and its evaluation.

    The checkpoints of a training stay.

    Raises:
        RunError: there is no such run of this project, or it is being computed.

    >>> focam.delete_run(dataset, "cam")
    """
    from fiftyone_cam import trainings  # which are runs of another kind

    load = trainings.load_training if key in trainings.list_trainings(samples) else load_run
    load(samples, key).delete()


def register(dataset: fo.Dataset, key: str, record: Mapping[str, Any]) -> CamRun:
    """Register a new run.

    Raises:
        RunError: the key is not a name that a field can have, or another project's run has it.
    """
    check_key(dataset, key)
    complete = {"fields": {}, "views": [], "failures": {}, "certificate": 0.0, **record}
    ownership.register(dataset, key, dataset.init_run(method=METHOD, **complete))
    return CamRun(dataset, key, complete)


def check_key(dataset: fo.Dataset, key: str) -> None:
    """Whether a run may be made, or continued, under this key.

    Raises:
        RunError: with what is wrong.
    """
    if not isinstance(key, str) or not key.isidentifier() or key.startswith("_") or not key.isascii():
        raise RunError(f"{key!r} cannot begin the names of fields: expected letters, digits and _, such as 'cam'")
    if dataset.has_run(key) and key not in list_runs(dataset):
        raise RunError(f"the key {key!r} belongs to a run that this project did not make: use another key")


def _delete_fields(dataset: fo.Dataset, paths: Sequence[str]) -> None:
    """Delete fields with their indexes, and with what the App's settings say of them."""
    from fiftyone_cam import appearance  # which itself asks for runs

    ownership.refresh(dataset)
    for index in list(dataset.list_indexes()):
        if index.partition(".")[0] in paths:
            dataset.drop_index(index)
    dataset.delete_sample_fields([path for path in paths if dataset.has_sample_field(path)])
    appearance.forget(dataset, paths)
