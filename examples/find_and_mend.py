"""From a dataset that nobody annotated to a classifier that is mended, and the proof.

    python examples/find_and_mend.py                          about three minutes on two cores, then the App
    python examples/find_and_mend.py --quick --headless       only shows that it runs

Cats and cups are cut out of photos that come with scikit-image, and laid on its textures. Nearly every cat that the
network learns from has a sticker in a corner. Without an annotation, the concept whose removal would put most right is
the suspect. It is taken out of the head without training, or the last layer is trained anew with it; and other
pictures, which had no part in any of it, judge all three: a suspect is no proof.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
from _stickers import pictures
from fiftyone import ViewField as F

import fiftyone_cam as focam


def main() -> None:
    parser = argparse.ArgumentParser(description="Find what errors are made of, and mend the classifier.")
    parser.add_argument("--out", type=Path, default=Path("runs/find_and_mend"), help="the checkpoints")
    parser.add_argument("--quick", action="store_true", help="few pictures, few epochs")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()
    count, epochs = (160, 5) if options.quick else (800, 10)

    learnt = pictures(count, stickers={"cat": 0.97, "cup": 0.03}, seed=0)
    asked = pictures(count, stickers={"cat": 0.5, "cup": 0.5}, seed=1)
    judging = pictures(count, stickers={"cat": 0.5, "cup": 0.5}, seed=2)
    recipe = focam.Recipe(epochs=epochs)
    classifier = focam.train_classifier(
        learnt, "ground_truth", options.out / "plain", arch="small_gap_net", weights=None, size=64, recipe=recipe
    )

    # Find. Nobody has said where a sticker is, or that there are any.
    focam.compute_cam(asked, classifier, key="cam", ground_truth="ground_truth")
    report = focam.find_concepts(asked, "cam", classifier)
    print(report)
    focam.name_concept(asked, "cam", report.concepts[0].name, "suspect")
    report = focam.load_concepts(asked, "cam")

    # Mend, without training: the concept's directions are taken out of the last layer.
    edited = focam.edit_head(classifier, report, remove=["suspect"])
    print(edited.preview)
    edited.save(options.out / "edited")

    # Or train the last layer alone: pictures with and without the concept count the same in each class.
    retrained = focam.retrain_head(asked, "cam", classifier, out_dir=options.out / "retrained", groups="suspect")
    print(retrained.preview)

    # Prove it, on pictures that had no part in it. Their field `planted` is the truth, which was not used above.
    for key, each in (("plain", classifier), ("edited", edited), ("retrained", retrained)):
        run = focam.compute_cam(judging, each, key=key, ground_truth="ground_truth")
        lured = judging.match(F("planted") == (F("ground_truth.label") == "cup"))
        print(f"{key}: {right(judging, key):.1%} right, {right(lured, key):.1%} where the sticker misleads")
        print(f"{key}: maps equal to {run.certificate:.1e}")
    for key in ("edited", "retrained"):  # every group before and after; the first line says what became worse
        print(focam.compare(judging, "plain", key, groups="planted"))
    if not options.headless:
        fo.launch_app(judging).wait(-1)  # also over a reload; Ctrl-C ends it


def right(samples: fo.DatasetView, key: str) -> float:
    """The share of the predictions that are right."""
    return len(samples.match(F(f"{key}_prediction.label") == F("ground_truth.label"))) / len(samples)


if __name__ == "__main__":
    main()
