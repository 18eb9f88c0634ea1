"""Which head each architecture has: its grade, or why it is refused. Random weights, no download.

python -m benchmarks.heads timm                    # the smallest architecture of each family, up to 60M parameters
python -m benchmarks.heads torchvision transformers
python -m benchmarks.heads timm --only convnext vision_transformer
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fiftyone_cam.core.heads import find_head

MOST_PARAMETERS = 60e6
CLASSES = 12
FIXED = ("vit", "maxvit", "vgg", "alexnet")
"""In torchvision: made for one size of input, or best probed with it. Others take a smaller one, in less time."""

Made = tuple[nn.Module, int]
"""A classifier and the side of its square input."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sources", nargs="+", choices=SOURCES)
    parser.add_argument("--only", nargs="*", help="families")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for source in options.sources:
        print(f"\n## {source}\n\n| family | architecture | grade | head, or reason | error | s |")
        print("|---|---|---|---|---|---|")
        grades: Counter[str] = Counter()
        for family, name, make in SOURCES[source](options.only):
            grades[row(family, name, make)] += 1
        print(f"\n{sum(grades.values())} families: " + ", ".join(f"{n} {grade}" for grade, n in grades.most_common()))


def row(family: str, name: str, make: Callable[[], Made]) -> str:
    """Print one architecture's row; its grade."""
    began = time.perf_counter()
    grade, words, error = "refused", "", ""
    try:
        torch.manual_seed(0)
        module, size = make()
        wake(module)
        head = find_head(module.eval(), torch.randn(2, 3, size, size))
        grade, words, error = head.grade, head.kind, f"{head.error:.0e}"
    except Exception as reason:  # others' builders raise anything
        words = f"{type(reason).__name__}: {reason}".replace("|", "/").replace("\n", " ")[:240]
    print(f"| {family} | {name} | {grade} | {words} | {error} | {time.perf_counter() - began:.0f} |", flush=True)
    return grade


@torch.no_grad()
def wake(module: nn.Module) -> None:
    """What starts at zero (heads, class tokens, last norms of blocks) gets values, as after some training."""
    for name, parameter in module.named_parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
        if name.endswith("attention_biases"):  # of LeViT's kind, by distance: who learns looks near first
            parameter[:, 0] = 6.0


def from_timm(only: Sequence[str] | None) -> Iterator[tuple[str, str, Callable[[], Made]]]:
    import timm

    for family in only or timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    module = timm.create_model(name, num_classes=CLASSES)
                sizes[name] = sum(parameter.numel() for parameter in module.parameters())
            except Exception:  # cannot be built without data
                continue
        fitting = [name for name in sizes if sizes[name] <= MOST_PARAMETERS]
        if fitting:
            name = min(fitting, key=lambda each: sizes[each])

            def make(name: str = name) -> Made:
                module: Any = timm.create_model(name, num_classes=CLASSES)
                return module, int(module.pretrained_cfg["input_size"][-1])

            yield family, name, make


def from_torchvision(only: Sequence[str] | None) -> Iterator[tuple[str, str, Callable[[], Made]]]:
    import torchvision

    for name in only or torchvision.models.list_models(module=torchvision.models):

        def make(name: str = name) -> Made:
            options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
            return module, 224 if name.startswith(FIXED) else 160

        yield name, name, make


def from_transformers(only: Sequence[str] | None) -> Iterator[tuple[str, str, Callable[[], Made]]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    for kind, names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items():
        if only and kind not in only:
            continue

        def make(kind: str = kind) -> Made:
            config = small(CONFIG_MAPPING[kind]())
            models: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
            model = (models if isinstance(models, (tuple, list)) else (models,))[0](config)
            vision = getattr(config, "vision_config", config)
            size: Any = getattr(vision, "image_size", 224)
            side = int(size if isinstance(size, int) else size[0])
            return model, side if hasattr(vision, "patch_size") else min(side, 224)

        yield kind, names if isinstance(names, str) else names[0], make


def small(config: Any) -> Any:
    """Fewer layers: what is tested is how it ends."""
    config.num_labels = CLASSES
    each: Any
    for each in (config, getattr(config, "vision_config", None)):
        if isinstance(getattr(each, "num_hidden_layers", None), int) and not hasattr(each, "depths"):
            each.num_hidden_layers = min(3, each.num_hidden_layers)
    return config


SOURCES = {"timm": from_timm, "torchvision": from_torchvision, "transformers": from_transformers}

if __name__ == "__main__":
    main()
