"""A folder of sums over concepts, for as long as the run has them: too large for the database, and read as a whole.

It lies in FiftyOne's folder for data, ``fo.config.default_dataset_dir``. Each chunk of images is two files:
``sums_00000.npz``, some hundred bytes a cell, is all that numbers come from; ``parts_00000.npz``, the pooled features
and their parts, some ten kilobytes an image, is what predictions without some concepts come from. A chunk is written
whole or not at all, so that what was interrupted goes on.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_cam.core.concept_effects import Effects
from fiftyone_cam.core.concept_sums import ImageSums
from fiftyone_cam.core.errors import RunError
from fiftyone_cam.core.files import write_atomically
from fiftyone_cam.core.results import Failure

CHUNK = 512
"""Images in a file."""

Arrays = dict[str, NDArray[Any]]


class Parts(NamedTuple):
    """Of some images the mean features, ``(n, K)``, as a sum over the concepts that are present.

    Of image ``i`` these are the rows of ``concept`` and ``parts`` ``(p, K)`` from ``starts[i]`` to ``starts[i + 1]``.
    Parts are kept in float16, a scale for each row: right to 0.05%.
    """

    ids: NDArray[np.str_]
    pooled: NDArray[np.float32]
    starts: NDArray[np.int64]
    concept: NDArray[np.int16]
    parts: NDArray[np.float32]


class Sums:
    """The folder of a run's sums.

    >>> sums = Sums(run.record.concepts.folder)
    >>> ids, effects = sums.effects(128)
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[0-9a-f]{32}", name):  # the record may have come with a dataset from elsewhere
            raise RunError(f"{name!r} is no folder of sums over concepts: find the concepts again")
        self.name = name
        self.path = Path(fo.config.default_dataset_dir) / "__fiftyone_cam__" / "concepts" / name

    @classmethod
    def new(cls) -> Sums:
        """A folder that is not there yet; it is made with the first file."""
        return cls(uuid.uuid4().hex)

    def delete(self) -> None:
        """Delete the folder, if it is there: it may be on another machine."""
        shutil.rmtree(self.path, ignore_errors=True)

    # how cells are told apart

    def save_concepts(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._save("concepts.npz", arrays)

    def load_concepts(self) -> Arrays | None:
        """What :meth:`save_concepts` was given; None where nothing was saved, or not whole."""
        return _load(self.path / "concepts.npz") if (self.path / "concepts.npz").is_file() else None

    def require_concepts(self) -> Arrays:
        """:meth:`load_concepts`, with the weight of the head that makes logits of the sums.

        Raises:
            RunError: they are not on this machine, or not whole.
        """
        arrays = self.load_concepts()
        if arrays is None or "weight" not in arrays:
            self.require()
            raise RunError(f"the sums in {self.path} are not whole: find the concepts again")
        return arrays

    # sums

    def add(self, results: Sequence[ImageSums | Failure], concepts: int) -> None:
        """Write a chunk of images."""
        number = len(self._files("sums"))
        images = [result for result in results if not isinstance(result, Failure)]
        failures = [result for result in results if isinstance(result, Failure)]
        if images and images[0].pooled.size:
            parts = np.concatenate([image.parts for image in images])
            scale = np.maximum(np.abs(parts).max(1), np.finfo(np.float32).tiny)
            self._save(
                f"parts_{number:05d}.npz",
                {
                    "ids": np.array([image.id for image in images], np.str_),
                    "pooled": np.stack([image.pooled for image in images]),
                    "counts": np.array([len(image.concept) for image in images]),
                    "concept": np.concatenate([image.concept for image in images]),
                    "parts": (parts / scale[:, None]).astype(np.float16),
                    "scale": scale,
                },
            )
        self._save(f"sums_{number:05d}.npz", _packed(images, failures, concepts))

    def done(self) -> dict[str, str | None]:
        """The images that have sums, or a reason why not, by id."""
        found: dict[str, str | None] = {}
        for chunk in self.chunks():
            found.update(dict.fromkeys(chunk["ids"].tolist()))
            found.update(zip(chunk["failed"].tolist(), chunk["reasons"].tolist(), strict=True))
        return found

    def chunks(self) -> Iterator[Arrays]:
        """The chunks' arrays: see :func:`_packed`."""
        for path in self._files("sums"):
            yield _load(path)

    def effects(self, concepts: int) -> tuple[NDArray[np.str_], Effects]:
        """What each concept does to each prediction, and the images' ids; in the order of the ids.

        Raises:
            RunError: the folder is not there.
        """
        self.require()
        pairs = [(chunk["ids"], _effects(chunk, concepts)) for chunk in self.chunks() if len(chunk["ids"])]
        if not pairs:
            raise RunError("no image has sums over concepts: all of them failed")
        ids = np.concatenate([chunk_ids for chunk_ids, _ in pairs])
        order = np.argsort(ids)
        return ids[order], Effects.joined([effects for _, effects in pairs]).take(order)

    def totals(self) -> NDArray[np.float64]:
        """The parts of each concept, summed over all images, ``(k, K)``."""
        total: NDArray[np.float64] = np.sum([chunk["total"].astype(np.float64) for chunk in self.chunks()], axis=0)
        return total

    def parts(self) -> Iterator[Parts]:
        """Features in parts, chunk by chunk.

        Raises:
            RunError: the folder is not there.
        """
        self.require()
        for path in self._files("parts"):
            kept = _load(path)
            starts = np.concatenate([[0], np.cumsum(kept["counts"])])
            parts = kept["parts"].astype(np.float32) * kept["scale"][:, None]
            yield Parts(kept["ids"], kept["pooled"], starts, kept["concept"], parts)

    def require(self) -> None:
        """Check that the sums are on this machine.

        Raises:
            RunError: they are not.
        """
        if not self._files("sums"):
            raise RunError(
                f"the sums over concepts are not on this machine: expected them in {self.path}; find the concepts again"
            )

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.path.glob(f"{kind}_*.npz"))

    def _save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with write_atomically(self.path / name) as new, new.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise RunError(f"{path} cannot be read ({error}): find the concepts again") from error


