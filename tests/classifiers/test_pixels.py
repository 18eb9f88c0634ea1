"""The pixels check: what a network is fed is what its author's own code makes of the picture, or it is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

import fiftyone_cam as focam
from fiftyone_cam.classifiers import pixels
from fiftyone_cam.classifiers.processors import of_processor
from fiftyone_cam.classifiers.transforms import of_transforms
from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.preprocessing import Bound, CenterCrop, CropShare, Margin, Preprocessing, Resize
from fiftyone_cam.plugin.installed import zoo_names
from tests.helpers.networks import tiny_gap

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """Not one of the pictures that the check makes itself."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def ours(preprocessing: Preprocessing, picture: np.ndarray) -> torch.Tensor:
    return preprocessing.normalize(preprocessing.apply(torch.tensor(picture).permute(2, 0, 1))[None])[0]


def levels(preprocessing: Preprocessing, found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, of 255 grey levels."""
    assert found.shape == expected.shape
    return float(((found - expected).abs() * torch.tensor(preprocessing.std).view(-1, 1, 1) * 255).max())


def image_processors() -> list[str]:
    """The names of all processors that belong to transformers' image classifiers."""
    transformers = pytest.importorskip("transformers")
    by_model = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES
    models = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    return sorted({name for model in models for name in (by_model.get(model) or {}).values()})


REFUSED = {
    "ImageGPTImageProcessor": "do_color_quantize",
    "DonutImageProcessor": "do_thumbnail",
    "Siglip2ImageProcessor": "max_num_patches",
}


@pytest.mark.slow
def test_every_image_processor_of_transformers_is_equal_or_refused():
    transformers = pytest.importorskip("transformers")
    names = image_processors()
    assert len(names) > 30
    for name in names:
        kwargs = {"pretrained_cfg": {"input_size": (3, 224, 224)}} if name == "TimmWrapperImageProcessor" else {}
        processor = getattr(transformers, name)(**kwargs)
        if setting := REFUSED.get(name.removesuffix("Pil")):
            with pytest.raises(SourceError, match=setting):
                of_processor(processor)
            continue
        preprocessing, check = of_processor(processor)
        assert check.passed, name
        for seed, (height, width) in enumerate(((222, 333), (260, 201), (90, 101))):
            picture = photo(seed, height, width)
            expected = processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
            assert levels(preprocessing, ours(preprocessing, picture), expected) <= 3.01, name


def test_efficientnets_second_division_and_mobilevits_channel_order():
    """FIELD_REPORTS 1: the two families that were fed wrong pixels in silence."""
    transformers = pytest.importorskip("transformers")
    std = [0.47853944, 0.4732864, 0.47434163]
    processor = transformers.EfficientNetImageProcessor(
        size={"height": 224, "width": 224}, do_center_crop=False, image_mean=MEAN, image_std=std, include_top=True,
        resample=0,
    )  # fmt: skip
    preprocessing, _ = of_processor(processor)
    assert preprocessing.std == pytest.approx([value**2 for value in std], rel=1e-5)
    assert preprocessing.interpolation == "nearest-exact"  # Pillow's nearest
    assert ours(preprocessing, np.zeros((300, 300, 3), np.uint8)).min() == pytest.approx(-2.1179, abs=2e-3)

    preprocessing, _ = of_processor(transformers.MobileViTImageProcessor())
    assert (preprocessing.channels, preprocessing.mean, preprocessing.std) == ("BGR", (0.0,) * 3, (1.0,) * 3)
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (300, 300, 3))
    assert ours(preprocessing, red)[:, 128, 128].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "settings", "step"),
    [
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}, Resize(short=235)),
        ("LevitImageProcessor", {}, Resize(short=256)),
        ("PerceiverImageProcessor", {}, CropShare((0.875, 0.875))),
        ("PoolFormerImageProcessor", {"crop_pct": 0.95}, Resize(short=235)),
        ("ViTImageProcessor", {"do_rescale": False, "image_mean": [127.5] * 3}, Resize(size=(224, 224))),
        ("ViTImageProcessor", {"resample": 0}, Resize(size=(224, 224))),
        ("BitImageProcessor", {"do_normalize": False, "rescale_factor": 1 / 127.5}, Resize(short=224)),
    ],
)
def test_processors_have_rules_of_their_own(name, settings, step):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name)(**settings)
    preprocessing, check = of_processor(processor)
    assert preprocessing.steps[0] == step
    assert check.difference <= 1.01


