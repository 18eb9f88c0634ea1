"""The examples run, in their quick form, on real data where it is there; and their page tells of all of them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES / "README.md"


def run(name: str, *arguments: str | Path) -> str:
    """What an example prints."""
    command = [sys.executable, EXAMPLES / name, *arguments, "--headless"]
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=EXAMPLES.parent)
    assert process.returncode == 0, process.stderr
    return process.stdout


def certificates(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"maps equal to (\S+)", text)]


def written(folder: Path) -> list[str]:
    """The pictures of an export, all of which exist."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if not row["error"]]
    assert all((folder / name).is_file() for name in names)
    assert (folder / "contact_sheet.png").is_file()
    return names


def test_the_page_tells_of_every_example_and_shows_pictures_that_exist():
    page = PAGE.read_text(encoding="utf-8")
    for script in EXAMPLES.glob("[!_]*.py"):
        assert f"examples/{script.name}" in page, f"{script.name} is not on the page"
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures
    for picture in pictures:
        assert (EXAMPLES / picture).is_file(), picture


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("[!_]*.py")))
def test_an_example_shows_its_options(script):
    process = subprocess.run([sys.executable, str(EXAMPLES / script), "--help"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "--headless" in process.stdout


@pytest.mark.slow
def test_the_notebook_runs_from_the_first_cell_to_the_last(tmp_path):
    """Its cells as one program, without what only a notebook can do: install packages, and show the App."""
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code[0].startswith("%pip install")
    assert code[-1].startswith("session = fo.launch_app")
    program = "import matplotlib\nmatplotlib.use('Agg')\n" + "\n".join(code[1:-1])
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert process.returncode == 0, process.stderr
    assert max(certificates(process.stdout)) < 1e-5
    assert "tabby" in process.stdout or "cat" in process.stdout  # the cat of scikit-image
    assert len(written(tmp_path / "overlays")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("script", ["cats_and_dogs.py", "checkpoint_from_elsewhere.py", "cifar10_epochs.py"])
def test_what_a_fresh_clone_has_is_enough_for_a_quick_try(script, tmp_path):
    found = certificates(run(script, "--quick", "--out", tmp_path))
    assert found
    assert max(found) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("script", ["cats_and_dogs.py", "checkpoint_from_elsewhere.py"])
def test_what_is_missing_is_said_in_one_line(script):
    process = subprocess.run([sys.executable, EXAMPLES / script, "--headless"], capture_output=True, text=True)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert re.search(r"--(data|weights)", process.stderr.splitlines()[-1])


@pytest.mark.slow
def test_find_and_mend(tmp_path):
    text = run("find_and_mend.py", "--quick", "--out", tmp_path)
    assert len(certificates(text)) == 3
    assert max(certificates(text)) < 1e-5
    misled = {key: float(share) for key, share in re.findall(r"(\w+): \S+ right, ([\d.]+)% where", text)}
    assert set(misled) == {"plain", "edited", "retrained"}
    for name in ("plain", "edited", "retrained"):
        assert (tmp_path / name / "classifier.json").is_file()


@pytest.mark.slow
def test_pretrained(tmp_path):
    text = run("pretrained.py", "--model", "efficientnet_lite0", "--out", tmp_path)
    assert "coffee.png: espresso 9" in text
    [worst] = certificates(text)
    assert worst < 1e-5
    assert len(written(tmp_path)) >= 6


@pytest.mark.slow
def test_checkpoint_from_elsewhere(data):
    text = run("checkpoint_from_elsewhere.py", "--quick", "--weights", data / "weights" / "resnet20-12fca82f.th",
               "--data", data / "cifar10")  # fmt: skip
    [worst] = certificates(text)
    assert worst < 1e-5
    [accuracy] = re.findall(r"accuracy +([\d.]+)%", text)
    assert 72 <= float(accuracy) <= 90  # 81.0% on all 10,000; 200 of them, three standard deviations


@pytest.mark.slow
def test_what_errors_are_made_of():
    text = run("what_errors_are_made_of.py")
    found = re.findall(r"mends (\d+) and costs (\d+); of the ten pictures .*, (\d+) have a sticker", text)
    assert [int(stickers) >= 9 for _, _, stickers in found] == [True, True]
    (mended, cost, _), _ = found
    assert int(mended) > int(cost)
    assert f"{mended} errors put right, {cost} hits lost" in text  # what_if counts the same


@pytest.mark.slow
def test_cats_and_dogs(data, tmp_path):
    text = run("cats_and_dogs.py", "--quick", "--out", tmp_path,
               "--data", data / "dogs_vs_cats_train_2000", "--audit", data / "dogs_vs_cats_400")  # fmt: skip
    assert len(certificates(text)) == 2
    assert max(certificates(text)) < 1e-5
    for key in ("resnet18", "lite0"):
        assert (tmp_path / key / "classifier.json").is_file()
        pictures = [written(folder) for folder in sorted((tmp_path / "overlays" / key).iterdir())]
        assert 24 <= sum(map(len, pictures)) <= 30
    assert "Comparison of run 'lite0' with 'resnet18' before it" in text


@pytest.mark.slow
def test_cifar10_epochs(data, tmp_path):
    text = run("cifar10_epochs.py", "--quick", "--out", tmp_path / "out", "--data", data / "cifar10")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"epoch_1", "epoch_3"}
    assert len(certificates(text)) == 2
    assert max(certificates(text)) < 1e-5
    found = re.search(
        r"over all images \(200\): ([\d.]+) at epoch 1, ([\d.]+) at epoch 3; difference (\S+) "
        r"\(95% interval (\S+) to (\S+)\)",
        text,
    )
    before, after, difference, low, high = (float(number) for number in found.groups())
    assert 0 <= min(before, after) <= max(before, after) <= 1
    assert difference == pytest.approx(after - before, abs=0.0011)
    assert low < difference < high
