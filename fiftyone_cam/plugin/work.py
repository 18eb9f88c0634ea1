"""Long work behind a form: in a thread, with live progress, and stopped when nobody waits for it any more."""

from __future__ import annotations

import importlib
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import fiftyone as fo
from fiftyone.operators import types

from fiftyone_cam.core.errors import CamError, Stopped
from fiftyone_cam.core.names import FIRST_CHUNK, operator_uri
from fiftyone_cam.dataset.collection import Collection, flattened
from fiftyone_cam.plugin import installed
from fiftyone_cam.training.progress import Progress, duration

Result = TypeVar("Result")
Report = Callable[[Any], None]
"""What an SDK function takes as ``progress``: of FiftyOne's ``ProgressBar``, or of a training's ``Progress``."""

_BEAT = 0.4
"""Seconds between two signs of life in the App."""


_stops: dict[str, threading.Event] = {}
"""What is being done now in this process, by a name of its own, and how to end it."""


def target(ctx: Any) -> Collection:
    """The samples that a form says to work on, flat: all samples where the App groups them by a field.

    FiftyOne's own ``ctx.target_view(require_flat=True)`` fails there (1.22.1): it looks for a slice of the groups.
    """
    if ctx.dataset.media_type != "group" and ctx.view.media_type == "group":
        return flattened(ctx.target_view())
    found: Collection = ctx.target_view(require_flat=True)
    return found


@cache
def import_ahead() -> None:
    """Import what the work will need, while somebody reads the form: seconds that nobody has to wait for then."""

    def take() -> None:
        with installed.IMPORTING:
            importlib.import_module("fiftyone_cam.compute.compute_cam")

    threading.Thread(target=take, name="cam-import", daemon=True).start()


def run(
    ctx: Any,
    work: Callable[[Report], Result],
    preparing: str,
    first: Callable[[], Iterable[Any]] | None = None,
    note: str = "",
    retry: types.Button | None = None,
) -> Generator[Any, None, Result]:
    """Do work that takes a ``progress`` function, and yield what the App shows meanwhile.

    The work ends at its next report where somebody presses Stop or the reader of this generator goes away. What it has
    written stays.

    Args:
        ctx: FiftyOne's context of the operator.
        work: what to do.
        preparing: what is shown until it reports.
        first: is yielded once, when the first results are stored: they show early that it works.
        note: a line below the progress.
        retry: what to press where it fails.

    >>> result = yield from work.run(ctx, lambda report: compute_cam(…, progress=report), "Loading the classifier")
    """
    latest: tuple[float | None, str] = (None, preparing)
    seen, due = 0, False
    name = uuid.uuid4().hex
    stopped = _stops[name] = threading.Event()

    def report(bar: Any) -> None:
        nonlocal latest, seen
        if stopped.is_set():
            raise Stopped("What was computed is kept, and the next run of the same goes on from there")
        latest = _state(bar)
        seen = getattr(bar, "iteration", 0)

    pool = ThreadPoolExecutor(1, thread_name_prefix="fiftyone_cam")
    future = pool.submit(work, report)
    try:
        while not wait([future], timeout=_BEAT).done:
            progress, label = latest
            if first is not None and due:
                yield from first()
                first = None
            due = seen >= FIRST_CHUNK  # the writer stores them within a beat
            yield _progress(ctx, name, "Stopping" if stopped.is_set() else label, progress, note)
        yield _progress(ctx, name)
        error = future.exception()
        if error is not None:
            yield failure(ctx, error, retry)  # the App shows nothing of an exception in a generator, and spins for ever
        return future.result()
    finally:
        stopped.set()  # by an exception in here, the reader went away
        del _stops[name]
        pool.shutdown(wait=False)  # may be the event loop that closes this generator: it must not wait


def has_app(ctx: Any) -> bool:
    """Whether an open App asked for this, which then shows what is yielded; otherwise the caller wants a result.

    The App always sends its extended selection, also where it is empty. Python and agents do not.
    """
    return not ctx.delegated and "extended_selection" in ctx.request_params


def recorder(ctx: Any) -> Report:
    """Reports to the record of a scheduled run: of samples every two seconds, of a training as it reports itself."""

    def record(bar: Any) -> None:
        ctx.set_progress(*_state(bar))

    every_two_seconds: Report = fo.report_progress(record, dt=2)
    return lambda bar: record(bar) if isinstance(bar, Progress) else every_two_seconds(bar)


def stop(name: str) -> bool:
    """End what is being done under a name, at its next report; whether there is such work."""
    if name in _stops:
        _stops[name].set()
    return name in _stops


def busy() -> bool:
    """Whether this server is doing such work, or will be in a moment."""
    return bool(_stops) or time.monotonic() < _announced[0]


def announce() -> None:
    """Say that such work begins in a moment."""
    _announced[0] = time.monotonic() + 10


_announced = [0.0]
"""Until when work that was announced is waited for."""


def _progress(ctx: Any, name: str, label: str = "", progress: float | None = None, note: str = "") -> Any:
    """A strip with a live bar and a button that stops the work; without words, its end.

    Drawn by ``assets/app.js``: FiftyOne's own progress is a dialog over the whole App, with a button that does nothing.
    """
    params = {"work": name, "label": label, "progress": progress, "note": note}
    return ctx.trigger(operator_uri("show_work"), params)


def form_button(label: str, operator: str, params: Mapping[str, Any]) -> types.Button:
    """A button that closes what it stands on, and opens an operator's form, filled in."""
    asked = {"operator": operator_uri(operator), "params": dict(params)}
    return types.Button(label=label, operator=operator_uri("open_form"), params=asked, variant="outlined")


def _state(bar: Any) -> tuple[float, str]:
    """The part that is done, and the words for it: how many, how fast, how long still."""
    if isinstance(bar, Progress):
        return bar.done, str(bar)
    done, total, seconds = bar.iteration, bar.total or 0, bar.elapsed_time or 0.0
    words = f"{done:,} of {total:,} samples"
    if done and seconds > 0.3:
        rate = done / seconds
        left = (total - done) / rate
        words += f" · {rate:,.1f} samples/s" + (f" · {duration(left)} left" if left >= 0.5 else "")
    return (done / total if total else 0.0), words


def failure(ctx: Any, error: BaseException, retry: types.Button | None = None) -> Any:
    """The last thing that the App shows where there is no result; ``retry`` leads back to the form."""
    words = str(error) if isinstance(error, CamError) else f"{type(error).__name__}: {error}. The server's log has more"
    outputs = types.Object()
    if isinstance(error, Stopped):
        outputs.view("stopped", types.Notice(label="Stopped", description=words))
    else:
        outputs.view("failure", types.Error(label="Not done", description=words))
    if retry is not None:
        outputs.view("retry", retry)
    return ctx.ops.show_output(types.Property(outputs).to_json(), {})


def summary(ctx: Any, title: str, text: str, **results: tuple[types.View, Any]) -> Any:
    """The last thing that the prompt shows: words, and below them further views, each with what it shows."""
    outputs = types.Object()
    outputs.str("summary", label=title, view=types.MarkdownView())
    for name, (view, value) in results.items():
        if value is None:
            outputs.view(name, view)
        else:
            outputs.str(name, view=view)
    shown = {"summary": text} | {name: value for name, (_, value) in results.items() if value is not None}
    return ctx.ops.show_output(types.Property(outputs, view=types.View(label=title)).to_json(), shown)
