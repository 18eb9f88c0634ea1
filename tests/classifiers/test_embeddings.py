"""The classifier as FiftyOne's own tools take it: embeddings are the pooled features, logits the logits."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads import find_head
from fiftyone_cam.core.network import GapNetwork
from tests.helpers.heads import CLASSES, WIDTH, After, TinyViT
from tests.helpers.networks import NAMES, SQUARE, tiny_gap


def test_embeddings_are_what_the_network_pools(photos: fo.Dataset) -> None:
    module = tiny_gap().eval()
    classifier = focam.load_classifier(module, NAMES, preprocessing=SQUARE)
    assert classifier.has_embeddings
    found = photos.compute_embeddings(classifier, batch_size=5, num_workers=0)
    pictures = torch.stack([SQUARE.apply(torch.from_numpy(SQUARE.pixels(s.filepath)).permute(2, 0, 1)) for s in photos])
    with torch.no_grad():
        expected = module[:-2](SQUARE.normalize(pictures))  # all but dropout and the linear layer
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    rows = [photo.pixels for photo in (classifier.build_get_item()({"filepath": s.filepath}) for s in photos)]
    np.testing.assert_allclose(classifier.embed_all(rows), found, rtol=1e-4, atol=1e-5)
    classifier.predict_all(rows)  # with maps, in the same pass
    np.testing.assert_allclose(classifier.get_embeddings(), found, rtol=1e-4, atol=1e-5)


def enters_last_linear(module: nn.Module, layer: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    heard = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    with torch.no_grad():
        module(batch)
    hook.remove()
    return heard[0]


@pytest.mark.parametrize("kind", ["max", "norm", "mlp", "class token", "real vit"])
def test_of_other_heads_they_are_what_enters_the_last_linear_layer(kind: str) -> None:
    torch.manual_seed(0)
    size, fc = 32, nn.Linear(WIDTH, CLASSES)
    if kind == "max":
        module, layer = After(lambda m, x: m.fc(x.amax((2, 3))), fc=fc), fc
    elif kind == "norm":
        norm = nn.LayerNorm(WIDTH)
        module, layer = After(lambda m, x: m.fc(m.norm(x.mean((2, 3)))), fc=fc, norm=norm), fc
    elif kind == "mlp":
        one, layer = nn.Linear(WIDTH, 10), nn.Linear(10, CLASSES)
        module = After(lambda m, x: m.two(m.one(x.mean((2, 3))).relu()), one=one, two=layer)
    elif kind == "class token":
        module = TinyViT()
        layer = module.fc
    else:
        size = 64
        module = torchvision.models.VisionTransformer(size, 16, 2, 2, 24, 48, num_classes=CLASSES)
        nn.init.normal_(module.heads.head.weight)
        layer = module.heads.head
    module.eval()
    batch = torch.randn(3, 3, size, size)
    head = find_head(module, torch.randn(2, 3, size, size))
    found = head.read(module, batch).pooled()
    expected = enters_last_linear(module, layer, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert head.width == expected.shape[1]


def test_a_last_layer_that_works_on_each_place_alone_has_none() -> None:
    torch.manual_seed(0)
    fc, norm = nn.Linear(WIDTH, CLASSES), nn.LayerNorm(CLASSES)
    module = After(lambda m, x: m.norm(m.fc(x.relu().flatten(2).mT).amax(1)), fc=fc, norm=norm)
    network = GapNetwork(module, [*NAMES, "bird"], SQUARE)
    classifier = focam.Classifier(network, {})
    assert classifier.has_embeddings is False
    with pytest.raises(HeadError, match="no pooled features"):
        network.embed(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_fiftyones_brain_takes_it(photos: fo.Dataset, classifier: focam.Classifier) -> None:
    Path(photos.last().filepath).write_text("no picture")
    good = photos.limit(11)
    seen = fob.compute_visualization(
        good, model=classifier, method="pca", brain_key="seen", num_workers=0, batch_size=4
    )
    assert seen.points.shape == (11, 2)
    index = fob.compute_similarity(good, model=classifier, brain_key="alike", num_workers=0, batch_size=4)
    assert index.total_index_size == 11
    assert good.sort_by_similarity(good.first().id, k=1, brain_key="alike").first().id == good.first().id

    photos.apply_model(classifier, label_field="am", store_logits=True, batch_size=5, num_workers=0)
    fob.compute_hardness(good, "am_prediction")
    for sample in good:
        logits = np.asarray(sample.am_prediction.logits)
        assert classifier.classes[logits.argmax()] == sample.am_prediction.label
        assert logits.max() == pytest.approx(sample.am_heatmap.logit, rel=1e-5)
        shares = np.exp(logits) / np.exp(logits).sum()
        assert sample.hardness == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-5)
    assert photos.count("am_prediction") == 11
    assert not classifier.store_logits  # for the time of the call


def test_below_the_threshold_there_is_neither_label_nor_heatmap(
    photos: fo.Dataset, classifier: focam.Classifier
) -> None:
    photos.apply_model(classifier, label_field="all", num_workers=0)
    confidences = photos.values("all_prediction.confidence")
    least = float(np.median(confidences))
    photos.apply_model(classifier, label_field="sure", confidence_thresh=least, num_workers=0)
    expected = [confidence >= least for confidence in confidences]
    assert 0 < sum(expected) < 12
    for name in ("sure_prediction", "sure_heatmap"):
        assert [value is not None for value in photos.values(name)] == expected


def test_embeddings_of_patches(photos: fo.Dataset, classifier: focam.Classifier) -> None:
    box = fo.Detections(detections=[fo.Detection(label="thing", bounding_box=[0, 0, 0.5, 0.5])])
    for sample in photos:
        sample["things"] = box.copy()
        sample.save()
    found = photos.compute_patch_embeddings(classifier, "things", num_workers=0)
    for sample in photos:
        quarter = np.asarray(Image.open(sample.filepath).convert("RGB"))[:24, :32]
        np.testing.assert_allclose(found[sample.id], classifier.embed(quarter), rtol=1e-4, atol=1e-5)
