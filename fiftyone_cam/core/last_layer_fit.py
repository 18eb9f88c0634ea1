"""Training a last layer alone: weighted logistic regression, kept near the weights it begins from, and on the object.

The loss is convex where each image has one right class::

    sum_i v_i (-log P(right_i)) + near/2 E|p_k|^2 |W - W0|^2 + off |sum_c w_c^T A w_c| / |sum_c w0_c^T A w0_c|

``A`` is the mean of ``f f^T`` over cells off the object, so that ``sum_c w_c^T A w_c`` *is* the mean squared evidence
off the object, of all classes. Group-balanced ``v`` make this deep feature reweighting (Kirichenko et al., ICLR 2023);
without groups ``v`` grow with the loss (Qiu et al., ICML 2023: automatic feature reweighting, also kept near a start).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fiftyone_cam.core.concept_sums import Affine

Floats = NDArray[np.float32]

FOCUS = 4.0
"""How fast weights fall with the probability of the right class, where there are no groups: ``exp(-4 P)``."""


def group_weights(groups: Sequence[str]) -> Floats:
    """Weights of images under which all groups count the same: they add up to 1.

    >>> group_weights(["a", "a", "a", "b"])
    array([0.16666667, 0.16666667, 0.16666667, 0.5       ], dtype=float32)
    """
    _, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights: Floats = (1 / (len(counts) * counts[inverse])).astype(np.float32)
    return weights


def loss_weights(probability: Floats, classes: Sequence[str]) -> Floats:
    """Weights of images that grow with the loss, and under which all classes count the same: they add up to 1.

    Args:
        probability: of the right class, by the classifier that is to be mended, ``(n,)``.
        classes: the true class of each.

    >>> loss_weights(np.float32([0.9, 0.1]), ["cat", "cat"])
    array([0.03916573, 0.9608343 ], dtype=float32)
    """
    weights = np.exp(-FOCUS * probability.astype(np.float64))
    names = np.asarray(classes)
    for name in set(classes):
        weights[names == name] /= weights[names == name].sum()
    return np.asarray(weights / weights.sum(), np.float32)


def off_object_evidence(weight: Floats, moment: NDArray[np.float64]) -> float:
    """The mean squared evidence of all classes in the cells of a second moment: ``sum_c w_c^T A w_c``.

    >>> off_object_evidence(head.weight, moment.mean)
    3.2
    """
    return float(np.einsum("ck,kl,cl->", weight, moment, weight, optimize=True))


def fit(
    pooled: Floats,
    right: NDArray[np.bool_],
    weights: Floats,
    start: Affine,
    *,
    near: float = 1.0,
    off_object: float = 0.0,
    moment: NDArray[np.float64] | None = None,
    sigmoid: bool = False,
    begin: Affine | None = None,
    steps: int = 200,
) -> Affine:
    """The weights with the least loss: by L-BFGS, on the CPU, the same each time.

    Args:
        pooled: features, ``(n, D)``.
        right: which logits count as right, ``(n, C)``.
        weights: of the images, ``(n,)``.
        start: the weights that it is kept near to.
        near: how near.
        off_object: how much evidence off the object costs; 1: at the start as much as one nat of loss.
        moment: the second moment of cells off the object, ``(D, D)``.
        sigmoid: whether classes do not exclude each other.
        begin: where the search begins; by default at ``start``. The result is the same to rounding.
        steps: of L-BFGS, at most.

    >>> fit(pooled, right, group_weights(groups), start).weight.shape == start.weight.shape
    True
    """
    features, truth, share = (torch.from_numpy(np.ascontiguousarray(each)) for each in (pooled, right, weights))
    first = [torch.from_numpy(values) for values in start]
    parameters = [torch.from_numpy(values).clone().requires_grad_() for values in (begin or start)]
    scale = float((features.double() ** 2).mean())
    cost = None
    if off_object and moment is not None:
        unit = off_object / max(off_object_evidence(start.weight, moment), np.finfo(np.float32).tiny)
        cost = torch.from_numpy((unit * moment).astype(np.float32))
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-9
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weight, bias = parameters
        logits = features @ weight.T + bias
        if sigmoid:
            each = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none").sum(1)
        else:
            each = logits.logsumexp(1) - logits.masked_fill(~truth, -torch.inf).logsumexp(1)
        total = (share * each).sum()
        total = total + near / 2 * (scale * (weight - first[0]).square().sum() + (bias - first[1]).square().sum())
        if cost is not None:
            total = total + ((weight @ cost) * weight).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    weight, bias = (parameter.detach().numpy() for parameter in parameters)
    return Affine(weight, bias)
