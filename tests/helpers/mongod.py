"""A MongoDB for a whole session of tests, where several processes share one."""

from __future__ import annotations

import atexit
import re
import subprocess
import time
from pathlib import Path

from fiftyone_cam import _mongod


def start(folder: Path, seconds: float = 60) -> int:
    """Start the MongoDB that FiftyOne itself would start, and return its port; it ends with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "mongod.log"
    command = [_mongod._mongod(), "--dbpath", folder, "--port", "0", "--nounixsocket", "--logpath", log]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    atexit.register(_end, process)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text() if log.exists() else ""
        if found := re.search(r'"Waiting for connections".*?"port":(\d+)', text):
            return int(found[1])
        time.sleep(0.05)
    _end(process)
    raise RuntimeError(f"mongod does not start: see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()
