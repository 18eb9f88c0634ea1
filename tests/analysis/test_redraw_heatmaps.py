"""Heatmaps drawn anew are those that the run would have drawn, whatever version wrote them, and no map changes."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.errors import CamError
from fiftyone_cam.core.results import ClassMap, Explanation
from fiftyone_cam.dataset import bulk
from fiftyone_cam.runs.cam_run import CamRun
from fiftyone_cam.runs.heatmaps import CONTRAST, HEATMAP, sample_documents
from tests.helpers.stored_runs import as_version_1, registered_run, snapshot

BOX, SEEN = (-0.1, 0.05, 1.1, 0.9), (0.0, 0.05, 1.0, 0.9)
SCALE, CONTRAST_SCALE = 6.0, 3.0


@pytest.fixture()
def run(dataset: fo.Dataset, rng: np.random.Generator) -> CamRun:
    """Four samples, one of them without a map, drawn with the usual threshold."""
    ids = dataset.add_samples([fo.Sample(filepath=f"/none/{i}.jpg") for i in range(4)])
    run = registered_run(dataset, contrast=True)
    run.update(scale=SCALE, contrast_scale=CONTRAST_SCALE)
    grids = rng.normal(1, 3, size=(3, 2, 5, 7)).astype(np.float32)
    write(run, dict(zip(ids, grids, strict=False)), 0.15)
    return run


def write(run: CamRun, grids: dict[str, np.ndarray], threshold: float) -> None:
    """As a run with this threshold writes them."""
    documents = {}
    for id, (grid, other) in grids.items():
        maps = (ClassMap("cat", float(grid.mean()) + 0.25, 0.25, grid, 0.5),)
        contrast = ClassMap("cat", float(other.mean()), 0.0, other, None, "dog")
        found = sample_documents(
            Explanation(id, maps, contrast, BOX, SEEN, (480, 640), 0.0), SCALE, CONTRAST_SCALE, threshold
        )
        documents[id] = {run.field(name): found[name] for name in (HEATMAP, CONTRAST)}
    bulk.write(run.dataset, documents)


def grids_of(dataset: fo.Dataset) -> dict[str, np.ndarray]:
    found = {s.id: (s.cam_heatmap, s.cam_contrast) for s in dataset if s.cam_heatmap is not None}
    return {id: np.stack([heat.cam.grid for heat in pair]) for id, pair in found.items()}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1])
def test_redrawing_gives_what_the_run_would_have_drawn(dataset, run, threshold, earlier):
    grids = grids_of(dataset)
    fields = (run.field(HEATMAP), run.field(CONTRAST))
    before = [snapshot(dataset, field) for field in fields]
    write(run, grids, threshold)
    expected = [snapshot(dataset, field) for field in fields]
    assert expected[0] != before[0]
    write(run, grids, 0.15)
    if earlier:
        as_version_1(run)

    result = focam.redraw_heatmaps(dataset, "cam", threshold, progress=False)
    assert (result.heatmaps, result.fields, result.threshold) == (6, list(fields), threshold)
    assert [snapshot(dataset, field) for field in fields] == expected
    record = focam.load_run(dataset, "cam").record
    assert (record.threshold, record.schema_version) == (threshold, 2)
    for id, pair in grids_of(dataset).items():
        np.testing.assert_array_equal(pair, grids[id])


def test_some_samples_or_one_field_do_not_change_the_run(dataset, run):
    before = snapshot(dataset, "cam_heatmap"), snapshot(dataset, "cam_contrast")
    assert focam.redraw_heatmaps(dataset.limit(2), "cam", 0.5, progress=False).heatmaps == 4
    assert focam.redraw_heatmaps(dataset[2:], "cam", 0.5, field="cam_contrast", progress=False).heatmaps == 1
    assert focam.load_run(dataset, "cam").record.threshold == 0.15
    after = snapshot(dataset, "cam_heatmap"), snapshot(dataset, "cam_contrast")
    changed = [[one[id] != other[id] for id in one] for one, other in zip(before, after, strict=True)]
    assert changed == [[True, True, False, False], [True, True, True, False]]


def test_what_else_a_heatmap_holds_stays(dataset, run):
    sample = dataset.first()
    sample.cam_heatmap["mine"] = "kept"
    sample.cam_heatmap.tags.append("seen")
    sample.save()
    focam.redraw_heatmaps(dataset, "cam", 0.4, progress=False)
    dataset.reload()
    heat = dataset.first().cam_heatmap
    assert (heat["mine"], heat.tags, heat.id, heat.logit) == ("kept", ["seen"], sample.cam_heatmap.id, heat.logit)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.3", None, True])
def test_a_threshold_that_is_no_share_is_refused(dataset, run, threshold):
    with pytest.raises(CamError, match="expected a share of the run's scale: 0 to 1"):
        focam.redraw_heatmaps(dataset, "cam", threshold)


def test_a_field_that_is_no_heatmap_of_the_run_is_refused(dataset, run):
    with pytest.raises(CamError, match=r"'cam_prediction' is no heatmap of run 'cam': expected one of cam_heatmap, "):
        focam.redraw_heatmaps(dataset, "cam", 0.3, field="cam_prediction")
