"""The class activation map: the logit of a GAP classifier, laid out in space.

Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2::

    logit_c = mean_xy M_c(x, y) + b_c ,   M_c(x, y) = sum_k w_ck f_k(x, y)

(The paper sums over positions where today's networks average; the maps here are for the average.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CERTIFICATE_TOLERANCE = 1e-5
"""Largest relative error of ``mean(M) + b`` against the logit at which a map is still called exact (float32)."""


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    """Signed maps in logit units: ``(N, K, h, w)`` feature maps and ``(N, C, K)`` weights to ``(N, C, h, w)``.

    Always float32, also for features of a lower precision. The mean of a map is its class's logit without the bias.
    On a GPU the product is in float64: in float32 it may be one of TensorFloat-32, of ten bits.

    >>> maps = class_activation_maps(torch.ones(1, 2, 7, 7), torch.tensor([[[1.0, 0.5]]]))
    >>> maps.shape, maps.mean().item()
    (torch.Size([1, 1, 7, 7]), 1.5)
    """
    exact = product_dtype(features.device)
    maps = torch.matmul(weight.to(exact), features.to(exact).flatten(2)).float()
    return maps.view(*weight.shape[:2], *features.shape[2:])


def product_dtype(device: torch.device) -> torch.dtype:
    """In which a product of float32 values is exact to float32's rounding, whatever the user allows a GPU."""
    return torch.float64 if device.type == "cuda" else torch.float32


def relative_error(values: Tensor, expected: Tensor, scale: Tensor) -> Tensor:
    """``|values - expected|`` over the logits' scale: ``(N, C)`` each, scale ``(N, 1)``.

    The scale is the largest magnitude among all of the sample's logits: a single logit may be near zero by chance.
    NaN and infinity come out as infinity: never certified.
    """
    # on the CPU: not every device has float64
    values, expected, scale = (each.cpu().double() for each in (values, expected, scale))
    error = (values - expected).abs() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    return torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)


def certificate(maps: Tensor, bias: Tensor, logits: Tensor, scale: Tensor) -> Tensor:
    """Relative error of the identity ``mean(M_c) + b_c = logit_c`` for each map, ``(N, C)``.

    At rounding level (:data:`CERTIFICATE_TOLERANCE`) the head was found rightly and the map *is* the logit.

    >>> certificate(torch.ones(1, 1, 7, 7), torch.tensor([[0.5]]), torch.tensor([[1.5]]), torch.tensor([[1.5]]))
    tensor([[0.]], dtype=torch.float64)
    """
    return relative_error(maps.cpu().double().mean((2, 3)) + bias.cpu().double(), logits, scale)


def quantize(
    evidence: NDArray[np.float32], ceiling: float | None = None, *, both_signs: bool = False
) -> tuple[NDArray[np.uint8] | NDArray[np.int8], float]:
    """Evidence in whole steps for display, and the step in logit units: ``evidence ≈ levels * step``.

    Args:
        evidence: a signed map.
        ceiling: evidence beyond it is drawn as strong as it; by default the largest there is. What is below a tenth
            of it becomes 0, which the App draws as transparent: the picture stays clear where nothing speaks.
        both_signs: int8 in [-127, 127] instead of uint8 in [0, 255] for the positive evidence alone.

    >>> quantize(np.float32([[-1.0, 0.0, 0.5, 1.0]]))
    (array([[  0,   0, 128, 255]], dtype=uint8), 0.00392156862745098)
    """
    strength = np.abs(evidence) if both_signs else np.maximum(evidence, 0)
    top = float(strength.max(initial=0.0))
    ceiling = top if ceiling is None else ceiling
    top = min(top, ceiling)
    dtype, steps = (np.int8, 127) if both_signs else (np.uint8, 255)
    if top <= 0:
        return np.zeros(evidence.shape, dtype), 0.0
    levels = np.rint(np.clip(evidence, -top if both_signs else 0, top) * np.float64(steps / top))
    levels[strength < ceiling / 10] = 0
    return levels.astype(dtype), top / steps
