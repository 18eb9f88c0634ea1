"""Heads of every kind after one small body, and the law that each must hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fiftyone_cam.core.heads import Head, find_head, scale_of_terms

WIDTH, CLASSES = 6, 4


class After(nn.Module):
    """A convolution with a stride of 4, and after it whatever a function makes of ``(N, 6, h, w)``."""

    def __init__(self, tail: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.tail = tail
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, input: Tensor) -> Tensor:
        return self.tail(self, self.body(input))


def identity_error(module: nn.Module, batch: Tensor, head: Head | None = None) -> tuple[Head, Tensor, float]:
    """The head, maps of all classes, and by how much mean plus bias misses the caller's own float32 logits."""
    head = head or find_head(module, torch.randn(2, *batch.shape[1:]))
    with torch.no_grad():
        expected = head_logits(module(batch))
        reading = head.read(module, batch)
        indices = torch.arange(head.classes).expand(len(batch), -1)
        maps, bias = reading.maps(indices)
    error = (maps.double().mean((2, 3)) + bias - expected).abs() / scale_of_terms(maps, bias, expected)
    return head, maps, float(error.max())


def head_logits(output: object) -> Tensor:
    """The tensor of logits in a plain output."""
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, dict) else output[0]  # type: ignore[index]


class TinyViT(nn.Module):
    """A vision transformer of a few tokens, in one of the spellings that libraries use for attention."""

    def __init__(
        self, spelling: str = "fused", blocks: int = 2, width: int = 8, heads: int = 2, extra: int = 0, size: int = 32
    ) -> None:
        super().__init__()
        self.spelling, self.heads, self.prefix = spelling, heads, 1 + extra
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.begin = nn.Parameter(torch.randn(1, self.prefix, width))
        self.position = nn.Parameter(0.1 * torch.randn(1, self.prefix + (size // 8) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "norm2": nn.LayerNorm(width),
                    "attention": nn.MultiheadAttention(width, heads, batch_first=True),
                    "mlp": nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)),
                }
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, CLASSES)

    def tokens(self, input: Tensor) -> Tensor:
        patches = self.patches(input).flatten(2).transpose(1, 2)
        return torch.cat([self.begin.expand(len(input), -1, -1), patches], 1) + self.position

    def attend(self, layer: nn.MultiheadAttention, x: Tensor) -> Tensor:
        if self.spelling == "module":
            return layer(x, x, x, need_weights=False)[0]
        n, length, width = x.shape
        qkv = nnf.linear(x, layer.in_proj_weight, layer.in_proj_bias)
        q, k, v = qkv.reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.spelling == "fused":
            out = nnf.scaled_dot_product_attention(q, k, v)
        else:
            out = (q * (width // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return layer.out_proj(out.transpose(1, 2).reshape(n, length, width))

    def last(self, input: Tensor) -> Tensor:
        x = self.tokens(input)
        for block in self.blocks:
            x = x + self.attend(block["attention"], block["norm1"](x))
            x = x + block["mlp"](block["norm2"](x))
        return self.norm(x)

    def forward(self, input: Tensor) -> Tensor:
        return self.fc(self.last(input)[:, 0])
