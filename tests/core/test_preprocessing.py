"""Preprocessing against torchvision's own transforms, and the way back against a bright spot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fiftyone_cam.classifiers.transforms import convert
from fiftyone_cam.core.boxes import clip_to_image
from fiftyone_cam.core.display import lay_out
from fiftyone_cam.core.explain import Explainer, prepare
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Bound, CenterCrop, Pad, Preprocessing, Resize
from fiftyone_cam.core.results import Item
from tests.helpers.networks import Brightness

PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
PREPROCESSINGS = {
    "as it is": Preprocessing((Resize(size=(128, 160)),), **PLAIN),
    "squash": Preprocessing((Resize(size=(128, 128)),), **PLAIN),
    "crop": Preprocessing((Resize(short=146), CenterCrop((128, 128))), **PLAIN),
    "tight crop": Preprocessing((Resize(short=256), CenterCrop((128, 96))), **PLAIN),
    "crop of a small image": Preprocessing((Resize(short=100), CenterCrop((128, 128))), **PLAIN),
    "letterbox": Preprocessing((Resize(long=128), Pad((128, 128), fill=0)), **PLAIN),
    "bound": Preprocessing((Bound(least=96, most=192),), interpolation="bicubic", **PLAIN),
}
sizes = st.tuples(st.integers(2, 500), st.integers(2, 500))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b3", "swin_t", "inception_v3", "regnet_y_16gf"])
def test_torchvision_presets_give_the_same_input(name, rng):
    preset = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    preprocessing = convert(preset)
    for size in ((375, 500), (640, 480), (300, 301)):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        photo = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC))
        tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
        ours = preprocessing.normalize(preprocessing.apply(tensor)[None])[0]
        for theirs in (preset(tensor), preset(Image.fromarray(photo))):  # each resizes with its own rounding
            assert (ours - theirs).abs().max() <= 2.01 / 255 / 0.224
            assert (ours - theirs).abs().mean() <= 0.5 / 255 / 0.224


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalizing_gives_the_same_bits_in_any_order_of_memory_and_keeps_the_order(channels):
    mean, std = (tuple(start + 0.01 * i for i in range(channels)) for start in (0.43, 0.21))
    preprocessing = Preprocessing(mean=mean, std=std, read=np.load)  # which may read any number of channels
    batch = torch.randint(0, 256, (2, channels, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = (batch.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    for order in (torch.contiguous_format, torch.channels_last):
        found = preprocessing.normalize(batch.contiguous(memory_format=order))
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=order)


@given(size=sizes, target=st.integers(8, 300), crop=st.integers(8, 300))
@settings(max_examples=60, deadline=None)
def test_sizes_round_as_in_torchvision(size, target, crop):
    steps = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(target), torchvision.transforms.CenterCrop(crop)]
    )
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    if max(size) / min(size) < 50:
        assert (
            Preprocessing((Resize(short=target), CenterCrop((crop, crop)))).apply(pixels).shape == steps(pixels).shape
        )
        assert Resize(short=target).target(*size) == tuple(torchvision.transforms.Resize(target)(pixels).shape[1:])


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS.values(), ids=PREPROCESSINGS)
def test_preprocessing_survives_json(preprocessing):
    import json

    data = preprocessing.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert Preprocessing.from_dict(data) == preprocessing


@given(size=sizes, name=st.sampled_from(sorted(PREPROCESSINGS)))
@settings(max_examples=80, deadline=None)
def test_the_frame_has_the_inputs_size_and_contains_what_was_seen(size, name):
    preprocessing = PREPROCESSINGS[name]
    pixels = preprocessing.apply(torch.zeros(3, *size, dtype=torch.uint8))
    assert tuple(pixels.shape[1:]) == preprocessing.input_size(*size)
    x, y, w, h = preprocessing.frame(*size)
    seen = clip_to_image((x, y, w, h))
    assert w > 0
    assert h > 0
    assert x - 1e-9 <= seen[0]
    assert seen[0] + seen[2] <= x + w + 1e-9
    assert y - 1e-9 <= seen[1]
    assert seen[1] + seen[3] <= y + h + 1e-9


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_the_peak_is_where_the_spot_is(name, orientation, rng, tmp_path):
    """The alignment law: one bright spot, anywhere that is seen; the map's peak lies within one cell of it."""
    preprocessing = PREPROCESSINGS[name]
    network = GapNetwork(Brightness(16), ["light", "dark"], preprocessing)
    explainer = Explainer(network, classes=[0])
    for height, width in ((240, 320), (320, 240), (150, 450), (450, 150), (256, 256)):
        seen = clip_to_image(preprocessing.frame(height, width))
        cell = (
            preprocessing.frame(height, width)[2] / (preprocessing.input_size(height, width)[1] // 16),
            preprocessing.frame(height, width)[3] / (preprocessing.input_size(height, width)[0] // 16),
        )
        x = seen[0] + seen[2] * rng.uniform(0.03, 0.97)
        y = seen[1] + seen[3] * rng.uniform(0.03, 0.97)
        picture = np.zeros((height, width, 3), np.uint8)
        rows = np.abs((np.arange(height) + 0.5) / height - y) < max(cell[1] / 4, 2 / height)
        columns = np.abs((np.arange(width) + 0.5) / width - x) < max(cell[0] / 4, 2 / width)
        picture[np.ix_(rows, columns)] = 255
        path = tmp_path / f"spot_{height}.png"
        _save_turned(picture, orientation, path)

        prepared = prepare(Item("spot", str(path)), preprocessing)
        [result] = explainer([prepared])
        assert prepared.size == (height, width)  # as displayed
        shown = lay_out(result.maps[0].grid, result.box, result.seen, 90, 90)
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        assert abs((column + 0.5) / 90 - x) <= cell[0], (height, width)
        assert abs((row + 0.5) / 90 - y) <= cell[1], (height, width)


def _save_turned(picture: np.ndarray, orientation: int, path) -> None:
    """A file whose stored pixels are turned, and whose EXIF tag says how to turn them back."""
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = back
    image = Image.fromarray(picture)
    image.getexif().update(exif)
    stored = ImageOps.exif_transpose(image)
    tag = Image.Exif()
    tag[0x0112] = orientation
    stored.save(path, exif=tag)
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), picture)


def test_a_step_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="exactly one of short, long, size"):
        Resize(short=3, long=4)
    for make in (CenterCrop, Pad, lambda size: Resize(size=size), lambda size: Resize(fit=size)):
        for size in (224, "x", (224,), (0, 224), (-1, 2), (2.5, 3)):
            with pytest.raises(ValueError, match="expected height and width in pixels"):
                make(size)
    for steps in (Resize(short=256), "x", [7]):
        with pytest.raises(ValueError, match=r"steps is .*expected several"):
            Preprocessing(steps)
    with pytest.raises(ValueError, match="resize the long side first"):
        Preprocessing((Pad((10, 10)),)).frame(20, 5)
    with pytest.raises(ValueError, match="unknown preprocessing step 'rotate'"):
        Preprocessing.from_dict({**Preprocessing().to_dict(), "steps": [{"step": "rotate"}]})
    with pytest.raises(ValueError):
        Preprocessing(interpolation="wishful")
