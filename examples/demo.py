"""The main job on real photos: EfficientNet-Lite0 with its real ImageNet weights, then the App. `make demo` runs this.

    python examples/demo.py                                 FiftyOne's quickstart, else photos of scikit-image
    python examples/demo.py --images ~/photos               your own, subfolders included
    python examples/demo.py --images ~/photos --headless    compute, print the summary and exit

What it makes lies in the folder .demo of this clone: a plugins directory, and a database, because FiftyOne upgrades a
database to its own version, and yours may belong to another one. Where a FiftyOne of yours is running already, FiftyOne
joins its database server whatever the folder is; the database there has a name of this clone's own, so that nothing of
yours and nothing of another clone's is touched. If you set FIFTYONE_DATABASE_URI, FIFTYONE_DATABASE_DIR or
FIFTYONE_DATABASE_NAME, that is used instead. Run it again and only new images are computed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

NAME = "fiftyone_cam_demo"
HOME = Path(__file__).resolve().parents[1] / ".demo"
CLONE = hashlib.sha256(str(HOME).encode()).hexdigest()[:8]

# FiftyOne reads its settings when it is imported.
os.environ.setdefault("FIFTYONE_DATABASE_DIR", str(HOME / "database"))
os.environ.setdefault("FIFTYONE_DATABASE_NAME", f"{NAME}_{CLONE}")
os.environ["FIFTYONE_PLUGINS_DIR"] = str(HOME / "plugins")
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")  # no word on how long MongoDB is supported: it is ours

import fiftyone as fo
import fiftyone.core.odm as foo
import fiftyone.zoo as foz
import skimage
import sklearn

import fiftyone_cam as focam
from fiftyone_cam._install import install

DOWNLOAD_SECONDS = 120
PHOTOS = [
    *(Path(skimage.__file__).parent / "data" / name for name in ("astronaut.png", "camera.png", "chelsea.png")),
    *(Path(skimage.__file__).parent / "data" / name for name in ("coffee.png", "motorcycle_left.png", "rocket.jpg")),
    *(Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Class activation maps over real photos.")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="your own images, subfolders included")
    parser.add_argument("--headless", action="store_true", help="compute, print the summary and exit")
    options = parser.parse_args()

    folder = options.images and options.images.expanduser()  # zsh leaves the ~ of IMAGES=~/photos to us
    if folder is None:
        source, fresh = without_folder()
    elif folder.is_dir():
        source = str(folder.resolve())
        fresh = fo.Dataset.from_images_dir(source, recursive=True)
    else:
        sys.exit(f"found no folder {folder}: IMAGES=/some/folder (or --images) names a folder of images")
    if not fresh:
        sys.exit(f"found no images in {source}")
    dataset = kept(source, fresh)
    print(f"Dataset {dataset.name!r}, {len(dataset)} images, in {where()}", flush=True)

    classifier = focam.load_classifier("efficientnet_lite0")
    try:
        run = focam.compute_cam(dataset, classifier, key="cam")
    except focam.RunError:  # of another version of this project, with other settings
        run = focam.compute_cam(dataset, classifier, key="cam", overwrite=True)
    print(run)
    for sample in dataset.exists("cam_prediction").limit(10):
        prediction = sample.cam_prediction
        print(f"  {Path(sample.filepath).name:<28} {prediction.label} ({prediction.confidence:.0%})")
    if not options.headless:
        install()
        session = fo.launch_app(dataset)
        address = session.url.replace("//0.0.0.0", "//localhost")  # what a container listens on, and no browser opens
        print(f"The App is open at {address}. Press Ctrl+C here to end the demo.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            session.wait(-1)  # with less, a reloaded or closed tab would end it


def where() -> str:
    """The database that is used, in words."""
    client = foo.get_db_client()
    host, port = client.address or ("an unknown server", 0)
    return f"database {fo.config.database_name!r} of the MongoDB at {host}:{port}"


def without_folder() -> tuple[str, fo.Dataset]:
    """FiftyOne's quickstart dataset if it is here or can be downloaded, else photos that are here in any case."""
    try:
        folder = foz.find_zoo_dataset("quickstart")
    except ValueError:
        folder = download()
    if folder is not None:
        return "quickstart", fo.Dataset.from_dir(dataset_dir=folder, dataset_type=fo.types.FiftyOneDataset)
    fresh = fo.Dataset()
    fresh.add_samples([fo.Sample(filepath=str(photo)) for photo in PHOTOS])
    return "the photographs of scikit-image and scikit-learn", fresh


def download() -> str | None:
    """The folder of the quickstart dataset, or None if it does not come. In a process, so that waiting has an end."""
    print(f"Downloading FiftyOne's quickstart photos, for {DOWNLOAD_SECONDS} seconds at most", flush=True)
    command = [sys.executable, "-c", "import fiftyone.zoo as foz; foz.download_zoo_dataset('quickstart')"]
    try:
        subprocess.run(command, timeout=DOWNLOAD_SECONDS, check=True, capture_output=True, text=True)
        return str(foz.find_zoo_dataset("quickstart"))
    except subprocess.TimeoutExpired:
        reason = f"not complete after {DOWNLOAD_SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1].partition(":")[0]
    print(f"They cannot be had ({reason}); taking photographs that come with scikit-image and scikit-learn instead.")
    return None


def kept(source: str, fresh: fo.Dataset) -> fo.Dataset:
    """The dataset of the last time with the fresh images added, or the fresh images if that had another source."""
    if fo.dataset_exists(NAME):
        dataset = fo.load_dataset(NAME)
        if "demo_source" not in dataset.info:
            sys.exit(f"found a dataset {NAME} that this demo did not make, and leaves alone: rename or delete it")
        if dataset.info["demo_source"] == source:
            dataset.merge_samples(fresh)  # by file path; results that are there stay
            dataset.delete_samples(dataset.exclude_by("filepath", fresh.values("filepath")))  # files that are gone
            fresh.delete()
            return dataset
        dataset.delete()
    fresh.name = NAME
    fresh.persistent = True
    fresh.info["demo_source"] = source
    fresh.save()
    return fresh


if __name__ == "__main__":
    main()
