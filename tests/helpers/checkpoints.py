"""Quick trainings, and what is in the folders that they leave."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

QUICK = {"arch": "small_gap_net", "size": 16, "epochs": 3, "batch_size": 8}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def details(folder: Path) -> dict:
    return json.loads((folder / "classifier.json").read_text())
