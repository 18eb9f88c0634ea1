"""Training a classifier: examples in, weights out, and a state on disk from which a killed training goes on.

AdamW (Loshchilov and Hutter, ICLR 2019), linear warm-up, cosine decay (SGDR, ICLR 2017), label smoothing (Szegedy et
al., CVPR 2016), classes weighted by the inverse of their frequency. Everything random in an epoch follows from the seed
and the epoch's number, so an epoch that was cut short can be repeated exactly, and nothing random needs to be stored.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.core.heads import evaluating, read_logits
from fiftyone_cam.core.names import PRECISIONS
from fiftyone_cam.runs.record import Epoch
from fiftyone_cam.training import resume
from fiftyone_cam.training.pictures import Examples
from fiftyone_cam.training.progress import Clock, Report, best_so_far

WARM_UP = 0.1
"""The share of all steps in which the learning rate rises."""


@dataclass(frozen=True)
class Settings:
    """What decides a training's result, apart from the network and the pictures.

    ``balance``: each class weighs the same in the loss, whatever its number of samples. ``patience``: stop after so
    many epochs without a better validation; None: never. ``precision``: of the forward; weights are float32.

    >>> Settings(epochs=50, learning_rate=3e-4)
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    balance: bool = True
    patience: int | None = 10
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise TrainingError(f"{name} is {value}, expected at least {least}")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise TrainingError(f"learning_rate is {self.learning_rate}, expected a positive number")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label_smoothing is {self.label_smoothing}, expected 0 up to but not 1")
        if self.weight_decay < 0:
            raise TrainingError(f"weight_decay is {self.weight_decay}, expected 0 or more")
        if self.precision not in PRECISIONS:
            raise TrainingError(f"unknown precision {self.precision!r}, expected one of {', '.join(PRECISIONS)}")


