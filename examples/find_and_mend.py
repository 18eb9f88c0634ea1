"""From a dataset that nobody annotated to a classifier that is mended, and the proof.

    python examples/find_and_mend.py                          about three minutes on two cores, then the App
    python examples/find_and_mend.py --quick --headless       only shows that it runs

Cats and cups are cut out of photos that come with scikit-image, and laid on its textures. Nearly every cat that the
network learns from has a sticker in a corner, so it learns the sticker. Concepts find it; the head is edited without
training, or its last layer is trained anew; and other pictures, which had no part in any of it, judge all three.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import skimage
from fiftyone import ViewField as F
from numpy.typing import NDArray

import fiftyone_cam as focam

SIZE = 96
CUT_OUT = {"cat": ("chelsea.png", np.s_[20:290, 100:400]), "cup": ("coffee.png", np.s_[20:330, 140:450])}
GROUNDS = ("grass.png", "gravel.png", "brick.png")


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
    focam.name_concept(asked, "cam", report.concepts[0].name, "sticker")
    report = focam.load_concepts(asked, "cam")

    # Mend, without training: the concept's directions are taken out of the last layer.
    edited = focam.edit_head(classifier, report, remove=["sticker"])
    print(edited.preview)
    edited.save(options.out / "edited")

    # Or train the last layer alone: pictures with and without the concept count the same in each class.
    retrained = focam.retrain_head(asked, "cam", classifier, out_dir=options.out / "retrained", groups="sticker")
    print(retrained.preview)

    # Prove it, on pictures that had no part in it. Their field `planted` is the truth, which was not used above.
    for key, each in (("plain", classifier), ("edited", edited), ("retrained", retrained)):
        run = focam.compute_cam(judging, each, key=key, ground_truth="ground_truth")
        lured = judging.match(F("planted") == (F("ground_truth.label") == "cup"))
        print(f"{key}: {right(judging, key):.1%} right, {right(lured, key):.1%} where the sticker misleads")
        print(f"{key}: maps equal to {run.certificate:.1e}")
    print(focam.compare(judging, "plain", "edited"))
    if not options.headless:
        fo.launch_app(judging).wait(-1)  # also over a reload; Ctrl-C ends it


def right(samples: fo.DatasetView, key: str) -> float:
    """The share of the predictions that are right."""
    return len(samples.match(F(f"{key}_prediction.label") == F("ground_truth.label"))) / len(samples)


def pictures(count: int, stickers: dict[str, float], seed: int) -> fo.Dataset:
    """Cats and cups in turn, on textures; ``stickers`` says how probable one is on each."""
    random, folder = np.random.default_rng(seed), Path(tempfile.mkdtemp(prefix="stickers_"))
    photos = Path(skimage.__file__).parent / "data"
    things = {
        label: np.asarray(cv2.imread(str(photos / name)), np.uint8)[cut] for label, (name, cut) in CUT_OUT.items()
    }
    grounds = [np.asarray(cv2.imread(str(photos / name)), np.uint8) for name in GROUNDS]
    samples = []
    for number in range(count):
        label = list(CUT_OUT)[number % 2]
        image = part(random, grounds[random.integers(len(grounds))], SIZE, (0.3, 0.5))
        across = int(random.integers(36, 56))
        y, x = random.integers(0, SIZE - across + 1, 2)
        disc = ((np.indices((across, across)) - across / 2 + 0.5) ** 2).sum(0) < (across / 2) ** 2
        image[y : y + across, x : x + across][disc] = part(random, things[label], across, (0.5, 0.9))[disc]
        has_sticker = bool(random.random() < stickers[label])
        if has_sticker:
            top, left = (int(edge) for edge in random.choice([3, SIZE - 21], 2))
            cv2.rectangle(image, (left, top), (left + 17, top + 17), (60, 220, 250), -1)
            cv2.putText(image, "%", (left + 2, top + 14), cv2.FONT_HERSHEY_DUPLEX, 0.5, (30, 30, 200), 1)
        path = folder / f"{number:04d}.png"
        cv2.imwrite(str(path), image)
        true = fo.Classification(label=label)
        samples.append(fo.Sample(filepath=str(path), ground_truth=true, planted=has_sticker))
    dataset = fo.Dataset()
    dataset.add_samples(samples, progress=False)
    return dataset


def part(
    random: np.random.Generator, photo: NDArray[np.uint8], size: int, share: tuple[float, float]
) -> NDArray[np.uint8]:
    """A random square of a photo in random colours and contrast, so that neither gives the class away."""
    side = int(random.uniform(*share) * min(photo.shape[:2]))
    y, x = (int(random.integers(0, limit - side + 1)) for limit in photo.shape[:2])
    found = cv2.resize(photo[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA).astype(float)
    found = (found - found.mean()) / found.std() * random.uniform(35, 50) + random.uniform(90, 140, 3)
    return np.asarray(found.clip(0, 255), np.uint8)


if __name__ == "__main__":
    main()
