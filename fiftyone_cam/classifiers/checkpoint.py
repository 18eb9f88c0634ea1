"""The folder that a classifier is saved in: its two files, and whether it may be replaced."""

from __future__ import annotations

import json
from pathlib import Path

from fiftyone_cam.core.names import CHECKPOINT_JSON


def may_replace(folder: Path) -> bool:
    """Whether a checkpoint may be written there: the folder is empty, or this project wrote what would be replaced.

    >>> may_replace(Path("runs/pets"))
    True
    """
    if not folder.is_dir():
        return False
    if not (folder / CHECKPOINT_JSON).is_file():
        return not any(folder.iterdir())
    try:
        data = json.loads((folder / CHECKPOINT_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"arch", "classes", "preprocessing"} <= data.keys()
