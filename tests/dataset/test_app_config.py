"""What a run leaves in the dataset's App settings: beside the user's own, and gone with the run."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.core.odm as foo
import numpy as np
import pytest
from skimage.color import rgb2lab

from fiftyone_cam.core.errors import CamError
from fiftyone_cam.dataset import app_config
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


@pytest.mark.parametrize("scale", [app_config.HEAT, app_config.SIGNED])
def test_scales_are_even_to_the_eye(scale: tuple[str, ...]) -> None:
    """Lightness rises in even steps: equal steps of evidence look equal."""
    lightness = _lightness(scale)
    if scale is app_config.SIGNED:
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
