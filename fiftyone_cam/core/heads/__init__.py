"""What follows the feature maps of a classifier, in three grades: see README.md beside this file."""

from fiftyone_cam.core.heads.constant import ConstantHead
from fiftyone_cam.core.heads.find import certified, find_head, scale_of_terms
from fiftyone_cam.core.heads.head import EXACT, PER_IMAGE, REMAINDER, Head, Reading
from fiftyone_cam.core.heads.places import locate
from fiftyone_cam.core.heads.tap import LogitsAt, Tap, evaluating, read_logits, tapped_forward

__all__ = [
    "EXACT",
    "PER_IMAGE",
    "REMAINDER",
    "ConstantHead",
    "Head",
    "LogitsAt",
    "Reading",
    "Tap",
    "certified",
    "evaluating",
    "find_head",
    "locate",
    "read_logits",
    "scale_of_terms",
    "tapped_forward",
]
