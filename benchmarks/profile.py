"""Where the time of a run goes: ``make profile``, ``make profile IMAGES=/some/folder``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")

import fiftyone as fo
import fiftyone.core.odm as foo
import skimage

import fiftyone_cam as focam
from fiftyone_cam.core.timing import Timing

PHOTOS = [
    str(Path(skimage.__file__).parent / "data" / name)
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
]


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of a run goes.")
    parser.add_argument("--images", type=Path, help="a folder; by default photos that scikit-image ships")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    found = sorted(map(str, options.images.rglob("*.jp*g"))) if options.images else PHOTOS
    paths = (found * (options.count // max(1, len(found)) + 1))[: options.count]
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=path) for path in paths], progress=False)
    try:
        run = focam.compute_cam(dataset, options.model, progress=False)
        print(run)
        timing = run.record.timing or Timing()
        print(f"\n{'':<24}{'seconds':>9}{'ms an image':>13}")
        for name, what in (
            ("forward", "forward"),
            ("waiting_for_decode", "waiting for decode"),
            ("maps", "maps"),
            ("waiting_for_writes", "waiting for writes"),
            ("compiling", "compiling"),
            ("seconds", "all"),
            ("decoding", "  threads: decode"),
            ("writing", "  thread: write"),
        ):
            seconds = getattr(timing, name)
            print(f"{what:<24}{seconds:>9.2f}{1000 * seconds / max(1, timing.images):>13.2f}")
    finally:
        dataset.delete()
        foo.drop_database()


if __name__ == "__main__":
    main()
