"""Pictures to learn from, quick trainings of them, and what is in the folders that these leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from fiftyone_cam.training.recipe import Recipe

RECIPE = Recipe(epochs=3, batch_size=8)
QUICK = {"arch": "small_gap_net", "size": 16, "recipe": RECIPE}


def quick(**changes: Any) -> dict[str, Any]:
    """The quick training with changes in its recipe."""
    return {**QUICK, "recipe": replace(RECIPE, **changes)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def details(folder: Path) -> dict:
    return json.loads((folder / "classifier.json").read_text())


def striped(folder: Path, counts: dict[str, int], size: tuple[int, int] = (20, 24)) -> list[Any]:
    """Pictures of a class have stripes of their own width, in random colours; a sample each."""
    import fiftyone as fo  # here: what learns from pictures alone needs no database

    rng = np.random.default_rng(0)
    samples = []
    for number, (label, count) in enumerate(counts.items()):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            stripes = np.arange(size[1]) // (number + 1) % 2
            pixels = rng.integers(0, 100, 3) + stripes[:, None] * rng.integers(80, 150, 3)
            path = folder / str(number) / f"{index}.png"
            Image.fromarray(np.broadcast_to(pixels.astype(np.uint8), (*size, 3)).copy()).save(path)
            samples.append(fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=label)))
    return samples
