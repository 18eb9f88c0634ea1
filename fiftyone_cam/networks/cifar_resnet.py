"""The ResNets for CIFAR-10 of He et al., Deep Residual Learning, CVPR 2016, section 4.2, with their usual names.

Shortcuts are the paper's option A, without weights: every second pixel, the new channels zero. ``cifar_resnet20`` has
270,000 weights; its last feature maps are 8x8x64.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as nnf


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self._stride = stride
        self._new = out - channels

    def forward(self, input: Tensor) -> Tensor:
        x = nnf.relu(self.bn1(self.conv1(input)))
        x = self.bn2(self.conv2(x))
        shortcut = input[:, :, :: self._stride, :: self._stride]
        before = self._new // 2
        return nnf.relu(x + nnf.pad(shortcut, (0, 0, 0, 0, before, self._new - before)))


class CifarResNet(nn.Module):
    """``(N, 3, 32, 32)`` in, ``(N, num_classes)`` logits out.

    Args:
        depth: 6n + 2: 20, 32, 44, 56 or 110.
        num_classes: how many logits.

    >>> CifarResNet(20)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    def __init__(self, depth: int = 20, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth is {depth}, expected 6n + 2: 20, 32, 44, 56 or 110")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        x = nnf.relu(self.bn1(self.conv1(input)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(nnf.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _Block(channels, out, stride),
        *(_Block(out, out, 1) for _ in range(blocks - 1)),
    )
