"""The network compiled by ONNX Runtime for one shape of batches: on a CPU 10 to 55% faster, after seconds of work.

What was compiled is kept on disk, by the weights' hash: the next run of the same network begins with it, also where
nothing may be traced, in the App's threads and in Ray's actors.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fiftyone_cam.core.files import write_atomically
from fiftyone_cam.core.heads import Tap, tapped_forward

logger = logging.getLogger(__name__)

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]

_NEEDS = ("onnx", "onnxruntime", "onnxscript")  # the extra [onnx]

_MOST_STEPS = 1200
"""Graphs with more operations or weights are not compiled. It takes too long: half a minute for Swin, to gain 7%."""

_MOST_KEPT = 8
"""Compiled networks on disk, each as large as its weights; the one that was not used for longest goes."""

_MATCH = 1e-4  # relative, compiled against plain: so that the certificates hold as well


def compile_forward(module: nn.Module, tap: Tap, batch: Tensor) -> Forward | None:
    """:func:`tapped_forward` compiled for batches like this one, or None where that cannot be done here.

    The forward is traced with its tap, so the feature maps are an output of the compiled network. Nothing else in the
    process may run a module meanwhile, because tracing records the calls of all threads.

    Args:
        module: in eval mode.
        tap: of its head.
        batch: normalised, as the module takes it.

    >>> fast = compile_forward(network.module, network.head.tap, batch)
    >>> logits, features = fast(batch)
    """
    if not _installed():
        return None
    place = _place(module, tap, batch)
    found = _load(place, module, tap, batch)
    if found is not None:
        return found
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = make_fx(lambda pixels: tapped_forward(module, pixels, tap))(batch)
            if len(graph.graph.nodes) > _MOST_STEPS:
                return None
            program = torch.onnx.export(graph, (batch,), dynamo=True, verbose=False)
            assert program is not None  # only the older exporter returns None
            model = program.model_proto.SerializeToString()
            forward = _Sessions(model)
        if _same_values(forward, module, tap, batch):
            _keep(place, model)
            return forward
    except Exception as error:  # an operator that cannot be exported, weights of gigabytes, …: the plain network runs
        logger.info("the network cannot be compiled, it runs as it is: %s", str(error).splitlines()[:1])
    return None


def load_compiled(module: nn.Module, tap: Tap, batch: Tensor) -> Forward | None:
    """What :func:`compile_forward` made of this network before, on this machine; None where it is not there.

    Nothing is traced, so other modules may run meanwhile. It takes a tenth of a second. What gives other values than
    the module is deleted.

    >>> fast = load_compiled(network.module, network.head.tap, batch)
    """
    return _load(_place(module, tap, batch), module, tap, batch) if _installed() else None


def _installed() -> bool:
    return all(find_spec(name) for name in _NEEDS)


def _same_values(forward: Forward, module: nn.Module, tap: Tap, batch: Tensor) -> bool:
    with torch.no_grad():
        pairs = list(zip(forward(batch), tapped_forward(module, batch, tap), strict=True))
    if all(bool((found - expected).abs().max() <= _MATCH * expected.abs().max()) for found, expected in pairs):
        return True
    logger.info("the compiled network gives other values: it is not used")
    return False


def _place(module: nn.Module, tap: Tap, batch: Tensor) -> Path:
    """The file of a network, compiled for batches like this one by these versions."""
    digest = hashlib.sha256()
    for what in (module, tap, tuple(batch.shape), *((name, version(name)) for name in ("torch", *_NEEDS))):
        digest.update(f"{what}\n".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return _folder() / f"{digest.hexdigest()}.onnx"


def _folder() -> Path:
    """``FIFTYONE_CAM_CACHE``, or the user's folder for what can be made anew."""
    given = os.environ.get("FIFTYONE_CAM_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fiftyone_cam"
    return (Path(given) if given else home) / "compiled"


def _load(place: Path, module: nn.Module, tap: Tap, batch: Tensor) -> Forward | None:
    try:
        forward = _Sessions(place.read_bytes())
        if _same_values(forward, module, tap, batch):
            os.utime(place)
            return forward
    except FileNotFoundError:
        return None
    except Exception as error:  # a file of another kind, or one that cannot be read
        logger.info("what was compiled before cannot be used: %s", str(error).splitlines()[:1])
    with contextlib.suppress(OSError):
        place.unlink()
    return None


def _keep(place: Path, model: bytes) -> None:
    with contextlib.suppress(OSError):  # a full disk, or no home: the next run compiles again
        place.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(place) as new:
            new.write_bytes(model)
        for old in sorted(place.parent.glob("*.onnx"), key=lambda path: -path.stat().st_mtime)[_MOST_KEPT:]:
            old.unlink()


class _Sessions:
    """A session for each thread that computes. Each session uses as many threads as PyTorch uses in that thread."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._of_thread = threading.local()

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        try:
            if not hasattr(self._of_thread, "session"):
                self._of_thread.session = self._session()
            session = self._of_thread.session
            logits, features = session.run(None, {session.get_inputs()[0].name: batch.contiguous().numpy()})
        except Exception as error:  # ONNX Runtime has an exception for each of its codes, and none is PyTorch's
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        return torch.from_numpy(logits), torch.from_numpy(features)

    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other threads have work to do
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self._model, options, providers=["CPUExecutionProvider"])
