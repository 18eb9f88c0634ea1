"""Bring a network that was trained elsewhere: a file of weights, its architecture, its classes, how it was fed.

    python examples/checkpoint_from_elsewhere.py --weights resnet20-12fca82f.th --data cifar10
    python examples/checkpoint_from_elsewhere.py --quick --headless     200 images, no App

Without --weights and --data, --quick takes random weights and generated pictures: it only shows that it runs.

The weights are those of a ResNet-20 for CIFAR-10 (github.com/akamaster/pytorch_resnet_cifar10). Nothing in the file is
run: it is opened as tensors alone. The head is found by one forward, and certified.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
import matplotlib.pyplot as plt
import numpy as np
import torch
from _cifar10 import CLASSES, cifar10
from fiftyone import ViewField as F

import fiftyone_cam as focam
from fiftyone_cam.networks import build


def main() -> None:
    parser = argparse.ArgumentParser(description="Class activation maps of a network trained elsewhere.")
    parser.add_argument("--weights", type=Path, help="a state dict of ResNet-20")
    parser.add_argument("--data", type=Path, help="a folder of CIFAR-10; by default FiftyOne's zoo")
    parser.add_argument("--out", type=Path, default=Path("runs/checkpoint_from_elsewhere"), help="a chart")
    parser.add_argument("--quick", action="store_true", help="200 images")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()

    weights = options.weights
    if weights is None and not options.quick:
        raise SystemExit("--weights names a file of weights: resnet20-12fca82f.th of the repository above")
    if weights is None:
        weights = options.out / "random.pth"
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.save(build("cifar_resnet20", len(CLASSES)).state_dict(), weights)
    classifier = focam.load_classifier(
        weights,
        classes=CLASSES,  # in the order of the logits: the file does not say
        arch="cifar_resnet20",
        preprocessing=focam.Preprocessing(),  # as it is: 32x32 pixels, ImageNet's mean and deviation
    )
    # With a module of your own there is no need for a name: load_classifier(module, classes, preprocessing=…).
    print(classifier)
    head = classifier.network.head
    print(f"  {head.features} feature maps; the map's mean plus the bias misses the logit by {head.error:.0e}")

    test = cifar10(options.data, "test", 200 if options.quick else 10_000, options.quick)
    print(focam.compute_cam(test, classifier, key="cam", ground_truth="ground_truth", batch_size=256))
    print(focam.audit(test, "cam"))

    # What speaks for a class, and against it, in the mean over the test images that are rightly taken for it?
    means, shares = {}, {}
    for name in CLASSES:
        of_class = test.match(F("ground_truth.label") == name)
        right = of_class.match(F("cam_correct") == True)  # noqa: E712
        grids = [heatmap.cam.grid for heatmap in right.values("cam_heatmap")]
        means[name] = np.mean(grids, axis=0) if grids else np.zeros((1, 1))
        shares[name] = len(right) / len(of_class)
    most = max(np.abs(mean).max() for mean in means.values())
    figure, panels = plt.subplots(2, 5, figsize=(9, 4), layout="constrained")
    for (name, mean), panel in zip(means.items(), panels.flat, strict=True):
        drawn = panel.imshow(mean, cmap="coolwarm", vmin=-most, vmax=most)
        panel.set_title(f"{name}\n{shares[name]:.0%} right", fontsize=10)
        panel.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="evidence, logit units")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "classes.png", dpi=100)

    # Wrong and sure: what did it see? The contrastive map, cam_contrast, answers "why this and not the truth".
    wrong = test.match(F("cam_correct") == False).sort_by("cam_prediction.confidence", reverse=True)  # noqa: E712
    print(f"{len(wrong):,} are wrong; the surest: {', '.join(wrong.limit(5).values('cam_prediction.label'))}")
    if not options.headless:
        fo.launch_app(wrong).wait(-1)  # also over a reload; Ctrl-C ends it


if __name__ == "__main__":
    main()
