"""Pictures in which one place tells the class, networks that learn it, and how well a map finds it."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from tests.helpers.heads import TinyViT

SIDE, PATCH, RADIUS = 48, 6, 8
GRID = SIDE // PATCH


def disc(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A striped disc of 9% of the area, anywhere in noise; the stripes lie or stand.

    Pictures ``(N, 3, 48, 48)``, classes, and the share of each cell that the disc covers, ``(N, 8, 8)``.
    """
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.7 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    classes = torch.randint(0, 2, (count,), generator=generator)
    inside = _discs(count, generator)
    pictures = pictures * (1 - inside[:, None]) + 1.2 * (_stripes(classes, generator) * inside)[:, None]
    return pictures, classes, nnf.avg_pool2d(inside[:, None], PATCH)[:, 0]


def clutter(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`disc`, on a coloured ground among two discs of chequers, which are in every picture."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    pictures = nnf.interpolate(coarse, SIDE, mode="bilinear") + 0.3 * torch.randn(
        count, 3, SIDE, SIDE, generator=generator
    )
    classes = torch.randint(0, 2, (count,), generator=generator)
    y, x = _pixels()
    for _ in range(2):
        other = _discs(count, generator)[:, None]
        pictures = pictures * (1 - other) + other * (1.2 * torch.sin(y * 2.1) * torch.sin(x * 2.1)).sign()
    inside = _discs(count, generator)
    pictures = pictures * (1 - inside[:, None]) + 1.2 * (_stripes(classes, generator) * inside)[:, None]
    return pictures, classes, nnf.avg_pool2d(inside[:, None], PATCH)[:, 0]


def _pixels() -> tuple[Tensor, ...]:
    return torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")


def _discs(count: int, generator: torch.Generator) -> Tensor:
    y, x = _pixels()
    centres = RADIUS + (SIDE - 2 * RADIUS) * torch.rand(count, 2, generator=generator)
    return ((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2 < RADIUS**2).float()


def _stripes(classes: Tensor, generator: torch.Generator) -> Tensor:
    y, x = _pixels()
    phase = 6 * torch.rand(len(classes), 1, 1, generator=generator)
    return torch.where(classes[:, None, None] == 0, torch.sin(y * 2.1 + phase), torch.sin(x * 2.1 + phase))


TASKS = {"disc in noise": disc, "disc among others": clutter}


class _Norm2d(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width), _Norm2d(width),
            nn.Conv2d(width, 3 * width, 1), nn.GELU(), nn.Conv2d(3 * width, width, 1),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        return input + self.layers(input)


class SmallConvNeXt(nn.Module):
    """Depthwise convolutions with layer norm, and layer norm after pooling."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=3), _Norm2d(width), _Block(width),
            _Norm2d(width), nn.Conv2d(width, width, 2, stride=2), _Block(width),
        )  # fmt: skip
        self.tail = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2))
        self.layers = [self.body[2], self.body[4], self.body[5]]

    def forward(self, input: Tensor) -> Tensor:
        return self.tail(self.body(input).mean((2, 3)))


class SmallMobileNet(nn.Module):
    """Convolutions with batch norm and hardswish, a last one of 1x1, and an MLP with hardswish after pooling."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()

        def layer(before: int, after: int, size: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.Hardswish())

        self.body = nn.Sequential(layer(3, width, 3, 2), layer(width, width, 3, 3), layer(width, 2 * width, 1, 1))
        self.tail = nn.Sequential(nn.Linear(2 * width, 48), nn.Hardswish(), nn.Linear(48, 2))
        self.layers = [*self.body[1:]]

    def forward(self, input: Tensor) -> Tensor:
        return self.tail(self.body(input).mean((2, 3)))


class SmallViT(TinyViT):
    """Six blocks, patches of 6 pixels, a class token."""

    def __init__(self, blocks: int = 6, width: int = 32) -> None:
        super().__init__("fused", blocks=blocks, width=width, heads=4, size=8 * GRID)
        nn.init.normal_(self.begin, std=0.02)
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.fc = nn.Linear(width, 2)
        self.layers = [block["norm1"] for block in self.blocks]


NETWORKS = {"ConvNeXt-like": SmallConvNeXt, "MLP head": SmallMobileNet, "ViT-like": SmallViT}


@cache
def trained(network: str, task: str, seed: int) -> nn.Module:
    """A network that has learnt a task: a second or some twenty."""
    torch.manual_seed(seed)
    module = NETWORKS[network]()
    steps, batch = (500, 32) if network == "ViT-like" else (200, 64)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3 if network == "ViT-like" else 4e-3, steps)
    for step in range(steps):
        pictures, classes, _ = TASKS[task](batch, 10_000 * (seed + 1) + step)
        optimizer.zero_grad()
        nnf.cross_entropy(module(pictures), classes).backward()
        optimizer.step()
        schedule.step()
    return module.eval().requires_grad_(False)


