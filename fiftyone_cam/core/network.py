"""A GAP classifier that can say where it looks: module, classes, preprocessing, head, and the place of its cells."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fiftyone_cam.core.compilation import Forward, compile_forward, load_compiled
from fiftyone_cam.core.errors import CamError, HeadError, SourceError, first_line
from fiftyone_cam.core.folding import folded
from fiftyone_cam.core.heads import (
    ConstantHead,
    Head,
    Reading,
    Tap,
    certified,
    evaluating,
    find_head,
    locate,
    read_logits,
)
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
    """A module whose head was found and certified: see :func:`fiftyone_cam.core.heads.find_head`.

    Args:
        module: the classifier; its training flags and hooks stay as they are.
        classes: a name for each logit, in order.
        preprocessing: from a picture to its input.
        activation: ``"softmax"`` (one class) or ``"sigmoid"`` (independent labels), for confidences.

    Raises:
        SourceError: the number of classes is not that of the logits.
        HeadError: the network's logits are no function of cells.

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
        example = self.noise(2)
        with evaluating(self.module):
            self.head = find_head(self.module, example)
            if len(self.classes) != self.head.classes:
                raise SourceError(
                    f"the classifier has {self.head.classes} logits but {len(self.classes)} classes were given: "
                    "give one name for each logit, in order"
                )
            self.grid_frame = locate(self.module, example, self.head.place_tap)
            self._largest_layer_ratio = largest_output(self.module, example) / example.nbytes
            self._alone = _runs(self.module, example[:1], self.head)
            self._channels_last = _runs(self.module, _rows(example), self.head)
        self._compiled: tuple[torch.Size, Forward] | None = None

    def noise(self, count: int) -> Tensor:
        """Inputs of the size that a picture gets, with the statistics of normalised pixels; the same each time."""
        height, width = self.preprocessing.input_size()
        generator = torch.Generator().manual_seed(0)
        shape = (count, len(self.preprocessing.mean), height, width)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self.device)

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
            example = self.noise(2)
            with evaluating(self.module):
                fast.module = folded(self.module, example[:1] if self._alone else example)
                if self._channels_last:
                    fast.module.to(memory_format=torch.channels_last)
                fast.head = _fitted(self.head, fast.module, example)
        except Exception:  # deep copies of others' modules can raise anything
            logger.debug("the network runs as it is, without folding", exc_info=True)
            return self
        return fast

    def compile(self, batch: Tensor) -> bool:
        """Compile for batches of this shape, if that can be done here; others run as before.

        Takes seconds, in which no other module may run in this process: so it is only done in the main thread, where
        nobody serves the App, and in float32 on the CPU, where it was measured to pay. In other threads it takes what
        was compiled before, as :meth:`load_compiled` does. Needs the extra ``[onnx]``.

        Args:
            batch: ``(N, 3, H, W)`` uint8. It is compiled for slices of it.

        Returns:
            whether it was done.
        """
        if threading.current_thread() is not threading.main_thread():
            return self.load_compiled(batch)
        return self._compile(batch, compile_forward)

    @property
    def compiled(self) -> bool:
        """Whether it is, for some shape of batches."""
        return self._compiled is not None

    def load_compiled(self, batch: Tensor) -> bool:
        """Take what an earlier run of this network compiled for batches like this one, if there is such a thing.

        Nothing is traced, so it may be called in any thread, and beside others.

        Returns:
            whether it was there.
        """
        return self._compile(batch, load_compiled)

    def _compile(self, batch: Tensor, how: Callable[[nn.Module, Tap, Tensor], Forward | None]) -> bool:
        if not isinstance(self.head, ConstantHead) or self.head.logits_at.top is not None:
            return False  # the tail of another head is written down as PyTorch runs it
        if self.device.type != "cpu":
            return False
        with self.evaluating():
            batch = self._slices(batch)[0]
            forward = how(self.module, self.head.tap, self._input(batch))
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
        reading = self.read(batch, precision)
        return reading.logits, reading.features

    def read(self, batch: Tensor, precision: str = "float32") -> Reading:
        """:meth:`forward`, with the maps of any classes.

        >>> reading = network.read(batch)
        >>> maps, bias = reading.maps(reading.logits.topk(1).indices)          # (N, 1, 7, 7) and (N, 1)
        """
        with self.no_gradients():
            parts = [self._read(part, precision) for part in self._slices(batch)]
            return parts[0] if len(parts) == 1 else self._joined(parts)

    def embed(self, batch: Tensor) -> Tensor:
        """The pooled features of a batch, ``(N, D)`` float32: what enters the last linear layer. No maps are computed.

        Raises:
            HeadError: the network pools no vector for each image.

        >>> network.embed(batch).shape
        torch.Size([N, 512])
        """
        with self.evaluating(), self.no_gradients():
            reading = self.read(batch)
            if reading.pooled is None:
                raise HeadError("the network has no pooled features: its last linear layer works on each place alone")
            return reading.pooled()

    @contextlib.contextmanager
    def no_gradients(self) -> Iterator[None]:
        """For a block of forwards: inference mode, or less where the head's gradient will be asked for.

        Autocast of the caller's, if that is on, is off: maps would be rounded with it.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(isinstance(self.head, ConstantHead)))
            stack.enter_context(torch.no_grad())
            if torch.is_autocast_enabled(self.device.type):
                stack.enter_context(torch.autocast(self.device.type, enabled=False))
            yield

    def _joined(self, parts: Sequence[Reading]) -> Reading:
        counts = [len(part.logits) for part in parts]

        def maps(indices: Tensor) -> tuple[Tensor, Tensor]:
            with self.no_gradients():
                pairs = [part.maps(few) for part, few in zip(parts, torch.split(indices, counts), strict=True)]
                return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])

        def rest() -> Tensor:
            return torch.cat([part.rest() for part in parts if part.rest is not None])

        def pooled() -> Tensor:
            return torch.cat([part.pooled() for part in parts if part.pooled is not None])

        logits, features = (torch.cat(each) for each in zip(*((p.logits, p.features) for p in parts), strict=True))
        one = parts[0]
        return Reading(
            logits, features, maps, None if one.rest is None else rest, None if one.pooled is None else pooled
        )

    def batch_size(self) -> int:
        """The default batch size: on a GPU as many images as keep it busy, a power of two from 32 to 512.

        It is the same on every GPU, so that a run takes the same batches when it continues on another one.

        >>> resnet18.batch_size(), resnet18.to("cuda").batch_size()
        (32, 128)
        """
        if self.device.type != "cuda":
            return _BATCH
        height, width = self.preprocessing.input_size()
        channels = len(self.preprocessing.mean)
        fitting = _GPU_LAYER / (self._largest_layer_ratio * 4 * channels * height * width)
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

    def _read(self, batch: Tensor, precision: str) -> Reading:
        if len(batch) == 1 and not self._alone:
            return self._read(torch.cat([batch, batch]), precision).first()
        pixels = self._input(batch)
        compiled = self._compiled  # another thread may set it
        if compiled is not None and precision == "float32" and batch.shape == compiled[0]:
            assert isinstance(self.head, ConstantHead)  # no other is compiled
            return self.head.reading(*compiled[1](pixels))
        anew = precision != "float32" or self.device.type != "cpu"
        return self.head.read(self.module, pixels, _autocast(self.device, precision), anew)

    def _input(self, batch: Tensor) -> Tensor:
        on_cuda = self.device.type == "cuda"  # elsewhere what reads the copy may not wait for it: MPS gave stale pixels
        if on_cuda:
            with contextlib.suppress(RuntimeError):  # some systems limit pinned memory
                batch = batch.pin_memory()  # else the copy would block
        pixels = self.preprocessing.normalize(batch.to(self.device, non_blocking=on_cuda))
        return _rows(pixels) if self._channels_last else pixels.contiguous()

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


def _rows(pixels: Tensor) -> Tensor:
    """Channels last in memory, as networks run fastest."""
    return pixels.contiguous(memory_format=torch.channels_last)


def _runs(module: nn.Module, example: Tensor, head: Head) -> bool:
    """Whether a module takes this input as it takes others.

    Not all take a single image: ``squeeze()`` after pooling drops the batch's axis with the others. And not all take
    channels last: ``x.view(len(x), -1)`` wants them in another order in memory.
    """
    try:
        with torch.no_grad():
            return read_logits(module(example), head.logits_at.index).shape == (len(example), head.classes)
    except Exception:  # the module is anybody's
        return False


def _fitted(head: Head, module: nn.Module, example: Tensor) -> Head:
    """A module's head as that of its folded copy. A tail with a norm in it has other steps there: it is found again."""
    try:
        return certified(module, example, head)
    except HeadError:
        return find_head(module, example)


def resolve_device(device: str | torch.device | None, *, apple: bool = True) -> torch.device:
    """A device by its name; by default a GPU where there is one: CUDA's, or Apple's (MPS) unless ``apple`` is False.

    Raises:
        CamError: there is no such device.

    >>> resolve_device("cuda")
    device(type='cuda', index=0)
    """
    if device is None:
        on_mac = apple and torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if on_mac else "cpu"
    try:
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:  # name the current one: each thread has its own
            device = torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, AssertionError, TypeError) as error:
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
