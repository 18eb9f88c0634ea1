"""The main job: class activation maps over a FiftyOne collection."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from numbers import Integral
from typing import Any

import fiftyone as fo
import fiftyone.core.utils as fou
from fiftyone import ViewField as F

from fiftyone_cam.classifiers.classifier import Classifier, load_classifier
from fiftyone_cam.compute.writer import Writer
from fiftyone_cam.core import class_maps
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import CamError, RunError
from fiftyone_cam.core.explain import Explainer
from fiftyone_cam.core.logits_check import Reference
from fiftyone_cam.core.names import ERROR, FALSE, HEATMAP, MISSED, PRECISIONS, PREDICTION, PREDICTIONS
from fiftyone_cam.core.network import check_precision, resolve_device
from fiftyone_cam.core.results import Item
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.dataset import bulk, database, internals
from fiftyone_cam.dataset.collection import Collection, require_images
from fiftyone_cam.dataset.ground_truth import GroundTruth, check_field
from fiftyone_cam.dataset.media import check_media_field, read_files
from fiftyone_cam.engines import local
from fiftyone_cam.engines import ray as ray_engine
from fiftyone_cam.engines.settings import Engine, Ray, as_engine
from fiftyone_cam.runs import catalog, lease
from fiftyone_cam.runs.cam_run import CamRun, maps_check
from fiftyone_cam.runs.evaluation import register_evaluation
from fiftyone_cam.runs.heatmaps import field_schema
from fiftyone_cam.runs.interruption import is_database_gone, reason_of, terminable
from fiftyone_cam.runs.record import CamRecord, ClassifierRecord, Counts, Settings

logger = logging.getLogger(__name__)


def compute_cam(
    samples: Collection,
    classifier: Any,
    key: str = "cam",
    *,
    ground_truth: str | None = None,
    class_map: Mapping[str, str] | str | None = None,
    top_k: int = 1,
    threshold: float | None = None,
    media_field: str = "filepath",
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "float32",
    engine: str | Engine = "local",
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool | Callable[[Any], None] | None = None,
) -> CamRun:
    """Run a classifier over images; store predictions and class activation maps as sample fields.

    A second call continues: samples that have a result are left alone, new ones are computed. Killed at any moment,
    the next call finishes the rest; at most one chunk of results is computed twice.

    Writes ``{key}_prediction`` (``fo.Classification``), ``{key}_heatmap`` (``fo.Heatmap`` of the predicted class, with
    the attributes ``label``, ``logit``, ``bias``, ``grid``, ``box`` and ``seen``), ``{key}_error`` (why a sample has no
    result) and, with ``ground_truth``, ``{key}_contrast`` for wrong predictions (predicted minus true class). With
    ``top_k > 1`` also ``{key}_top`` (``fo.Classifications``) and ``{key}_heatmap_2`` …: one field for each rank,
    because the App draws, colours and toggles heatmaps by field. With ``ground_truth`` FiftyOne's evaluation of the
    predictions, ``{key}_eval``, is in its Model Evaluation panel.

    A classifier of independent labels (``classifier.independent``: a sigmoid for each logit) also writes
    ``{key}_predictions``, every class from the threshold on. If ``ground_truth`` is a ``Classifications`` field, it
    writes ``{key}_false``, those of them that are not true, and ``{key}_missed``, the true ones that it did not predict
    (all ``fo.Classifications``, so the sidebar filters them), and there is no contrastive map.

    Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2.

    Args:
        samples: a dataset or view of images; or of the frames of videos, ``dataset.to_frames(sample_frames=True)``:
            then the run and its fields, ``frames.{key}_…``, are the videos'.
        classifier: a :class:`Classifier`, or anything that :func:`load_classifier` takes.
        key: the run's name, and the beginning of its fields' names.
        ground_truth: a ``Classification`` field with the true class; ``Classifications`` for independent labels.
        class_map: translates predicted labels into the ground truth's words, many to one: ``{"tabby": "cat", …}``; or
            ``"imagenet-groups"``, ImageNet's classes in everyday words (cat, dog, bird, car, …), or a JSON file. A
            prediction that is not in it is wrong; the contrast is then against the strongest class of the true group.
        top_k: how many classes to explain, strongest first.
        threshold: confidence from which a class counts as predicted, for independent labels alone; by default 0.5.
        media_field: the field with the images' paths, for a dataset that has several, such as thumbnails.
        batch_size: images per forward; by default 32, on a GPU of this process as many as keep it busy. Halved by
            itself where memory runs out.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, …; by default a GPU where there is one.
        precision: of the forward: ``"float32"``, ``"bfloat16"`` or, on a GPU, ``"float16"``. Maps are float32 always.
        engine: where to compute. ``"local"`` or :class:`Local`: in this process. ``"ray"`` or :class:`Ray`: with actors
            on a Ray cluster. Both write the same fields, and only this process writes, so a run that began with one
            engine may go on with the other.
        overwrite: compute again what has a result; a run of another configuration under this key is deleted first, with
            its results of all samples, and its audit.
        retry_failed: compute again what failed before.
        progress: a bar or not, FiftyOne's default (None), or a function that gets FiftyOne's ``ProgressBar``.

    Returns:
        the :class:`CamRun`, whose printed form is the summary.

    Raises:
        RunError: the key is taken, the run under it has another configuration, or what the device computes is not what
            the module computes on the CPU.
        FieldError: a field is missing, of the wrong type, or not this project's.
        SourceError, HeadError: the classifier cannot be loaded, or its logits are no function of places.
        CamError: a setting makes no sense, or Ray or its cluster is not there.

    >>> run = focam.compute_cam(dataset, "efficientnet_lite0", key="cam", ground_truth="ground_truth")
    >>> dataset.match(F("cam_prediction.label") != F("ground_truth.label"))
    """
    collection = require_images(samples, frames=True)
    _check_settings(collection, key, ground_truth, batch_size, precision, top_k, threshold, media_field)
    engine = as_engine(engine, device)
    top_k = int(top_k)  # NumPy's whole numbers are no Python ones
    classifier = load_classifier(classifier)
    words = class_maps.resolve(class_map, classifier.classes)
    independent = classifier.independent
    if threshold is not None and not independent:
        raise CamError(
            "threshold is for independent labels, and the classes of this classifier exclude each other: leave it out, "
            "or load the classifier with activation='sigmoid'"
        )
    threshold = (0.5 if threshold is None else float(threshold)) if independent else None
    truth = GroundTruth.read(collection, ground_truth, classifier.classes, words, several=independent)
    network = classifier.network
    if isinstance(engine, Ray):
        network.to("cpu")  # from where the actors get it: this process computes nothing
    else:
        check_precision(resolve_device(device), precision)
    reference = Reference(network)
    running = network.for_inference()
    if not isinstance(engine, Ray):
        running.to(resolve_device(device))
    explainer = Explainer(running, precision=precision, top_k=top_k, threshold=threshold, reference=reference)
    settings = Settings(
        ground_truth=ground_truth,
        class_map=dict(words) if words else None,
        precision=precision,
        top_k=top_k,
        threshold=threshold,
        media_field=media_field,
        frames=internals.is_frames(collection),
    )
    database.refresh(internals.home_of(collection))
    run = _open(internals.home_of(collection), key, classifier, settings, overwrite)
    timing = Timing(device=str(running.device))
    with _noting_what_stops_it(run, collection), terminable():
        judged = ground_truth is not None
        schema = field_schema(top_k, judged and not truth.several, independent, judged and truth.several)
        gone = _gone(run, schema)
        _declare(run, collection, schema)
        collection = _with_fields(collection, run)
        overwrite = overwrite or any(not collection.exists(path).limit(1).count("id") for path in gone)
        if not run.record.revision and catalog.list_runs(run.dataset) == [key]:  # the dataset's first heatmaps
            run.hide_filled()
        run.show()  # now: an open App may look at the first results
        items = _pending(collection, run, truth, overwrite, retry_failed)
        if items:
            run.update(revision=run.record.revision + 1, counts=_counts(collection, run, len(items)))
            started = time.perf_counter()
            size = batch_size or explainer.network.batch_size()
            if isinstance(engine, Ray):
                results = ray_engine.explain_all(items, explainer, size, timing, engine, device)
            else:
                results = local.explain_all(items, explainer, size, engine.num_workers, timing)
            with (
                contextlib.closing(results),  # last of all: what was computed is written before actors are sent home
                fou.ProgressBar(total=len(items), progress=progress) as bar,
                Writer(run, collection, list(schema), timing) as writer,
            ):
                for result in results:
                    writer.add(result)
                    bar.update()
            timing.seconds = time.perf_counter() - started
            if notes := writer.notes():
                logger.warning("run %r: %s", key, "; ".join(notes))
            run.update(notes=notes)
        _declare(run, collection, schema)
        _finish(run, collection, truth, timing, len(items), explainer.logits_check)
    database.refresh(run.dataset)
    run.arrange()
    return run


# what is asked for


def _check_settings(
    samples: Collection,
    key: str,
    ground_truth: str | None,
    batch_size: int | None,
    precision: str,
    top_k: int,
    threshold: float | None,
    media_field: str,
) -> None:
    """What can be known to be wrong before a classifier is loaded."""
    catalog.check_key(internals.home_of(samples), key)
    if precision not in PRECISIONS:
        raise CamError(f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    for name, value in (("batch_size", batch_size), ("top_k", top_k)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
            raise CamError(f"{name} is {value!r}, expected a whole number from 1")
    if threshold is not None and not (isinstance(threshold, (int, float)) and 0 < threshold < 1):
        raise CamError(f"threshold is {threshold!r}, expected a confidence between 0 and 1, such as 0.5")
    check_media_field(samples, media_field)
    if ground_truth is not None:
        check_field(samples, ground_truth, several=True)
        if key in catalog.list_runs(samples):
            catalog.load_run(samples, key).refuse_own([ground_truth], "ground truth")


# the record


def _open(dataset: fo.Dataset, key: str, classifier: Classifier, settings: Settings, overwrite: bool) -> CamRun:
    """The run under the key: continued if it is of the same configuration, new otherwise."""
    described = classifier.describe()
    if key in catalog.list_runs(dataset):
        run = catalog.load_run(dataset, key)
        lease.refuse_second(run)
        changed = _differences(run.record, described, settings)
        if not changed:
            lease.take(run)
            return run
        if not overwrite:
            raise RunError(
                f"run {key!r} exists with another configuration ({'; '.join(changed)}): "
                "use another key, or overwrite=True to delete its results and compute anew"
            )
        run.delete()
    run = catalog.register(
        dataset,
        key,
        CamRecord(
            classifier=described,
            settings=settings,
            versions=dict(_versions()),
        ),
    )
    lease.take(run)
    return run


@cache
def _versions() -> dict[str, str]:
    """Of what computes; remembered, because each is read from files."""
    return {name: version(name) for name in ("fiftyone", "torch", "torchvision", "numpy")}


_IDENTITY = ("sha256", "classes", "preprocessing", "activation")


def _differences(record: CamRecord, classifier: ClassifierRecord, settings: Settings) -> list[str]:
    found = [name for name in _IDENTITY if getattr(record.classifier, name) != getattr(classifier, name)]
    for name, value in asdict(settings).items():
        before = getattr(record.settings, name)
        if before != value:
            found.append(name if name == "class_map" else f"{name} was {before!r}, now {value!r}")
    return ["another classifier" if name == "sha256" else name for name in found]


def _gone(run: CamRun, names: Iterable[str]) -> list[str]:
    """Fields of a run that somebody has deleted: what is computed is told by the maps, so these would stay empty."""
    if not run.record.revision:
        return []
    return [run.field(name) for name in names if name != ERROR and not run.dataset.has_field(run.path(name))]


def _declare(run: CamRun, samples: Collection, schema: Mapping[str, Mapping[str, Any]]) -> None:
    """Declare the run's fields; again, those that another process, which knew nothing of them, has taken away."""
    database.refresh(run.dataset)
    run.claim_fields(schema)
    if run.frames:  # what reads and counts results sees the view, a copy that may be older than they are
        database.declare_fields(internals.dataset_of(samples), {run.field(name): schema[name] for name in schema})
        internals.refresh_frames(samples, [run.field(name) for name in schema])


