"""A program that shows the App, started as in a terminal and ended by Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class AppProcess:
    """The program, the port of its App, and what it says.

    It leads a group of processes, as what a terminal starts does: Ctrl-C goes to all of them.
    """

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        self.port, self.log = free_port(), log
        environment = {
            **os.environ,
            "FIFTYONE_DEFAULT_APP_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "BROWSER": "true",  # the program that does nothing: the App opens a tab of the person's own browser
        }
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True, preexec_fn=_heed_interrupts,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def lives(self) -> bool:
        return self.process.poll() is None

    def wait_for_app(self, seconds: float = 180) -> str:
        """Wait until it says how to end it, which it does once its App is there; the App's address.

        The port listens some seconds sooner, and whoever opens the App then is sent to another dataset.
        """
        deadline = time.monotonic() + seconds
        while not re.search(r"press ctrl ?\+ ?c", self.said(), re.IGNORECASE):
            assert self.lives(), f"it ended: {self.said()}"
            assert time.monotonic() < deadline, f"no App within {seconds:g} s: {self.said()}"
            time.sleep(0.2)
        return f"http://127.0.0.1:{self.port}/"

    def interrupt(self, seconds: float = 60) -> int:
        """Ctrl-C; the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(seconds)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _heed_interrupts() -> None:
    """What runs the tests may have them ignored, and so its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
