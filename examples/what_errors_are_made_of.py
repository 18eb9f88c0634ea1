"""What are the errors of a classifier made of? Nobody has annotated anything.

    python examples/what_errors_are_made_of.py                          about two minutes on two cores, then the App
    python examples/what_errors_are_made_of.py --quick --headless       only shows that it runs

Cats and cups are cut out of photos that come with scikit-image, and laid on its textures. Nearly every cat that the
network learns from has a sticker in a corner. In the pictures that it is asked about, cups have it as often. The
concepts find the sticker, say what it costs, and what the predictions would be without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
from _stickers import pictures

import fiftyone_cam as focam


def main() -> None:
    parser = argparse.ArgumentParser(description="Concepts: what errors are made of, without annotations.")
    parser.add_argument("--out", type=Path, default=Path("runs/what_errors_are_made_of"), help="the checkpoint")
    parser.add_argument("--quick", action="store_true", help="few pictures, few epochs")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()
    count, epochs = (120, 4) if options.quick else (600, 10)

    train = pictures(count, stickers={"cat": 0.97, "cup": 0.03}, seed=0)
    test = pictures(count // 2, stickers={"cat": 0.5, "cup": 0.5}, seed=1)
    recipe = focam.Recipe(epochs=epochs)
    classifier = focam.train_classifier(
        train, "ground_truth", options.out, arch="small_gap_net", weights=None, size=64, recipe=recipe, overwrite=True
    )
    print(focam.compute_cam(test, classifier, key="cam", ground_truth="ground_truth"))

    # What are its errors made of? Each concept is a part of every logit; the first is the one to be rid of.
    report = focam.find_concepts(test, "cam", classifier)
    print(report)

    # Look at its places before you believe it. Here the pictures can be asked: they know where a sticker is.
    first = report.concepts[0].name
    where = report.view(first)
    stickers = sum(where.limit(10).values("planted"))
    print(f"{first} is in {len(where)} pictures; of the ten in which it holds most, {stickers} have a sticker")
    focam.name_concept(test, "cam", first, "sticker")

    # And if the network had not seen it? That is a sum, and no network is run.
    print(focam.what_if(test, "cam", without=["sticker"]))
    if not options.headless:
        fo.launch_app(test.to_patches("cam_concepts")).wait(-1)  # also over a reload; Ctrl-C ends it


if __name__ == "__main__":
    main()
