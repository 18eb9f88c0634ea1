"""For heads of every grade: the mean of a map plus its bias is the logit; and formulas by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import nn

from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads import EXACT, PER_IMAGE, ConstantHead, find_head
from tests.helpers.heads import CLASSES, WIDTH, After, identity_error

FC = {"fc": lambda: nn.Linear(WIDTH, CLASSES)}
MLP = {
    "one": lambda: nn.Linear(WIDTH, 10),
    "two": lambda: nn.Linear(10, CLASSES),
}


def gem(m, x, p=3.0):
    return m.fc(x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p))


AFFINE = {
    "linear": (FC, lambda m, x: m.fc(x.mean((2, 3)))),
    "several linears": (MLP, lambda m, x: m.two(m.one(x.mean((2, 3))))),
    "batch norm": (FC | {"bn": lambda: nn.BatchNorm1d(WIDTH)}, lambda m, x: m.fc(m.bn(x.mean((2, 3))))),
    "temperature": (FC, lambda m, x: m.fc(x.mean((2, 3))) / 0.07),
    "twin heads": (FC | {"b": FC["fc"]}, lambda m, x: (m.fc(x.mean((2, 3))) + m.b(x.mean((2, 3)))) / 2),
    "low rank beside it": (
        FC | {"a": lambda: nn.Linear(WIDTH, 2, bias=False), "b": lambda: nn.Linear(2, CLASSES, bias=False)},
        lambda m, x: m.fc(p := x.mean((2, 3))) + 0.5 * m.b(m.a(p)),
    ),
    "matmul": (FC, lambda m, x: x.mean((2, 3)) @ m.fc.weight.T),
    "addmm": (FC, lambda m, x: torch.addmm(m.fc.bias, x.mean((2, 3)), m.fc.weight.t())),
    "softmax on top": (FC, lambda m, x: m.fc(x.mean((2, 3))).softmax(-1)),
    "log softmax on top": (FC, lambda m, x: nnf.log_softmax(m.fc(x.mean((2, 3))), 1)),
    "sigmoid on top": (FC, lambda m, x: torch.sigmoid(m.fc(x.mean((2, 3))))),
    "softmax beside it": (FC, lambda m, x: ((y := m.fc(x.mean((2, 3)))).softmax(1), y)),
    "pooled in two steps": (FC, lambda m, x: m.fc(x.mean(3).mean(2))),
    "pooled flat": (FC, lambda m, x: m.fc(x.flatten(2).mean(-1))),
    "pooled by a full window": (FC, lambda m, x: m.fc(nnf.avg_pool2d(x, x.shape[2:]).flatten(1))),
    "pooled by einsum": (FC, lambda m, x: m.fc(torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3]))),
    "tokens": (FC, lambda m, x: m.fc(x.flatten(2).transpose(1, 2).mean(1))),
    "channels last": (FC, lambda m, x: m.fc(x.permute(0, 2, 3, 1).mean((1, 2)))),
}
EXACT_OTHERWISE = {
    "sum": (FC, lambda m, x: m.fc(x.sum((2, 3)))),
    "max": (FC, lambda m, x: m.fc(x.amax((2, 3)))),
    "adaptive max": (FC, lambda m, x: m.fc(nnf.adaptive_max_pool2d(x, 1).flatten(1))),
    "max and average": (
        {"fc": lambda: nn.Linear(2 * WIDTH, CLASSES)},
        lambda m, x: m.fc(torch.cat([nnf.adaptive_avg_pool2d(x, 1), nnf.adaptive_max_pool2d(x, 1)], 1).flatten(1)),
    ),
    "weighted pooling": (
        FC | {"ask": lambda: nn.Linear(WIDTH, 1)},
        lambda m, x: m.fc(((t := x.flatten(2).mT) * m.ask(t).softmax(1)).sum(1)),
    ),
    "flat and linear": ({"fc": lambda: nn.LazyLinear(CLASSES)}, lambda m, x: m.fc(x.flatten(1))),
    "max and min": (FC, lambda m, x: m.fc(x.amax((2, 3)) - x.amin((2, 3)))),
    "pyramid of maxima": (
        {"fc": lambda: nn.Linear(5 * WIDTH, CLASSES)},
        lambda m, x: m.fc(torch.cat([nnf.adaptive_max_pool2d(x, side).flatten(1) for side in (1, 2)], 1)),
    ),
}
FOR_THIS_IMAGE = {
    "layer norm": (FC | {"norm": lambda: nn.LayerNorm(WIDTH)}, lambda m, x: m.fc(m.norm(x.mean((2, 3))))),
    "root mean square norm": (FC | {"norm": lambda: nn.RMSNorm(WIDTH)}, lambda m, x: m.fc(m.norm(x.mean((2, 3))))),
    "group norm": (FC | {"norm": lambda: nn.GroupNorm(2, WIDTH)}, lambda m, x: m.fc(m.norm(x.mean((2, 3))))),
    "MLP with ReLU in place": (MLP, lambda m, x: m.two(torch.relu_(m.one(x.mean((2, 3)))))),
    "MLP with hardswish": (MLP, lambda m, x: m.two(nnf.hardswish(m.one(x.mean((2, 3))), inplace=True))),
    "MLP with GELU": (MLP, lambda m, x: m.two(nnf.gelu(m.one(x.mean((2, 3)))))),
    "MLP with tanh": (MLP, lambda m, x: m.two(torch.tanh(m.one(x.mean((2, 3)))))),
    "MLP with sigmoid": (MLP, lambda m, x: m.two(torch.sigmoid(m.one(x.mean((2, 3)))))),
    "MLP with a gate by hand": (MLP, lambda m, x: m.two((h := m.one(x.mean((2, 3)))) * torch.sigmoid(h))),
    "squared ReLU": (MLP, lambda m, x: m.two(torch.relu(m.one(x.mean((2, 3)))).square())),
    "generalised mean": (FC, gem),
    "generalised mean with dead channels": (FC, lambda m, x: gem(m, x * (torch.arange(WIDTH) % 3 > 0)[:, None, None])),
    "cosine": (FC, lambda m, x: 10 * nnf.normalize(x.mean((2, 3))) @ nnf.normalize(m.fc.weight).T),
    "cosine by hand": (FC, lambda m, x: m.fc((p := x.mean((2, 3))) / p.norm(dim=1, keepdim=True))),
    "flat and MLP": (
        {"one": lambda: nn.LazyLinear(10), "two": MLP["two"]},
        lambda m, x: m.two(torch.relu(m.one(x.flatten(1)))),
    ),
    "cosine in one call": (FC, lambda m, x: nnf.cosine_similarity(x.mean((2, 3))[:, None], m.fc.weight[None], -1)),
    "mean and spread": (
        {"fc": lambda: nn.Linear(4 * WIDTH, CLASSES)},
        lambda m, x: m.fc(torch.cat([x.mean((2, 3)), x.std((2, 3)), x.var((2, 3)), x.norm(dim=(2, 3))], 1)),
    ),
    "maxima of regions": (
        FC,
        lambda m, x: m.fc(sum(nnf.normalize(x[..., i : i + WIDTH].amax((2, 3))) for i in (0, 6))),
    ),
    "best five cells": (FC, lambda m, x: m.fc(x.flatten(2).topk(5, 2).values.mean(2))),
    "median": (FC, lambda m, x: m.fc(x.flatten(2).median(2).values)),
    "signed roots of products": (
        {"fc": lambda: nn.Linear(WIDTH**2, CLASSES)},
        lambda m, x: m.fc(torch.sign(b := ((f := x.flatten(2)) @ f.mT).flatten(1)) * torch.sqrt(b.abs() + 1e-5)),
    ),
    "gated linear unit": (
        MLP | {"two": lambda: nn.Linear(5, CLASSES)},
        lambda m, x: m.two(nnf.glu(m.one(x.mean((2, 3))))),
    ),
    "leaky by hand": (MLP, lambda m, x: m.two(torch.where((h := m.one(x.mean((2, 3)))) > 0, h, 0.1 * h))),
}


def built(layers, tail, seed=0):
    torch.manual_seed(seed)
    module = After(tail, **{name: make() for name, make in layers.items()}).eval()
    with torch.no_grad():
        module(torch.zeros(2, 3, 32, 48))  # for lazy layers
        for name, parameter in module.named_parameters():
            if "norm" in name:
                parameter.normal_()
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("name", AFFINE)
def test_an_affine_tail_is_one_matrix(name):
    module = built(*AFFINE[name])
    batch = torch.randn(3, 3, 32, 48)
    head = find_head(module, torch.randn(2, 3, 32, 48))
    assert head.grade == EXACT
    with torch.no_grad():
        reading = head.read(module, batch)
        maps, bias = reading.maps(torch.arange(CLASSES).expand(3, -1))
        features = module.body(batch)
        output = module(batch)
    torch.testing.assert_close(maps.mean((2, 3)) + bias, reading.logits, rtol=1e-5, atol=1e-6)
    if name == "softmax beside it":
        torch.testing.assert_close(reading.logits, output[1], rtol=0, atol=0)
    elif name.endswith("on top"):
        function = {"softmax": torch.softmax, "log softmax": torch.log_softmax}.get(name.removesuffix(" on top"))
        again = function(reading.logits, 1) if function else torch.sigmoid(reading.logits)
        torch.testing.assert_close(again, output)
    else:
        torch.testing.assert_close(reading.logits, output, rtol=0, atol=0)
    # a map is a matrix times the feature maps, cell by cell: the grid is that of the convolution
    assert maps.shape[2:] == features.shape[2:] == (8, 12)
    cells, values = (each.permute(0, 2, 3, 1).reshape(-1, each.shape[1]) for each in (features, maps))
    weight = torch.linalg.lstsq(cells, values).solution
    torch.testing.assert_close(cells @ weight, values, rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


@pytest.mark.parametrize("name", [*EXACT_OTHERWISE, *FOR_THIS_IMAGE])
def test_every_other_tail_adds_up_for_each_image(name):
    module = built(*(EXACT_OTHERWISE | FOR_THIS_IMAGE)[name])
    head, maps, error = identity_error(module, torch.randn(3, 3, 32, 48))
    assert head.grade == (EXACT if name in EXACT_OTHERWISE else PER_IMAGE)
    assert error < 1e-5
    assert maps.shape == (3, CLASSES, 8, 12)
    assert float(maps.abs().mean()) > 0
    _, one, _ = identity_error(module, (batch := torch.randn(1, 3, 32, 48)), head)
    _, two, _ = identity_error(module, torch.cat([torch.randn(4, 3, 32, 48), batch]), head)
    torch.testing.assert_close(one[0], two[-1], rtol=1e-4, atol=1e-5 * float(two.abs().max()))  # of no batch


def parts(name, seed=0):
    module = built(*(EXACT_OTHERWISE | FOR_THIS_IMAGE)[name], seed)
    batch = torch.randn(3, 3, 32, 48)
    _, maps, _ = identity_error(module, batch)
    with torch.no_grad():
        return module, module.body(batch).double(), maps.double()


def test_layer_norm_by_hand():
    """v_d = w_d gamma_d / sigma on f_d minus the mean over d of f."""
    module, f, maps = parts("layer norm")
    p = f.mean((2, 3))
    sigma = (p.var(1, unbiased=False) + module.norm.eps).sqrt()
    scaled = (f - f.mean(1, keepdim=True)) * module.norm.weight.double()[:, None, None] / sigma[:, None, None, None]
    by_hand = torch.einsum("ck,nkhw->nchw", module.fc.weight.double(), scaled)
    torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["MLP with ReLU in place", "MLP with GELU", "MLP with hardswish", "MLP with tanh"])
def test_gates_by_hand(name):
    """v = (W2 * g) W1 with the gates g = act(h) / h of this image."""
    module, f, maps = parts(name)
    act = {"ReLU": torch.relu, "GELU": nnf.gelu, "hardswish": nnf.hardswish, "tanh": torch.tanh}[name.split()[2]]
    h = f.mean((2, 3)) @ module.one.weight.double().T + module.one.bias.double()
    v = (module.two.weight.double()[None] * (act(h) / h)[:, None]) @ module.one.weight.double()
    torch.testing.assert_close(maps, torch.einsum("nck,nkhw->nchw", v, f), rtol=1e-4, atol=1e-5)


def test_a_gate_at_zero_has_its_limit():
    module = built(*FOR_THIS_IMAGE["MLP with GELU"])
    with torch.no_grad():
        module.one.weight.zero_()
        module.one.bias.zero_()
        module.one.weight[0] = 1.0
    _, maps, error = identity_error(module, torch.randn(3, 3, 32, 48))
    assert error < 1e-5
    assert torch.isfinite(maps).all()


def test_the_generalised_mean_by_hand():
    """w f^p (mean f^p)^(1/p - 1)."""
    module, f, maps = parts("generalised mean")
    power = f.clamp_min(1e-6) ** 3
    by_hand = torch.einsum(
        "ck,nkhw->nchw", module.fc.weight.double(), power * (power.mean((2, 3), keepdim=True)) ** (1 / 3 - 1)
    )
    inside = f.amin(1) > 1e-6  # where the clamp held a value up it gives it to the bias
    expected, found = by_hand.permute(0, 2, 3, 1)[inside], maps.permute(0, 2, 3, 1)[inside]
    assert len(expected)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_spread_lies_where_cells_differ_from_their_mean():
    """Of a standard deviation, cell by cell: f (f - mean f) / sd, over the number of cells but one."""
    module, f, maps = parts("mean and spread")
    mean, sd, norm = (each[..., None, None] for each in (f.mean((2, 3)), f.std((2, 3)), f.norm(dim=(2, 3))))
    laid_out = torch.cat([f, f * (f - mean) / sd * 96 / 95, f * (f - mean) * 96 / 95, f * f / norm * 96], 1)
    by_hand = torch.einsum("ck,nkhw->nchw", module.fc.weight.double(), laid_out)
    torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["flat and linear", "flat and MLP"])
def test_a_weight_for_each_position_by_hand(name):
    module, f, maps = parts(name)
    if name == "flat and linear":
        v = module.fc.weight.double().expand(3, -1, -1)
    else:
        h = f.flatten(1) @ module.one.weight.double().T + module.one.bias.double()
        v = (module.two.weight.double()[None] * (h > 0)[:, None]) @ module.one.weight.double()
    by_hand = (v.reshape(3, CLASSES, WIDTH, 8, 12) * f[:, None]).sum(2) * 96
    torch.testing.assert_close(maps, by_hand, rtol=1e-4, atol=1e-4)


def test_the_maximum_lies_in_its_cell():
    module, f, maps = parts("max")
    for n in range(3):
        for c in range(CLASSES):
            by_hand = torch.zeros(8 * 12, dtype=torch.float64)
            for k in range(WIDTH):
                flat = f[n, k].flatten()
                by_hand[flat.argmax()] += module.fc.weight[c, k].double() * flat.max() * 96
            torch.testing.assert_close(maps[n, c].flatten(), by_hand, rtol=1e-4, atol=1e-4)


def test_a_head_that_begins_at_zero_is_a_head():
    module = built(*AFFINE["linear"])
    nn.init.zeros_(module.fc.weight)
    nn.init.zeros_(module.fc.bias)
    head = find_head(module, torch.randn(2, 3, 32, 48))
    assert isinstance(head, ConstantHead)
    assert not head.weight.any()
    nn.init.normal_(module.fc.weight)  # what training does
    assert find_head(module, torch.randn(2, 3, 32, 48)).weight.any()


def test_a_sum_scales_with_the_grid():
    module = built(*EXACT_OTHERWISE["sum"])
    head = find_head(module, torch.randn(2, 3, 32, 48))
    _, maps, error = identity_error(module, torch.randn(2, 3, 64, 64), head)
    assert error < 1e-5
    assert maps.shape[2:] == (16, 16)


REFUSED = {
    "distance": (FC, lambda m, x: -torch.cdist(x.mean((2, 3)), m.fc.weight), "cdist"),
    "products of all": (FC, lambda m, x: m.fc(x.mean((2, 3)).cumprod(1)), "cumprod"),
    "part in no cell": (
        {"fc": lambda: nn.Linear(2 * WIDTH, CLASSES)},
        lambda m, x: m.fc(torch.cat([x.mean((2, 3)), x.flatten(2).logsumexp(2)], 1)),
        "what logsumexp gives is added",
    ),
    "last of a sequence": (
        {"rows": lambda: nn.LSTM(WIDTH, 8, batch_first=True), "fc": lambda: nn.Linear(8, CLASSES)},
        lambda m, x: m.fc(m.rows(x.flatten(2).mT)[0][:, -1]),
        "of 96 positions the logits read number 96 alone",
    ),
    "mean of probabilities": (
        FC | {"b": FC["fc"]},
        lambda m, x: m.fc(x.mean((2, 3))).softmax(1) + m.b(x.mean((2, 3))).softmax(1),
        "nothing of the logits lies in cells: .*softmax",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_affine_is_refused_by_name(name):
    layers, tail, match = REFUSED[name]
    with pytest.raises(HeadError, match=match):
        find_head(built(layers, tail), torch.randn(2, 3, 32, 48))
