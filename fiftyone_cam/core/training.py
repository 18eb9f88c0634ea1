"""Training a classifier: pictures in, weights out, and a state on disk from which a killed training goes on.

AdamW (Loshchilov and Hutter, ICLR 2019), linear warm-up, cosine decay (SGDR, ICLR 2017), label smoothing (Szegedy et
al., CVPR 2016), classes weighted by the inverse of their frequency. Everything random in an epoch follows from the seed
and the epoch's number, so an epoch that was cut short can be repeated exactly, and nothing random needs to be stored.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.explain import Failure, Item, prepare
from fiftyone_cam.core.geometry import Bound, Preprocessing
from fiftyone_cam.core.head import evaluating, read_logits
from fiftyone_cam.core.network import PRECISIONS

WARM_UP = 0.1
"""The share of all steps in which the learning rate rises."""

SMALL_INPUT = 64
"""Inputs below this side are shifted by an eighth in training instead of being cut out at random scales."""


class TrainingError(CamError):
    """A training cannot be started, or had to stop. What was saved before is safe; the message says where."""


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
            raise TrainingError(f"unknown precision {self.precision!r}, expected one of {sorted(PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch, in numbers: mean loss and accuracy on the (augmented) training pictures and on the validation's.

    ``balanced_accuracy`` is the mean of the classes' own accuracies, those that have validation samples.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    balanced_accuracy: float
    seconds: float

    def better(self, other: Epoch | None) -> bool:
        """Whether it validates better: by balanced accuracy, then by loss."""
        return other is None or (self.balanced_accuracy, -self.validation_loss) > (
            other.balanced_accuracy,
            -other.validation_loss,
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: ``done`` from 0 to 1, ``seconds_left`` None until that is known."""

    stage: str
    done: float
    seconds_left: float | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        """
        >>> print(Progress("training", 0.5, 70, epoch=3, epochs=5, loss=0.4, accuracy=0.91))
        training, epoch 3/5, loss 0.400, validation 91.0%, 1:10 left
        """
        parts = [self.stage]
        if self.epoch is not None:
            parts.append(f"epoch {self.epoch}/{self.epochs}")
        else:
            parts.append(f"{self.done:.0%}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.accuracy is not None:
            parts.append(f"validation {self.accuracy:.1%}")
        if self.seconds_left is not None:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            hours, minutes = divmod(minutes, 60)
            parts.append(f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left")
        return ", ".join(parts)


Report = Callable[[Progress], None]


class Clock:
    """Reports a stage's progress at most twice a second, and how long it will still take.

    >>> clock = Clock("computing features", print)
    >>> clock(0.5)
    computing features, 50%, 0:02 left
    """

    def __init__(self, stage: str, report: Report | None, start: float = 0.0) -> None:
        self._stage, self._report, self._start = stage, report, start
        self._began = time.monotonic()
        self._last = -math.inf

    @property
    def due(self) -> bool:
        return self._report is not None and time.monotonic() - self._last >= 0.5

    def __call__(self, done: float, **details: Any) -> None:
        if self._report is not None and (self.due or done >= 1):
            self._last = time.monotonic()
            elapsed, share = self._last - self._began, done - self._start
            left = elapsed / share * (1 - done) if share > 0 else None
            self._report(Progress(self._stage, done, left, **details))


# what is learned from


def stratified(labels: Sequence[str], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which samples validate: ``fraction`` of each class, rounded, but at least one and never all.

    A class of one sample is all training.

    >>> stratified(["cat"] * 10 + ["dog"] * 5, 0.2).sum()
    3
    """
    if not 0 < fraction < 1:
        raise TrainingError(f"the validation's fraction is {fraction}, expected between 0 and 1")
    rng = np.random.default_rng(seed)
    names = np.asarray(labels, dtype=object)
    chosen = np.zeros(len(names), bool)
    for label in sorted(set(labels)):
        members = np.flatnonzero(names == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen[rng.permutation(members)[:count]] = True
    return chosen


class Examples(Protocol):
    """Inputs and the classes that they should be given."""

    targets: Tensor

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pair of inputs and targets for each chunk of indices, in order; shorter where a picture is unreadable."""
        ...


class Features:
    """Examples that were computed before: ``(N, K)`` inputs, ``(N,)`` targets."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        for chunk in chunks:
            indices = torch.from_numpy(chunk)
            yield self.inputs[indices], self.targets[indices]


class Memory:
    """Room for decoded pictures: what does not fit is decoded anew in each epoch."""

    def __init__(self, bytes: int) -> None:
        self.free = bytes
        self.kept: dict[tuple[str, Preprocessing], Tensor] = {}

    def keep(self, key: tuple[str, Preprocessing], pixels: Tensor) -> None:
        if pixels.nbytes <= self.free and key not in self.kept:
            self.free -= pixels.nbytes
            self.kept[key] = pixels


class Pictures:
    """Examples from image files: decoded ahead in threads, as uint8, ``augment`` applied to each in the caller's.

    Args:
        items: files, with an id each.
        targets: ``(N,)`` class indices.
        preprocessing: of each picture, before ``augment``.
        augment: from ``(3, H, W)`` uint8 to the same of the network's size; it may draw from torch's generator.
        memory: where decoded pictures are kept from epoch to epoch.

    Attributes:
        failures: why pictures could not be read, by id.
    """

    def __init__(
        self,
        items: Sequence[Item],
        targets: Tensor,
        preprocessing: Preprocessing,
        augment: Callable[[Tensor], Tensor] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.items, self.targets = items, targets
        self.failures: dict[str, str] = {}
        self._preprocessing, self._augment = preprocessing, augment
        self._memory = memory or Memory(0)

    def batches(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        workers = min(16, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="train-decode") as pool:
            ahead: deque[list[Future[Tensor | None]]] = deque()
            waiting = iter(chunks)

            def decode_more() -> None:
                while len(ahead) < 3 and (chunk := next(waiting, None)) is not None:
                    ahead.append([pool.submit(self._read, int(index)) for index in chunk])

            try:
                decode_more()
                for chunk in chunks:
                    pictures = [future.result() for future in ahead.popleft()]
                    decode_more()
                    read = [picture is not None for picture in pictures]
                    augment = self._augment or (lambda picture: picture)
                    inputs = [augment(picture) for picture in pictures if picture is not None]
                    yield torch.stack(inputs) if inputs else torch.empty(0), self.targets[torch.from_numpy(chunk)[read]]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, index: int) -> Tensor | None:
        item = self.items[index]
        if item.id in self.failures:
            return None
        key = (item.path, self._preprocessing)
        if (kept := self._memory.kept.get(key)) is not None:
            return kept
        prepared = prepare(item, self._preprocessing)
        if isinstance(prepared, Failure):
            self.failures[item.id] = prepared.reason
            return None
        pixels = prepared.pixels.contiguous()
        self._memory.keep(key, pixels)
        return pixels


def augmentation(preprocessing: Preprocessing) -> tuple[Preprocessing, v2.Transform]:
    """The usual augmentation for a network that is evaluated with ``preprocessing``: how to read, and what to vary.

    Photos: a part of 35% to 100% of the picture at a random place, resized to the network's input, perhaps mirrored.
    Small inputs: shifted by up to an eighth, perhaps mirrored. (Mirroring is wrong for letters and digits.)

    >>> reading, varying = augmentation(Preprocessing((Resize(short=256), CenterCrop((224, 224)))))
    >>> varying(reading.apply(image)).shape                   # image: (3, H, W) uint8
    torch.Size([3, 224, 224])
    """
    size = preprocessing.input_size()
    flip = v2.RandomHorizontalFlip()
    if max(size) < SMALL_INPUT:
        shift = (size[0] // 8, size[1] // 8)
        return preprocessing, v2.Compose([v2.RandomCrop(size, padding=(shift[1], shift[0])), flip])
    cut = v2.RandomResizedCrop(
        size, scale=(0.35, 1.0), interpolation=InterpolationMode(preprocessing.interpolation), antialias=True
    )
    # kept larger than the input, since a part of it will be enlarged; small pictures are kept as they are
    steps = (Bound(most=round(1.5 * max(size))),)
    reading = Preprocessing(
        steps, preprocessing.mean, preprocessing.std, preprocessing.interpolation, preprocessing.antialias
    )
    return reading, v2.Compose([cut, flip])


# the training


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
    history = _restore(state, identity, loop)
    clock = Clock("training", report, start=len(history) / settings.epochs)
    best = _best(history)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while len(history) < settings.epochs:
            if best is not None and settings.patience is not None and len(history) - best.epoch >= settings.patience:
                break
            epoch = loop.epoch(len(history) + 1, train, validation, clock, history[-1] if history else None)
            best = epoch if epoch.better(best) else best
            history.append(epoch)
            if on_epoch is not None:
                on_epoch(history)
            _save(state, identity, loop, history)
    return history


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The rate of a step, counted from 0: up in a line during :data:`WARM_UP`, then down in half a cosine.

    Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, without restarts.

    >>> [round(learning_rate(step, 20, 1.0), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The epoch that validated best, the first of equals.

    >>> best_epoch(history).epoch
    4
    """
    best = _best(history)
    if best is None:
        raise TrainingError("no epoch was completed")
    return best


def _best(history: Sequence[Epoch]) -> Epoch | None:
    best = None
    for epoch in history:
        best = epoch if epoch.better(best) else best
    return best


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
        precision = PRECISIONS[self.settings.precision]
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


# the state on disk


def _save(path: Path, identity: str, loop: _Loop, history: Sequence[Epoch]) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in loop.module.state_dict().items()}
    for index, entries in loop.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entries.items()}
    details = {
        "identity": identity,
        "history": [asdict(epoch) for epoch in history],
        "scaler": loop.scaler.state_dict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, staging = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, staging, metadata={"training": json.dumps(details)})
        with open(staging, "rb") as file:
            os.fsync(file.fileno())
        os.replace(staging, path)
    except (OSError, SafetensorError) as error:
        last = f"; epoch {len(history) - 1} is there" if len(history) > 1 else ""
        raise TrainingError(f"the state of epoch {len(history)} cannot be saved to {path}: {error}{last}") from error
    finally:
        Path(staging).unlink(missing_ok=True)


def _restore(path: Path, identity: str, loop: _Loop) -> list[Epoch]:
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
    loop.module.load_state_dict(_below("module.", tensors))
    stored: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer.", tensors).items():
        index, _, entry = name.partition(".")
        stored.setdefault(int(index), {})[entry] = tensor
    loop.optimizer.load_state_dict({"state": stored, "param_groups": loop.optimizer.state_dict()["param_groups"]})
    loop.scaler.load_state_dict(details["scaler"])
    return history


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
