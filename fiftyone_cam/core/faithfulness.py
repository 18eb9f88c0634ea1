"""Does the network really use what a map points at? Pixels are taken away or put back, and the network is run again.

Petsiuk et al., RISE, BMVC 2018: insertion and deletion. Rong et al., ROAD, ICML 2022: pixels are replaced by what their
neighbours let one expect, most relevant first (MoRF) or least relevant first (LeRF). Chattopadhay et al., Grad-CAM++,
WACV 2018: average drop and increase in confidence.

An image is ``(C, H, W)`` float, a saliency ``(H, W)``; ``predict`` takes ``(n, C, H, W)`` and gives the probability of
the class in question, ``(n,)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
Floats = NDArray[np.float64]

SHARES = (0.1, 0.3, 0.5, 0.7)
"""Shares of the pixels that ROAD takes away."""


def area(curve: Tensor) -> float:
    """The area under a curve over equal steps from 0 to 1, by the trapezoid rule.

    >>> area(torch.tensor([0.0, 1.0]))
    0.5
    """
    return float((curve.sum() - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1))


def deletion(predict: Predict, image: Tensor, saliency: Tensor, step: int, substrate: Tensor | None = None) -> Tensor:
    """Probabilities while the most salient pixels are replaced, ``step`` at a time: ``(steps + 1,)``. Low is good.

    ``substrate`` is what comes in their place, by default 0 (of normalised input the mean colour).

    >>> area(deletion(predict, image, saliency, step=224))
    0.11
    """
    substrate = torch.zeros_like(image) if substrate is None else substrate
    return predict(torch.stack(_replaced(image, substrate, saliency, step)))


def insertion(predict: Predict, image: Tensor, saliency: Tensor, step: int, substrate: Tensor | None = None) -> Tensor:
    """Probabilities while the most salient pixels are put into a blurred image: ``(steps + 1,)``. High is good.

    >>> area(insertion(predict, image, saliency, step=224))
    0.73
    """
    substrate = blur(image) if substrate is None else substrate
    return predict(torch.stack(_replaced(substrate, image, saliency, step)))


def blur(image: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    """The blurred image that insertion begins with: RISE's kernel, zeros beyond the border.

    >>> blur(torch.ones(3, 32, 32))[0, 16, 16]
    tensor(1.)
    """
    spike = np.zeros((size, size))
    spike[size // 2, size // 2] = 1
    kernel = torch.from_numpy(gaussian_filter(spike, sigma).astype(np.float32)).to(image)
    channels = image.shape[0]
    blurred = nnf.conv2d(image[None], kernel.expand(channels, 1, -1, -1), padding=size // 2, groups=channels)
    return blurred[0]


def road(
    predict: Predict,
    image: Tensor,
    saliency: Tensor,
    *,
    least_first: bool = False,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
) -> Tensor:
    """Probabilities after each share of the pixels is replaced by :func:`impute`: ``(len(shares),)``.

    The most relevant first: low is good. The least relevant first: high is good.
    """
    order = _order(saliency)
    if least_first:
        order = order.flip(0)
    changed = []
    for share in shares:
        kept = torch.ones(saliency.numel(), dtype=torch.bool)
        kept[order[: round(share * saliency.numel())]] = False
        changed.append(impute(image, kept.reshape(saliency.shape), noise=noise, seed=seed))
    return predict(torch.stack(changed))


def impute(image: Tensor, kept: Tensor, noise: float = 0.01, seed: int = 0) -> Tensor:
    """Replace pixels so that each is the weighted mean of its eight neighbours, plus a little noise (ROAD, eq. 4).

    Neighbours at a side weigh a sixth, at a corner a twelfth; beyond the border there is none. It is one sparse system.

    Args:
        image: ``(C, H, W)``.
        kept: ``(H, W)`` bool: the pixels that stay.
        noise: its standard deviation, in the image's units.
        seed: of the noise.

    >>> kept = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]]).bool()
    >>> impute(torch.arange(9.0).reshape(1, 3, 3), kept, noise=0)[0, 1, 1]
    tensor(4.)
    """
    height, width = kept.shape
    gone = np.flatnonzero(~kept.numpy())
    if not len(gone):
        return image.clone()
    number = np.full(height * width, -1)
    number[gone] = np.arange(len(gone))
    flat = image.reshape(image.shape[0], -1).double().numpy()
    total, known = np.zeros(len(gone)), np.zeros((len(gone), len(flat)))
    entries = []
    for down, across, weight in _NEIGHBOURS:
        row, column = gone // width + down, gone % width + across
        inside = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
        neighbour = row[inside] * width + column[inside]
        total[inside] += weight
        stays = number[neighbour] < 0
        known[inside[stays]] += weight * flat[:, neighbour[stays]].T
        entries.append((inside[~stays], number[neighbour[~stays]], np.full((~stays).sum(), -weight)))
    entries.append((np.arange(len(gone)), np.arange(len(gone)), total))
    rows, columns, weights = (np.concatenate(each) for each in zip(*entries, strict=True))
    system = coo_matrix((weights, (rows, columns)), (len(gone), len(gone))).tocsc()
    # Where nothing is kept the system has no single solution: the mean colour takes its place
    solved = spsolve(system, known).reshape(len(gone), -1) if kept.any() else np.tile(flat.mean(1), (len(gone), 1))
    random = torch.randn(len(flat), len(gone), generator=torch.Generator().manual_seed(seed))
    filled = image.reshape(len(flat), -1).clone()
    filled[:, torch.from_numpy(gone)] = torch.from_numpy(solved.T).to(image.dtype) + noise * random.to(image.dtype)
    return filled.reshape(image.shape)


_NEIGHBOURS = [
    (down, across, 1 / 12 if down and across else 1 / 6)
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if down or across
]


def masked(image: Tensor, saliency: Tensor) -> Tensor:
    """The image where the saliency is strong, fading to 0 where it is weak (Grad-CAM++, section 4.1)."""
    low, high = saliency.min(), saliency.max()
    share = (saliency - low) / (high - low) if high > low else torch.ones_like(saliency)
    return image * share.to(image.dtype)


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's: 1 where two maps put cells into the same order, 0 where the orders have nothing in common.

    >>> rank_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([10.0, 20, 30]))
    1.0
    """
    from scipy.stats import spearmanr

    found = spearmanr(first.flatten().numpy(), second.flatten().numpy()).statistic
    return float(np.nan_to_num(found))


def _order(saliency: Tensor) -> Tensor:
    """Pixels by falling saliency. Equal ones come in an order that has nothing to do with their place."""
    count = saliency.numel()
    shuffled = _shuffled(count)
    return shuffled[saliency.flatten()[shuffled].argsort(descending=True, stable=True)]


@lru_cache(maxsize=8)
def _shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def _replaced(start: Tensor, finish: Tensor, saliency: Tensor, step: int) -> list[Tensor]:
    order = _order(saliency)
    current = start.reshape(start.shape[0], -1).clone()
    target = finish.reshape(finish.shape[0], -1)
    images = [current.reshape(start.shape).clone()]
    for few in torch.split(order, step):
        current[:, few] = target[:, few]
        images.append(current.reshape(start.shape).clone())
    return images
