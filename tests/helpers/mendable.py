"""Photos on which taking one concept out of the head puts errors right: what a repair shall find."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import torch

import fiftyone_cam as focam
from fiftyone_cam.networks import build
from tests.helpers.networks import NAMES, SQUARE, write_photos

COUNT = 60


def mendable(dataset: fo.Dataset, folder: Path) -> Path:
    """Sixty photos with a run ``cam`` and its concepts; the checkpoint of the classifier.

    Their true class is what the classifier says with one of the concepts taken out of its head.
    """
    torch.manual_seed(3)
    module = build("small_gap_net", len(NAMES)).train()
    with torch.no_grad():
        for _ in range(30):  # else its norms let hardly anything of a picture through
            module(torch.randn(4, 3, 64, 64))
    classifier = focam.load_classifier(module.eval(), NAMES, preprocessing=SQUARE)
    classifier.origin["arch"] = "small_gap_net"
    checkpoint = classifier.save(folder / "small")
    paths = write_photos(folder, COUNT)
    dataset.add_samples([fo.Sample(filepath=path) for path in paths])
    focam.compute_cam(dataset, classifier, progress=False)
    report = focam.find_concepts(dataset, "cam", classifier, count=6, progress=False)
    before, truth, most = dataset.values("cam_prediction.label"), [], 0
    for concept in report.concepts:
        edited = focam.edit_head(classifier, report, concept.name, directions=2, strength=1.0)
        labels = [edited.explain(path).maps[0].label for path in paths]
        changed = sum(a != b for a, b in zip(before, labels, strict=True))
        if changed > most:
            most, truth = changed, labels
    assert most >= 8
    dataset.set_values("ground_truth", [fo.Classification(label=label) for label in truth])
    focam.delete_run(dataset, "cam")
    run = focam.compute_cam(dataset, checkpoint, ground_truth="ground_truth", progress=False)
    run.update(loaded_from=[str(checkpoint), {}])  # as the App leaves it
    focam.find_concepts(dataset, "cam", checkpoint, ground_truth="ground_truth", count=6, progress=False)
    return checkpoint
