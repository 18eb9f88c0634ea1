"""Exported overlays: the right pixels in the right place, under names that harm nobody."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import cv2
import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.analysis.export_overlays import COLUMNS, ON_SHEET, export_overlays
from fiftyone_cam.core.contact_sheet import Card, contact_sheet, shrink
from fiftyone_cam.core.errors import CamError, FieldError, RunError
from fiftyone_cam.core.image import read_image
from fiftyone_cam.core.overlay import blend
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from tests.helpers.networks import tiny_gap, write_photos

CLASSES = ["../../etc/passwd", "=cmd|' /C calc'!A0\n", "Ägypten 猫"]
CROPPED = Preprocessing((Resize(short=40), CenterCrop((32, 32))))
NAME = re.compile(r"[A-Za-z0-9_-]{1,85}\.png")


@pytest.fixture(scope="module")
def classifier():
    return focam.load_classifier(tiny_gap(), CLASSES, preprocessing=CROPPED)


def explained(dataset, paths, classifier, labels=None):
    dataset.add_samples(
        [
            fo.Sample(filepath=str(path), ground_truth=fo.Classification(label=CLASSES[index % 3]))
            for index, path in enumerate(paths)
        ]
    )
    return focam.compute_cam(dataset, classifier, key="cam", ground_truth="ground_truth", progress=False)


@pytest.fixture()
def photos(dataset, tmp_path, classifier):
    """Twelve photos with maps."""
    folder = tmp_path / "photos"
    folder.mkdir()
    explained(dataset, write_photos(folder, 12), classifier)
    return dataset


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    return rows


def read_png(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# pixels


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_each_picture_holds_the_signed_map_over_its_photo_where_the_manifest_says(photos, tmp_path, text, side_by_side):
    out = tmp_path / "out"
    export_overlays(photos, "cam", out, "inferno", 0.4, text, side_by_side, progress=False)
    scale = focam.load_run(photos, "cam").record.scale
    rows = {row["id"]: row for row in listed(out)}
    assert len(rows) == 12
    for sample in photos:
        row, photo = rows[sample.id], read_image(sample.filepath)
        height, width = photo.shape[:2]
        left, top = int(row["left"]), int(row["top"])
        assert (int(row["width"]), int(row["height"])) == (width, height)
        signed = focam.signed_map(sample.cam_heatmap, (height, width))
        picture = read_png(out / row["file"])
        expected = blend(photo, signed, sample.cam_heatmap.cam.seen, scale, "inferno", 0.4)
        assert (picture[top : top + height, left : left + width] == expected).all()
        unseen = signed == 0
        assert 0 < unseen.sum() < unseen.size
        assert (expected[unseen] == photo[unseen]).all()
        assert (left > 0, top > 0) == (side_by_side, text)
        if side_by_side:
            assert (picture[top : top + height, :width] == photo).all()
        if not (text or side_by_side):
            assert picture.shape == photo.shape
        assert float(row["logit"]) == pytest.approx(sample.cam_heatmap.logit)
        assert (row["label"], row["truth"]) == (sample.cam_prediction.label, sample.ground_truth.label)


def test_a_photo_that_lies_on_its_side_stands_upright_and_the_map_on_it(dataset, tmp_path, classifier):
    [path] = write_photos(tmp_path, 1)
    upright = Image.open(path)
    exif = upright.getexif()
    exif[0x0112] = 6  # shown turned by a quarter to the right
    turned = tmp_path / "turned.jpg"
    upright.transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif, quality=95)
    explained(dataset, [path, turned], classifier)
    out = tmp_path / "out"
    export_overlays(dataset, "cam", out, text=False, progress=False)
    straight, rotated = (read_png(out / row["file"]).astype(float) for row in listed(out))
    assert rotated.shape == straight.shape == (48, 64, 3)
    assert np.abs(rotated - straight).mean() < 6  # what JPEG and the network's answer to it make


@pytest.mark.parametrize("size", [(1, 1), (20, 2000), (2000, 20)])
def test_any_size_gives_a_picture(dataset, tmp_path, classifier, size):
    path = tmp_path / "odd.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    explained(dataset, [path], classifier)
    for number, options in enumerate(({}, {"text": False}, {"side_by_side": True})):
        export_overlays(dataset, "cam", tmp_path / str(number), progress=False, **options)
        [row] = listed(tmp_path / str(number))
        assert row["error"] == ""
        assert read_png(tmp_path / str(number) / row["file"]).shape[0] >= size[0]


# names and lists


def test_names_never_collide_and_no_label_or_path_reaches_them(dataset, tmp_path, classifier):
    paths = []
    names = ["a", "a b", "a;rm -rf ~", "con", "..x..", "x" * 200, "фото", "-rf", "A", "$(id)"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name, path in zip(names, write_photos(tmp_path / folder, len(names)), strict=True):
            paths.append(Path(path).rename(tmp_path / folder / f"{name}.png"))
    explained(dataset, paths, classifier)
    out = tmp_path / "out"
    result = export_overlays(dataset, "cam", out, progress=False)
    rows = listed(out)
    files = [row["file"] for row in rows]
    assert result.written == len(paths) == len(set(files)) == len({file.lower() for file in files})
    assert all(NAME.fullmatch(file) and not file.startswith("-") for file in files)
    assert {path.name for path in out.iterdir()} == {*files, "manifest.csv", "contact_sheet.png"}
    assert [row["filepath"] for row in rows] == [str(path) for path in paths]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "out"}


def test_samples_without_a_map_or_a_photo_are_listed_with_the_reason(dataset, tmp_path, classifier):
    paths = write_photos(tmp_path, 5)
    Path(paths[1]).write_bytes(b"no picture")
    run = explained(dataset, paths, classifier)
    [late] = write_photos(tmp_path, 1, seed=9)
    dataset.add_sample(fo.Sample(filepath=late))
    Path(paths[2]).unlink()
    result = export_overlays(dataset, "cam", tmp_path / "out", progress=False)
    [_, broken, gone, _, _, new] = listed(tmp_path / "out")
    assert broken["error"] == next(iter(run.failures))
    assert (gone["error"], new["error"]) == ("file not found", "no map was computed")
    assert result.written == 3
    assert sum(result.skipped.values()) == 3
    assert "1 x file not found" in str(result)
    assert len(list((tmp_path / "out").glob("photo*.png"))) == 3


def test_the_sheet_shows_the_worst_first(dataset, tmp_path, classifier):
    """Wrong and sure, wrong and unsure; under a heading of their own right and unsure, right and sure."""
    explained(dataset, write_photos(tmp_path, ON_SHEET + 6), classifier)
    out = tmp_path / "out"
    result = export_overlays(dataset, "cam", out, text=False, progress=False)
    rows = listed(out)
    wrong = sorted((row for row in rows if row["right"] == "False"), key=lambda row: -float(row["confidence"]))
    right = sorted((row for row in rows if row["right"] == "True"), key=lambda row: float(row["confidence"]))
    assert wrong
    assert right
    right = right[: ON_SHEET - len(wrong)]

    def card(row: dict[str, str], *more: str) -> Card:
        return Card(shrink(read_png(out / row["file"])), [f"{row['label']} {float(row['confidence']):.1%}", *more])

    expected = contact_sheet(
        [
            (f"Wrong: {len(wrong)}, the most confident first", [card(row, f"truth: {row['truth']}") for row in wrong]),
            (f"Right: {len(right)}, the least confident first", [card(row) for row in right]),
        ]
    )
    assert (read_png(result.contact_sheet) == expected).all()


# the folder


def test_files_of_others_are_never_overwritten(photos, tmp_path):
    export_overlays(photos, "cam", tmp_path / "first", progress=False)
    names = [*contents(tmp_path / "first")]
    for number, name in enumerate(
        ("manifest.csv", "contact_sheet.png", next(n for n in names if n.startswith("photo")))
    ):
        out = tmp_path / str(number)
        out.mkdir()
        (out / name).write_text("file,of,somebody,else\n1,2,3,4\n")
        (out / "holiday.png").write_bytes(b"dear")
        before = contents(out)
        with pytest.raises(CamError, match=f"no export wrote, such as {re.escape(name)}"):
            export_overlays(photos, "cam", out, progress=False)
        assert contents(out) == before


def test_a_manifest_of_another_version_is_refused_and_one_from_before_versions_goes_on(photos, tmp_path):
    out = tmp_path / "out"
    export_overlays(photos.limit(4), "cam", out, progress=False)
    rows = listed(out)
    assert {row["schema_version"] for row in rows} == {"1"}
    for version in ("2", None):
        with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS if version else COLUMNS[:-1], extrasaction="ignore")
            writer.writeheader()
            writer.writerows({**row, "schema_version": version} for row in rows)
        before = contents(out)
        if version:
            with pytest.raises(CamError, match=r"manifest.csv is of version 2, expected 1: give another folder"):
                export_overlays(photos.skip(3).limit(3), "cam", out, progress=False)
            assert contents(out) == before
    export_overlays(photos.skip(4).limit(2), "cam", out, progress=False)
    found = listed(out)
    assert [row for row in found if row["id"] in {row["id"] for row in rows}] == rows
    assert (len(found), {row["schema_version"] for row in found}) == (6, {"1"})


def test_other_files_beside_are_left_alone(photos, tmp_path):
    (tmp_path / "holiday.png").write_bytes(b"dear")
    export_overlays(photos, "cam", tmp_path, progress=False)
    assert (tmp_path / "holiday.png").read_bytes() == b"dear"


def test_exporting_again_gives_the_same_and_exporting_more_adds(photos, tmp_path):
    out = tmp_path / "out"
    export_overlays(photos.limit(4), "cam", out, progress=False)
    first = contents(out)
    export_overlays(photos.limit(4), "cam", out, progress=False)
    assert contents(out) == first
    export_overlays(photos.skip(3).limit(3), "cam", out, colormap="hot", progress=False)
    second, rows = contents(out), listed(out)
    assert len(rows) == 6
    assert {row["file"] for row in rows} == {*second} - {"manifest.csv", "contact_sheet.png"}
    kept = [name for name in first if second[name] == first[name]]
    assert len(kept) == 3  # the fourth was replaced


def test_an_interrupted_export_says_so_and_the_next_one_completes_it(photos, tmp_path):
    out = tmp_path / "out"

    def cancel(bar) -> None:
        if bar.iteration >= 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        export_overlays(photos, "cam", out, progress=cancel)
    errors = [row["error"] for row in listed(out)]
    written = [row["file"] for row in listed(out) if not row["error"]]
    assert "not written: the export was interrupted" in errors
    assert all(read_png(out / name) is not None for name in written)
    assert len(written) >= 3
    assert not list(out.glob(".*"))
    assert export_overlays(photos, "cam", out, progress=False).written == 12


def test_a_full_disk_is_named_and_leaves_no_half_pictures(photos, tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = tmp_path / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(big)
    sample = photos.last()
    sample["filepath"] = str(big)
    sample.save()
    out = tmp_path / "out"
    try:  # writing fails beyond so many bytes, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(CamError, match=r"big-\w+\.png cannot be written"):
            export_overlays(photos, "cam", out, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.glob("*big*"))
    assert not list(out.glob(".*"))
    assert export_overlays(photos, "cam", out, progress=False).written == 12


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_folder_that_cannot_be_is_named(photos, tmp_path, where):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(CamError, match="cannot be made"):
        export_overlays(photos, "cam", tmp_path / where, progress=False)


def test_progress_is_fiftyones_bar_up_to_all_pictures(photos, tmp_path):
    seen = []
    export_overlays(photos, "cam", tmp_path, progress=lambda bar: seen.append((bar.iteration, bar.total)))
    assert seen[-1] == (12, 12)


def test_what_is_asked_wrongly_is_refused_before_a_folder_is_made(photos, tmp_path):
    out = tmp_path / "out"
    for error, arguments in (
        (RunError, ("nope", out)),
        (CamError, ("cam", out, "rainbows")),
        (CamError, ("cam", out, "jet", 2.0)),
        (CamError, ("cam", out, "jet", "x")),
        (CamError, ("cam", None)),
    ):
        with pytest.raises(error):
            export_overlays(photos, *arguments)
    assert not out.exists()


def test_a_field_that_is_missing_is_named_and_a_truth_that_was_deleted_is_not_known(photos, tmp_path):
    with pytest.raises(FieldError, match="the view leaves out the field"):
        export_overlays(photos.select_fields("filepath"), "cam", tmp_path / "out")
    photos.delete_sample_field("ground_truth")
    export_overlays(photos, "cam", tmp_path / "out", progress=False)
    assert {row["right"] for row in listed(tmp_path / "out")} == {""}
    photos.delete_sample_field("cam_error")
    with pytest.raises(FieldError, match="the dataset has no field 'cam_error'"):
        export_overlays(photos, "cam", tmp_path / "out")


def test_predictions_are_judged_in_the_words_of_the_class_map(dataset, tmp_path, classifier):
    dataset.add_samples(
        [fo.Sample(filepath=path, ground_truth=fo.Classification(label="thing")) for path in write_photos(tmp_path, 3)]
    )
    other = fo.Sample(filepath=write_photos(tmp_path, 1, seed=1)[0], ground_truth=fo.Classification(label="no class"))
    dataset.add_sample(other)
    words = dict.fromkeys(CLASSES, "thing")
    focam.compute_cam(dataset, classifier, "cam", ground_truth="ground_truth", class_map=words, progress=False)
    export_overlays(dataset.match(F("ground_truth.label") == "thing"), "cam", tmp_path / "out", progress=False)
    assert {row["right"] for row in listed(tmp_path / "out")} == {"True"}
    export_overlays(dataset[[other.id]], "cam", tmp_path / "unknown", progress=False)
    assert [row["right"] for row in listed(tmp_path / "unknown")] == [""]
