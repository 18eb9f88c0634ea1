"""Small classifiers of the grades that are not exact for every image."""

from __future__ import annotations

import torch
from torch import nn

import fiftyone_cam as focam
from fiftyone_cam.core.preprocessing import Preprocessing, Resize
from tests.helpers.networks import NAMES
from tests.helpers.planted import SIDE, SmallConvNeXt, SmallMobileNet, SmallViT

KINDS = {
    "layer norm": (SmallConvNeXt, "exact for this image"),
    "MLP": (SmallMobileNet, "exact for this image"),
    "class token": (SmallViT, "exact with remainder"),
}


def classifier(kind: str, seed: int = 0) -> focam.Classifier:
    """With random weights, for the three classes of ``NAMES``."""
    torch.manual_seed(seed)
    module = KINDS[kind][0]()
    *_, (name, last) = ((n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear))
    parent, _, child = name.rpartition(".")
    wide = nn.Linear(last.in_features, len(NAMES))
    nn.init.normal_(wide.weight)
    setattr(module.get_submodule(parent), child, wide)
    return focam.load_classifier(module.eval(), NAMES, preprocessing=Preprocessing((Resize(size=(SIDE, SIDE)),)))
