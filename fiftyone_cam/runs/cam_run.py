"""A run of class activation maps over a dataset: :func:`fiftyone_cam.compute_cam` makes one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.names import COMPILING_PAYS, CONCEPTS, ERROR, FALSE, GRADES, HEATMAP, PREDICTION, PREDICTIONS
from fiftyone_cam.core.tables import Summary, percent
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset import app_config, database
from fiftyone_cam.dataset.collection import FRAMES
from fiftyone_cam.runs import lease, store
from fiftyone_cam.runs.concept_sums import Sums
from fiftyone_cam.runs.record import CamRecord, ComparisonRecord, Counts
from fiftyone_cam.runs.run import Run

REMAINDER = [*GRADES][-1]


class CamRun(Run[CamRecord]):
    """Class activation maps of one classifier on a dataset.

    ``print(run)`` gives the summary.

    >>> run = focam.load_run(dataset, "cam")
    >>> run.record.classifier.sha256, run.counts.computed
    ('57934424…', 259)
    """

    @property
    def frames(self) -> bool:
        """Whether the run's fields belong to the frames of videos."""
        return self.record.settings.frames

    @property
    def media_field(self) -> str:
        """The field with the files that the run read."""
        return self.record.settings.media_field

    @property
    def classes(self) -> list[str]:
        return list(self.record.classifier.classes)

    @property
    def counts(self) -> Counts:
        """How many samples were asked for, have a result or none, and are new.

        While the run is computed, and after it was killed, results are counted when this is read.
        """
        counts = self.record.counts
        if self.record.status == "running" and self.dataset.has_field(self.path(HEATMAP)):
            computed, failed = (self.dataset.count(self.path(name)) for name in (HEATMAP, ERROR))
            return replace(counts, computed=computed, failed=failed)
        return replace(counts)

    def require_weights(self, fingerprint: str) -> None:
        """Refuse a classifier other than the run's: its maps and the run's could not be compared.

        Args:
            fingerprint: the classifier's, :attr:`Classifier.fingerprint`.

        Raises:
            RunError: the run was made with other weights.

        >>> run.require_weights(classifier.fingerprint)
        """
        if fingerprint != self.record.classifier.sha256:
            raise RunError(
                f"the classifier has other weights than that of run {self.key!r}: expected the same "
                f"{self.record.classifier.model}; compute another run with this one"
            )

    def require_pixels(self, preprocessing: Mapping[str, Any]) -> None:
        """Refuse a classifier that is fed otherwise than the run's: of the same picture it would see something else.

        Args:
            preprocessing: the classifier's, :meth:`Preprocessing.to_dict`.

        Raises:
            RunError: the run was made with another preprocessing.

        >>> run.require_pixels(classifier.network.preprocessing.to_dict())
        """
        made = self.record.classifier.preprocessing
        if made and made != preprocessing:
            changed = [name for name in {**made, **preprocessing} if made.get(name) != preprocessing.get(name)]
            raise RunError(
                f"the classifier is fed otherwise than that of run {self.key!r}: expected "
                f"{', '.join(f'{name} {made.get(name)}' for name in changed)}; load it with the same preprocessing"
            )

    @property
    def ground_truth(self) -> str | None:
        """The field with the one true class of each sample; None if there is none, or if samples have several labels.

        >>> run.ground_truth
        'ground_truth'
        """
        return None if self.path(FALSE) in self.fields else self.record.settings.ground_truth

    @property
    def certificate(self) -> float:
        """The largest relative error of ``mean(map) + bias`` against the logit, over all samples."""
        return self.record.certificate

    @property
    def checks(self) -> dict[str, Check]:
        """What the run was held against, by name: ``pixels``, ``logits`` and ``maps``.

        >>> print(run.checks["logits"])
        logits: equal to 2.1e-07 of the sum's largest term (float32 on cpu, 4 images of the run)
        """
        entries = {**self.record.classifier.checks, **self.record.checks}
        found = {name: Check.from_dict(entry) for name, entry in entries.items() if name != "maps"}
        return {**found, "maps": maps_check(self.certificate, self.counts.computed)}

    @property
    def grade(self) -> str:
        """How maps relate to logits: ``exact``, ``exact for this image`` or ``exact with remainder``.

        >>> run.grade
        'exact'
        """
        return str(self.record.classifier.head.get("grade", next(iter(GRADES))))  # older runs knew one grade

    def gap_remainder_share(self) -> float | None:
        """The median share of the gap between the two strongest logits that no place holds; None where all is placed.

        >>> vit_run.gap_remainder_share()
        0.04
        """
        path = self.path(HEATMAP)
        if self.grade != REMAINDER or not self.dataset.has_field(path):
            return None
        shares = self.dataset.values(f"{path}.gap_remainder_share", unwind=True)
        known = [share for share in shares if share is not None]
        return float(np.median(known)) if known else None

    @property
    def visualization(self) -> str:
        """The brain key of the layout that :func:`fiftyone_cam.visualize` makes."""
        return self.field("points")

    def clear_visualization(self) -> None:
        """Delete the layout, if it is there."""
        if self.record.visualized:
            if self.dataset.has_brain_run(self.visualization):
                self.dataset.delete_brain_run(self.visualization)
            self.update(visualized=False)

    def update_comparison(self, before: str, record: ComparisonRecord | None) -> None:
        """Write one comparison, by the key of the earlier run, and no other: another process may write those.

        >>> run.update_comparison("cam_a", None)
        """
        self.write_entries({f"comparisons.{before}": record})
        self.record.comparisons[before] = record

    def delete_concepts(self) -> None:
        """Delete the run's concepts with their fields, their sums and their map of embeddings, if there are any."""
        record = self.record.concepts
        if record is None:
            return
        brain_key = self.field(CONCEPTS)
        if record.brain and self.dataset.has_brain_run(brain_key):
            self.dataset.delete_brain_run(brain_key)
        for name in record.written:
            self.clear_field(name)
        with contextlib.suppress(RunError):  # a record from elsewhere may name anything
            sums = Sums(record.folder)
            if not database.others_have(self.dataset, self.key, "concepts.folder", sums.name):  # as clones have
                sums.delete()
        self.update(concepts=None)

    def show(self, colors: str | None = None) -> None:
        """Show this run's prediction and heatmap in the App, beside what it shows already.

        A heatmap of another run that is shown makes place for this run's heatmap of the same kind.

        Args:
            colors: a scale for the heatmaps, by plotly's name; by default one that was chosen before stays.

        >>> run.show(colors="jet")
        """
        self.arrange(colors)
        several = self.path(PREDICTIONS) in self.fields
        names = (PREDICTIONS if several else PREDICTION, HEATMAP)
        wanted = [path for path in map(self.path, names) if path in self.fields]
        replaced: dict[str, str | None] = {}
        for key in self._others():
            theirs = app_config.heatmaps(self.dataset, store.written_fields(self.dataset, key))
            replaced |= {path: _like(path, key, self.key, self.fields) for path in theirs}
        app_config.activate(self.dataset, wanted, replaced)

    def hide_filled(self) -> None:
        """Hide what is drawn over whole objects, and remember it: beneath it no heatmap can be read.

        >>> run.hide_filled()
        """
        hidden = [path for path in app_config.filled(self.dataset) if path not in self.fields]
        if hidden:
            self.update(hidden=hidden)
            app_config.activate(self.dataset, hidden=hidden)

    def delete(self) -> None:
        """Delete the run and all that it owns. Where its heatmaps are shown, those of the run before take their place.

        Raises:
            RunError: it is being computed.
        """
        lease.refuse_second(self)
        self.delete_concepts()
        self.clear_visualization()
        shown = [path for path in app_config.visible(self.dataset) if path in self.fields]
        if others := self._others():
            before = max(others, key=lambda key: str(store.read_entries(self.dataset, key).get("created_at")))
            theirs = store.written_fields(self.dataset, before)
            mine = app_config.heatmaps(self.dataset, shown)
            app_config.activate(self.dataset, replaced={path: _like(path, self.key, before, theirs) for path in mine})
        elif shown:
            there = [path for path in self.record.hidden if self.dataset.has_field(path)]
            app_config.activate(self.dataset, there)
        super().delete()

    def _others(self) -> list[str]:
        return [key for key in store.keys(self.dataset, store.CAM) if key != self.key]

    def describe(self) -> Summary:
        """The run in words: the classifier, how many maps there are, how exact they are, and where the time went.

        >>> run.describe().rows[2]
        ('samples', '259 with a map, 0 failed, of 259; 259 new')
        """
        record = self.record
        classifier, counts = record.classifier, self.counts
        network = f"{classifier.model} ({classifier.source}), {len(classifier.classes)} classes"
        rows = [("classifier", f"{network}, weights {classifier.sha256[:12]}"), ("samples", self._done())]
        if "grade" in classifier.head:
            rows.insert(1, ("maps", f"{self.grade} ({classifier.head['kind']}): {GRADES[self.grade]}"))
            share = self.gap_remainder_share()
            if share is not None:
                rows.insert(2, ("", f"no place holds {share:.0%} of the gap to the runner-up (median)"))
        rows += [("", f"{count:,} x {reason}") for reason, count in list(self.failures.items())[:10]]
        rows += [("pictures", note) for note in record.notes]
        if record.accuracy is not None:
            unknown = record.unknown_labels
            note = f" (without {unknown:,} whose label matches no class)" if unknown else ""
            rows.append(("accuracy", f"{record.accuracy:.1%} against {record.settings.ground_truth!r}{note}"))
        if record.precision is not None or record.recall is not None:
            at = f"at {record.settings.threshold:g} against {record.settings.ground_truth!r}"
            rows.append(("labels", f"precision {percent(record.precision)}, recall {percent(record.recall)} {at}"))
        if counts.computed:
            rows.append(("checks", "; ".join(check.brief() for check in self.checks.values())))
        timing = record.timing
        if timing is not None and timing.images:
            took = f"{timing.seconds:,.1f} s" if timing.seconds >= 0.05 else "less than 0.1 s"
            speed = f"{timing.images / timing.seconds:,.1f} images/s on {timing.device}"
            rows.append(("throughput", f"{speed} ({took}, {record.settings.precision})"))
            rows.append(("time", where_the_time_went(timing)))
        if record.hidden:
            fields = ", ".join(record.hidden)
            rows.append(("hidden", f"{fields}: drawn over whole objects, and over the heatmaps; tick to see it again"))
        return Summary(f"CAM run {self.key!r} on {self.dataset.name!r}: {self.status}", rows)

    def _done(self) -> str:
        """How many samples are done, and how many are left."""
        counts = self.counts
        left = counts.samples - counts.computed - counts.failed
        parts = [f"{counts.computed:,} with a map", f"{counts.failed:,} failed", f"of {counts.samples:,}"]
        done = ", ".join(parts)
        if left > 0:
            return f"{done}; {left:,} left: computing again goes on with them"
        return f"{done}; {counts.new:,} new"

    def __str__(self) -> str:
        return self.describe().text()

    __repr__ = __str__


