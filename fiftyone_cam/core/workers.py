"""Threads that can be left behind: a file that never answers, or a thread that dies, costs one task and not the run.

``concurrent.futures`` waits for ever for a thread that hangs, even at the end of the interpreter, and for the task of a
thread that died. A thread cannot be ended from outside, but nobody has to wait for it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as NotYet
from typing import Any, Generic, TypeVar

from fiftyone_cam.core.errors import CamError, NotDoneError

Input = TypeVar("Input")
Value = TypeVar("Value")

_LOOK = 0.5
"""Seconds between two looks at whether the thread of an unfinished task still lives."""

_MOST_LEFT = 64
"""So many threads that hang mean a storage that is gone, not a bad file."""

_TRIES = 2


def default_count() -> int:
    """The default number of threads that read files: one for each core, at most 16."""
    return min(16, os.cpu_count() or 1)


class Task(Generic[Value]):
    """A submitted call: its future, the thread that works on it, since when, and how long it took."""

    def __init__(self, function: Callable[..., Value], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.future: Future[Value] = Future()
        self.thread: threading.Thread | None = None
        self.since = 0.0
        self.seconds = 0.0
        self.tries = 0


class Workers:
    """A pool of threads that takes tasks in the order of their submission, each with a time limit.

    Args:
        count: threads. Fewer where the system allows no more, at least one.
        seconds: for one task, from when a thread begins with it; None: no limit.
        name: of the threads.

    >>> with Workers(2, seconds=60) as workers:
    ...     image = workers.result(workers.submit(read_image, "cat.jpg"))
    """

    def __init__(self, count: int, *, seconds: float | None = None, name: str = "cam") -> None:
        self.seconds = seconds
        self._count = count
        self._name = name
        self._queue: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._left: list[threading.Thread] = []
        self._fill()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close(patience=2.0)

    def submit(self, function: Callable[..., Value], *args: Any) -> Task[Value]:
        task = Task(function, args)
        self._queue.put(task)
        return task

    def result(self, task: Task[Value]) -> Value:
        """What the task returns or raises. Ask for results in the order of submission.

        A task whose thread died is tried once more.

        Raises:
            NotDoneError: it is not done in time. Its thread is left behind, and another takes its place. Or its thread
                died twice.
            CamError: so many threads hang that the storage must be gone.
        """
        while not task.future.done():
            wait = _LOOK
            if self.seconds is not None and task.thread is not None:
                wait = min(wait, max(0.0, task.since + self.seconds - time.monotonic()))
            try:
                return task.future.result(wait)
            except NotYet:
                if not task.future.done():
                    self._look_at(task)
        return task.future.result()

    def imap(
        self, function: Callable[[Input], Value], items: Iterable[Input], *, ahead: int
    ) -> Iterator[tuple[Input, Task[Value]]]:
        """Tasks for items, in order; at most ``ahead`` of them are submitted and not handed out.

        Each is handed out with its item, done or not: ask for its :meth:`result` at once. Of ``items`` no more is read
        than is submitted, so it may be long.

        >>> with Workers(2) as workers:
        ...     [workers.result(task) for _, task in workers.imap(abs, [-1, 2, -3], ahead=2)]
        [1, 2, 3]
        """
        waiting: deque[tuple[Input, Task[Value]]] = deque()
        for item in items:
            waiting.append((item, self.submit(function, item)))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        while waiting:  # not yield from: what was handed out should not stay in memory
            yield waiting.popleft()

    def _look_at(self, task: Task[Any]) -> None:
        """Find out why a task is not done, and act on it."""
        thread = task.thread
        if thread is not None and thread.is_alive():
            if self.seconds is not None and time.monotonic() - task.since >= self.seconds:
                self._leave(thread)
                raise NotDoneError(f"cannot be read: not done within {self.seconds:g} s")
            return
        lost = thread is not None or self._queue.empty()  # its thread died with it, or just after taking it
        self._fill()
        if lost and not task.future.done():
            if task.tries >= _TRIES:
                raise NotDoneError("cannot be read: the thread that worked on it died, twice")
            task.thread = None
            self._queue.put(task)

    def _leave(self, thread: threading.Thread) -> None:
        self._threads.remove(thread)
        self._left = [other for other in self._left if other.is_alive()] + [thread]
        if len(self._left) > _MOST_LEFT:
            raise CamError(
                f"{len(self._left)} files hang, each for more than {self.seconds:g} s: is their storage there? "
                "What was done before is safe; do the same again when it answers"
            )
        self._fill()

    def _fill(self) -> None:
        """As many threads as there should be, or as the system allows."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        while len(self._threads) < self._count:
            # a daemon: a thread that hangs must not keep the interpreter from ending
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # can't start new thread
                if not self._threads:
                    raise
                return
            self._threads.append(thread)

    def _work(self) -> None:
        thread = threading.current_thread()
        while (task := self._queue.get()) is not None:
            task.since, task.thread, task.tries = time.monotonic(), thread, task.tries + 1
            with contextlib.suppress(InvalidStateError):  # tried twice, but the first thread was not dead after all
                try:
                    value = task.function(*task.args)
                    task.seconds = time.monotonic() - task.since
                except Exception as error:
                    task.future.set_exception(error)
                else:
                    task.future.set_result(value)
                    del value  # a picture is large, and the next task may come late
            del task
            if thread in self._left:  # another has its place
                return

    def close(self, patience: float | None = None) -> None:
        """Drop the tasks that no thread has begun. Wait for the others, at most ``patience`` seconds if given."""
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._queue.put(None)
        deadline = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._threads = []


class SharedExclusiveLock:
    """Many at once, or one alone. Who waits to be alone comes before those who want to share: it does not starve.

    Why not ``fasteners.ReaderWriterLock`` (0.20): when a writer is interrupted while it waits, as by Ctrl-C in a
    notebook, nobody gets that lock any more.

    >>> lock = SharedExclusiveLock()
    >>> with lock.shared(): ...
    >>> with lock.exclusive(): ...
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._wanting = 0
        """How many wait to be alone, or are."""
        self._alone = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._wanting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._changed:
            self._wanting += 1
            try:
                self._changed.wait_for(lambda: not self._sharing and not self._alone)
            except BaseException:
                self._wanting -= 1
                self._changed.notify_all()
                raise
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._wanting -= 1
                self._changed.notify_all()