def _packed(images: Sequence[ImageSums], failures: Sequence[Failure], concepts: int) -> Arrays:
    """Images as arrays. Those of cells, and of pairs of an image and a concept, lie one image behind the other."""

    def flat(name: str, empty: tuple[int, ...] = (0,)) -> NDArray[Any]:
        arrays = [getattr(image, name) for image in images]
        tail = len(empty) - 1
        shape = (-1,) + (arrays[0].shape[arrays[0].ndim - tail :] if tail else ()) if arrays else empty
        return np.concatenate([array.reshape(shape) for array in arrays]) if arrays else np.zeros(empty, np.float32)

    width = images[0].parts.shape[1] if images else 0
    total = np.zeros((concepts, width), np.float32)
    for image in images:
        if image.parts.size:
            total[image.concept] += image.parts
    numbers = {
        name: np.array([getattr(image, name) for image in images])
        for name in ("box", "seen", "predicted", "confidence", "margin", "gap")
    }
    return {
        "ids": np.array([image.id for image in images], np.str_),
        "failed": np.array([failure.id for failure in failures], np.str_),
        "reasons": np.array([failure.reason for failure in failures], np.str_),
        "shape": np.array([image.assigned.shape for image in images]),
        **numbers,
        "pairs": np.array([len(image.concept) for image in images]),
        **{name: flat(name) for name in ("concept", "margin_without", "predicted_without")},
        **{name: flat(name) for name in ("assigned", "evidence", "blame")},
        "offset": flat("offset", (0, 2)).astype(np.float16),
        "total": total,
    }


def _effects(chunk: Mapping[str, NDArray[Any]], concepts: int) -> Effects:
    n = len(chunk["ids"])
    sizes = chunk["shape"].prod(1)
    cell = np.repeat(np.arange(n), sizes) * concepts + chunk["assigned"]

    def summed(values: NDArray[Any]) -> NDArray[np.float32]:
        sums: NDArray[np.float32] = np.bincount(cell, values, n * concepts).reshape(n, concepts).astype(np.float32)
        return sums

    pair = (np.repeat(np.arange(n), chunk["pairs"]), chunk["concept"])
    margin, predicted = chunk["margin"].astype(np.float32), chunk["predicted"].astype(np.int32)
    removable = bool((chunk["predicted_without"] >= 0).all())
    margin_without = np.repeat(margin[:, None], concepts, 1)
    margin_without[pair] = chunk["margin_without"]
    predicted_without = np.repeat(predicted[:, None], concepts, 1)
    predicted_without[pair] = chunk["predicted_without"]
    return Effects(
        held=summed(1 / np.repeat(sizes, sizes)),
        evidence=summed(chunk["evidence"]),
        blame=summed(chunk["blame"]),
        margin=margin,
        margin_without=margin_without if removable else np.full_like(margin_without, np.nan),
        predicted=predicted,
        predicted_without=predicted_without if removable else np.full_like(predicted_without, -1),
    )
