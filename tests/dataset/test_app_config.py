"""What a run leaves in the dataset's App settings: beside the user's own, and gone with the run."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.core.odm as foo
import numpy as np
import pytest
from skimage.color import rgb2lab

from fiftyone_cam.core.display import HEAT, SIGNED
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.dataset import app_config, internals
from fiftyone_cam.runs import catalog
from tests.helpers.stored_runs import registered_run


@pytest.fixture()
def labelled(dataset: fo.Dataset) -> fo.Dataset:
    dataset.add_sample(fo.Sample(filepath="/nowhere/cat.jpg", ground_truth=fo.Classification(label="cat")))
    return dataset


def stored(dataset: fo.Dataset) -> dict[str, object]:
    """The App settings in the database, not in this process's memory; an empty list there is as good as none."""
    dataset.reload()
    settings = dataset.app_config.to_dict()
    scheme = {name: value for name, value in (settings.get("color_scheme") or {}).items() if value}
    return {**settings, "color_scheme": scheme}


def test_showing_twice_is_showing_once(labelled: fo.Dataset) -> None:
    registered_run(labelled, contrast=True)
    catalog.load_run(labelled, "cam").show()
    once = stored(labelled)
    catalog.load_run(labelled, "cam").show()
    assert stored(labelled) == once


def test_the_users_settings_stay(labelled: fo.Dataset) -> None:
    mine = {"path": "ground_truth", "fieldColor": "#123456"}
    scale = {"path": "depth", "name": "jet", "list": None}
    labelled.app_config.color_scheme = fo.ColorScheme(
        color_by="field", opacity=0.3, color_pool=["#ff0000"], fields=[mine], colorscales=[scale]
    )
    labelled.app_config.sidebar_groups = [foo.SidebarGroupDocument(name="mine", paths=["ground_truth", "cam_error"])]
    labelled.app_config.active_fields = fo.ActiveFields(paths=["filepath"])
    labelled.save()
    registered_run(labelled, contrast=True)
    catalog.load_run(labelled, "cam").show()
    stored(labelled)

    scheme = labelled.app_config.color_scheme
    assert (scheme.color_by, scheme.opacity, scheme.color_pool) == ("field", 0.3, ["#ff0000"])
    assert mine in scheme.fields
    assert scale in scheme.colorscales
    groups = {group.name: group.paths for group in labelled.app_config.sidebar_groups}
    assert groups["mine"] == ["ground_truth", "cam_error"]
    assert groups["CAM"] == ["cam_prediction", "cam_heatmap", "cam_contrast"]
    assert labelled.app_config.active_fields.paths == ["filepath", "cam_prediction", "cam_heatmap"]


def test_a_scale_that_was_chosen_stays_until_another_is_asked_for(labelled: fo.Dataset) -> None:
    registered_run(labelled, contrast=True)
    labelled.app_config.color_scheme = fo.ColorScheme(
        colorscales=[{"path": "cam_heatmap", "name": "hot", "list": None}]
    )
    labelled.save()
    catalog.load_run(labelled, "cam").show()
    entry = _scale(labelled, "cam_heatmap")
    assert entry["name"] == "hot"
    assert len(entry["rgb"]) == 256  # the App would not draw it otherwise
    catalog.load_run(labelled, "cam").show(colors="jet")
    assert _scale(labelled, "cam_heatmap")["name"] == "jet"
    assert _scale(labelled, "cam_contrast")["name"] is None
    catalog.load_run(labelled, "cam").show()
    assert _scale(labelled, "cam_heatmap")["name"] == "jet"


def test_what_is_arranged_already_is_not_saved_again(labelled: fo.Dataset) -> None:
    run = registered_run(labelled, contrast=True)
    run.arrange()
    saved = internals.datasets().find_one({"_id": internals.dataset_id(labelled)})
    run.arrange()
    assert internals.datasets().find_one({"_id": internals.dataset_id(labelled)}) == saved
    run.arrange(colors="jet")
    assert _scale(labelled, "cam_heatmap")["name"] == "jet"


def test_an_unknown_scale_is_refused(labelled: fo.Dataset) -> None:
    registered_run(labelled, contrast=True)
    with pytest.raises(CamError, match="no colour scale 'jett'"):
        catalog.load_run(labelled, "cam").show(colors="jett")


def test_the_newest_heatmap_is_the_one_that_is_visible(labelled: fo.Dataset) -> None:
    for key in ("one", "two"):
        registered_run(labelled, key, contrast=True)
        catalog.load_run(labelled, key).show()
    visible = app_config.visible(labelled)
    assert "two_heatmap" in visible
    assert "one_heatmap" not in visible
    assert {"ground_truth", "one_prediction", "two_prediction"} <= set(visible)


def test_a_heatmap_takes_the_place_of_its_like_and_all_else_stays(labelled: fo.Dataset) -> None:
    registered_run(labelled, "one", contrast=True).show()
    ticked = ["one_contrast", "filepath", "one_heatmap", "one_prediction"]  # ground_truth is not among them
    app_config.keep_visible(labelled, [*ticked, "gone"])
    registered_run(labelled, "two", contrast=True).show()
    expected = ["two_contrast", "filepath", "two_heatmap", "one_prediction", "two_prediction"]
    assert app_config.visible(labelled) == expected
    catalog.delete_run(labelled, "two")
    assert app_config.visible(labelled) == ticked  # those of the run before are back