def _with_fields(samples: Collection, run: CamRun) -> Collection:
    """The same samples with the run's fields, which tell what is done, where the view leaves them out."""
    if samples.has_field(run.field(HEATMAP)):
        return samples
    if run.frames:
        bulk.require(samples, [run.field(HEATMAP)])
    grouped = run.dataset.media_type == "group"
    images = run.dataset.select_group_slices(media_type="image") if grouped else run.dataset
    return images.select(samples.values("id"), ordered=True)


@contextlib.contextmanager
def _noting_what_stops_it(run: CamRun, samples: Collection) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _note_interruption(run, samples, error)
        raise


def _note_interruption(run: CamRun, samples: Collection, error: BaseException) -> None:
    """Say where it stopped, on the record and in the log."""
    if is_database_gone(error):
        lease.forget(run)
        return  # the database is what is gone: the next call finds out by itself
    try:
        reason = reason_of(error)
        counts = _counts(samples, run, run.record.counts.new)
        lease.leave(run, status="interrupted", stopped_by=reason, counts=counts)
        done = counts.computed + counts.failed
        further = "" if isinstance(error, CamError) else "; the same call goes on from there"  # or it says what to do
        logger.warning(
            "run %r stopped (%s): %s of %s samples are done and safe%s",
            *(run.key, reason.splitlines()[0][:200], f"{done:,}", f"{counts.samples:,}", further),
        )
    except Exception:  # the first error is the one to see
        logger.debug("could not record the interruption of run %s", run.key, exc_info=True)


