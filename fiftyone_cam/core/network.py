"""A GAP classifier that can say where it looks: module, classes, preprocessing, head, and the place of its cells."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fiftyone_cam.core.boxes import Box
from fiftyone_cam.core.compilation import Forward, compile_forward
from fiftyone_cam.core.errors import CamError, SourceError, first_line
from fiftyone_cam.core.folding import folded
from fiftyone_cam.core.head import certified, evaluating, find_head, tapped_forward
from fiftyone_cam.core.names import PRECISIONS
from fiftyone_cam.core.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

ACTIVATIONS = ("softmax", "sigmoid")

_NEAR = 4 << 20
"""Bytes of a layer's output that stay in a CPU core's cache while the next layer reads them."""

_LEAST_SLICE = 4
"""For fewer images, calling the layers takes longer than moving the data."""

_BATCH, _MOST_IN_BATCH = 32, 512
_GPU_LAYER = 512 << 20
"""Layer output size, in bytes, that saturates a large GPU and still fits several times into a small one."""


class GapNetwork:
    """A module whose head was found and certified: see :func:`fiftyone_cam.core.head.find_head`.

    Args:
        module: the classifier; its training flags and hooks stay as they are.
        classes: a name for each logit, in order.
        preprocessing: from a picture to its input.
        activation: ``"softmax"`` (one class) or ``"sigmoid"`` (independent labels), for confidences.

    Raises:
        SourceError: the number of classes is not that of the logits.
        HeadError: the network has no exact head.

    >>> network = GapNetwork(torchvision.models.resnet18(), classes, preprocessing)
    >>> logits, features = network.forward(batch)             # (N, 3, 224, 224) uint8
    >>> logits.shape, features.shape
    (torch.Size([N, 1000]), torch.Size([N, 512, 7, 7]))
    """

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        activation: str = "softmax",
    ) -> None:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        if activation not in ACTIVATIONS:
            raise SourceError(f"unknown activation {activation!r}, expected one of {ACTIVATIONS}")
        self.module = module.float()
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.activation = activation
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        example = self._noise(2)
        with evaluating(self.module):
            self.head = find_head(self.module, example)
            if len(self.classes) != len(self.head.weight):
                raise SourceError(
                    f"the classifier has {len(self.head.weight)} logits but {len(self.classes)} classes were given: "
                    "give one name for each logit, in order"
                )
            self.grid_frame = measure_grid_frame(self, example)
            self._largest_layer_ratio = largest_output(self.module, example[:1]) / example[0].nbytes
        self._compiled: tuple[torch.Size, Forward] | None = None

    def _noise(self, count: int) -> Tensor:
        """Inputs of the size that a picture gets, with the statistics of normalised pixels; the same each time."""
        height, width = self.preprocessing.input_size()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, len(self.preprocessing.mean), height, width, generator=generator)
        return noise.to(self.device)

    def to(self, device: str | torch.device) -> GapNetwork:
        """Move module and head.

        Raises:
            CamError: the device is not there.
        """
        device = resolve_device(device)
        try:
            if device != self.device:
                (torch.zeros(1, device=device) + 1).cpu()  # a GPU that is too old accepts weights, but runs nothing
                self.module.to(device)
        except (RuntimeError, AssertionError) as error:
            with contextlib.suppress(RuntimeError):
                self.module.to(self.device)  # back: some of it was moved before memory ran out
            raise _unusable(device, error) from error
        self.head = self.head.to(device)
        self.device = device
        return self

    def for_inference(self) -> GapNetwork:
        """The same classifier to run fast and never train: a copy with batch normalisation folded, channels last.

        The logits are the same to rounding, the head is certified anew. Where a module cannot be copied,
        it is this network itself.

        >>> network.for_inference().head.error < 1e-5
        True
        """
        fast = copy.copy(self)
        try:
            example = self._noise(2)
            with evaluating(self.module):
                fast.module = folded(self.module, example[:1]).to(memory_format=torch.channels_last)
            fast.head = certified(fast.module, example, self.head.tap, self.head.weight, self.head.bias)
        except Exception:  # deep copies of others' modules can raise anything
            logger.debug("the network runs as it is, without folding", exc_info=True)
            return self
        return fast

    def compile(self, batch: Tensor) -> bool:
        """Compile for batches of this shape, if that can be done here; others run as before.

        Takes seconds, in which no other module may run in this process: so it is only done in the main thread, where
        nobody serves the App, and in float32 on the CPU, where it was measured to pay. Needs the extra ``[onnx]``.

        Args:
            batch: ``(N, 3, H, W)`` uint8. It is compiled for slices of it.

        Returns:
            whether it was done.
        """
        if self.device.type != "cpu" or threading.current_thread() is not threading.main_thread():
            return False
        with self.evaluating():
            batch = self._slices(batch)[0]
            forward = compile_forward(self.module, self.head.tap, self._input(batch))
        self._compiled = None if forward is None else (batch.shape, forward)
        return forward is not None

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode for a block of forwards; every training flag comes back."""
        with evaluating(self.module):
            yield

    def forward(self, batch: Tensor, precision: str = "float32") -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` and feature maps ``(N, K, h, w)`` of a ``(N, 3, H, W)`` uint8 batch, in eval mode.

        Below float32, and on a GPU, the logits are computed anew from the feature maps: maps and logits then agree
        exactly, whatever the network's own last layer rounded. (On a GPU it may compute in TensorFloat-32.)

        A CPU takes a batch in slices, so small that one layer's output is still in its caches when the next layer
        reads it.
        """
        with torch.inference_mode():
            parts = [self._forward(part, precision) for part in self._slices(batch)]
            logits, features = (torch.cat(part) for part in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]
            return logits, features

    def batch_size(self) -> int:
        """The default batch size: on a GPU as many images as keep it busy, a power of two from 32 to 512.

        It is the same on every GPU, so that a run takes the same batches when it continues on another one.

        >>> resnet18.batch_size(), resnet18.to("cuda").batch_size()
        (32, 128)
        """
        if self.device.type != "cuda":
            return _BATCH
        height, width = self.preprocessing.input_size()
        fitting = _GPU_LAYER / (self._largest_layer_ratio * 4 * 3 * height * width)
        return min(_MOST_IN_BATCH, max(_BATCH, 1 << int(math.log2(max(1.0, fitting)))))

    def slice_size(self, shape: Sequence[int], threads: int) -> int:
        """How many images of a shape, ``(3, H, W)``, a CPU should take at once with so many threads.

        >>> resnet18.slice_size((3, 224, 224), threads=2)
        8
        """
        largest = self._largest_layer_ratio * 4 * math.prod(shape)  # bytes, as float32
        return max(_LEAST_SLICE, int(_NEAR / largest)) * threads

    def _slices(self, batch: Tensor) -> tuple[Tensor, ...]:
        if self.device.type != "cpu":
            return (batch,)
        return torch.split(batch, self.slice_size(batch.shape[1:], torch.get_num_threads()))

    def _forward(self, batch: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        pixels = self._input(batch)
        if self._compiled is not None and precision == "float32" and batch.shape == self._compiled[0]:
            return self._compiled[1](pixels)
        with _autocast(self.device, precision):
            logits, features = tapped_forward(self.module, pixels, self.head.tap)
        if precision != "float32" or self.device.type == "cuda":
            logits = self.head.logits(features)
        return logits.float(), features

    def _input(self, batch: Tensor) -> Tensor:
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError):  # some systems limit pinned memory
                batch = batch.pin_memory()  # else the copy would block
        pixels = self.preprocessing.normalize(batch.to(self.device, non_blocking=True))
        return pixels.contiguous(memory_format=torch.channels_last)

    def confidences(self, logits: Tensor) -> Tensor:
        return logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()

    def describe(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return {
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "activation": self.activation,
            "head": self.head.describe(),
            "grid_frame": list(self.grid_frame),
        }


def largest_output(module: nn.Module, example: Tensor) -> int:
    """Bytes of the largest tensor that a layer takes or gives for an input.

    >>> largest_output(torchvision.models.resnet18(), torch.randn(1, 3, 224, 224))
    3211264
    """
    sizes = [example.nbytes]

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.nbytes)

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with torch.inference_mode():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def measure_grid_frame(network: GapNetwork, example: Tensor) -> Box:
    """Where the grid really lies on the network's input, relative to that input.

    Strides and one-sided padding move what a cell sees off the middle of its nominal square, and training moves it
    again. So it is measured. A patch of noise, as large as one cell, is put at places spread evenly over the middle of
    a fainter noise image. The shift of the whole grid (at most half a cell) is the centroid of the feature maps'
    response, compared with the place of the patch. Borders pull centroids inwards on all sides alike, so their effect
    cancels.
    """
    stimuli, size = 16, example.shape[-2:]
    background = example[:1] * 0.5
    with torch.inference_mode():
        _, features = tapped_forward(network.module, background, network.head.tap)
        cells = features.shape[-2:]
        patch = [max(1, round(pixels / count)) for pixels, count in zip(size, cells, strict=True)]
        batch = background.repeat(stimuli, 1, 1, 1)
        places = torch.empty(stimuli, 2, dtype=torch.float64)
        for i in range(stimuli):
            order = (i, 7 * i % stimuli)  # all rows and all columns differ, so every phase of the stride is measured
            top, left = (
                round((0.2 + 0.6 * k / (stimuli - 1)) * pixels - length / 2)
                for k, pixels, length in zip(order, size, patch, strict=True)
            )
            window = (slice(None), slice(top, top + patch[0]), slice(left, left + patch[1]))
            batch[i][window] += example[1][window]
            places[i] = torch.tensor([(top + patch[0] / 2) / size[0], (left + patch[1] / 2) / size[1]])
        _, stimulated = tapped_forward(network.module, batch, network.head.tap)
        response = (stimulated - features).cpu().double().square().sum(1)

    shifts = []
    for axis, count in enumerate(cells):
        profile = response.sum(2 - axis)
        centres = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        shift = float((places[:, axis] - profile @ centres / profile.sum(1)).mean())
        # a dead network does not respond: keep the nominal place
        shifts.append(float(np.clip(shift, -0.5 / count, 0.5 / count)) if np.isfinite(shift) else 0.0)
    return (shifts[1], shifts[0], 1.0, 1.0)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """A device by its name; by default a GPU where there is one.

    Raises:
        CamError: there is no such device.

    >>> resolve_device("cuda")
    device(type='cuda', index=0)
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:  # name the current one: each thread has its own
            device = torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, AssertionError) as error:
        raise _unusable(device, error) from error
    return device


def _unusable(device: str | torch.device, error: BaseException) -> CamError:
    return CamError(f"device {str(device)!r} cannot be used ({first_line(error):.200}): try 'cpu'")


def check_precision(device: torch.device, precision: str) -> None:
    """Check that a device can compute in a precision.

    Raises:
        CamError: it cannot, or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise CamError(f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type == "cpu":
        raise CamError("float16 needs a GPU: use bfloat16 or float32 on the CPU")


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    check_precision(device, precision)
    if precision == "float32":
        return contextlib.nullcontext()
    # no cache of weights: all threads would share it, although their streams are not synchronised
    return torch.autocast(device.type, getattr(torch, precision), cache_enabled=False)
