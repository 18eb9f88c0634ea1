"""What the App's forms and panels ask of a dataset. No answer needs PyTorch; each takes one query or two."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import fiftyone as fo

from fiftyone_cam.analysis.audit_report import AuditReport
from fiftyone_cam.dataset.annotations import PLACES
from fiftyone_cam.dataset.collection import Collection
from fiftyone_cam.dataset.internals import dataset_of, is_generated, select_early
from fiftyone_cam.dataset.media import read_files
from fiftyone_cam.runs import catalog
from fiftyone_cam.runs.cam_run import CamRun

Answer = TypeVar("Answer")

_ENOUGH = 5000
_REMEMBERED = 32


def place_fields(samples: Collection) -> list[str]:
    """The fields that can say where the object is.

    >>> place_fields(dataset)
    ['animals']
    """
    schema = samples.get_field_schema(ftype=fo.EmbeddedDocumentField)
    return [path for path, field in schema.items() if issubclass(field.document_type, PLACES)]


class Words(NamedTuple):
    """The labels of a field, sorted; and how many of the first samples were looked at, None where it was all."""

    labels: list[str]
    looked_at: int | None


def class_words(samples: Collection, field: str, patience: float = 0.5) -> Words | None:
    """The labels of a ground truth; None while they are not known yet.

    Remembered until the dataset changes: a form asks at every keystroke.

    Args:
        samples: a dataset or view.
        field: a ``Classification`` field, or one of ``Classifications``.
        patience: seconds to wait.

    >>> class_words(dataset, "ground_truth")
    Words(labels=['cat', 'dog'], looked_at=None)
    """
    dataset = dataset_of(samples)

    def ask() -> Words:
        many = dataset.count() > _ENOUGH  # from the collection's metadata
        several = getattr(dataset.get_field(field), "document_type", None) is fo.Classifications
        path = f"{field}.classifications.label" if several else f"{field}.label"
        found = (dataset.limit(_ENOUGH) if many else dataset).distinct(path)
        return Words(sorted(str(label) for label in found if label is not None), _ENOUGH if many else None)

    return soon(("words", dataset.name, field, str(dataset.last_modified_at)), ask, patience)


def count_maps(run: CamRun, patience: float = 0.5) -> int | None:
    """How many maps a run has; None while that is not known: those of a run that was killed have to be counted.

    >>> count_maps(run)
    259
    """
    if run.record.status != "running":
        return run.record.counts.computed
    return soon(("maps", run.dataset.name, run.key, run.record.alive_at), lambda: run.counts.computed, patience)


_answers: OrderedDict[Hashable, Future[Any]] = OrderedDict()
_asking = ThreadPoolExecutor(2, thread_name_prefix="cam-query")


def soon(question: Hashable, ask: Callable[[], Answer], patience: float) -> Answer | None:
    """An answer that may take long, for a form that must not: None until it is there.

    Args:
        question: what is asked, as a name for it; the same is asked once.
        ask: answers it, in a thread.
        patience: seconds to wait for it now.

    >>> soon("sum", lambda: 1 + 1, patience=0.5)
    2
    """
    if question not in _answers:
        _answers[question] = _asking.submit(ask)
        if len(_answers) > _REMEMBERED:
            _answers.popitem(last=False)
    answer: Future[Answer] = _answers[question]
    wait([answer], timeout=patience)
    if answer.done() and answer.exception() is not None:
        del _answers[question]  # the next one may be luckier
    elif answer.done():
        return answer.result()
    return None


class Missing(NamedTuple):
    """What a panel lacks. For an audit, ``what`` is ``run``, ``results``, ``audit``, ``fresh``, ``objects``, ``truth``,
    ``images`` or ``samples``; for concepts ``run``, ``results``, ``concepts``, ``rest`` or ``fresh``. ``text`` says it,
    and what to do."""

    what: str
    text: str


def missing_for_audit(samples: Collection, key: str | None) -> Missing | None:
    """What the audit panel lacks to show these samples; None if it lacks nothing.

    Where ``fresh``, ``objects`` or ``truth`` is missing, the panel still has something to show.

    >>> missing_for_audit(dataset, None)
    Missing(what='run', text='This dataset has no class activation maps yet: compute them first.')
    """
    if dataset_of(samples).media_type not in ("image", "group", None):
        return Missing("images", f"This dataset holds {dataset_of(samples).media_type}: an audit needs images.")
    if is_generated(samples):
        return Missing("samples", "This view shows parts of images. An audit is of whole images: show the samples.")
    if key is None:
        return Missing("run", "This dataset has no class activation maps yet: compute them first.")
    run = catalog.load_run(samples, key)
    audited = run.record.audit
    if run.status == "running":
        return Missing("results", f"Run {key} is being computed: wait for it, or stop it.")
    if audited is None:
        return Missing("audit", f"Run {key} has maps, and no audit: audit it to see where it looked, and where not.")
    spread = run.field("spread")
    if not samples.has_field(spread):
        return Missing("samples", "This view leaves out the audit's fields: show all samples.")
    if not samples.limit(1).exists(spread).values("id") and not samples.exists(spread).limit(1).values("id"):
        return Missing("samples", "None of the samples in this view was audited: show all samples, or audit these.")
    if why := AuditReport(run, samples).stale:
        return Missing("fresh", str(_sentence(why)))
    if not audited.objects:
        return Missing("objects", "The audit knows no objects, so there are no verdicts: audit with a field that says "
                       "where things are (boxes, polygons or masks).")  # fmt: skip
    if not audited.ground_truth:
        return Missing("truth", "The audit knows no true classes, so there are no verdicts: audit with a ground truth.")
    return None


def missing_for_concepts(run: CamRun | None) -> Missing | None:
    """What the panel of concepts lacks to show those of a run; None if it lacks nothing.

    Where ``fresh`` is missing, the panel still has something to show.

    >>> missing_for_concepts(None)
    Missing(what='run', text='This dataset has no class activation maps yet: compute them first.')
    """
    if run is None:
        return Missing("run", "This dataset has no class activation maps yet: compute them first.")
    record = run.record.concepts
    if record is None:
        return Missing("concepts", f"Run {run.key} has maps, and no concepts: find what its predictions are made of.")
    if not record.complete:
        return Missing("rest", f"Finding the concepts of run {run.key} was interrupted: it goes on from there.")
    if record.revision != run.record.revision:
        return Missing("fresh", f"Run {run.key} has computed again since: find its concepts again.")
    return None


def filepaths(samples: Collection, ids: Sequence[str], media_field: str = "filepath") -> dict[str, str]:
    """The files of samples by their ids; those that are gone are left out.

    >>> filepaths(dataset, dataset.values("id")[:1])
    {'68f1c2…': '/photos/dog.jpg'}
    """
    if not ids:
        return {}
    dataset = dataset_of(samples)
    images = dataset.select_group_slices(dataset.group_slice) if dataset.media_type == "group" else dataset
    chosen = select_early(images, list(dict.fromkeys(ids)))
    return dict(read_files(chosen, media_field))


def sample_summary(samples: Collection, sample_id: str, key: str) -> dict[str, Any]:
    """What is known of one sample: its ``true`` class, its ``verdict``, whether it has a contrastive map
    (``contrast``), why its audit is out of date (``stale``), and the share of its gap to the runner-up that no place
    holds (``unplaced``; None where all is placed).

    >>> sample_summary(dataset, sample.id, "cam")
    {'true': 'tabby', 'verdict': 'distracted', 'contrast': True, 'unplaced': None, 'stale': None}
    """
    run = catalog.load_run(samples, key)
    truth = (run.record.audit and run.record.audit.ground_truth) or run.ground_truth
    paths = {
        "true": f"{truth}.label" if truth else None,
        "verdict": run.field("verdict"),
        "contrast": f"{run.field('contrast')}.label",
        "unplaced": f"{run.field('heatmap')}.gap_remainder_share",
    }
    sample = run.dataset.select(sample_id)
    there = {name: path for name, path in paths.items() if path and run.dataset.has_field(path.partition(".")[0])}
    found: dict[str, Any] = dict.fromkeys(paths)
    if there:
        for name, [value] in zip(there, sample.values(list(there.values())), strict=True):
            found[name] = value
    found["contrast"] = found["contrast"] is not None
    found["stale"] = None if run.record.audit is None else _sentence(AuditReport(run, samples).stale)
    return found


def why_no_map(samples: Collection, sample_id: str, key: str) -> Missing:
    """Why a sample has no map.

    >>> why_no_map(dataset, sample.id, "cam").text
    'This sample has no map: truncated file'
    """
    field = f"{key}_error"
    reason = dataset_of(samples).select(sample_id).values(field)[0] if dataset_of(samples).has_field(field) else None
    return Missing("sample", f"This sample has no map: {reason or f'run {key} did not cover it; compute it too'}.")


class SampleMap(NamedTuple):
    """A map over its image: ``label`` and, of a contrast, ``versus``; the signed map, logit units, as rows of numbers;
    ``top``, the evidence that gets the last colour; and ``aspect``, the image's width over its height."""

    label: str
    versus: str | None
    filepath: str
    aspect: float
    top: float
    rows: list[list[float]]


def sample_map(
    samples: Collection, sample_id: str, field: str, side: int = 64, media_field: str = "filepath"
) -> SampleMap | None:
    """The signed map of a field of :func:`fiftyone_cam.compute_cam`, ready to be drawn; None where there is none.

    >>> sample_map(dataset, sample.id, "cam_heatmap").label
    'tabby'
    """
    from fiftyone_cam.runs.heatmaps import signed_map

    sample = dataset_of(samples)[sample_id]
    heat = sample.get_field(field)
    if heat is None or heat.map is None:
        return None
    height, width = heat.map.shape  # small, but as the image is
    scale = side / max(height, width)
    drawn = signed_map(heat, (max(1, round(height * scale)), max(1, round(width * scale))))
    versus = heat["versus"] if heat.has_attribute("versus") else None
    top = float(heat.range[1]) if heat.has_attribute("cam") else float(abs(drawn).max()) or 1.0
    rows = [[round(float(value), 3) for value in row] for row in drawn]
    return SampleMap(heat.label, versus, sample[media_field] or "", width / height, top, rows)


def _sentence(text: str | None) -> str | None:
    return text and f"{text[0].upper()}{text[1:]}."
