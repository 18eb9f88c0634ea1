"""Whether a run executes the network that its author meant: the second of the three checks.

What really runs is a copy: folded, perhaps compiled, on some device, in some precision. Each of these may compute
something else without an error, and maps of wrong logits add up as well as maps of right ones. So the first images of a
run go through the caller's own module too, as it is, on the CPU and in float32.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from fiftyone_cam.core.cam import relative_error
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import RunError, first_line
from fiftyone_cam.core.heads import evaluating
from fiftyone_cam.core.heads.tap import Listener, read_logits
from fiftyone_cam.core.network import GapNetwork

logger = logging.getLogger(__name__)

IMAGES = 4
"""How many images of a run are held against the reference: a fault of a device or a fold shows on each."""

_TOLERANCES = {"bfloat16": 0.3, "float16": 0.05, "float32": 1e-3}
_TOLERANCE_CUDA = 0.05


def tolerance(device: torch.device, precision: str) -> float:
    """How far logits may be from the reference, in parts of the largest term of an image's sum.

    Measured on a CPU, the largest of seven architectures (EfficientNet-Lite0 with its weights: the deepest that was
    trained): folded in float32 1.5e-06, and a compiled network is taken up to 1e-04; in bfloat16 0.07; with products
    of ten bits, as those of TensorFloat-32, in which CUDA may compute what is float32, 0.008, and with results of ten
    bits too, as float16 has them, 0.009. A network that gets black pictures is off by 0.6 to 5.

    >>> tolerance(torch.device("cpu"), "float32"), tolerance(torch.device("cuda"), "float32")
    (0.001, 0.05)
    """
    return _TOLERANCE_CUDA if precision == "float32" and device.type == "cuda" else _TOLERANCES[precision]


class Reference:
    """The caller's module as it is, on the CPU and in float32.

    Args:
        network: as it was loaded, not folded. One that is on another device is copied to the CPU.

    >>> reference = Reference(classifier.network)
    >>> reference.logits(batch).shape                                    # (N, 3, 224, 224) uint8
    torch.Size([N, 1000])
    """

    def __init__(self, network: GapNetwork) -> None:
        self._module = network.module
        self._preprocessing = network.preprocessing
        self._logits_at = network.head.logits_at
        if network.device.type != "cpu":
            try:
                self._module = copy.deepcopy(network.module).cpu()
            except Exception:  # modules hold anything: locks, graphs, handles
                logger.debug("the module cannot be copied", exc_info=True)

    def logits(self, batch: Tensor) -> Tensor:
        """Logits ``(N, C)`` of a ``(N, 3, H, W)`` uint8 batch: one plain forward."""
        count = len(batch)
        batch = torch.cat([batch, batch]) if count == 1 else batch  # not all modules take a single image
        pixels = self._preprocessing.normalize(batch.cpu().contiguous())
        at = self._logits_at
        with evaluating(self._module), torch.no_grad():
            if at.top is None:
                return read_logits(self._module(pixels), at.index).float()[:count]
            listener = Listener([at.top])
            with listener:
                self._module(pixels)
            return listener.heard(at.top).float()[:count]

    def check(self, running: GapNetwork, precision: str, batch: Tensor, logits: Tensor, scale: Tensor) -> Check | None:
        """The logits of a run against the reference's.

        Args:
            running: what computed them.
            precision: of its forward.
            batch: ``(N, 3, H, W)``, as the network gets it.
            logits: ``(N, C)``, on the CPU.
            scale: ``(N, 1)``, of the terms of each image's sum: a logit may be near zero by chance.

        Returns:
            the comparison; None where all logits are NaN or infinite, so that nothing can be said yet.
        """
        device = _device_of(self._module)
        if device.type != "cpu":
            return Check.not_made("logits", f"the module cannot be copied, and is on {device} itself")
        try:
            expected = self.logits(batch)
        except Exception as error:  # the module is anybody's
            return Check.not_made("logits", f"the module fails on the CPU: {first_line(error)[:200]}")
        sound = logits.isfinite().all(1)  # the others are failures by themselves
        if not sound.any():
            return None
        differences = relative_error(logits[sound], expected[sound], scale[sound])
        most, images = float(differences.max()), int(sound.sum())
        where = f"{precision} on {running.device}, {images} image{'s' if images > 1 else ''} of the run"
        passed = most <= tolerance(running.device, precision)
        return Check("logits", passed, most, "of the sum's largest term", where)


def refuse(check: Check, running: GapNetwork, precision: str) -> None:
    """End a run whose logits are not the network's.

    Raises:
        RunError: always, with what to do.
    """
    if running.device.type == "cpu":
        advice = "the module gives other values each time, or was changed while it was copied: load it anew"
    else:
        advice = f"{running.device} computes wrongly: pass device='cpu'"
    raise RunError(
        f"what this run executes is not the network that was loaded: its logits differ by {check.difference:.2g} "
        f"{check.unit} ({check.detail}), expected at most {tolerance(running.device, precision):g} of one plain "
        f"forward on the CPU in float32; {advice}"
    )


def _device_of(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
