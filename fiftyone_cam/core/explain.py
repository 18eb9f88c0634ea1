"""The way of one image: a file goes in, signed maps come out. An error costs one image and says why.

Both halves know neither FiftyOne nor a database, so any engine (threads here, actors elsewhere) can run them.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from fiftyone_cam.core.boxes import Box, clip_to_image, to_image_coordinates
from fiftyone_cam.core.cam import CERTIFICATE_TOLERANCE, certificate
from fiftyone_cam.core.checks import Check, worst
from fiftyone_cam.core.errors import CamError, ImageError, NotDoneError, first_line
from fiftyone_cam.core.heads import Reading, scale_of_terms
from fiftyone_cam.core.logits_check import IMAGES, Reference, refuse
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing
from fiftyone_cam.core.results import ClassMap, Explanation, Failure, Item, Labels, Outcome, Result
from fiftyone_cam.core.timing import Timing
from fiftyone_cam.core.workers import SharedExclusiveLock, Task, Workers


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network's input, still uint8, and where it lies on the image of ``size`` (height, width)."""

    item: Item
    pixels: Tensor
    frame: Box
    size: tuple[int, int]


def prepare(item: Item, preprocessing: Preprocessing) -> Prepared | Failure:
    """Decode one image and shape it for the network. Never raises for what is wrong with the file."""
    try:
        image = preprocessing.pixels(item.path)
        height, width = image.shape[:2]
        pixels = preprocessing.apply(torch.from_numpy(image.transpose(2, 0, 1)))
        return Prepared(item, pixels, preprocessing.frame(height, width), (height, width))
    except ImageError as error:
        return Failure(item.id, str(error))
    except Exception as error:
        return Failure(item.id, f"cannot be preprocessed: {first_line(error)}")


def wait_for_prepared(workers: Workers, task: Task[Prepared | Failure], item: Item) -> Prepared | Failure:
    """Wait for :func:`prepare`, which these workers run as a task. A failure if the file does not answer in time.

    >>> with Workers(1, seconds=60) as workers:
    ...     prepared = wait_for_prepared(workers, workers.submit(prepare, item, preprocessing), item)
    """
    try:
        return workers.result(task)
    except NotDoneError as error:
        return Failure(item.id, str(error))


_forwards = SharedExclusiveLock()
"""Shared by all explainers, because they share the process's memory."""

_checking = threading.Lock()
"""Of several streams one compares, and the others wait for what it finds."""


_R = TypeVar("_R", bound=Outcome, covariant=True)


