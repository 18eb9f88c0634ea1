"""A planted sticker that a network really learnt: found, and mended as well as by those who know where it is."""

from __future__ import annotations

import cv2
import fiftyone as fo
import numpy as np
import pytest
import torch
from fiftyone import ViewField as F

import fiftyone_cam as focam
from tests.helpers import shortcuts

pytestmark = pytest.mark.slow

TRAINING, ASKED, JUDGING = 400, 400, 800


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # layers this small are slower in many threads
    yield
    torch.set_num_threads(threads)


def written(folder, pictures):
    """A dataset of pictures; ``marked`` and ``things`` say where what was planted is, and where the object."""
    samples = []
    for i, picture in enumerate(pictures):
        path = str(folder / f"{i:03d}.png")
        cv2.imwrite(path, picture.image)
        samples.append(
            fo.Sample(
                filepath=path,
                ground_truth=fo.Classification(label=picture.label),
                marked="yes" if picture.marked else "no",
            )
        )
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    return dataset


def worst(dataset, key):
    """Accuracy of the worst of the four groups."""
    shares = []
    for label in shortcuts.CLASSES:
        for marked in ("yes", "no"):
            group = dataset.match((F("ground_truth.label") == label) & (F("marked") == marked))
            shares.append(len(group.match(F(f"{key}_prediction.label") == label)) / len(group))
    return min(shares)


@pytest.mark.parametrize(("usual", "behind"), [(0.95, 0.01), (1.0, 0.05)])
def test_found_groups_mend_nearly_as_well_as_given_ones(tmp_path, usual, behind):
    things, rng = shortcuts.material(), np.random.default_rng(7)
    classifier = shortcuts.trained(rng, list(shortcuts.pictures(rng, things, TRAINING, "sticker", usual)), 5)
    (tmp_path / "asked").mkdir()
    (tmp_path / "judging").mkdir()
    asked = written(tmp_path / "asked", shortcuts.pictures(rng, things, ASKED, "sticker", 0.5))
    judging = written(tmp_path / "judging", shortcuts.pictures(rng, things, JUDGING, "sticker", 0.5))
    try:
        focam.compute_cam(asked, classifier, ground_truth="ground_truth")
        report = focam.find_concepts(asked, "cam", classifier)
        first = report.concepts[0].name
        mended = {
            "plain": classifier,
            "found": focam.retrain_head(asked, "cam", classifier, groups=first),
            "given": focam.retrain_head(asked, "cam", classifier, groups="marked"),
            "nothing": focam.retrain_head(asked, "cam", classifier),
        }
        for key, each in mended.items():
            focam.compute_cam(judging, each, key=key, ground_truth="ground_truth")
        found = {key: worst(judging, key) for key in mended}
        print(usual, found)
        assert found["found"] >= found["given"] - behind
        assert found["found"] >= found["plain"] + 0.2
    finally:
        asked.delete()
        judging.delete()