def test_a_heatmap_without_its_like_makes_place(labelled: fo.Dataset) -> None:
    registered_run(labelled, "one", contrast=True).show()
    app_config.keep_visible(labelled, ["one_heatmap", "one_contrast"])
    registered_run(labelled, "two").show()
    assert app_config.visible(labelled) == ["two_heatmap", "two_prediction"]


def test_what_covers_whole_objects_is_found(dataset: fo.Dataset) -> None:
    ring = [[(0.1, 0.1), (0.9, 0.1), (0.5, 0.9)]]
    box = [0.1, 0.1, 0.5, 0.5]
    dataset.add_sample(
        fo.Sample(
            filepath="/nowhere/a.jpg",
            outlines=fo.Polylines(polylines=[fo.Polyline(points=ring, closed=True)]),
            areas=fo.Polylines(polylines=[fo.Polyline(points=ring, closed=True, filled=True)]),
            boxes=fo.Detections(detections=[fo.Detection(label="cat", bounding_box=box)]),
            masks=fo.Detections(detections=[fo.Detection(label="cat", bounding_box=box, mask=np.ones((4, 4), bool))]),
            parts=fo.Segmentation(mask=np.ones((4, 4), np.uint8)),
            unticked=fo.Segmentation(mask=np.ones((4, 4), np.uint8)),
            kind=fo.Classification(label="cat"),
        )
    )
    app_config.keep_visible(dataset, ["outlines", "areas", "boxes", "masks", "parts", "kind"])
    assert app_config.filled(dataset) == ["areas", "masks", "parts"]
    run = registered_run(dataset)
    run.hide_filled()
    run.show()
    assert app_config.visible(dataset) == ["outlines", "boxes", "kind", "cam_prediction", "cam_heatmap"]
    assert "areas, masks, parts: drawn over whole objects" in str(catalog.load_run(dataset, "cam"))
    run.delete()  # and what was hidden is back
    assert set(app_config.visible(dataset)) == {"outlines", "boxes", "kind", "areas", "masks", "parts"}


def test_numbers_are_folded_away_and_labels_come_first(labelled: fo.Dataset) -> None:
    run = registered_run(labelled, contrast=True)
    for name, kind in (("inside", fo.FloatField), ("correct", fo.BooleanField), ("verdict", fo.StringField)):
        run.claim_field(name, ftype=kind)
    run.arrange()
    run.arrange()
    found = app_config.groups(labelled)
    assert [(group["name"], group["expanded"]) for group in found] == [("CAM", True), ("CAM numbers", False)]
    assert [path.removeprefix("cam_") for path in found[0]["paths"]] == (
        ["prediction", "heatmap", "contrast", "verdict", "error"]
    )
    assert found[1]["paths"] == ["cam_inside", "cam_correct"]  # as they were written
    run.delete()
    assert app_config.groups(labelled) == []


def test_fields_that_the_user_hides_stay_hidden(labelled: fo.Dataset) -> None:
    labelled.app_config.active_fields = fo.ActiveFields(exclude=True, paths=["ground_truth"])
    labelled.save()
    registered_run(labelled, contrast=True)
    catalog.load_run(labelled, "cam").show()
    assert "ground_truth" not in app_config.visible(labelled)
    assert "cam_heatmap" in app_config.visible(labelled)


def test_forgetting_undoes_showing(labelled: fo.Dataset) -> None:
    labelled.app_config.color_scheme = fo.ColorScheme(color_by="value", fields=[], colorscales=[])
    labelled.app_config.sidebar_groups = fo.DatasetAppConfig.default_sidebar_groups(labelled)
    labelled.app_config.active_fields = fo.DatasetAppConfig.default_active_fields(labelled)
    labelled.save()
    before = stored(labelled)
    run = registered_run(labelled, contrast=True)
    catalog.load_run(labelled, "cam").show()
    assert stored(labelled) != before
    fields_of_run = list(run.fields)
    run.delete()
    app_config.forget(labelled, fields_of_run)
    assert stored(labelled) == before


@pytest.mark.parametrize("scale", [HEAT, SIGNED])
def test_scales_are_even_to_the_eye(scale: tuple[str, ...]) -> None:
    """Lightness rises in even steps: equal steps of evidence look equal."""
    lightness = _lightness(scale)
    if scale is SIGNED:
        middle = len(scale) // 2
        assert np.abs(lightness - lightness[::-1]).max() < 1  # both signs are equally strong
        lightness = lightness[middle:]
    steps = np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() / steps.min() < 1.5


def _lightness(scale: tuple[str, ...]) -> np.ndarray:
    rgb = np.array([[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in scale])
    return rgb2lab(rgb[None])[0, :, 0]


def _scale(dataset: fo.Dataset, path: str) -> dict[str, object]:
    dataset.reload()
    [entry] = [entry for entry in dataset.app_config.color_scheme.colorscales if entry["path"] == path]
    return entry
