"""What maps cost beside the bare forward, by grade, and what pytorch-grad-cam costs. Random weights, noise.

    python -m benchmarks.cost                       # all four networks, some minutes
    python -m benchmarks.cost vit_small --rounds 9

Two take turns in each round; the first round warms up. CPU seconds of the process; medians of each round's ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fiftyone_cam.core.network import GapNetwork
from fiftyone_cam.core.preprocessing import Preprocessing, Resize

BATCH = 4


class Case(NamedTuple):
    """A network; the layer that pytorch-grad-cam's README recommends for its kind, and how its output lies in space."""

    name: str
    make: Callable[[], nn.Module]
    layer: Callable[[Any], nn.Module]
    places: Callable[[Tensor], Tensor] | None = None


def _torchvision(name: str) -> Callable[[], nn.Module]:
    import torchvision

    return lambda: torchvision.models.get_model(name, weights=None)


def _timm(name: str) -> Callable[[], nn.Module]:
    import timm

    return lambda: timm.create_model(name)


CASES = {
    "resnet50": lambda: Case("ResNet-50", _torchvision("resnet50"), lambda m: m.layer4[-1]),
    "swin_t": lambda: Case(
        "Swin-T", _torchvision("swin_t"), lambda m: m.features[-1][-1].norm1, lambda x: x.permute(0, 3, 1, 2)
    ),
    "convnext_tiny": lambda: Case("ConvNeXt-T", _torchvision("convnext_tiny"), lambda m: m.features[-1][-1]),
    "vit_small": lambda: Case(
        "ViT-S", _timm("vit_small_patch16_224"), lambda m: m.blocks[-1].norm1,
        lambda x: x[:, 1:].mT.reshape(len(x), -1, 14, 14),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a run does, with a batch on each core; waiting threads would count as CPU time
    print("| network | grade | bare forward, ms of CPU an image | maps added | pytorch-grad-cam added |")
    print("|---|---|---|---|---|")
    for name in options.networks or CASES:
        print(measured(CASES[name](), options.rounds), flush=True)


def measured(case: Case, rounds: int) -> str:
    """One network's row."""
    torch.manual_seed(0)
    module = case.make().eval()
    last = last_linear(module)
    nn.init.normal_(last.weight, std=0.02)  # it may begin at zero
    classes = [str(i) for i in range(last.out_features)]
    network = GapNetwork(module, classes, Preprocessing((Resize(size=(224, 224)),)))
    batch = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)

    def bare() -> None:
        with torch.inference_mode():
            for part in network._slices(batch):
                module(network._input(part))

    def maps() -> None:
        reading = network.read(batch)
        reading.maps(reading.logits.topk(2).indices[:, [0, 0]])  # the predicted class, and no contrast, as in a run

    row = [case.name, network.head.grade]
    added, alone = compared(bare, maps, rounds)
    row += [f"{1000 * alone / BATCH:.0f}", f"{added:+.1%}"]
    cam = grad_cam(case, module)
    if cam is not None:  # afterwards: what it holds and frees would be felt by who comes next
        pixels = network._input(batch)
        row.append(f"{compared(bare, lambda: cam(input_tensor=pixels, targets=None), rounds)[0]:+.1%}")
    else:
        row.append("not installed")
    return f"| {' | '.join(row)} |"


def last_linear(module: nn.Module) -> nn.Linear:
    """The layer that gives the logits."""
    return [part for part in module.modules() if isinstance(part, nn.Linear)][-1]


def compared(one: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """What the other takes more than the one, as a share, and the seconds of the one; who begins changes each round."""
    seconds: dict[Callable[[], Any], list[float]] = {one: [], other: []}
    for turn in range(rounds + 1):
        for run in (one, other) if turn % 2 else (other, one):
            began = time.process_time()
            run()
            if turn:
                seconds[run].append(time.process_time() - began)
    ratios = [theirs / alone for alone, theirs in zip(seconds[one], seconds[other], strict=True)]
    return statistics.median(ratios) - 1, statistics.median(seconds[one])


def grad_cam(case: Case, module: nn.Module) -> Callable[..., Any] | None:
    """pytorch-grad-cam's, with the settings that its README gives for this kind of network; None without it."""
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        return None
    found: Callable[..., Any] = GradCAM(model=module, target_layers=[case.layer(module)], reshape_transform=case.places)
    return found


if __name__ == "__main__":
    main()
