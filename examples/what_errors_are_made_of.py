"""What are the errors of a classifier made of? Nobody has annotated anything.

    python examples/what_errors_are_made_of.py                          about two minutes on two cores, then the App
    python examples/what_errors_are_made_of.py --quick --headless       only shows that it runs

Cats and cups are cut out of photos that come with scikit-image, and laid on its textures. Nearly every cat that the
network learns from has a sticker in a corner. In the pictures that it is asked about, cups have it as often. The
concepts find the sticker, say what it costs, and what the predictions would be without it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import skimage
from numpy.typing import NDArray

import fiftyone_cam as focam

SIZE = 96
CUT_OUT = {"cat": ("chelsea.png", np.s_[20:290, 100:400]), "cup": ("coffee.png", np.s_[20:330, 140:450])}
GROUNDS = ("grass.png", "gravel.png", "brick.png")


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
    stickers = sum(where.limit(10).values("sticker"))
    print(f"{first} is in {len(where)} pictures; of the ten in which it holds most, {stickers} have a sticker")
    focam.name_concept(test, "cam", first, "sticker")

    # And if the network had not seen it? That is a sum, and no network is run.
    print(focam.what_if(test, "cam", without=["sticker"]))
    if not options.headless:
        fo.launch_app(test.to_patches("cam_concepts")).wait(-1)  # also over a reload; Ctrl-C ends it


def pictures(count: int, stickers: dict[str, float], seed: int) -> fo.Dataset:
    """Cats and cups in turn, on textures; ``stickers`` says how probable one is on each."""
    random, folder = np.random.default_rng(seed), Path(tempfile.mkdtemp(prefix="stickers_"))
    photos = Path(skimage.__file__).parent / "data"
    things = {
        label: np.asarray(cv2.imread(str(photos / name)), np.uint8)[cut] for label, (name, cut) in CUT_OUT.items()
    }
    grounds = [np.asarray(cv2.imread(str(photos / name)), np.uint8) for name in GROUNDS]
    dataset = fo.Dataset()
    for number in range(count):
        label = list(CUT_OUT)[number % 2]
        image = part(random, grounds[random.integers(len(grounds))], SIZE, (0.3, 0.5))
        across = int(random.integers(36, 56))
        y, x = random.integers(0, SIZE - across + 1, 2)
        disc = ((np.indices((across, across)) - across / 2 + 0.5) ** 2).sum(0) < (across / 2) ** 2
        image[y : y + across, x : x + across][disc] = part(random, things[label], across, (0.5, 0.9))[disc]
        has_sticker = bool(random.random() < stickers[label])
        if has_sticker:
            y, x = random.choice([3, SIZE - 21], 2)
            cv2.rectangle(image, (int(x), int(y)), (int(x) + 17, int(y) + 17), (60, 220, 250), -1)
            cv2.putText(image, "%", (int(x) + 2, int(y) + 14), cv2.FONT_HERSHEY_DUPLEX, 0.5, (30, 30, 200), 1)
        path = folder / f"{number:04d}.png"
        cv2.imwrite(str(path), image)
        true = fo.Classification(label=label)
        dataset.add_sample(fo.Sample(filepath=str(path), ground_truth=true, sticker=has_sticker))
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
