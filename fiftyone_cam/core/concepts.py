"""Concepts: the cells of all feature maps in clusters, and every logit as a sum over them.

Each cell of each image belongs to one concept, so that the mean over cells splits without a remainder::

    logit_c = sum_k E_ck + b_c ,   E_ck = w_c . part_k ,   part_k = 1/N sum_{cells of concept k} f(cell)

Dictionary methods (Fel et al., CRAFT, CVPR 2023; Zhang et al., ICE, AAAI 2021) factorise the features and leave a
remainder. A partition of the cells leaves none, whatever the activation function is.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fiftyone_cam.core.errors import CamError

DIMENSIONS = 64
"""Principal components in which cells are clustered."""

MOST_CELLS = 40_000
"""Cells that are clustered at most; all others are assigned to the nearest centre."""

_SMALLEST = 250
"""Cells a cluster, on average, below which there are fewer clusters."""

FEWEST, MOST = 16, 128
"""Bounds of the number of concepts that is chosen by itself."""

Cells = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Concepts:
    """Cluster centres of cells, and what makes a cell's features comparable to them.

    ``mean`` ``(K,)`` and ``components`` ``(D, K)`` are the principal components of cells of length 1; ``centres``
    ``(k, D)`` lie in their space.

    >>> concepts = fit(cells, seed=0)                  # cells: (M, K)
    >>> concepts.assign(cells).shape
    (5000,)
    """

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    centres: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.centres)

    def project(self, cells: Cells) -> NDArray[np.float32]:
        """Cells ``(M, K)`` in the space of the centres, ``(M, D)``."""
        projected: NDArray[np.float32] = (_of_length_one(cells) - self.mean) @ self.components.T
        return projected

    def nearest(self, projected: NDArray[np.float32]) -> NDArray[np.int16]:
        """The concept of each cell, ``(M,)`` numbers from 0, of what :meth:`project` gives."""
        # |x - c|^2 without |x|^2, which is the same for all centres
        distance = (self.centres**2).sum(1) - 2 * projected @ self.centres.T
        nearest: NDArray[np.int16] = distance.argmin(1).astype(np.int16)
        return nearest

    def assign(self, cells: Cells) -> NDArray[np.int16]:
        """The concept of each cell: ``(M, K)`` to ``(M,)`` numbers from 0."""
        return self.nearest(self.project(cells))

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Plain arrays, for a file; :meth:`from_arrays` is the inverse."""
        return {"mean": self.mean, "components": self.components, "centres": self.centres}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Concepts:
        return cls(*(np.asarray(arrays[name], np.float32) for name in ("mean", "components", "centres")))


def count_for(cells: int) -> int:
    """How many concepts so many cells are split into: one for each 250, from 16 to 128.

    Measured on ImageNet-W's watermark on 5 and 10% of 800 photos (39,200 cells): 128 clusters hold it apart from other
    text more often than 32 or 64 do.

    >>> count_for(800 * 49), count_for(100 * 49)
    (128, 19)
    """
    return int(np.clip(cells // _SMALLEST, FEWEST, MOST))


def fit(cells: Cells, count: int | None = None, seed: int = 0) -> Concepts:
    """Cluster cells: to length 1, principal components, k-means.

    Args:
        cells: features of cells, ``(M, K)``; at most :data:`MOST_CELLS` of them, drawn at random, are used.
        count: how many concepts; by default :func:`count_for` them.
        seed: of the draw and of k-means; the same seed gives the same concepts.

    Raises:
        CamError: there are fewer cells than concepts.

    >>> len(fit(np.random.default_rng(0).random((5000, 32)), count=20))
    20
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    count = count_for(len(cells)) if count is None else count
    random = np.random.default_rng(seed)
    if len(cells) > MOST_CELLS:
        cells = cells[np.sort(random.choice(len(cells), MOST_CELLS, replace=False))]
    if len(cells) < count:
        raise CamError(f"{len(cells)} cells cannot be {count} concepts: take more images, or fewer concepts (count=)")
    unit = _of_length_one(cells)
    pca = PCA(min(DIMENSIONS, *unit.shape), svd_solver="randomized", random_state=seed).fit(unit)
    # one thread: several would add up each centre in another order each time
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different cells than clusters: some stay empty
        means = KMeans(count, n_init=1, max_iter=50, random_state=seed).fit(pca.transform(unit))
    return Concepts(
        *(np.ascontiguousarray(a, np.float32) for a in (pca.mean_, pca.components_, means.cluster_centers_))
    )


def layout(centres: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Centres ``(k, D)`` on a plane, ``(k, 2)``: what is alike lies side by side (t-SNE).

    >>> layout(concepts.centres).shape
    (128, 2)
    """
    from sklearn.manifold import TSNE

    if len(centres) < 4:
        flat = np.zeros((len(centres), 2), np.float32)
        flat[:, : centres.shape[1]] = centres[:, :2]
        return flat
    plane = TSNE(perplexity=min(15, (len(centres) - 1) / 3), init="pca", random_state=seed).fit_transform(centres)
    return np.asarray(plane, np.float32)


def _of_length_one(cells: Cells) -> NDArray[np.float32]:
    cells = np.asarray(cells, np.float32)
    norm = np.linalg.norm(cells, axis=1, keepdims=True)
    unit: NDArray[np.float32] = cells / np.maximum(norm, np.finfo(np.float32).tiny)
    return unit