class BatchRunner(ABC, Generic[_R]):
    """Batches in, results out, in order: what engines drive. Remembers the batch size that fits into memory.

    A child says what a batch's results are, :meth:`_results`; here is what becomes of errors.

    >>> [explanation] = Explainer(network)([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    """

    def __init__(self, network: GapNetwork, precision: str = "float32") -> None:
        self.network = network
        self.precision = precision
        self.batch_limit: int | None = None
        """The largest batch that fitted after memory ran out; None as long as it never did."""
        self.logits_check: Check | None = None
        """How the first logits compare with a reference's; None as long as they were not compared."""

    @abstractmethod
    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[_R | Failure]:
        """The results of inputs of one shape, in order; ``forward`` measures the network alone."""

    def __call__(self, batch: Sequence[Prepared], timing: Timing | None = None) -> list[_R | Failure]:
        """The results of a batch; ``timing`` gets the seconds of ``forward`` and ``maps``."""
        began, forward = time.perf_counter(), Stopwatch()
        results: dict[str, _R | Failure] = {}
        for group in _same_shape(batch):
            size = self.batch_limit or len(group)
            for start in range(0, len(group), size):
                results.update((result.id, result) for result in self._attempt(group[start : start + size], forward))
        if timing is not None:
            timing.forward += forward.seconds
            timing.maps += time.perf_counter() - began - forward.seconds
        return [results[prepared.item.id] for prepared in batch]

    def compile(self, batch: Sequence[Prepared], *, trace: bool = True) -> bool:
        """Compile the network for batches like this one: see :meth:`GapNetwork.compile`.

        ``trace=False``: take only what an earlier run compiled, which is safe beside other threads.
        """
        groups = _same_shape(batch)
        if self.precision != "float32" or len(groups) != 1 or self.batch_limit is not None:
            return False
        return (self.network.compile if trace else self.network.load_compiled)(stack(batch))

    def _attempt(self, batch: Sequence[Prepared], forward: Stopwatch, alone: bool = False) -> list[_R | Failure]:
        """Explain a batch. If memory runs out or one image breaks it, halve it, down to the single image.

        After memory ran out, go on alone: another stream may hold the memory that these images need.
        """
        try:
            with _forwards.exclusive() if alone else _forwards.shared():
                return self._results(batch, forward)
        except (RuntimeError, ValueError, MemoryError) as error:
            reason, out_of_memory = first_line(error), _ran_out_of_memory(error)
            if isinstance(error, torch.OutOfMemoryError):
                reason = "out of memory"  # one reason for all images; PyTorch's message has numbers in it
            if isinstance(error, torch.AcceleratorError) and not out_of_memory:
                raise  # the device is lost: the next image would fail as well
        if out_of_memory and self.network.device.type == "cuda":
            torch.cuda.empty_cache()  # not above: the error still holds the tensors of the forward there
        if len(batch) == 1:
            if out_of_memory and not alone:
                return self._attempt(batch, forward, alone=True)
            return [Failure(batch[0].item.id, f"the network fails on it: {reason}")]
        half = (len(batch) + 1) // 2
        if out_of_memory:
            self.batch_limit = min(half, self.batch_limit or half)
        alone |= out_of_memory
        return self._attempt(batch[:half], forward, alone) + self._attempt(batch[half:], forward, alone)