def test_a_setting_that_is_not_known_is_refused_by_name():
    transformers = pytest.importorskip("transformers")

    class Sharpened(transformers.ViTImageProcessor):
        do_sharpen = True

        def _preprocess(self, images, **kwargs):
            return super()._preprocess([v2.functional.adjust_sharpness(image, 3.0) for image in images], **kwargs)

    with pytest.raises(SourceError, match=r"differs by up to .* of 255 grey levels.*do_sharpen=True"):
        of_processor(Sharpened(do_sharpen=True))


def test_all_transforms_of_torchvisions_weights_are_equal():
    seen = {}
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            preset = entry.transforms()
            seen.setdefault(repr(preset), preset)
    assert len(seen) > 20
    for preset in seen.values():
        preprocessing, check = of_transforms(preset)
        assert check.passed
        assert preprocessing.mean == tuple(preset.mean)
        picture = photo(0, 333, 451)
        expected = preset(torch.tensor(picture).permute(2, 0, 1))
        assert levels(preprocessing, ours(preprocessing, picture), expected) <= 3.01


def test_timms_configurations_are_equal():
    timm = pytest.importorskip("timm")
    configurations = {}
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name).to_dict()
        keys = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
        kept = {key: config[key] for key in keys if config.get(key) is not None}
        if len(kept.get("mean") or ()) == 3 and kept["input_size"][1] <= 384:
            # sizes and colours are many, rules are few: one of each rule
            rule = (kept.get("crop_mode"), kept.get("interpolation"), kept["input_size"][1] % 32, kept.get("std"))
            configurations[rule] = kept
    configurations["wide"] = {"input_size": (3, 224, 112)}
    configurations["border"] = {"input_size": (3, 224, 224), "crop_mode": "border"}
    assert len(configurations) > 12
    for config in configurations.values():
        if config.get("interpolation") != "random":
            preprocessing, check = of_transforms(timm.data.create_transform(**config, is_training=False))
            assert check.passed
            assert preprocessing.input_size() == config["input_size"][1:]


SCALED = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
COMPOSES = {
    "old": (v1.Compose([v1.Resize(70), v1.CenterCrop(64), v1.ToTensor(), v1.Normalize(MEAN, STD)]), {}),
    "floats resized": (v1.Compose([v1.ToTensor(), v1.Resize((64, 64), antialias=True)]), {"mean": (0.0,) * 3}),
    "not antialiased": (v2.Compose([v2.ToImage(), v2.Resize((64, 64), antialias=False),
                                    v2.ToDtype(torch.float32, scale=True)]), {"antialias": False}),
    "Pillow antialiases": (v1.Compose([v1.Resize((64, 64), antialias=False), v1.ToTensor()]), {"antialias": True}),
    "no scale": (v2.Compose([v2.ToImage(), v2.Resize((64, 64)), v2.ToDtype(torch.float32), v2.Normalize(*SCALED)]),
                 {"mean": tuple(MEAN), "std": tuple(STD)}),
    "bytes": (v1.Compose([v1.Resize((64, 64)), v1.PILToTensor(), v1.Lambda(lambda image: image.float())]),
              {"std": (1 / 255,) * 3}),
    "grey": (v1.Compose([v1.Grayscale(1), v1.Resize((64, 64)), v1.ToTensor(), v1.Normalize([0.5], [0.25])]),
             {"mean": (0.5,), "std": (0.25,), "channels": None}),
    "three times grey": (v1.Compose([v1.Grayscale(3), v1.Resize((64, 64)), v1.ToTensor()]), {"channels": "LLL"}),
    "margin": (v1.Compose([v1.Resize((64, 64)), v1.Pad((2, 3, 4, 5), fill=100), v1.ToTensor()]),
               {"steps": (Resize(size=(64, 64)), Margin(2, 3, 4, 5, 100))}),
    "lambda": (v1.Compose([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda image: image * 2 - 1)]),
               {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    "flipped": (v1.Compose([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda image: image.flip(0))]),
                {"channels": "BGR"}),
    "one number for all": (v1.Compose([v1.Resize((64, 64)), v1.ToTensor(), v1.Normalize(0.5, 0.25)]),
                           {"mean": (0.5,) * 3, "std": (0.25,) * 3}),
    "nested": (torch.nn.Sequential(v2.Resize((64, 64)), v2.Compose([v2.ToDtype(torch.float32, scale=True)])), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSES)
def test_what_a_compose_says_is_what_is_fed(name):
    transform, expected = COMPOSES[name]
    preprocessing, check = of_transforms(transform)
    assert check.passed
    for key, value in expected.items():
        found = getattr(preprocessing, key)
        assert found == (pytest.approx(value, rel=1e-5) if key in ("mean", "std") else value)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


SQUARE = (v1.Resize((64, 64)), v1.ToTensor())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([v1.RandomErasing()], "RandomErasing is not known"),
        ([v1.Resize(64, max_size=100), v1.ToTensor()], "max_size"),
        ([v1.Resize((64, 64))], "expected a tensor"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda image: 1 - image)], "bright pixels into small"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda image: image**2)], "bends the colours"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda image: image.flip(2))], "differs by up to"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v1.Lambda(lambda i: i + torch.rand(1))], "another input each time"),
        ([v1.Resize((64, 64)), v1.Lambda(lambda image: image.nothing)], "fails on a plain picture"),
        # rules that show in pictures alone that are very long, or smaller than the crop
        (
            [v1.Lambda(lambda i: i if max(i.size) < 4 * min(i.size) else v1.CenterCrop(min(i.size))(i)), *SQUARE],
            "differs by up to",
        ),
        ([v1.ToTensor(), v1.Normalize([0.5], [0.5]), v1.CenterCrop(32)], "on the panorama picture"),
    ],
)
def test_what_cannot_be_said_is_refused(parts, message):
    with pytest.raises(SourceError, match=message):
        of_transforms(v1.Compose(parts))


