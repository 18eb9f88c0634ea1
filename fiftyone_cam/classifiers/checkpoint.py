"""The folder that a classifier is saved in: its two files, and whether it may be replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.names import CHECKPOINT_JSON

SCHEMA_VERSION = 1
"""Of ``classifier.json``, as this version writes and reads it."""

REPAIRS = ("edit", "retrained")
"""Entries of ``classifier.json`` that say how a head was mended; they stay in the classifier's origin."""


def read_json(folder: Path) -> dict[str, Any]:
    """What ``classifier.json`` says.

    Raises:
        SourceError: there is none, it cannot be read, or it is of another version.

    >>> read_json(Path("runs/pets"))["arch"]
    'resnet18'
    """
    path = folder / CHECKPOINT_JSON
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        hint = f". As a model of Hugging Face: hf:{folder}" if (folder / "config.json").is_file() else ""
        raise SourceError(f"{folder} holds no {CHECKPOINT_JSON}: it is no checkpoint of this project{hint}") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error!r}") from error
    if not isinstance(data, dict):
        raise SourceError(f"{path} cannot be read: found a {type(data).__name__}, expected an object with names")
    version = data.get("schema_version", SCHEMA_VERSION)  # the first ones had none
    if version != SCHEMA_VERSION:
        raise SourceError(
            f"{path} is of version {version!r}, expected {SCHEMA_VERSION}: load it with the version of fiftyone_cam "
            "that wrote it"
        )
    return data


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
