"""Files that are written whole or not at all, also when the process is killed or the machine loses its power."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from fiftyone_cam.core.errors import CamError


@contextlib.contextmanager
def write_atomically(path: Path, *, staging: Path | None = None) -> Iterator[Path]:
    """A new file beside ``path``, to be written in the block. It replaces ``path`` when the block ends.

    Whoever opens ``path`` finds what was there before, or all that is new. If the block raises, ``path`` stays as it
    was, and the new file is deleted. File and folder are synced, so that the disk has both in this order.

    Args:
        path: the file, in a folder that exists when the block ends.
        staging: the folder of the new file, on the same disk; by default the folder of ``path``.

    Raises:
        OSError: it cannot be written.

    >>> with write_atomically(Path("report.txt")) as new:
    ...     new.write_text("all of it")
    """
    new = (staging or path.parent) / f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.partial"
    try:
        yield new
        _sync(new)
        os.replace(new, path)
        with contextlib.suppress(OSError):  # Windows opens no folders, and some network drives sync none
            _sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


def folder_of(path: str | os.PathLike[str]) -> Path:
    """A folder that somebody named, as an absolute path; ``~`` is their home.

    Raises:
        CamError: it is no path.

    >>> folder_of("overlays")
    PosixPath('/home/me/overlays')
    """
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise CamError(f"the folder is {path!r:.80}, expected a path")
    return Path(path).expanduser().absolute()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)  # Windows syncs only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
