"""The first post, redone: a small network on CIFAR-10 after 5 and after 50 epochs. Does it come to look at details?

    python examples/cifar10_epochs.py --data cifar10        about half an hour on two cores; --images 50000 for all
    python examples/cifar10_epochs.py --quick --headless    epochs 1 and 3 on 400 images: to see that it runs

The post says that attention "concentrates on details as the epochs increase". Here that is a number: the spread of the
evidence (0: all in one cell of the 8x8 grid, 1: everywhere alike) on test images, at both epochs of one training, with
the uncertainty of the difference. Whichever way it comes out, it is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
import matplotlib.pyplot as plt
import numpy as np
from _cifar10 import cifar10
from fiftyone import ViewField as F

import fiftyone_cam as focam


def main() -> None:
    parser = argparse.ArgumentParser(description="Attention after few and after many epochs.")
    parser.add_argument("--data", type=Path, help="a folder of CIFAR-10; by default FiftyOne's zoo")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10_epochs"), help="checkpoints and chart")
    parser.add_argument("--images", type=int, default=5_000, help="to train on")
    parser.add_argument("--epochs", type=int, nargs=2, default=[5, 50], help="to compare")
    parser.add_argument("--quick", action="store_true", help="400 images, epochs 1 and 3")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()
    few, many = (1, 3) if options.quick else options.epochs
    count, asked = (400, 200) if options.quick else (options.images, 2000)

    # One training, and a checkpoint of each of the two epochs.
    train = cifar10(options.data, "train", count, options.quick)
    focam.train_classifier(
        train,
        "ground_truth",
        options.out,
        arch="small_gap_net",
        recipe=focam.Recipe(epochs=many, batch_size=64),
        snapshots=[few, many],
        split=0.1,
        progress=True,
    )

    test = cifar10(options.data, "test", asked, options.quick)
    keys = [f"epoch_{few}", f"epoch_{many}"]
    for key in keys:
        print(focam.compute_cam(test, options.out / key, key=key, ground_truth="ground_truth"))
        focam.audit(test, key)
    print(focam.compare(test, *keys))

    # The post's claim, first over all images, then where both epochs are right: there they explain the same class.
    both = test.match((F(f"{keys[0]}_correct") == True) & (F(f"{keys[1]}_correct") == True))  # noqa: E712
    figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharex=True)
    for panel, (name, view) in zip(panels, (("all images", test), ("images that both get right", both)), strict=True):
        before, after = (np.array(view.values(f"{key}_spread"), float) for key in keys)
        known = ~np.isnan(before + after)  # there is no spread where nothing speaks for the class
        if known.any():
            low, high = interval(after[known] - before[known])
            print(
                f"\nSpread of the evidence over {name} ({known.sum():,}): {before[known].mean():.3f} at epoch {few}, "
                f"{after[known].mean():.3f} at epoch {many}; difference {(after - before)[known].mean():+.3f} "
                f"(95% interval {low:+.3f} to {high:+.3f})"
            )
            print(f"  {'It concentrates' if high < 0 else 'It spreads out' if low > 0 else 'No difference is shown'}.")
            for epoch, spreads in ((few, before[known]), (many, after[known])):
                bins = np.linspace(0.4, 1, 61)
                panel.hist(spreads, bins, alpha=0.6, label=f"epoch {epoch}: mean {spreads.mean():.3f}")
            panel.set(title=f"{name} ({known.sum():,})", xlabel="spread of the evidence")
            panel.legend(loc="upper left")
    figure.savefig(options.out / "spread.png", dpi=100)

    if not options.headless:
        fo.launch_app(test).wait(-1)  # also over a reload; Ctrl-C ends it


def interval(differences: np.ndarray, resamples: int = 2000) -> tuple[float, float]:
    """The bootstrap's 95% interval of the mean: for other test images, not for other trainings."""
    rng = np.random.default_rng(0)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
