"""Architectures by name: torchvision's, and the ones that this package carries. One place builds them all."""

from __future__ import annotations

from typing import Any

from torch import nn

from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.names import LITE, SMALL


def build(arch: str, num_classes: int, **kwargs: Any) -> nn.Module:
    """A network with random weights.

    Args:
        arch: a torchvision classification builder (``"resnet18"``), one of :data:`LITE` or of :data:`SMALL`, or
            ``"timm:…"``.
        num_classes: how many logits.
        kwargs: for the builder.

    >>> build("resnet18", 2).fc
    Linear(in_features=512, out_features=2, bias=True)
    """
    if arch in LITE:
        from fiftyone_cam.networks.efficientnet_lite import EfficientNetLite

        return EfficientNetLite(LITE.index(arch), num_classes)
    if arch == "small_gap_net":
        from fiftyone_cam.networks.small_gap_net import SmallGapNet

        return SmallGapNet(num_classes)
    if arch in SMALL:
        from fiftyone_cam.networks.cifar_resnet import CifarResNet

        return CifarResNet(int(arch.removeprefix("cifar_resnet")), num_classes)
    if arch.startswith("timm:"):
        import timm

        module: nn.Module = timm.create_model(arch[5:], pretrained=False, num_classes=num_classes, **kwargs)
        return module
    import torchvision

    if arch not in architectures():
        raise SourceError(
            f"unknown architecture {arch!r}: expected a torchvision classifier, {', '.join([*LITE, *SMALL])} or timm:…"
        )
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **kwargs)


def architectures() -> list[str]:
    """The names of what :func:`build` builds, apart from :data:`LITE` and timm's: torchvision's, and :data:`SMALL`.

    >>> "resnet18" in architectures()
    True
    """
    import torchvision

    return [*torchvision.models.list_models(module=torchvision.models), *SMALL]