class Explainer(BatchRunner[Explanation]):
    """Explains batches: maps of the strongest classes, and the contrast to the true class.

    Args:
        network: the classifier.
        precision: of the forward; maps are always float32.
        top_k: how many classes to explain, strongest first.
        classes: indices of classes to explain instead of the strongest.
        vectors: give all logits and the pooled features of each image as well.
        threshold: confidence from which a class is predicted, for independent labels; None: classes exclude each other.
        reference: what the first logits are held against, see :mod:`fiftyone_cam.core.logits_check`; None: nothing.

    >>> explainer = Explainer(network, top_k=2)
    >>> [explanation] = explainer([prepare(Item("1", "cat.jpg"), network.preprocessing)])
    >>> explanation.maps[0].label, explanation.maps[0].grid.shape
    ('tabby', (7, 7))
    """

    def __init__(
        self,
        network: GapNetwork,
        *,
        precision: str = "float32",
        top_k: int = 1,
        classes: Sequence[int] | None = None,
        vectors: bool = False,
        threshold: float | None = None,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(network, precision)
        if not 1 <= top_k <= len(network.classes):
            raise CamError(f"top_k is {top_k}, expected 1 to {len(network.classes)}, the number of classes")
        self.top_k = top_k
        self.classes = classes
        self.vectors = vectors
        self.threshold = threshold
        self._reference = reference
        self._compare_next = reference is not None

    def compile(self, batch: Sequence[Prepared], *, trace: bool = True) -> bool:
        """As for all; what was compiled is held against the reference again."""
        compiled = super().compile(batch, trace=trace)
        self._compare_next |= compiled and self._reference is not None
        return compiled

    def _results(self, batch: Sequence[Prepared], forward: Stopwatch) -> list[Result]:
        network, count = self.network, len(batch)
        with network.evaluating(), network.no_gradients():
            with forward:
                stacked = stack(batch)
                reading = network.read(stacked, self.precision)
                logits = reading.logits
                on_cpu = logits.cpu()  # a GPU is waited for here
            if self.classes is None:
                indices = logits.nan_to_num(nan=-torch.inf).topk(self.top_k, dim=1).indices
            else:
                indices = torch.tensor(self.classes, device=logits.device).expand(count, -1)
            chosen = torch.cat([indices, rivals_of(batch, on_cpu)[:, None].to(indices.device)], dim=1)

            maps, bias = (each.cpu() for each in reading.maps(chosen))
            shares = _remainder_shares(reading, chosen)
            confidences = network.confidences(logits).cpu()
            picked, chosen = logits.gather(1, chosen).cpu(), chosen.cpu()
            sure = confidences.gather(1, chosen)
            scale = scale_of_terms(maps, bias, on_cpu)
            errors = certificate(maps, bias, picked, scale).amax(1)
            finite = on_cpu.isfinite().all(1)
            thinned = stacked[:, :, ::4, ::4].flatten(1).float()  # enough to tell a black picture
            light = thinned.mean(1), thinned.std(1, correction=0)
            pooled = reading.pooled().cpu() if self.vectors and reading.pooled is not None else None
            if self._compare_next:
                self._compare(stacked[:IMAGES], on_cpu[:IMAGES], scale[:IMAGES])

        # Plain numbers, all at once: to take one out of a tensor costs as much as a small array's copy.
        grids, numbers = maps.numpy(), [each.tolist() for each in (chosen, picked, bias, sure, *(shares or ()))]
        is_finite, relative, mean, deviation = (each.tolist() for each in (finite, errors, *light))

        def class_map(i: int, j: int) -> ClassMap:
            index, logit, class_bias, confidence, *remainder = (each[i][j] for each in numbers)
            own, gap = remainder or (None, None)
            return ClassMap(
                label=network.classes[index],
                logit=logit,
                bias=class_bias,
                grid=grids[i, j].copy(),
                confidence=confidence,
                remainder_share=own,
                gap_remainder_share=gap,
            )

        results: list[Result] = []
        for i, prepared in enumerate(batch):
            if why := refused(is_finite[i], relative[i]):
                results.append(Failure(prepared.item.id, why))
                continue
            *ranks, rival = numbers[0][i]
            ranked = [class_map(i, j) for j in range(len(ranks))]
            contrasts = self.classes is None and ranks[0] != rival
            results.append(
                Explanation(
                    id=prepared.item.id,
                    maps=tuple(ranked),
                    contrast=_contrast(ranked[0], class_map(i, -1)) if contrasts else None,
                    box=to_image_coordinates(prepared.frame, network.grid_frame),
                    seen=clip_to_image(prepared.frame),
                    size=prepared.size,
                    error=relative[i],
                    logits=on_cpu[i].numpy().copy() if self.vectors else None,
                    pooled=None if pooled is None else pooled[i].numpy().copy(),
                    light=(mean[i], deviation[i]),
                    labels=None if self.threshold is None else self._labels(prepared, confidences[i], self.threshold),
                )
            )
        return results

    def _labels(self, prepared: Prepared, confidences: Tensor, threshold: float) -> Labels:
        """Every class from the threshold on, and which of them are wrong or missing."""
        values, names = confidences.tolist(), self.network.classes
        order = sorted(range(len(values)), key=lambda index: -values[index])
        above = [index for index in order if values[index] >= threshold]
        truths = prepared.item.truths
        true = {index for truth in truths or () for index in truth}
        missed = [truth for truth in truths or () if truth and not set(truth) & set(above)]

        def pairs(indices: Iterable[int]) -> tuple[tuple[str, float], ...]:
            return tuple((names[index], values[index]) for index in indices)

        if truths is None:
            return Labels(pairs(above))
        strongest = [max(truth, key=lambda index: values[index]) for truth in missed]
        return Labels(pairs(above), pairs(index for index in above if index not in true), pairs(strongest))

    def _compare(self, batch: Tensor, logits: Tensor, scale: Tensor) -> None:
        """Hold what was computed against the reference, once; and once more after the network was compiled.

        Raises:
            RunError: it is not what the network computes.
        """
        with _checking:
            if self._reference is None or not self._compare_next:
                return
            found = self._reference.check(self.network, self.precision, batch, logits, scale)
            if found is None:
                return
            self._compare_next = found.passed is False  # the other streams' results are as wrong
            self.logits_check = worst(self.logits_check, found)
        if found.passed is False:
            refuse(found, self.network, self.precision)


def rivals_of(batch: Sequence[Prepared], logits: Tensor) -> Tensor:
    """Of each image the strongest class of its truth if the prediction is wrong; else the prediction itself, ``(N,)``.

    >>> rivals_of(batch, logits).shape                                   # (N, C) logits, on the CPU
    torch.Size([N])
    """
    found = logits.argmax(1).tolist()
    for i, prepared in enumerate(batch):
        truth = prepared.item.truth
        if truth and found[i] not in truth:
            values = logits[i]
            found[i] = truth[0] if len(truth) == 1 else max(truth, key=lambda index: float(values[index]))
    return torch.tensor(found)


def refused(finite: bool, error: float) -> str | None:
    """Why an image can have no result, if its logits are not finite or its certificate is off; None where it can.

    >>> refused(True, 1e-7), refused(False, 0.0)
    (None, 'the network returned NaN or infinity')
    """
    if not finite:
        return "the network returned NaN or infinity"
    if error > CERTIFICATE_TOLERANCE:
        found = f"{error:.1e}, expected at most {CERTIFICATE_TOLERANCE:.0e}"
        return f"the map fails its certificate: relative error {found}"
    return None


def _remainder_shares(reading: Reading, chosen: Tensor) -> tuple[Tensor, Tensor] | None:
    """What no cell holds: of the chosen logits, and of their gaps to the strongest other class. ``(N, k)`` each."""
    if reading.rest is None:
        return None
    logits, rest = reading.logits, reading.rest()
    own, rest_own = logits.gather(1, chosen), rest.gather(1, chosen)
    share = (rest_own / own).nan_to_num().cpu()
    if logits.shape[1] == 1:
        return share, share
    two = logits.topk(2, dim=1).indices
    other = torch.where(chosen == two[:, :1], two[:, 1:], two[:, :1])
    gap = (rest_own - rest.gather(1, other)) / (own - logits.gather(1, other))
    return share, gap.nan_to_num().cpu()


def _contrast(first: ClassMap, second: ClassMap) -> ClassMap:
    """``M_a - M_b``: its mean plus the biases' difference is the logit gap."""
    return ClassMap(
        label=first.label,
        versus=second.label,
        logit=first.logit - second.logit,
        bias=first.bias - second.bias,
        grid=first.grid - second.grid,
    )


class Stopwatch:
    """Adds up the seconds spent in its blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began


def stack(batch: Sequence[Prepared]) -> Tensor:
    """Inputs of one shape as a batch, ``(N, 3, H, W)`` uint8.

    Channels last in memory, as files are decoded and as networks run: so whole rows are copied.
    """
    return torch.stack([prepared.pixels.permute(1, 2, 0) for prepared in batch]).permute(0, 3, 1, 2)


def _same_shape(batch: Sequence[Prepared]) -> list[list[Prepared]]:
    groups: dict[tuple[int, ...], list[Prepared]] = {}
    for prepared in batch:
        groups.setdefault(tuple(prepared.pixels.shape), []).append(prepared)
    return list(groups.values())


def _ran_out_of_memory(error: BaseException) -> bool:
    """PyTorch, cuBLAS, cuDNN and the allocators each have their own words for it."""
    words = ("out of memory", "allocate memory", "ALLOC_FAILED", "unable to find an engine")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(each in str(error) for each in words)
