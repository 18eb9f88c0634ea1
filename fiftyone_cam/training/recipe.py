"""The recipe of a training: what decides its result, apart from the network and the pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fiftyone_cam.core.errors import TrainingError
from fiftyone_cam.core.names import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: AdamW, linear warm-up, cosine decay, label smoothing. The defaults work for most.

    Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019; SGDR, ICLR 2017. Szegedy et al., CVPR 2016.

    Attributes:
        epochs: how often each sample is seen.
        freeze: ``"backbone"``: train the last layer alone. Its inputs are computed once, without augmentation.
        batch_size: images in a step.
        learning_rate: the highest one; None: 1e-3 from random weights, 3e-4 from given weights, 1e-2 for the last layer
            alone.
        weight_decay: of AdamW; weights only, no biases and no scales of norms.
        label_smoothing: the share of certainty that goes to the other classes, from 0 up to but not 1.
        balance: give each class the same weight in the loss, whatever its number of samples.
        patience: stop after so many epochs without a better validation; None: never.
        precision: of the forward, while the weights are float32. ``"float32"``, ``"bfloat16"`` or, on a GPU,
            ``"float16"``. None: mixed on CUDA, float32 elsewhere. ``"bfloat16"`` doubles the speed of CPUs with AMX.
        seed: of the split, the first weights, the order and the augmentation.

    Raises:
        TrainingError: a value makes no sense.

    >>> recipe = focam.Recipe(epochs=20, freeze="backbone")
    >>> classifier = focam.train_classifier(dataset, "ground_truth", "runs/pets", recipe=recipe)
    """

    epochs: int = 5
    freeze: Literal["backbone"] | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    balance: bool = True
    patience: int | None = 10
    precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and not (value is None and name == "patience"):
                raise TrainingError(f"{name} is {value!r}, expected a whole number from 1")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise TrainingError(f"seed is {self.seed!r}, expected a whole number from 0")
        if self.freeze not in (None, "backbone"):
            raise TrainingError(f"freeze is {self.freeze!r}, expected None or 'backbone'")
        rate = self.learning_rate
        if rate is not None and not 0 < rate < math.inf:
            raise TrainingError(f"learning_rate is {rate!r}, expected a positive number, or None for the usual one")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(f"label_smoothing is {self.label_smoothing!r}, expected 0 up to but not 1")
        if not 0 <= self.weight_decay < math.inf:
            raise TrainingError(f"weight_decay is {self.weight_decay!r}, expected 0 or more")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise TrainingError(f"unknown precision {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
