"""The class activation map: the logit of a GAP classifier, laid out in space.

Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2::

    logit_c = mean_xy M_c(x, y) + b_c ,   M_c(x, y) = sum_k w_ck f_k(x, y)

(The paper sums over positions where today's networks average; the maps here are for the average.)
"""

from __future__ import annotations

import torch
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
    """The type in which a product of float32 values is exact to float32's rounding, whatever the user allows a GPU."""
    return torch.float64 if device.type == "cuda" else torch.float32


def relative_error(values: Tensor, expected: Tensor, scale: Tensor) -> Tensor:
    """``|values - expected|`` over the logits' scale: ``(N, C)`` each, scale ``(N, 1)``.

    The scale is the largest magnitude among the terms of the sample's sums: a single logit may be near zero by chance.
    NaN and infinity come out as infinity: never certified.
    """
    # on the CPU: not every device has float64
    values, expected, scale = (each.cpu().double() for each in (values, expected, scale))
    error = (values - expected).abs() / scale.clamp_min(torch.finfo(torch.float32).tiny)
    error = torch.where(scale.isfinite(), error, torch.inf)  # over an infinite scale anything would be right
    return torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)


def certificate(maps: Tensor, bias: Tensor, logits: Tensor, scale: Tensor) -> Tensor:
    """The certificate: the relative error of ``mean(M_c) + b_c = logit_c`` for each map, ``(N, C)``.

    This is the completeness check of attribution methods: do the parts sum up to the logit? Captum calls its absolute
    error the convergence delta. At rounding level (:data:`CERTIFICATE_TOLERANCE`) the right head was found, and the map
    *is* the logit.

    >>> certificate(torch.ones(1, 1, 7, 7), torch.tensor([[0.5]]), torch.tensor([[1.5]]), torch.tensor([[1.5]]))
    tensor([[0.]], dtype=torch.float64)
    """
    return relative_error(maps.cpu().double().mean((2, 3)) + bias.cpu().double(), logits, scale)
