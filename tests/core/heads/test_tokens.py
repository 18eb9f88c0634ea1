"""Class tokens: what enters from each patch, by hand; fused attention is seen through; the rest is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from fiftyone_cam.core.explain import Explainer, Prepared
from fiftyone_cam.core.heads import PER_IMAGE, REMAINDER, Tap
from fiftyone_cam.core.heads.places import readings
from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from fiftyone_cam.core.results import Item
from tests.helpers.heads import CLASSES, TinyViT, identity_error


def vit(spelling="fused", kind=TinyViT, **options):
    torch.manual_seed(0)
    module = kind(spelling, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def by_hand(module, image, wanted):
    """E(j) and what is left, one image, one class: matrices in float64, block by block, from the last to the first."""
    m = module.double()

    def norm_matrix(norm, x):
        sigma = math.sqrt(float(x.var(unbiased=False)) + norm.eps)
        width = len(x)
        return torch.diag(norm.weight) @ (torch.eye(width, dtype=x.dtype) - 1.0 / width) / sigma

    with torch.no_grad():
        x = m.tokens(image[None].double())[0]
        length, width = x.shape
        d = width // m.heads
        history = []
        for block in m.blocks:
            attention, mlp = block["attention"], block["mlp"]
            normed = block["norm1"](x)
            q, k, v = nnf.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
            heads = [slice(h * d, (h + 1) * d) for h in range(m.heads)]
            alpha = [(q[:, s] @ k[:, s].T / math.sqrt(d)).softmax(-1) for s in heads]
            mixed = torch.cat([a @ v[:, s] for a, s in zip(alpha, heads, strict=True)], 1)
            middle = x + attention.out_proj(mixed)
            after = middle + mlp(block["norm2"](middle))
            history.append((block, x, v, alpha, heads, middle))
            x = after
        logit = m.fc(m.norm(x))[0, wanted]

        # backwards along the class token: how the logit hangs on its stream, a row vector
        row = m.fc.weight[wanted] @ norm_matrix(m.norm, x[0])
        evidence = torch.zeros(length - 1, dtype=torch.float64)
        for block, before, v, alpha, heads, middle in reversed(history):
            attention, mlp = block["attention"], block["mlp"]
            h = mlp[0](block["norm2"](middle[0]))
            gate = nnf.gelu(h) / h
            row = row + row @ mlp[2].weight @ torch.diag(gate) @ mlp[0].weight @ norm_matrix(block["norm2"], middle[0])
            out = row @ attention.out_proj.weight
            for a, s in zip(alpha, heads, strict=True):
                evidence += a[0, 1:] * (v[1:, s] @ out[s])
            own = torch.zeros(width, dtype=torch.float64)
            w_v = attention.in_proj_weight[2 * width :]
            for a, s in zip(alpha, heads, strict=True):
                own += a[0, 0] * (out[s] @ w_v[s] @ norm_matrix(block["norm1"], before[0]))
            row = row + own
    module.float()
    return evidence, float(logit)


@pytest.mark.parametrize("spelling", ["fused", "module", "products"])
def test_the_entry_decomposition_by_hand(spelling):
    module = vit(spelling)
    batch = torch.randn(3, 3, 32, 32)
    head, maps, error = identity_error(module, batch)
    assert (head.grade, head.tap.prefix) == (REMAINDER, 1)
    assert error < 1e-5
    assert maps.shape == (3, CLASSES, 4, 4)
    for n in range(3):
        for c in range(CLASSES):
            evidence, _ = by_hand(module, batch[n], c)
            found = maps[n, c].double().flatten() / 16
            torch.testing.assert_close(found, evidence, rtol=1e-3, atol=1e-5 * float(evidence.abs().max()) + 1e-6)


def test_what_an_image_holds_nowhere_is_the_same_as_without_any_entry():
    """With no attention to patches, all of the logit is the remainder, and all evidence is zero."""
    module = vit()
    with torch.no_grad():
        for block in module.blocks:  # values of patches: nothing
            block["attention"].in_proj_weight[16:].zero_()
            block["attention"].in_proj_bias[16:].zero_()
    _, maps, error = identity_error(module, torch.randn(2, 3, 32, 32))
    assert error < 1e-5
    assert not maps.any()


class Both(TinyViT):
    """Class token and mean of the patches, as DINOv2's linear head."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.fc = nn.Linear(2 * self.fc.in_features, CLASSES)

    def forward(self, input):
        x = self.last(input)
        return self.fc(torch.cat([x[:, 0], x[:, self.prefix :].mean(1)], 1))


class Distilled(TinyViT):
    """The mean of two heads on two tokens, as DeiT's."""

    def forward(self, input):
        x = self.last(input)
        return (self.fc(x[:, 0]) + self.fc(x[:, 1] * 2)) / 2


class MeanOfPatches(TinyViT):
    """Registers, which nothing reads at the end."""

    def forward(self, input):
        return self.fc(self.last(input)[:, self.prefix :].mean(1))


@pytest.mark.parametrize(
    ("kind", "extra", "grade"),
    [(Both, 0, REMAINDER), (Both, 4, REMAINDER), (Distilled, 1, REMAINDER), (TinyViT, 4, REMAINDER),
     (MeanOfPatches, 4, "exact"), (MeanOfPatches, 0, "exact")],
)  # fmt: skip
def test_other_tokens_and_other_readers(kind, extra, grade):
    module = vit(kind=kind, extra=extra)
    head, maps, error = identity_error(module, torch.randn(2, 3, 32, 32))
    assert head.grade == grade
    assert head.tap.prefix == (1 + extra if grade == REMAINDER else 0)  # a mean has left them out
    assert error < 1e-5
    assert maps.shape[2:] == (4, 4)


