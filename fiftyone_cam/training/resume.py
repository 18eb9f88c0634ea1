"""The state on disk from which a killed training goes on: weights, optimizer and history, in one file, not pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.core.files import write_atomically
from fiftyone_cam.runs.record import Epoch


def save(
    path: Path, identity: str, module: nn.Module, optimizer: Optimizer, scaler: GradScaler, history: Sequence[Epoch]
) -> None:
    """Write the state after an epoch, whole or not at all.

    Raises:
        TrainingError: it cannot be written; the state of the epoch before is there.

    >>> save(Path("runs/state.safetensors"), "cats and dogs", module, optimizer, scaler, history)
    """
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entries.items()}
    details = {
        "identity": identity,
        "history": [asdict(epoch) for epoch in history],
        "scaler": scaler.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with write_atomically(path) as new:
            save_file(tensors, new, metadata={"training": json.dumps(details)})
    except (OSError, SafetensorError) as error:
        last = f"; epoch {len(history) - 1} is there" if len(history) > 1 else ""
        raise TrainingError(f"the state of epoch {len(history)} cannot be saved to {path}: {error}{last}") from error


def restore(path: Path, identity: str, module: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> list[Epoch]:
    """Load the state into module, optimizer and scaler; the epochs that it stands for, none if there is no state.

    Raises:
        TrainingError: it cannot be read, or is of another training.

    >>> history = restore(Path("runs/state.safetensors"), "cats and dogs", module, optimizer, scaler)
    """
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            details = json.loads(file.metadata()["training"])
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        history = [Epoch(**epoch) for epoch in details["history"]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error!r}. Delete it to start over") from error
    if details["identity"] != identity:
        raise TrainingError(f"{path} belongs to another training: delete it, or give another folder")
    module.load_state_dict(_below("module.", tensors))
    stored: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer.", tensors).items():
        index, _, entry = name.partition(".")
        stored.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": stored, "param_groups": optimizer.state_dict()["param_groups"]})
    scaler.load_state_dict(details["scaler"])
    return history


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
