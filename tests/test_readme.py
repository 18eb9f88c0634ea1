"""The README's Python runs from top to bottom, on what a fresh clone has."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_readmes_python_runs_in_order(tmp_path: Path) -> None:
    """In a folder and a database of its own; a line that fails is named with its block."""
    assert len(blocks()) >= 5
    script = "".join(f"# block {number}\n{block}\n" for number, block in enumerate(blocks(), 1))
    (tmp_path / "readme.py").write_text(script, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "FIFTYONE_DATABASE_NAME": "fiftyone_cam_readme", "FIFTYONE_DEFAULT_APP_PORT": port}
    environment["PYTHONPATH"] = os.pathsep.join([str(README.parent), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "readme.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "7 with a map, 0 failed, of 7" in ran.stdout
    assert (tmp_path / "overlays" / "contact_sheet.png").is_file()
    assert (tmp_path / "runs" / "digits" / "model.safetensors").is_file()
