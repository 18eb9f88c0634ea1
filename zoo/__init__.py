"""Classifiers with class activation maps as a remote source of FiftyOne's model zoo. The package has to be installed.

>>> import fiftyone.zoo as foz
>>> foz.register_zoo_model_source("https://github.com/fiftyone-cam/fiftyone_cam")
>>> model = foz.load_zoo_model("resnet50-cam-torch")
>>> dataset.apply_model(model, label_field="cam", batch_size=32)             # cam_prediction, cam_heatmap
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MODELS = {
    "efficientnet-lite0-cam-torch": "efficientnet_lite0",
    "resnet50-cam-torch": "resnet50",
    "convnext-tiny-cam-torch": "convnext_tiny",
    "vit-b-16-cam-torch": "vit_b_16",
}
"""The names in ``manifest.json``, and what ``load_classifier`` takes for each."""


def download_model(model_name: str, model_path: str) -> None:
    """Note that the model is here: its weights come from a package, or from torchvision when it is loaded first."""
    Path(model_path).write_text(MODELS[model_name], encoding="utf-8")


def load_model(model_name: str, model_path: str, **kwargs: Any) -> Any:
    """The classifier, see :func:`fiftyone_cam.load_classifier`; ``kwargs`` are for it."""
    from fiftyone_cam import load_classifier

    return load_classifier(MODELS[model_name], **kwargs)
