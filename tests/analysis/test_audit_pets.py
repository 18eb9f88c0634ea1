"""The audit of real photos with outlines drawn by people, against what was measured outside this project."""

from __future__ import annotations

import json

import fiftyone as fo
import numpy as np
import pytest

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.annotations import true


@pytest.fixture(scope="module")
def pets(data):
    """Oxford pets with whole-animal outlines; species, in the words of ImageNet's cat and dog classes, as truth."""
    folder = data / "oxford_pets_259"
    content = json.loads((folder / "instances_coco.json").read_text())
    outlines = {entry["image_id"]: entry["segmentation"] for entry in content["annotations"]}
    dataset = fo.Dataset()
    samples = []
    for image in content["images"]:
        size = np.array([image["width"], image["height"]])
        rings = [(np.array(ring).reshape(-1, 2) / size).tolist() for ring in outlines[image["id"]]]
        outline = fo.Polyline(points=rings, closed=True, filled=True)
        samples.append(
            fo.Sample(
                filepath=str(folder / "images" / image["file_name"]),
                ground_truth=true(image["species"]),
                animals=fo.Polylines(polylines=[outline]),
            )
        )
    dataset.add_samples(samples)
    yield dataset
    dataset.delete()


@pytest.mark.slow
def test_pets(pets):
    """Measured outside this project, on squashed photos: 55.6% inside, on 30.7% of the area; the peak inside for 82%.

    Here: 56.6% and 83.4%. Most of the difference is where the cells lie. They were measured to look a tenth of a cell
    lower than a plain division of the photo puts them; with the plain division it is 56.2% and 82.6%. As the network is
    meant to be fed, by a centre crop, it is 68.1%, of 45.6% of what is seen: more of that is animal.
    """
    lite = focam.load_classifier("efficientnet_lite0")
    species = {lite.classes[i]: "cat" if i >= 281 else "dog" for i in (*range(151, 269), *range(281, 286))}
    own = lite.network.preprocessing
    squashed = Preprocessing((Resize(size=(224, 224)),), own.mean, own.std, own.interpolation, own.antialias)
    tables = {}
    for key, classifier in (
        ("squashed", focam.load_classifier("efficientnet_lite0", preprocessing=squashed)),
        ("cropped", lite),
    ):
        focam.compute_cam(pets, classifier, key, ground_truth="ground_truth", class_map=species)
        tables[key] = focam.audit(pets, key, objects="animals")
        print(tables[key])

    total = tables["squashed"].classes[-1]
    assert total.inside == pytest.approx(0.556, abs=0.02)
    assert total.area == pytest.approx(0.307, abs=0.005)
    assert np.mean(pets.values("squashed_peak_inside")) == pytest.approx(0.82, abs=0.02)
    assert total.accuracy == pytest.approx(0.92, abs=0.02)
    for key, found in tables.items():
        counts = found.verdicts
        assert sum(counts.values()) + sum(found.unjudged.values()) == 259
        right = counts["trusted"] + counts["shortcut"]
        assert counts["trusted"] >= 0.9 * right, key  # a good network looks at the animal
        for name in ("evidence_in", "evidence_out"):
            assert None not in pets.values(f"{key}_{name}")
        inside, outside, bias, logit = map(
            np.array,
            pets.values([f"{key}_{n}" for n in ("evidence_in", "evidence_out", "heatmap.cam.bias", "heatmap.logit")]),
        )
        np.testing.assert_allclose(inside + outside + bias, logit, rtol=1e-5)
    comparison = focam.compare(pets, "squashed", "cropped")
    print(comparison)
    row = comparison.classes[-1]
    assert row.same + row.fixed + row.broken + row.changed == 259
