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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.core.heads import evaluating, read_logits
from fiftyone_cam.runs.record import Epoch
from fiftyone_cam.training import resume
from fiftyone_cam.training.pictures import Examples
from fiftyone_cam.training.progress import Clock, Report, best_so_far
from fiftyone_cam.training.recipe import Recipe

WARM_UP = 0.1
"""The share of all steps in which the learning rate rises."""


LEARNING_RATES = {"random": 1e-3, "given": 3e-4, "frozen": 1e-2}
"""The usual highest rate, by what a training begins with: random weights, given ones, or a frozen backbone."""


def fit(
    module: nn.Module,
    train: Examples,
    validation: Examples,
    classes: int,
    recipe: Recipe,
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
        recipe: how. Where it leaves them open, the learning rate is that of random weights and the precision
            :func:`usual_precision`. ``freeze`` is the caller's: all of the module's parameters are trained.
        state: the file to go on from (``….safetensors``); the caller deletes it when all is done.
        identity: what else decides the result (network, data); a state of another identity is not continued.
        normalize: from a batch as ``train`` gives it, on the module's device, to the module's input.
        on_epoch: see above.
        report: gets the :class:`Progress`.

    Returns:
        all epochs, those of earlier calls included. Fewer than asked for where patience ended.

    Raises:
        TrainingError: the loss is not finite; the state is of another training; nothing can be read or written.

    >>> history = fit(module, train, validation, 2, Recipe(epochs=5), state="runs/state.safetensors")
    >>> history[-1].validation_accuracy
    0.93
    """
    device = next(module.parameters()).device
    loop = _Loop(module, classes, recipe, normalize or (lambda batch: batch), device, train.targets)
    state = Path(state)
    identity = json.dumps({"recipe": asdict(recipe), "classes": classes, "identity": identity})
    history = resume.restore(state, identity, module, loop.optimizer, loop.scaler)
    clock = Clock("training", report, start=len(history) / recipe.epochs)
    best = best_so_far(history)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while len(history) < recipe.epochs:
            if best is not None and recipe.patience is not None and len(history) - best.epoch >= recipe.patience:
                break
            epoch = loop.epoch(len(history) + 1, train, validation, clock, history[-1] if history else None)
            best = epoch if epoch.better(best) else best
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(history)
            resume.save(state, identity, module, loop.optimizer, loop.scaler, history)
    return history


def usual_precision(device: torch.device) -> str:
    """What a forward is computed in where a recipe leaves it open: mixed on CUDA, float32 elsewhere.

    >>> usual_precision(torch.device("cpu"))
    'float32'
    """
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


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
        recipe: Recipe,
        normalize: Callable[[Tensor], Tensor],
        device: torch.device,
        targets: Tensor,
    ) -> None:
        self.module, self.classes, self.recipe = module, classes, recipe
        self._normalize, self._device = normalize, device
        self._rate = recipe.learning_rate or LEARNING_RATES["random"]
        self._precision = recipe.precision or usual_precision(device)
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # no decay where it would only shrink a scale or an offset
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self._rate)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self._precision == "float16")
        self._weight = None
        if recipe.balance:
            counts = torch.bincount(targets, minlength=classes).float()
            self._weight = (len(targets) / classes / counts.clamp_min(1)).to(device)

    def epoch(self, number: int, train: Examples, validation: Examples, clock: Clock, before: Epoch | None) -> Epoch:
        recipe, began = self.recipe, time.monotonic()
        rng = np.random.default_rng((recipe.seed, number))
        torch.manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(len(train.targets))
        # parts of nearly equal size: batch normalisation cannot learn from a last batch of one
        chunks = np.array_split(order, max(1, math.ceil(len(order) / recipe.batch_size)))

        self.module.train()
        total = torch.zeros(2, device=self._device)
        count, rate = 0, 0.0
        for step, (inputs, targets) in enumerate(train.batches(chunks)):
            step_of_all = (number - 1) * len(chunks) + step
            rate = learning_rate(step_of_all, recipe.epochs * len(chunks), self._rate)
            if len(targets):
                total += self._step(inputs, targets, rate)
                count += len(targets)
            if count and (clock.due or self._device.type == "cpu"):  # a GPU would have to be waited for
                loss = self._finite(float(total[0]) / count, number)
                done = (number - 1 + (step + 1) / len(chunks)) / recipe.epochs
                accuracy = None if before is None else before.validation_accuracy
                clock(min(done, 0.999), epoch=number, epochs=recipe.epochs, loss=loss, accuracy=accuracy)
        if not count:
            raise TrainingError("none of the training pictures can be read")
        loss, accuracy = (total / count).tolist()
        self._finite(loss, number)
        validated = self._validate(validation)
        self._finite(validated[0], number)
        clock(number / recipe.epochs, epoch=number, epochs=recipe.epochs, loss=loss, accuracy=validated[1])
        return Epoch(number, rate, loss, accuracy, *validated, seconds=time.monotonic() - began)

    def _step(self, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        """One step of the optimizer; the batch's summed loss and number of right predictions."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        targets = targets.to(self._device, non_blocking=self._device.type == "cuda")
        with self._autocast():
            logits = self._logits(inputs)
        loss = nnf.cross_entropy(logits, targets, self._weight, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([loss.detach() * len(targets), (logits.argmax(1) == targets).sum()])

    def _validate(self, validation: Examples) -> tuple[float, float, float]:
        """Mean loss (without smoothing and weights), accuracy, balanced accuracy."""
        order = np.arange(len(validation.targets))
        chunks = np.array_split(order, max(1, math.ceil(len(order) / (2 * self.recipe.batch_size))))
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
        batch = self._normalize(inputs.to(self._device, non_blocking=self._device.type == "cuda"))
        if batch.ndim == 4:  # the layout in which convolutions are fastest
            batch = batch.contiguous(memory_format=torch.channels_last)
        return read_logits(self.module(batch)).float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        precision = getattr(torch, self._precision)
        if precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, precision)

    def _finite(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch} of {self.recipe.epochs}: training has stopped. "
                f"Try a lower learning rate than {self._rate:g}"
            )
        return loss