def fit(
    module: nn.Module,
    train: Examples,
    validation: Examples,
    classes: int,
    settings: Settings,
    *,
    state: str | os.PathLike[str],
    identity: str = "",
    normalize: Callable[[Tensor], Tensor] | None = None,
    on_epoch: Callable[[Sequence[Epoch]], None] | None = None,
    report: Report | None = None,
) -> list[Epoch]:
    """Train a module in place; go on where an earlier call, killed at any moment, had got to.

    After each epoch ``on_epoch(history)`` is called with all epochs so far: the moment to save the weights, where the
    last epoch is the :func:`best_epoch`. Then the state is written, whole or not at all. A training that was killed
    repeats the epoch that it was in, and ends with the same weights as one that was not (same seed, same CPU, same
    number of threads).

    Args:
        module: a classifier on its device. After the call it has the last epoch's weights, not the best one's.
        train: what is learned from, shuffled in each epoch.
        validation: what tells which epoch is best.
        classes: how many.
        settings: the recipe.
        state: the file to go on from (``….safetensors``); the caller deletes it when all is done.
        identity: what else decides the result (network, data); a state of another identity is not continued.
        normalize: from a batch as ``train`` gives it, on the module's device, to the module's input.
        on_epoch: see above.
        report: gets the :class:`Progress`.

    Returns:
        all epochs, those of earlier calls included. Fewer than asked for where patience ended.

    Raises:
        TrainingError: the loss is not finite; the state is of another training; nothing can be read or written.

    >>> history = fit(module, train, validation, 2, Settings(epochs=5), state="runs/state.safetensors")
    >>> history[-1].validation_accuracy
    0.93
    """
    device = next(module.parameters()).device
    loop = _Loop(module, classes, settings, normalize or (lambda batch: batch), device, train.targets)
    state = Path(state)
    identity = json.dumps({"settings": asdict(settings), "classes": classes, "identity": identity})
    history = resume.restore(state, identity, module, loop.optimizer, loop.scaler)
    clock = Clock("training", report, start=len(history) / settings.epochs)
    best = best_so_far(history)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while len(history) < settings.epochs:
            if best is not None and settings.patience is not None and len(history) - best.epoch >= settings.patience:
                break
            epoch = loop.epoch(len(history) + 1, train, validation, clock, history[-1] if history else None)
            best = epoch if epoch.better(best) else best
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(history)
            resume.save(state, identity, module, loop.optimizer, loop.scaler, history)
    return history


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The rate of a step, counted from 0: up in a line during :data:`WARM_UP`, then down in half a cosine.

    Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, without restarts. It depends on nothing but the step, so a training
    that goes on has no scheduler to restore, and a step that float16 skips cannot shift the rates, as in ``LambdaLR``.

    >>> [round(learning_rate(step, 20, 1.0), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


class _Loop:
    """Module, optimizer and loss, and one epoch of them."""

    def __init__(
        self,
        module: nn.Module,
        classes: int,
        settings: Settings,
        normalize: Callable[[Tensor], Tensor],
        device: torch.device,
        targets: Tensor,
    ) -> None:
        self.module, self.classes, self.settings = module, classes, settings
        self._normalize, self._device = normalize, device
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # no decay where it would only shrink a scale or an offset
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        self._weight = None
        if settings.balance:
            counts = torch.bincount(targets, minlength=classes).float()
            self._weight = (len(targets) / classes / counts.clamp_min(1)).to(device)

    def epoch(self, number: int, train: Examples, validation: Examples, clock: Clock, before: Epoch | None) -> Epoch:
        settings, began = self.settings, time.monotonic()
        rng = np.random.default_rng((settings.seed, number))
        torch.manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(len(train.targets))
        # parts of nearly equal size: batch normalisation cannot learn from a last batch of one
        chunks = np.array_split(order, max(1, math.ceil(len(order) / settings.batch_size)))

        self.module.train()
        total = torch.zeros(2, device=self._device)
        count, rate = 0, 0.0
        for step, (inputs, targets) in enumerate(train.batches(chunks)):
            step_of_all = (number - 1) * len(chunks) + step
            rate = learning_rate(step_of_all, settings.epochs * len(chunks), settings.learning_rate)
            if len(targets):
                total += self._step(inputs, targets, rate)
                count += len(targets)
            if count and (clock.due or self._device.type == "cpu"):  # a GPU would have to be waited for
                loss = self._finite(float(total[0]) / count, number)
                done = (number - 1 + (step + 1) / len(chunks)) / settings.epochs
                accuracy = None if before is None else before.validation_accuracy
                clock(min(done, 0.999), epoch=number, epochs=settings.epochs, loss=loss, accuracy=accuracy)
        if not count:
            raise TrainingError("none of the training pictures can be read")
        loss, accuracy = (total / count).tolist()
        self._finite(loss, number)
        validated = self._validate(validation)
        self._finite(validated[0], number)
        clock(number / settings.epochs, epoch=number, epochs=settings.epochs, loss=loss, accuracy=validated[1])
        return Epoch(number, rate, loss, accuracy, *validated, seconds=time.monotonic() - began)

    def _step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """One step of the optimizer; the batch's summed loss and number of right predictions."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        targets = targets.to(self._device, non_blocking=True)
        with self._autocast():
            logits = self._logits(inputs)
        loss = nnf.cross_entropy(logits, targets, self._weight, label_smoothing=self.settings.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([loss.detach() * len(targets), (logits.argmax(1) == targets).sum()])

    def _validate(self, validation: Examples) -> tuple[float, float, float]:
        """Mean loss (without smoothing and weights), accuracy, balanced accuracy."""
        order = np.arange(len(validation.targets))
        chunks = np.array_split(order, max(1, math.ceil(len(order) / (2 * self.settings.batch_size))))
        losses = torch.zeros((), dtype=torch.float64)
        counts, right = torch.zeros(self.classes), torch.zeros(self.classes)
        with evaluating(self.module), torch.inference_mode():
            for inputs, targets in validation.batches(chunks):
                if not len(targets):
                    continue
                with self._autocast():
                    logits = self._logits(inputs)
                logits = logits.cpu()
                losses += nnf.cross_entropy(logits, targets, reduction="sum").double()
                counts += torch.bincount(targets, minlength=self.classes)
                right += torch.bincount(targets[logits.argmax(1) == targets], minlength=self.classes)
        seen = counts > 0
        if not seen.any():
            raise TrainingError("none of the validation pictures can be read")
        balanced = (right[seen] / counts[seen]).mean()
        return float(losses / counts.sum()), float(right.sum() / counts.sum()), float(balanced)

    def _logits(self, inputs: Tensor) -> Tensor:
        batch = self._normalize(inputs.to(self._device, non_blocking=True))
        if batch.ndim == 4:  # the layout in which convolutions are fastest
            batch = batch.contiguous(memory_format=torch.channels_last)
        return read_logits(self.module(batch)).float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        precision = getattr(torch, self.settings.precision)
        if precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, precision)

    def _finite(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch} of {self.settings.epochs}: training has stopped. "
                f"Try a lower learning rate than {self.settings.learning_rate:g}"
            )
        return loss
