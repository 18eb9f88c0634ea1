"""One call in a forward: how it is named, found again, and what the feature maps look like that pass it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from fiftyone_cam.core.errors import HeadError


@dataclass(frozen=True)
class Tap:
    """A tensor that passes in a forward: an argument of the ``ordinal``-th call of ``function``.

    ``layout`` names the axes of that tensor: ``NCHW``, ``NHWC``, ``NCL`` or ``NLC`` (L: positions in row-major order,
    after ``prefix`` tokens that have no place: class token, registers). ``argument`` counts the call's tensors.
    """

    function: str
    ordinal: int
    layout: str
    argument: int = 0
    prefix: int = 0

    def feature_maps(self, tensor: Tensor, input_size: tuple[int, int]) -> Tensor:
        """The tapped tensor as ``(N, K, h, w)``.

        >>> Tap("torch.mean", 1, "NLC", prefix=1).feature_maps(torch.zeros(2, 50, 384), (224, 224)).shape
        torch.Size([2, 384, 7, 7])
        """
        if self.layout == "NCHW":
            return tensor
        if self.layout == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        if self.layout == "NLC":
            tensor = tensor.transpose(1, 2)
        tensor = tensor[:, :, self.prefix :]
        return tensor.reshape(*tensor.shape[:2], *grid_of(tensor.shape[2], input_size))

    def describe(self) -> str:
        which = "input" if self.argument == 0 else f"input {self.argument + 1}"
        return f"{which} of {self.function} #{self.ordinal}"


@dataclass(frozen=True)
class LogitsAt:
    """Where a classifier's logits are: in its output, or what goes into the ``softmax`` (or sigmoid) on top of it.

    ``top`` is that function's call, None where the output itself holds the logits. ``index``: which of a tuple.
    """

    top: Tap | None = None
    index: int = 0

    @property
    def on_top(self) -> str | None:
        """``softmax``, ``sigmoid``, ``log_softmax``, or None."""
        return None if self.top is None else short_name(self.top.function)


def tapped_forward(
    module: nn.Module, batch: Tensor, tap: Tap, logits_at: LogitsAt | None = None
) -> tuple[Tensor, Tensor]:
    """One forward: logits ``(N, C)`` and feature maps ``(N, K, h, w)``.

    Raises:
        HeadError: the forward did not pass the tap (another path than the probe's).

    >>> logits, features = tapped_forward(module, batch, head.tap)
    """
    top = None if logits_at is None else logits_at.top
    listener = Listener([tap] if top is None else [tap, top])
    with listener:
        output = module(batch)
    height, width = batch.shape[-2:]
    features = tap.feature_maps(listener.heard(tap), (height, width))
    if top is not None:
        return listener.heard(top), features
    return read_logits(output, 0 if logits_at is None else logits_at.index), features


def read_logits(output: Any, index: int = 0) -> Tensor:
    """The logits in what a classifier returns: a tensor, an object or mapping with ``logits``, or one of a tuple.

    >>> read_logits({"logits": torch.zeros(1, 10)}).shape
    torch.Size([1, 10])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]  # type: ignore[no-any-return]
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[no-any-return]
    last = getattr(output, "last_hidden_state", None)
    if isinstance(last, Tensor) and last.ndim == 2:
        return last  # as PP-LCNet of transformers names its logits
    if isinstance(output, (tuple, list)) and len(output) > index and isinstance(output[index], Tensor):
        return output[index]  # type: ignore[no-any-return]
    raise HeadError(f"expected the forward to return logits, found {type(output).__name__}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every submodule's own training flag is as it was."""
    flags = [(part, part.training) for part in module.modules()]
    if any(flag for _, flag in flags):  # mostly none, and a module takes long to set what it has
        module.eval()
    try:
        yield
    finally:
        for part, flag in flags:
            if part.training != flag:
                part.training = flag


class Enough(BaseException):
    """Ends a forward whose output nobody wants: all taps were heard."""


class Listener(TorchFunctionMode):
    """Keeps the tensors that pass some taps.

    A ``TorchFunctionMode`` listens instead of hooks: it hears functions as well as modules, it is local to the thread,
    and when it ends nothing is left on the module. ``stop``: with :class:`Enough`, once all was heard.
    """

    def __init__(self, taps: list[Tap], stop: bool = False) -> None:
        super().__init__()
        self._stop = stop
        self._calls = dict.fromkeys((tap.function for tap in taps), 0)
        self._taps = taps
        self._heard: dict[Tap, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = full_name(func)
        if name in self._calls:
            self._calls[name] += 1
            for tap in self._taps:
                if tap.function == name and tap.ordinal == self._calls[name]:
                    self._heard[tap] = tensors_in((args, kwargs))[tap.argument]
                    if self._stop and len(self._heard) == len(self._taps):
                        raise Enough
        return func(*args, **(kwargs or {}))

    def heard(self, tap: Tap) -> Tensor:
        """The tensor that passed.

        Raises:
            HeadError: none did.
        """
        if tap not in self._heard:
            raise HeadError(
                f"the forward made no call #{tap.ordinal} of {tap.function}: it takes another path than probed"
            )
        return self._heard[tap]


def words(*lines: str) -> tuple[str, ...]:
    """Names, written as a text.

    >>> words("relu gelu", "tanh")
    ('relu', 'gelu', 'tanh')
    """
    return tuple(" ".join(lines).split())


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dictionaries, in order.

    >>> len(tensors_in(([torch.zeros(1), 2], {"mask": torch.zeros(3)})))
    2
    """
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors_in(value)]
    if isinstance(values, dict):
        return [tensor for value in values.values() for tensor in tensors_in(value)]
    return []


@lru_cache(maxsize=4096)
def full_name(func: Callable[..., Any]) -> str:
    """A function's name with its module: ``torch.nn.functional.linear``.

    Remembered, because PyTorch changes the warnings' filters and back each time that it looks one up.
    """
    return str(resolve_name(func) or getattr(func, "__name__", repr(func)))


def short_name(name: str) -> str:
    """The last part of a function's name, the same for all of its spellings.

    >>> short_name("torch.Tensor.__imul__"), short_name("torch.nn.functional.relu_"), short_name("torch.Tensor.add_")
    ('mul', 'relu', 'add')
    """
    last = name.rsplit(".", 1)[-1]
    if last == "__get__":
        return name.rsplit(".", 2)[-2]
    if last.startswith("__"):
        last = last.strip("_")
        return _OPERATORS.get(last, last)
    return _SYNONYMS.get(last.rstrip("_"), last.rstrip("_"))


_OPERATORS: Mapping[str, str] = {
    **{f"{kind}{name}": name for kind in ("", "i", "r") for name in ("add", "sub", "mul", "matmul", "pow")},
    **{f"{kind}truediv": "div" for kind in ("", "i", "r")},
    "rsub": "rsub",
    "rtruediv": "rdiv",
    "rdiv": "rdiv",
    "rpow": "rpow",
}
_SYNONYMS: Mapping[str, str] = {"multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub"}


def grid_of(positions: int, input_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a flat row-major grid that has the input's aspect.

    Raises:
        HeadError: there is none.

    >>> grid_of(48, (192, 256))
    (6, 8)
    """
    height, width = input_size
    rows = round(math.sqrt(positions * height / width))
    if rows < 1 or positions % rows:
        raise HeadError(f"{positions} positions do not form a grid over an input of {height}x{width}")
    return rows, positions // rows


def same(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors agree, relative to the largest value. Two zeros agree: a head may begin at zero."""
    if first.shape != second.shape:
        return False
    first, second = first.float(), second.float()
    return bool((first - second).abs().max() <= tolerance * torch.maximum(first.abs().max(), second.abs().max()))