def placed(maps: Tensor, covered: Tensor) -> tuple[float, float]:
    """Mean share of positive evidence in cells that the disc covers to a third, and how often the peak is there.

    Finer maps ``(N, h, w)`` are averaged to the cells, so that all are judged alike.
    """
    positive = nnf.adaptive_avg_pool2d(maps[:, None], GRID)[:, 0].clamp_min(0).flatten(1)
    there = (covered > 1 / 3).float().flatten(1)
    energy = (positive * there).sum(1) / positive.sum(1).clamp_min(1e-12)
    return float(energy.mean()), float(there.gather(1, positive.argmax(1, keepdim=True)).mean())


def peers(module: nn.Module, pictures: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """What others show for the gap between the two logits: by method and layer, ``(N, h, w)``."""
    kept: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: kept.append(output)) for layer in module.layers]
    logits = module(pictures.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    gap = (logits.gather(1, classes[:, None]) - logits.gather(1, 1 - classes[:, None])).sum()
    found = {}
    for i, (activation, gradient) in enumerate(zip(kept, torch.autograd.grad(gap, kept), strict=True), 1):
        a, g = (
            each if each.ndim == 4 else each[:, 1:].mT.reshape(len(each), -1, GRID, GRID)
            for each in (activation.detach(), gradient)
        )
        found[f"Grad-CAM, layer {i}"] = (g.mean((2, 3), keepdim=True) * a).sum(1)
        found[f"HiResCAM, layer {i}"] = (g * a).sum(1)
        found[f"LayerCAM, layer {i}"] = (g.clamp_min(0) * a).sum(1)
    if isinstance(module, SmallViT):
        weights = attentions(module, pictures)
        rolled = torch.eye(weights[0].shape[-1])
        for each in weights:
            rolled = (0.5 * each + 0.5 * torch.eye(each.shape[-1])) @ rolled
        found["attention rollout"] = rolled[:, 0, 1:].reshape(-1, GRID, GRID)
        found["last attention"] = weights[-1][:, 0, 1:].reshape(-1, GRID, GRID)
    return found


@torch.no_grad()
def attentions(module: SmallViT, pictures: Tensor) -> list[Tensor]:
    """Of each block, the mean over its heads, ``(N, L, L)``."""
    found = []
    x = module.tokens(pictures)
    for block in module.blocks:
        layer, normed = block["attention"], block["norm1"](x)
        qkv = nnf.linear(normed, layer.in_proj_weight, layer.in_proj_bias)
        q, k, _ = qkv.unflatten(-1, (3, layer.num_heads, -1)).unbind(2)
        scores = torch.einsum("nihd,njhd->nhij", q, k) / layer.head_dim**0.5
        found.append(scores.softmax(-1).mean(1))
        x = x + module.attend(layer, normed)
        x = x + block["mlp"](block["norm2"](x))
    return found