def maps_check(certificate: float, images: int) -> Check:
    """The third check: mean of the map plus bias against the logit, on every image.

    >>> print(maps_check(4.5e-7, 800))
    maps: equal to 4.5e-07 of the sum's largest term (mean of the map plus bias against the logit, 800 images)
    """
    if not images:
        return Check.not_made("maps", "no map was computed")
    detail = f"mean of the map plus bias against the logit, {images:,} image{'s' if images > 1 else ''}"
    return Check("maps", True, certificate, "of the sum's largest term", detail)


def _like(path: str, key: str, other: str, fields: Collection[str]) -> str | None:
    """The field of another run that has the same name without the key; None where it has none.

    >>> _like("one_heatmap", "one", "two", ["two_heatmap"])
    'two_heatmap'
    """
    kind = FRAMES if path.startswith(FRAMES) else ""
    like = f"{kind}{other}_{path.removeprefix(kind).removeprefix(f'{key}_')}"
    return like if like in fields else None


_BRIEF = 5.0
"""A run of fewer seconds says nothing about where time goes."""


def where_the_time_went(timing: Timing) -> str:
    """What a run's time was spent on, in words; and what to do if much of it was waiting.

    >>> where_the_time_went(Timing(images=100, seconds=10.0, waiting_for_decode=7.1, forward=2.5))
    'waiting for decode 71%, forward 25%; try more workers, or faster storage'
    """
    stages = ("forward", "waiting_for_decode", "maps", "waiting_for_writes", "compiling")
    spent = {stage.replace("_", " "): getattr(timing, stage) for stage in stages}
    total = max(timing.seconds, sum(spent.values()))  # with many actors at once, the sum is larger
    shares = {name: seconds / total for name, seconds in spent.items()}
    said = [
        f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share >= 0.005
    ]
    advice = ""
    if total >= _BRIEF and shares["waiting for decode"] > 0.4:
        advice = "; try more workers, or faster storage"
    elif total >= _BRIEF and shares["waiting for writes"] > 0.4:
        advice = "; the database is what is slow"
    elif spent["forward"] > COMPILING_PAYS and timing.device == "cpu" and find_spec("onnxruntime") is None:
        advice = "; pip install 'fiftyone_cam[onnx]' compiles most networks in so long a run, from Python or scheduled"
    return ", ".join(said) + advice