def _counts(samples: Collection, run: CamRun, new: int) -> Counts:
    """From what is in the database."""
    return Counts(
        samples=samples.count("id"),
        computed=samples.exists(run.field(HEATMAP)).count(),
        failed=samples.exists(run.field(ERROR)).count(),
        new=new,
    )


def _finish(
    run: CamRun, samples: Collection, truth: GroundTruth, timing: Timing, new: int, logits: Check | None
) -> None:
    """Bring the record up to date, from what is in the database."""
    error = run.path(ERROR)
    failures = {str(reason): int(n) for reason, n in run.dataset.count_values(error).items() if reason is not None}
    entries: dict[str, Any] = {
        "status": "complete",
        "stopped_by": None,
        "failures": dict(sorted(failures.items(), key=lambda entry: -entry[1])),
        "counts": _counts(samples, run, new),
    }
    if timing.images:
        entries["timing"] = timing
    logits = logits or run.checks.get("logits")  # nothing new was computed
    maps = maps_check(run.certificate, entries["counts"].computed)
    pixels = run.checks.get("pixels")
    entries["checks"] = {check.name: check.to_dict() for check in (pixels, logits, maps) if check is not None}
    if truth.several:
        entries["precision"], entries["recall"] = _precision_and_recall(samples, run)
    elif truth.field is not None:
        entries["accuracy"] = _accuracy(samples, run, truth)
        if new or not run.record.evaluated or entries["accuracy"] != run.record.accuracy:
            register_evaluation(run, truth)
    if truth.field is not None:
        entries["unknown_labels"] = sum(truth.unmatched.values())
    lease.leave(run, **entries)
    for path in (f"{run.path(PREDICTION)}.label", f"{run.path(PREDICTION)}.confidence", error):
        run.dataset.create_index(path)


