"""Take the README's pictures anew, from the real App: ``python docs/take_pictures.py``, in a clone.

The browser tests take them on their way through the App, in Chromium: some ten minutes on two cores. Look at each
before you commit it. ``--keep FOLDER`` keeps all screenshots, ``--from FOLDER`` takes those of an earlier time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = REPOSITORY / "docs" / "images"
TESTS = (
    "test_app.py",
    "test_modal_browser.py",
    "test_audit_browser.py",
    "test_train_browser.py",
    "test_concepts_picture.py",
)

PICTURES = {
    "grid": "grid.jpg",
    "button": "button.png",
    "explain_button": "explain.png",
    "form": "form.jpg",
    "filter": "filter.jpg",
    "contrast": "contrast.jpg",
    "tooltip": "tooltip.jpg",
    "audit": "audit.jpg",
    "why": "why.jpg",
    "train_grid": "train.jpg",
    "concepts_panel": "concepts.jpg",
}
"""What the tests call a screenshot, and what the README calls it: 256 colours would draw contours into heatmaps."""

FILMS = {
    "main_job": ("form", "progress", "summary", "grid", "filter", "contrast", "explain", "explained"),
    "audit": ("audit_form", "audit_panel", "audit", "audit_bar", "why_first", "why"),
}
"""What the README calls a film, and its screenshots, two seconds each."""


def main() -> None:
    """Take the pictures, or those of an earlier time, and put them where the README shows them."""
    parser = argparse.ArgumentParser(description="The README's pictures, from the real App.")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all screenshots here")
    parser.add_argument("--from", type=Path, metavar="FOLDER", dest="source", help="take no new ones")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.source or options.keep or Path(temporary)
        if options.source is None:
            take(folder)
        copy(folder)


def take(folder: Path) -> None:
    """Run the browser tests, which keep their screenshots in the folder."""
    tests = [str(REPOSITORY / "tests" / "browser" / name) for name in TESTS]
    environment = {**os.environ, "FIFTYONE_CAM_SCREENSHOTS": str(folder.absolute())}
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=REPOSITORY, env=environment)
    if ran.returncode:
        sys.exit("the browser tests failed: no picture was replaced")


def copy(folder: Path) -> None:
    """Replace the README's pictures, and put the films together."""
    wanted = {*PICTURES, *(name for film in FILMS.values() for name in film)}
    missing = [name for name in wanted if not (folder / f"{name}.png").is_file()]
    if missing:
        sys.exit(f"found no {', '.join(sorted(missing))} in {folder}: take all pictures anew")
    for name, ours in PICTURES.items():
        picture = Image.open(folder / f"{name}.png").convert("RGB")
        picture.save(IMAGES / ours, quality=88, subsampling=0, optimize=True, progressive=True)
    for film, names in FILMS.items():
        frames = [Image.open(folder / f"{name}.png").convert("RGB").resize((888, 516)) for name in names]
        path = IMAGES / f"{film}.webp"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=2000, loop=0, quality=85, method=6)
    print(f"{len(PICTURES)} pictures and {len(FILMS)} films in {IMAGES}: look at each of them")


if __name__ == "__main__":
    main()
