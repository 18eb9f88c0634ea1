"""What stops a run: errors, Ctrl-C, SIGTERM, a database that goes away; and what to write down of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from pymongo.errors import PyMongoError

from fiftyone_cam.core.errors import Terminated


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does. A handler that somebody else has set stays, as do other threads'.

    >>> with terminable():
    ...     compute()
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not mine:
        yield
        return

    def end(number: int, _: Any) -> None:
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def reason_of(error: BaseException) -> str:
    """An error in at most 500 characters, for the record.

    >>> reason_of(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return (type(error).__name__ + (f": {error}" if str(error) else ""))[:500]


def is_database_gone(error: BaseException) -> bool:
    """Whether an error came from the database itself: then nothing can be written down of it.

    >>> is_database_gone(KeyboardInterrupt())
    False
    """
    return isinstance(error, PyMongoError) or isinstance(error.__cause__, PyMongoError)
