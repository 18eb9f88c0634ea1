"""The second post, redone: cats and dogs, and what a network looks at when it takes one for the other.

    python examples/cats_and_dogs.py --data photos/train --audit photos/test
    python examples/cats_and_dogs.py --quick --headless     one epoch, no App; without --data on generated pictures

Each folder holds a folder of photos for each class: Kaggle's "Dogs vs. Cats", or any photos of yours. Two networks
learn from --data: ResNet-18 from random weights, as in the post, and EfficientNet-Lite0, of which only the last layer
is trained. Both are asked about --audit. Stop it at any moment; the next call goes on from there.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import fiftyone as fo
import matplotlib.pyplot as plt
import numpy as np
from _pictures import pictures
from fiftyone import ViewField as F

import fiftyone_cam as focam

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {"arch": "resnet18", "weights": None, "size": 112, "recipe": focam.Recipe(epochs=15)},
    "lite0": {"arch": "efficientnet_lite0", "recipe": focam.Recipe(epochs=10, freeze="backbone")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cats and dogs, and what the errors look at.")
    parser.add_argument("--data", type=Path, help="to train on")
    parser.add_argument("--audit", type=Path, help="to ask about, never seen before")
    parser.add_argument("--out", type=Path, default=Path("runs/cats_and_dogs"), help="checkpoints, overlays, a chart")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="a few photos, one epoch")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()

    if options.quick and options.data is None:
        train, test = pictures(["disc", "stripes"], 60, 96, seed=0), pictures(["disc", "stripes"], 30, 96, seed=1)
    else:
        train = photos(options.data, 60 if options.quick else None)
        test = photos(options.audit, 30 if options.quick else None)

    figure, panels = plt.subplots(1, len(options.networks), figsize=(9, 3), layout="constrained", squeeze=False)
    for key, panel in zip(options.networks, panels.flat, strict=True):
        settings = NETWORKS[key]
        if options.quick:
            settings = settings | {"size": 64, "recipe": replace(settings["recipe"], epochs=1)}
        classifier = focam.train_classifier(
            train, "ground_truth", options.out / key, split=0.1, progress=True, **settings
        )

        # Where does it look? The maps are certified: each one's mean plus the bias is the logit.
        print(focam.compute_cam(test, classifier, key=key, ground_truth="ground_truth"))

        # Is it the animal, or the cage around it? Without annotations: how much of it lies at the border?
        focam.audit(test, key)
        rows, columns = test.first()[f"{key}_heatmap"].cam.grid.shape
        outer = 1 - (rows - 2) * (columns - 2) / (rows * columns)
        right, wrong = test.match(F(f"{key}_correct") == True), test.match(F(f"{key}_correct") == False)  # noqa: E712
        for name, view in (("right", right), ("wrong", wrong)):
            if len(view):
                # None where nothing speaks for the class
                border, spread = view.mean(f"{key}_border") or 0.0, view.mean(f"{key}_spread") or 0.0
                print(f"  {len(view):,} {name}: {border:.0%} of the evidence at the border, spread {spread:.2f} of 1")
                borders = view.exists(f"{key}_border").values(f"{key}_border")
                panel.hist(borders, np.linspace(0, 1, 21), density=True, alpha=0.6,
                           label=f"{len(view):,} {name}: {border:.0%}")  # fmt: skip
        print(f"  (The border is {outer:.0%} of what was seen.)")
        panel.axvline(outer, color="black", linestyle=":", label=f"evenly: {outer:.0%}")
        panel.set(title=f"{key}: {len(right) / len(test):.1%} right", xlabel="share of the evidence at the border")
        panel.legend(loc="upper right")

        # The post's pictures. The contact sheet begins with the surest errors.
        print(focam.export_overlays(wrong, key, options.out / "overlays" / key / "wrong", side_by_side=True))
        print(focam.export_overlays(right.limit(24), key, options.out / "overlays" / key / "right", side_by_side=True))

    figure.savefig(options.out / "border.png", dpi=100)
    if len(options.networks) > 1:
        print(focam.compare(test, *options.networks[:2]))
    if not options.headless:
        fo.launch_app(wrong).wait(-1)  # also over a reload; Ctrl-C ends it


def photos(folder: Path | None, count: int | None) -> fo.Dataset:
    """A folder for each class; the folder's name is the label."""
    if folder is None or not folder.is_dir():
        raise SystemExit(
            f"found no folder {folder or ''}: --data and --audit name folders with a folder of photos per class"
        )
    kind = fo.types.ImageClassificationDirectoryTree
    return fo.Dataset.from_dir(str(folder.resolve()), kind, max_samples=count, shuffle=count is not None, seed=0)


if __name__ == "__main__":
    main()
