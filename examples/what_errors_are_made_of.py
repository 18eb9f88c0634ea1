"""What are the errors of a classifier made of? Nobody has annotated anything.

    python examples/what_errors_are_made_of.py                          about a minute on two cores, then the App
    python examples/what_errors_are_made_of.py --quick --headless       only shows that it runs

Cats and cups are cut out of photos that come with scikit-image, and laid on its textures. Nearly every cat that the
network learns from has a sticker in a corner, and the network leans on it. Where it is used, stickers are on cups: on
every second one, and on one cat of ten. The concepts find the sticker, say what it costs, and what the predictions
would be without it. Then on pictures with as many stickers on cats, where to remove it costs nearly as much as it
mends: there it is what most of the evidence rests on.
"""

from __future__ import annotations

import argparse

import fiftyone as fo
from _stickers import pictures, taught

import fiftyone_cam as focam


def main() -> None:
    parser = argparse.ArgumentParser(description="Concepts: what errors are made of, without annotations.")
    parser.add_argument("--quick", action="store_true", help="few pictures")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()
    count = 120 if options.quick else 400

    classifier = taught(pictures(count, stickers={"cat": 0.97, "cup": 0.03}, seed=0))
    asked = pictures(count, stickers={"cat": 0.1, "cup": 0.5}, seed=1)
    print(focam.compute_cam(asked, classifier, key="cam", ground_truth="ground_truth"))

    # What are its errors made of? Each concept is a part of every logit; the first is the one to be rid of.
    report = focam.find_concepts(asked, "cam", classifier)
    print(report)

    # Look at its places before you believe it. Here the pictures can be asked: they know where a sticker is.
    print(f"the first by repair: {told(report, report.concepts[0].name)}")
    focam.name_concept(asked, "cam", report.concepts[0].name, "sticker")

    # And if the network had not seen it? That is a sum, and no network is run.
    print(focam.what_if(asked, "cam", without=["sticker"]))

    # Where cats have stickers as often, repair says little. What holds most of the evidence?
    even = pictures(count, stickers={"cat": 0.5, "cup": 0.5}, seed=2)
    focam.compute_cam(even, classifier, key="cam", ground_truth="ground_truth")
    report = focam.find_concepts(even, "cam", classifier)
    print(f"the first by share: {told(report, report.by_share[0].name)}")
    if not options.headless:
        fo.launch_app(asked.to_patches("cam_concepts")).wait(-1)  # also over a reload; Ctrl-C ends it


def told(report: focam.ConceptReport, name: str) -> str:
    """What nobody told the search."""
    concept, where = report.concept(name), report.view(name)
    stickers = sum(where.limit(10).values("planted"))
    return (
        f"{name} holds {concept.share:.0%} of the evidence; removing it mends {concept.repaired} and costs "
        f"{concept.broken}; of the ten pictures in which it holds most, {stickers} have a sticker"
    )


if __name__ == "__main__":
    main()
