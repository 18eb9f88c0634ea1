"""The scorecard that runs the network: a map that the network really uses beats one that it does not."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fiftyone_cam as focam


class Corner(nn.Module):
    """A network that is right by its nature: it measures red in each cell, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 8, stride=8)
        self.fc = nn.Linear(4, 2)
        with torch.no_grad():
            self.features.weight.normal_(0, 1e-3)
            self.features.weight[0, 0] = 1 / 64
            self.features.bias.zero_()
            self.fc.weight.zero_()
            self.fc.weight[0, 0] = 20
            self.fc.bias.copy_(torch.tensor([-1.0, 0.0]))

    def forward(self, x):
        return self.fc(self.features(x).relu().mean((2, 3)))


@pytest.fixture()
def red_corners(dataset, tmp_path):
    """Grey pictures with a red square in a corner, another one each time."""
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.integers(40, 60, (64, 64, 3), dtype=np.uint8)
        top, left = 40 * (i % 2), 40 * (i // 2 % 2)
        picture[top : top + 24, left : left + 24, 0] = 250
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        dataset.add_sample(fo.Sample(filepath=str(tmp_path / f"{i}.png")))
    dataset.add_sample(fo.Sample(filepath=str(tmp_path / "gone.png")))
    preprocessing = focam.Preprocessing((focam.Resize(size=(64, 64)),), (0.2,) * 3, (0.3,) * 3)
    torch.manual_seed(0)
    return dataset, focam.load_classifier(Corner(), ["red", "grey"], preprocessing=preprocessing)


def test_maps_that_are_used_beat_random_and_centre(red_corners):
    dataset, classifier = red_corners
    report = focam.score_faithfulness(dataset, classifier)
    assert report.count == 8  # the file that is gone is passed over
    for name in ("random", "centre"):
        assert report.scores.insertion > report.baselines[name].insertion
        assert report.scores.deletion < report.baselines[name].deletion - 0.2
        assert report.scores.road_morf < report.baselines[name].road_morf - 0.2
        assert report.scores.average_drop < report.baselines[name].average_drop
    for name, (low, high) in report.intervals.items():
        assert low - 1e-6 <= getattr(report.scores, name) <= high + 1e-6
    assert "ROAD" in str(report)


def test_random_layers_change_the_maps(red_corners):
    """The sanity check: with the filter drawn anew, the map has another order."""
    dataset, classifier = red_corners
    before = {name: value.clone() for name, value in classifier.network.module.state_dict().items()}
    report = focam.score_faithfulness(dataset, classifier, count=4)
    assert report.sanity["features alone"] < 0.8
    assert all(abs(value) <= 1 for value in report.sanity.values())
    assert all(torch.equal(before[name], value) for name, value in classifier.network.module.state_dict().items())
    again = focam.score_faithfulness(dataset, classifier, count=4)
    assert again.scores == report.scores


def test_nothing_to_score_is_refused(dataset, red_corners):
    _, classifier = red_corners
    with pytest.raises(focam.CamError, match="none of the 1 images can be read"):
        focam.score_faithfulness(dataset[8:], classifier)
    with pytest.raises(focam.CamError, match="count is 0"):
        focam.score_faithfulness(dataset, classifier, count=0)
