"""A classifier as FiftyOne's own model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import fiftyone_cam as focam


def test_apply_model_gives_the_same(photos, classifier):
    Path(photos.first().filepath).write_text("no picture")
    focam.compute_cam(photos, classifier)
    photos.apply_model(classifier, label_field="am", batch_size=5, num_workers=0)
    assert photos.count("am_heatmap") == 11, "one bad file cost its whole batch"
    assert photos.values("am_prediction.label") == photos.values("cam_prediction.label")
    for a, b in zip(photos.values("am_heatmap"), photos.values("cam_heatmap"), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a.cam.grid, b.cam.grid, rtol=1e-4, atol=1e-6)
    image = np.asarray(Image.open(photos.last().filepath).convert("RGB"))
    assert classifier.predict(image)["prediction"].label == photos.last().cam_prediction.label