def test_a_bound_on_the_long_side_is_seen():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(SourceError, match="of the panorama picture we make"):
        of_processor(transformers.ViTImageProcessor(size={"shortest_edge": 50, "longest_edge": 90}))


def test_albumentations_is_known_by_its_library(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    A = pytest.importorskip("albumentations")
    to_tensor = pytest.importorskip("albumentations.pytorch").ToTensorV2()
    preprocessing, check = of_transforms(A.Compose([A.Resize(64, 96), A.Normalize(), to_tensor]))
    assert (preprocessing.steps, preprocessing.antialias) == ((Resize(size=(64, 96)),), False)
    assert preprocessing.mean == tuple(MEAN)
    assert check.passed
    crop = A.Compose([A.SmallestMaxSize(100, interpolation=2), A.CenterCrop(64, 64), A.Normalize(), to_tensor])
    assert of_transforms(crop)[0].input_size() == (64, 64)
    assert of_transforms(A.Compose([A.Resize(64, 64), A.Normalize(0.5, 0.25), to_tensor]))[0].mean == (0.5,) * 3
    box = A.Compose([A.LongestMaxSize(64), A.PadIfNeeded(64, 64), A.Normalize(max_pixel_value=510), to_tensor])
    assert of_transforms(box)[0].std == pytest.approx([2 * value for value in STD], rel=1e-5)
    for parts, message in (
        ([A.HorizontalFlip(p=0.5)], "HorizontalFlip is not known"),
        ([A.Resize(64, 64, interpolation=3), A.Normalize(), to_tensor], "interpolation=3"),
    ):
        with pytest.raises(SourceError, match=message):
            of_transforms(A.Compose(parts))


class ToRGB:
    """As people write them."""

    def __call__(self, image):
        return image.convert("RGB")


class Squash:
    def __call__(self, image):
        return image.resize((64, 64))


def test_steps_of_the_callers_own_are_judged_by_what_they_do():
    half = functools.partial(v1.functional.normalize, mean=[0.5] * 3, std=[0.5] * 3)
    preprocessing, check = of_transforms(v1.Compose([ToRGB(), v1.Resize((64, 64)), np.asarray, v1.ToTensor(), half]))
    assert check.passed
    assert (preprocessing.steps, preprocessing.mean) == ((Resize(size=(64, 64)),), (0.5,) * 3)
    with pytest.raises(SourceError, match=r"of the landscape picture we make .*steps that are not read here: Squash\)"):
        of_transforms(v1.Compose([Squash(), v1.ToTensor()]))


def test_a_class_of_the_same_name_from_elsewhere_is_not_believed():
    class Resize:
        size = (64, 64)

    with pytest.raises(SourceError, match="Resize is not known"):
        of_transforms(v1.Compose([Resize(), v1.ToTensor()]))


def test_fiftyones_bounds_are_equal():
    import fiftyone.utils.torch as fout

    parts = [fout.ToPILImage(), fout.MinResize((224, 224)), fout.MaxResize((300, 300)), v1.ToTensor()]
    preprocessing, check = of_transforms(v1.Compose(parts))
    assert preprocessing.steps == (Bound(least=224), Bound(most=300))
    assert check.passed


def test_every_zoo_classifier_that_the_form_lists_is_equal_or_read_as_a_processor(tmp_path):
    """The zoo's own settings, around a small network: the weights have no say in the pixels."""
    import fiftyone.utils.torch as fout
    import fiftyone.zoo as foz

    (tmp_path / "labels.txt").write_text("0:cat\n1:dog\n2:fish")
    network = {"entrypoint_fcn": "tests.helpers.networks.tiny_gap", "entrypoint_args": {}}
    network |= {"labels_path": str(tmp_path / "labels.txt")}
    network |= {"output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor"}
    equal, processors = 0, 0
    kept = {}
    for name in zoo_names():
        entry = foz.get_zoo_model(name).default_deployment_config_dict
        if "transformers" in entry["type"]:  # Hugging Face's processors have a walk of their own
            processors += 1
            continue
        equal += 1
        settings = {key: value for key, value in entry["config"].items() if key.startswith("image_")}
        kept[repr(sorted(settings.items()))] = settings
    assert (equal, processors) >= (20, 10)
    for settings in kept.values():
        model = fout.TorchImageModel(fout.TorchImageModelConfig({**settings, **network}))
        assert focam.load_classifier(model).checks["pixels"].passed, settings


def test_the_comparison_sees_a_crop_that_is_one_pixel_off():
    """The law of the check: it fails for what differs from the truth in the smallest way that there is."""
    truth = Preprocessing((Resize(short=71), CenterCrop((64, 64), "trunc")))
    expected = {name: (picture, ours(truth, picture)) for name, picture in pixels.pictures().items()}
    assert pixels.compare(truth, expected, "itself").difference == 0
    for other in (
        Preprocessing((Resize(short=71), CenterCrop((64, 64)))),
        Preprocessing((Resize(short=72), CenterCrop((64, 64), "trunc"))),
        Preprocessing(truth.steps, interpolation="bicubic"),
        Preprocessing(truth.steps, antialias=False),
        Preprocessing(truth.steps, channels="BGR"),
        Preprocessing(truth.steps, mean=(0.5, 0.456, 0.406)),
        Preprocessing(truth.steps, std=(0.2, 0.224, 0.225)),
    ):
        assert pixels.compare(other, expected, "the truth").passed is False


@pytest.mark.parametrize("rounding", ["half", "trunc", "floor"])
@pytest.mark.parametrize("crop", [30, 33, 64])
def test_readings_that_the_pictures_do_not_tell_apart_are_told_apart(rounding, crop):
    truth = Preprocessing((Resize(short=48), CenterCrop((crop, crop), rounding)))
    readings = [
        Preprocessing((Resize(short=48), CenterCrop((crop, crop), each))) for each in ("half", "trunc", "floor")
    ]
    found, _ = pixels.fitting(readings, lambda picture: ours(truth, picture), "the truth")
    for height, width in np.random.default_rng(0).integers(40, 300, (200, 2)).tolist():
        assert found.frame(height, width) == truth.frame(height, width)


def test_a_classifier_keeps_its_checks():
    preset = v1.Compose([v1.Resize((64, 64)), v1.ToTensor()])
    classifier = focam.load_classifier(tiny_gap(), list("abc"), preprocessing=preset)
    assert classifier.checks["pixels"].passed
    assert classifier.checks["maps"].difference < 1e-5
    assert Check.from_dict(classifier.describe().checks["pixels"]) == classifier.checks["pixels"]
    told = focam.load_classifier(tiny_gap(), list("abc"), preprocessing=Preprocessing((Resize(size=(64, 64)),)))
    assert "given as data" in str(told.checks["pixels"])
    assert told.checks["pixels"].passed is None