def _accuracy(samples: Collection, run: CamRun, truth: GroundTruth) -> float | None:
    predicted, true = samples.values([f"{run.field(PREDICTION)}.label", f"{truth.field}.label"])
    known = [right for right in map(truth.is_right, predicted, true) if right is not None]
    return sum(known) / len(known) if known else None


def _precision_and_recall(samples: Collection, run: CamRun) -> tuple[float | None, float | None]:
    """Of all labels together, over the samples whose truth is known."""
    judged = samples.exists(run.field(FALSE))
    predicted, false, missed = (
        judged.count(f"{run.field(name)}.classifications") for name in (PREDICTIONS, FALSE, MISSED)
    )
    right = predicted - false
    return right / predicted if predicted else None, right / (right + missed) if right + missed else None


# the work


def _pending(samples: Collection, run: CamRun, truth: GroundTruth, overwrite: bool, retry_failed: bool) -> list[Item]:
    """What is still to be computed, in the collection's order."""
    view = samples.view()
    if not overwrite:
        undone = ~F(run.field(HEATMAP)).exists()
        if not retry_failed:
            undone &= ~F(run.field(ERROR)).exists()
        view = view.match(undone)
    files = read_files(view, run.media_field)
    if truth.several:
        held, several = view.values([truth.field, truth.labels_path])
        known = [None if label is None else names or [] for label, names in zip(held, several, strict=True)]
        truths = [None if names is None else tuple(truth.indices(name) for name in names) for names in known]
        return [Item(*file, truths=each) for file, each in zip(files, truths, strict=True)]
    labels = view.values(f"{truth.field}.label") if truth.field else [None] * len(files)
    return [Item(*file, truth.indices(label)) for file, label in zip(files, labels, strict=True)]
