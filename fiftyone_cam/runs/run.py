"""What every run is: one computation over a collection, registered on the dataset under a key, with all that it owns.

The record names what a run owns (fields, their indexes, saved views) before it is made. So, whatever happens in
between, deleting the run deletes all of it, and nothing else is ever overwritten or deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Generic

import fiftyone as fo
from pymongo.errors import OperationFailure

from fiftyone_cam.core.errors import FieldError, RunError
from fiftyone_cam.core.names import EVALUATION
from fiftyone_cam.dataset import app_config, database, internals, scenarios
from fiftyone_cam.dataset.collection import FRAMES
from fiftyone_cam.runs import lease, store
from fiftyone_cam.runs.record import Record, Status, require_entries, set_entries

logger = logging.getLogger(__name__)


class Run(Generic[Record]):
    """A run of this project on a dataset: its record, and what it owns.

    Every change of the record by :meth:`update` is saved at once.
    """

    def __init__(self, dataset: fo.Dataset, key: str, record: Record) -> None:
        self.dataset = dataset
        self.key = key
        self.record = record

    # the record, as attributes that read well

    @property
    def fields(self) -> dict[str, str]:
        """The fields that this run wrote, and for each its name without the key."""
        return dict(self.record.fields)

    @property
    def failures(self) -> dict[str, int]:
        """How many samples have no result, by reason."""
        return dict(self.record.failures)

    @property
    def status(self) -> Status:
        """``new``, ``running``, ``interrupted`` or ``complete``. It is interrupted if the process that ran it died."""
        running = self.record.status == "running"
        return "interrupted" if running and lease.holder(self.record) is None else self.record.status

    @property
    def complete(self) -> bool:
        """Whether all samples that were asked for have a result or a reason. Those added since do not count."""
        return self.status == "complete"

    def field(self, name: str) -> str:
        """The full name of one of this run's fields: ``field("heatmap") == "cam_heatmap"``."""
        return f"{self.key}_{name}"

    @property
    def frames(self) -> bool:
        """Whether the run's fields belong to the frames of videos."""
        return False

    def path(self, name: str) -> str:
        """Where one of this run's fields is on the dataset: ``cam_heatmap``, or ``frames.cam_heatmap``."""
        return f"{FRAMES if self.frames else ''}{self.field(name)}"

    def update(self, **entries: Any) -> None:
        """Change entries of the record, by their names, and save these and no others.

        Raises:
            RunError: the run was deleted meanwhile, or the database cannot be written.
            AttributeError: there is no such entry.

        >>> run.update(accuracy=0.9)
        """
        require_entries(self.record, entries)
        entries["updated_at"] = datetime.now(timezone.utc).isoformat()
        self.write_entries(entries)
        set_entries(self.record, entries)

    def write_entries(self, entries: Mapping[str, Any]) -> None:
        """Write these entries of the record into the database, and no others; ``update`` also sets them here.

        Args:
            entries: names, or paths to a part of an entry, with their values.

        Raises:
            RunError: the run was deleted meanwhile, or the database cannot be written.

        >>> run.write_entries({"comparisons.cam_a": None})
        """
        if not store.write(self.dataset, self.key, entries):
            raise RunError(f"run {self.key!r} was deleted meanwhile")
        internals.reload_run(self.dataset, self.key)  # what FiftyOne's own get_run_info reads

    def refuse_own(self, paths: Iterable[str], what: str) -> None:
        """Refuse fields that this run wrote: comparing it with its own output always agrees.

        Raises:
            FieldError: one of the fields is this run's.

        >>> run.refuse_own(["ground_truth"], "ground truth")
        """
        for path in paths:
            if (FRAMES + path if self.frames else path) in self.fields:
                raise FieldError(f"the field {path!r} was written by run {self.key!r} itself: it cannot be its {what}")

    def claim_field(self, name: str, **kwargs: Any) -> str:
        """Declare a field ``{key}_{name}`` as this run's, or find that it already is.

        Args:
            name: the field's name without the key.
            kwargs: the type, as ``dataset.add_sample_field`` takes it.

        Returns:
            the full name.

        Raises:
            FieldError: a field of that name exists that this run did not write.
        """
        return self.claim_fields({name: kwargs})[name]

    def claim_fields(self, schema: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """:meth:`claim_field` for several: all at once, because FiftyOne reads the whole dataset's document each time.

        Args:
            schema: names without the key, and the type of each.

        Returns:
            the full names.

        Raises:
            FieldError: one of them exists that this run did not write; then none was declared.

        >>> run.claim_fields({"focus": {"ftype": fo.FloatField}, "verdict": {"ftype": fo.StringField}})
        {'focus': 'cam_focus', 'verdict': 'cam_verdict'}
        """
        paths = {name: self.path(name) for name in schema}
        new = {path: name for name, path in paths.items() if path not in self.record.fields}
        for path, name in new.items():
            if self.dataset.has_field(path):
                raise FieldError(
                    f"the field {path!r} exists and was not written by run {self.key!r}: rename or delete it, or use "
                    "another key. (Where it is left of a run that was deleted by FiftyOne itself, and not by "
                    f"focam.delete_run: dataset.delete_{'frame' if self.frames else 'sample'}_fields("
                    f"[{self.field(name)!r}, …]).)"
                )
        if new:
            self.update(fields={**self.record.fields, **new})
        missing = {path: schema[name] for name, path in paths.items() if not self.dataset.has_field(path)}
        for name, path in paths.items():
            found, wanted = self.dataset.get_field(path), schema[name].get("embedded_doc_type") or schema[name]["ftype"]
            if found is not None and not issubclass(held := getattr(found, "document_type", type(found)), wanted):
                raise FieldError(
                    f"the field {path!r} holds {held.__name__}, expected {wanted.__name__}: somebody wrote something "
                    "else under this name; delete the field, and do the same again"
                )
        database.declare_fields(self.dataset, missing)
        return paths

    def clear_field(self, name: str) -> None:
        """Delete one of this run's fields with its indexes, if it is there."""
        path = self.path(name)
        if path in self.record.fields:
            _delete_fields(self.dataset, [path])
            self.update(fields={k: v for k, v in self.record.fields.items() if k != path})

    def save_view(self, name: str, view: fo.DatasetView) -> str:
        """Save a view named ``"{key} {name}"`` that goes when the run goes.

        Raises:
            RunError: a saved view of that name exists that this run did not make.
        """
        full = f"{self.key} {name}"
        mine = full in self.record.views
        if self.dataset.has_saved_view(full) and not mine:
            raise RunError(f"a saved view {full!r} exists and is not of run {self.key!r}: rename or delete it")
        if not mine:
            self.update(views=[*self.record.views, full])
        self.dataset.save_view(full, view, overwrite=True)
        return full

    @property
    def evaluation(self) -> str:
        """The key of FiftyOne's evaluation, for its Model Evaluation panel and ``load_evaluation_results``."""
        return self.field(EVALUATION)

    def clear_evaluation(self) -> None:
        """Delete the evaluation with its field, if it is there."""
        if not self.record.evaluated:
            return
        if self.dataset.has_evaluation(self.evaluation):
            self.dataset.delete_evaluation(self.evaluation)
        self.update(evaluated=False)

    def save_scenario(self, name: str, path: str, values: Sequence[str]) -> None:
        """Save a scenario for the Model Evaluation panel, ``"{key} {name}"``, that goes when the run goes.

        Args:
            name: of the scenario.
            path: a field of the dataset.
            values: of the field: the evaluation is shown for each of them.
        """
        full = f"{self.key} {name}"
        id = scenarios.save(self.dataset, full, path, values, self.record.scenarios.get(full))
        self.update(scenarios={**self.record.scenarios, full: id})

    def clear_scenarios(self, *names: str) -> None:
        """Delete the run's scenarios of these names, or all of them."""
        found = self.record.scenarios
        gone = [name for name in found if not names or name in {f"{self.key} {each}" for each in names}]
        if gone:
            scenarios.delete(self.dataset, [found[name] for name in gone])
            self.update(scenarios={name: id for name, id in found.items() if name not in gone})

    def delete(self) -> None:
        """Delete the run and all that it owns.

        Raises:
            RunError: it is being computed.
        """
        lease.refuse_second(self)
        self.clear_evaluation()
        self.clear_scenarios()
        # by its key as well as by its record, which may have come with a dataset from elsewhere
        mine = [path for path in self.record.fields if path.removeprefix(FRAMES).startswith(f"{self.key}_")]
        _delete_fields(self.dataset, mine)
        for name in self.record.views:
            if name.startswith(f"{self.key} ") and self.dataset.has_saved_view(name):
                self.dataset.delete_saved_view(name)
        self.dataset.delete_run(self.key)

    def index(self, name: str, attribute: str = "") -> None:
        """Index one of the fields, if there is room: without an index the sidebar is slower but shows the same.

        >>> run.index("verdict")
        """
        path = self.path(name)
        try:
            self.dataset.create_index(f"{path}.{attribute}" if attribute else path)
        except OperationFailure as error:  # MongoDB allows 64 for a collection
            logger.warning("no index on %s: %s", path, error)

    def arrange(self, colors: str | None = None) -> None:
        """Give the fields their colours and their place in the App's sidebar, and show no more of them than before.

        Args:
            colors: a scale for the heatmaps, by plotly's name; by default one that was chosen before stays.
        """
        evaluation = {self.evaluation: EVALUATION} if self.dataset.has_sample_field(self.evaluation) else {}
        app_config.arrange(self.dataset, {**self.fields, **(evaluation if self.record.evaluated else {})}, colors)


def _delete_fields(dataset: fo.Dataset, paths: Sequence[str]) -> None:
    """Delete fields with their indexes, and with what the App's settings say of them."""
    database.refresh(dataset)
    for index in list(dataset.list_indexes()):
        if any(f"{index}.".startswith(f"{path}.") for path in paths):
            dataset.drop_index(index)
    there = [path for path in paths if dataset.has_field(path)]
    of_frames = [path for path in there if path.startswith(FRAMES)]
    dataset.delete_sample_fields([path for path in there if path not in of_frames])
    if of_frames:
        dataset.delete_frame_fields([path.removeprefix(FRAMES) for path in of_frames])
    app_config.forget(dataset, paths)
