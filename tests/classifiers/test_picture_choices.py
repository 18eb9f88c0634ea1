"""What of a picture the network gets: the source's own crop, the whole picture, another input size."""

from __future__ import annotations

import pytest
import torch

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import CenterCrop, Pad, Preprocessing, Resize
from tests.helpers.networks import NAMES, SQUARE, tiny_gap

CROPPED = Preprocessing((Resize(short=256), CenterCrop((224, 224))))
SIZES = [(300, 500), (500, 300), (64, 64), (1000, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_of_a_whole_picture_is_cut_off_and_the_input_stays_as_large(size):
    whole = CROPPED.whole_picture()
    assert whole.frame(*size) == (0, 0, 1, 1)
    assert whole.input_size(*size) == (224, 224)
    assert (whole.mean, whole.std, whole.interpolation) == (CROPPED.mean, CROPPED.std, CROPPED.interpolation)
    image = torch.arange(size[0] * size[1] * 3).remainder(251).to(torch.uint8).view(3, *size)
    assert torch.equal(whole.apply(image), Preprocessing((Resize(size=(224, 224)),)).apply(image))


@pytest.mark.parametrize("kept", [SQUARE, Preprocessing(), Preprocessing((Resize(long=96), Pad((96, 96))))])
def test_what_cuts_nothing_off_stays_as_it_is(kept):
    assert kept.whole_picture() is kept


@pytest.mark.parametrize("factor", [0.5, 1, 2])
@pytest.mark.parametrize(
    "steps",
    [
        (Resize(short=256), CenterCrop((224, 224))),
        (Resize(size=(64, 96)),),
        (Resize(long=128), Pad((128, 128))),
        (Resize(cover=(224, 224)), CenterCrop((224, 224))),
    ],
)
def test_another_size_shows_the_same_part_of_the_picture(steps, factor):
    before = Preprocessing(steps)
    height, width = (round(side * factor) for side in before.input_size())
    after = before.resized(height, width)
    for size in SIZES[:3]:
        assert after.input_size(*size) == (height, width)
        assert after.frame(*size) == pytest.approx(before.frame(*size), abs=0.03)


def test_a_size_of_another_aspect_is_made_without_stretching_what_is_cropped():
    after = CROPPED.resized(112, 448)
    assert after.input_size(300, 500) == (112, 448)
    x, y, w, h = after.frame(300, 500)
    assert w * 500 / (h * 300) == pytest.approx(4, abs=0.05)
    assert min(x, y) >= 0


def test_the_caller_chooses_and_the_classifier_says_so():
    classifier = focam.load_classifier("resnet18", weights=None, input_size=96, whole_picture=True)
    assert classifier.network.preprocessing.steps == (Resize(size=(96, 96)),)
    assert classifier.network.head.error < 1e-5
    check = classifier.checks["pixels"]
    assert check.passed  # of the source's own reading, which is held against the source's own code
    assert check.detail.endswith("; then for an input of 96x96, as asked; then of the whole picture, as asked")
    assert classifier.describe().details == {"input_size": [96, 96], "whole_picture": True}
    given = focam.load_classifier(tiny_gap(), NAMES, preprocessing=CROPPED, input_size=(64, 128))
    assert given.network.preprocessing.input_size() == (64, 128)


@pytest.mark.parametrize("wrong", [0, -3, 10**6, "224", (64,), (64, 64, 3), 2.5, True, {}])
def test_a_size_that_is_none_is_named(wrong):
    with pytest.raises(focam.SourceError, match="expected a side or"):
        focam.load_classifier(tiny_gap(), NAMES, preprocessing=CROPPED, input_size=wrong)


def test_a_loaded_classifier_stays_as_it_is(classifier):
    with pytest.raises(focam.SourceError, match="leave out input_size, whole_picture"):
        focam.load_classifier(classifier, input_size=64, whole_picture=True)
