"""Products of float32 that keep float32's 24 bits, also on a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_restore: list[Callable[[], None]] = []


@contextmanager
def ieee_float32() -> Iterator[None]:
    """No TensorFloat-32 in this block: what is compared there differs by rounding alone. (Also a decorator.)

    On a GPU PyTorch computes convolutions of float32 with ten bits by default, and may take another algorithm for a
    batch of another size. Two forwards of the same image then differ by 1e-3, as if the network itself were unsteady.
    The setting is the process's: it comes back when the last thread has left such a block.

    >>> with ieee_float32():
    ...     alone, together = module(batch[:1]), module(batch)[:1]
    """
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _restore.extend(_switched_off())
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                while _restore:
                    _restore.pop()()


def _switched_off() -> list[Callable[[], None]]:
    """Switch TensorFloat-32 off; how to bring back each setting."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    owners: list[tuple[Any, str, Any]]
    if hasattr(cudnn, "conv"):  # PyTorch 2.9 and later, which do not let the older names be mixed with these
        owners = [(part, "fp32_precision", "ieee") for part in (cudnn.conv, matmul)]
    else:
        owners = [(part, "allow_tf32", False) for part in (cudnn, matmul)]
    before: list[Callable[[], None]] = [
        partial(setattr, owner, name, getattr(owner, name)) for owner, name, _ in owners
    ]
    for owner, name, value in owners:
        setattr(owner, name, value)
    return before
