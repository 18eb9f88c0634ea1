"""CIFAR-10 as a FiftyOne dataset, for the examples: from a folder, an archive in it, or FiftyOne's zoo."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import fiftyone as fo
import fiftyone.zoo as foz
from _pictures import pictures

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
UNPACKED = ROOT / ".demo" / "cifar10"


def cifar10(folder: Path | None, split: str, count: int, quick: bool = False) -> fo.Dataset:
    """The first images of each class, together ``count``.

    Args:
        folder: with ``train/<class>/*`` and ``test/<class>/*``, or with an archive of those, ``*.tar.xz``. None:
            FiftyOne's zoo.
        split: ``"train"`` or ``"test"``.
        count: how many; the same number of each class.
        quick: without a folder, take generated pictures instead of the zoo's, which are a download.
    """
    if folder is None and quick:
        return pictures(CLASSES, count, 32, seed=split == "test")
    if folder is None:
        return from_zoo(split, count)
    if not (folder / split).is_dir():
        archive = next(iter(sorted(folder.glob("*.tar.xz"))), None)
        if archive is None:
            raise SystemExit(f"{folder} holds no CIFAR-10: expected {split}/<class>/* in it, or a *.tar.xz of that")
        unpack(archive, split, count // 10)
        folder = UNPACKED
    paths = [path for kind in sorted((folder / split).iterdir()) for path in sorted(kind.iterdir())[: count // 10]]
    dataset = fo.Dataset()
    dataset.add_samples(
        [fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=path.parent.name)) for path in paths]
    )
    return dataset


def from_zoo(split: str, count: int) -> fo.Dataset:
    """FiftyOne's copy, which is downloaded the first time."""
    try:
        return foz.load_zoo_dataset("cifar10", split=split, max_samples=count, shuffle=True, seed=0)
    except Exception as error:  # whatever a download can raise
        raise SystemExit(f"CIFAR-10 cannot be downloaded ({error}): --data names a folder with it") from error


def unpack(archive: Path, split: str, each: int) -> None:
    """The first ``each`` images of every class, unless they are there."""
    there = {kind.name: len(list(kind.iterdir())) for kind in (UNPACKED / split).glob("*")}
    if len(there) == 10 and min(there.values()) >= each:
        return
    taken: Counter[str] = Counter()
    with tarfile.open(archive) as images:
        for member in images:
            part, _, rest = member.name.partition("/")
            kind = rest.partition("/")[0]
            if part == split and member.isfile() and taken[kind] < each:
                taken[kind] += 1
                images.extract(member, UNPACKED, filter="data")


if __name__ == "__main__":
    raise SystemExit("the other examples import this one")