class Last(TinyViT):
    """The class token comes after the patches: read as a grid, all of them would lie one place off."""

    at = 16

    def tokens(self, input):
        patches, begin = self.patches(input).flatten(2).mT, self.begin.expand(len(input), -1, -1)
        return torch.cat([patches[:, : self.at], begin, patches[:, self.at :]], 1) + self.position

    def forward(self, input):
        return self.fc(self.last(input)[:, self.at])


class Middle(Last):
    at = 7


class LastAndMean(Last):
    def forward(self, input):
        return self.fc(self.last(input).mean(1))


class Coarse(TinyViT):
    """Keys and values of 2x2 patches each, as CvT's: there are fewer of them than tokens."""

    def attend(self, layer, x):
        patches = nnf.avg_pool2d(x[:, 1:].mT.unflatten(2, (4, 4)), 2).flatten(2).mT
        coarse = torch.cat([x[:, :1], patches], 1)
        return layer(x, coarse, coarse, need_weights=False)[0]


@pytest.mark.parametrize("kind", [Last, Middle, LastAndMean, Coarse])
def test_other_class_tokens_are_frozen_from_the_patches_on(kind):
    """Whatever joins the patches and is not followed by itself: its tail is linear with its gates frozen, as any is."""
    module = vit(kind=kind)
    head, maps, error = identity_error(module, torch.randn(3, 3, 32, 32))
    assert (head.grade, head.tap.prefix) == (PER_IMAGE, 0)
    assert error < 1e-5
    assert maps.shape == (3, CLASSES, 4, 4)
    assert head.features == 8
    picture = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = head.read(module, picture).features
        torch.testing.assert_close(features, module.patches(picture))  # where the convolution had them


class Rectangular(TinyViT):
    """Positions fitted to what comes, rows and columns not the same."""

    def tokens(self, input):
        patches = self.patches(input)
        position = self.position[:, self.prefix :].mT.reshape(1, -1, 4, 4)
        fitted = nnf.interpolate(position, patches.shape[2:], mode="bilinear").flatten(2).mT
        patches = patches.flatten(2).mT + fitted
        return torch.cat([self.begin.expand(len(input), -1, -1), patches], 1)


PLACES = {
    "patches": (TinyViT, 0, (32, 32)),
    "registers": (TinyViT, 4, (32, 32)),
    "distillation token": (Distilled, 1, (32, 32)),
    "interpolated positions": (Rectangular, 2, (32, 48)),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_of_tokens_are_measured(name):
    """Where a picture changes, the patch over that place answers, and the map's frame is where the cells look."""
    kind, extra, size = PLACES[name]
    module = vit(kind=kind, extra=extra)
    network = GapNetwork(module, "abcd", Preprocessing((Resize(size=size),)))
    assert network.head.tap.prefix == 1 + extra
    grey = torch.full((1, 3, *size), 128, dtype=torch.uint8)
    with torch.no_grad():
        for i in range(size[0] // 8):
            for j in range(size[1] // 8):
                picture = grey.clone()
                picture[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = 255
                change = (network.forward(picture)[1] - network.forward(grey)[1]).square().sum(1)[0]
                assert divmod(int(change.argmax()), size[1] // 8) == (i, j)
    assert max(map(abs, network.grid_frame[:2])) < 0.25 / 4


def test_the_first_row_of_a_grid_is_not_counted_among_the_tokens_without_a_place():
    tap = Tap("torch.Tensor.__getitem__", 1, "")
    found = [each for each in readings((2, 197, 600), (224, 224), tap) if each.layout == "NLC"]
    assert [each.prefix for each in found] == [1]  # and not 15, then 13 rows of 14


def explained(network, count=5, **options):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    batch = [Prepared(Item(str(i), "", (0,)), pixels[i], (0, 0, 1, 1), (32, 32)) for i in range(count)]
    return Explainer(network, **options)(batch)


def test_an_explanation_says_how_much_no_place_holds():
    torch.manual_seed(0)
    network = GapNetwork(vit(), "abcd", Preprocessing((Resize(size=(32, 32)),)))
    for result in explained(network, top_k=4):
        ranked = result.maps
        for entry in ranked:
            assert entry.grid.mean(dtype=float) + entry.bias == pytest.approx(entry.logit, rel=1e-4, abs=1e-5)
            assert entry.remainder_share == pytest.approx(entry.bias / entry.logit, rel=1e-4)
        first, second = ranked[:2]
        held = (first.grid.mean() - second.grid.mean()) / (first.logit - second.logit)
        assert first.gap_remainder_share == pytest.approx(1 - held, rel=1e-3, abs=1e-3)
        if result.contrast is not None:
            gap = result.contrast
            assert gap.grid.mean(dtype=float) + gap.bias == pytest.approx(gap.logit, rel=1e-4, abs=1e-5)


def test_a_network_for_inference_gives_the_same_maps_and_says_its_grade():
    torch.manual_seed(0)
    network = GapNetwork(vit("module"), "abcd", Preprocessing((Resize(size=(32, 32)),)))
    fast = network.for_inference()
    torch.manual_seed(1)
    expected = explained(network)
    torch.manual_seed(1)
    for one, other in zip(explained(fast), expected, strict=True):
        np.testing.assert_allclose(one.maps[0].grid, other.maps[0].grid, rtol=1e-4, atol=1e-5)
    described = network.describe()["head"]
    assert described["grade"] == "exact with remainder"
    assert described["kind"] == "class token after 2 blocks, linear"
    assert not network.compile(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
