"""Errors: each says what was found, what was expected, and what to do.

    Exception
      x CamError                everything that this package raises on purpose
          + ImageError          one image cannot be read
          + NotDoneError        one file did not answer in time
          + HeadError           no class activation map is exact for the network
          + SourceError         a classifier cannot be loaded
          + FieldError          a field of the dataset cannot be used
          + RunError            a run cannot be made, found or continued
          + TrainingError       a training cannot start, or had to stop
          + InstallError        the plugin cannot be put where FiftyOne looks
          + DatabaseError       FiftyOne has no MongoDB that works
          + Stopped             the user pressed Stop, or closed the App
    SystemExit
      x Terminated              SIGTERM arrived while a run was computed

Those with an x are the roots. ``except focam.CamError`` catches all but the last, which ends the process.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


class CamError(Exception):
    """Base of every error that this package raises on purpose."""


class ImageError(CamError):
    """One image cannot be read. The message is the reason, fit for a sample field."""


class NotDoneError(CamError):
    """One file was not read: it did not answer in time, or the thread that read it died twice."""


class HeadError(CamError):
    """The network has no head for which a class activation map is exact."""


class SourceError(CamError):
    """A classifier cannot be loaded from what was given."""


class FieldError(CamError):
    """A field of the dataset is missing, of the wrong type, or belongs to somebody else."""


class RunError(CamError):
    """A run cannot be made, found, or continued under this key."""


class TrainingError(CamError):
    """A training cannot be started, or had to stop. What was saved before is safe; the message says where."""


class InstallError(CamError):
    """The plugin cannot be put where FiftyOne looks for plugins, or not be removed from there."""


class DatabaseError(CamError):
    """FiftyOne has no MongoDB that works on this machine."""


class Stopped(CamError):
    """The user pressed Stop, or nobody waits for the work any more. What was computed is kept."""


class Terminated(SystemExit):
    """SIGTERM arrived while a run was computed: what was computed is stored, then the process ends."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; where it has none, the error's type.

    >>> first_line(ValueError("too large\\nexpected at most 7")), first_line(MemoryError())
    ('too large', 'MemoryError')
    """
    lines = str(error).splitlines()
    return lines[0] if lines and lines[0] else type(error).__name__


def expect_whole(least: int, **values: Any) -> None:
    """Refuse settings that are no whole numbers, or too small; None is a default of its own.

    Raises:
        CamError: names the setting, and what it is.

    >>> expect_whole(1, batch_size=32, count=None)
    """
    for name, value in values.items():
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < least):
            raise CamError(f"{name} is {value!r}, expected a whole number from {least}")


def is_number(value: Any) -> bool:
    """Whether it is a number, of Python or NumPy.

    >>> is_number(0.5), is_number("0.5"), is_number(None)
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The names that were probably meant, as the end of a message; empty where none is like the word.

    >>> did_you_mean("tabbi", ["tabby", "laptop"])
    ' (did you mean tabby?)'
    """
    close = difflib.get_close_matches(str(word), list(known), n=3)
    return f" (did you mean {', '.join(close)}?)" if close else ""
