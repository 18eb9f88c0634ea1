"""On a GPU: images a second from JPEG files to stored maps, beside decoding, the bare forward and ``apply_model``.

    python -m benchmarks.gpu                                 # ResNet-50 and ViT-S, 4,000 photos, two counted rounds
    python -m benchmarks.gpu --networks resnet50 --count 1000 --rounds 1

Random weights. The photos are cut from those that ship with scikit-image, 500 × 375 pixels. One process, contenders
interleaved as in ``python -m benchmarks``. *forward* has its batches on the GPU already.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("FIFTYONE_DATABASE_NAME", "fiftyone_cam_benchmark")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_SHOW_PROGRESS_BARS", "false")
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")

import fiftyone.core.odm as foo
import numpy as np
import skimage.data
import torch
from PIL import Image

import fiftyone_cam as focam
from benchmarks.__main__ import measured
from benchmarks.contenders import Timed, apply_model, decode, ours
from benchmarks.cost import CASES, last_linear
from benchmarks.workloads import Workload, one_convolution
from fiftyone_cam.core.explain import Prepared, prepare
from fiftyone_cam.core.folding import folded
from fiftyone_cam.core.results import Item
from fiftyone_cam.engines import local

WIDTH, HEIGHT = 500, 375
PRECISIONS = ("float32", "bfloat16", "float16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="*", choices=[*CASES, "ceiling"], default=["resnet50", "vit_small"])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: python -m benchmarks measures on a CPU")
    print(f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        paths = photos(Path(folder), options.count)
        for name in options.networks:
            workload = of_network(name, paths)
            measured(workload, {name: CONTENDERS[name] for name in options.contenders}, options.rounds)
            print(f"  where the time of compute_cam goes: {where_time_goes(workload)}", flush=True)
    foo.drop_database()


def photos(folder: Path, count: int) -> list[str]:
    """Pieces of scikit-image's photos, as JPEG files."""
    random = np.random.default_rng(0)
    whole = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    paths = []
    for number in range(count):
        image = whole[number % len(whole)]
        side = random.uniform(0.5, 1.0)
        height, width = int(side * image.shape[0]), int(side * image.shape[1])
        top, left = (int(random.integers(0, most + 1)) for most in (image.shape[0] - height, image.shape[1] - width))
        piece = Image.fromarray(image[top : top + height, left : left + width])
        paths.append(str(folder / f"{number}.jpg"))
        piece.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def of_network(name: str, paths: list[str]) -> Workload:
    """A network with random weights over the photos, in the batches that a run takes by itself."""
    torch.manual_seed(0)
    if name == "ceiling":
        classifier, title = one_convolution(), "one convolution"
    else:
        case = CASES[name]()
        module = case.make().eval()
        torch.nn.init.normal_(last_linear(module).weight, std=0.02)  # it may begin at zero
        steps = (focam.Resize(short=256), focam.CenterCrop((224, 224)))
        names = [f"class {i}" for i in range(1000)]
        title = case.name
        classifier = focam.load_classifier(module, names, preprocessing=focam.Preprocessing(steps))
    batch = classifier.network.to("cuda").batch_size()
    return Workload(title, "gpu", paths, classifier, batch, device="cuda")


def forward(workload: Workload, precision: str) -> Timed:
    """The folded network alone, on batches that lie on the GPU."""
    network = workload.classifier.network.to("cuda")
    prepared = [prepare(Item("", path), network.preprocessing) for path in workload.paths[: workload.batch_size]]
    pixels = torch.stack([entry.pixels for entry in prepared if isinstance(entry, Prepared)])
    batch = network.preprocessing.normalize(pixels.cuda()).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        module = folded(network.module.eval(), batch[:1]).to(memory_format=torch.channels_last)
    rounds = max(1, len(workload.paths) // len(batch))
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)

    def run() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.inference_mode(), nullcontext() if kind is None else torch.autocast("cuda", kind):
            for _ in range(rounds):
                module(batch)
        torch.cuda.synchronize()
        return (time.perf_counter() - began) * len(workload.paths) / (rounds * len(batch))

    return run


def one_after_the_other(workload: Workload) -> Timed:
    """``compute_cam`` with one batch at a time on the GPU."""
    run = ours(workload, "bfloat16")

    def alone() -> float:
        before, local._CUDA_STREAMS = local._CUDA_STREAMS, 1
        try:
            return run()
        finally:
            local._CUDA_STREAMS = before

    return alone


def where_time_goes(workload: Workload) -> dict[str, Any]:
    """Milliseconds an image of each stage, threads together."""
    dataset = workload.dataset()
    try:
        run = focam.compute_cam(dataset, workload.classifier, precision="bfloat16", progress=False)
        timing = run.record.timing
        assert timing is not None
        names = ("decoding", "waiting_for_decode", "forward", "maps", "writing")
        return {name: round(1000 * getattr(timing, name) / timing.images, 3) for name in names}
    finally:
        dataset.delete()


CONTENDERS: dict[str, Callable[[Workload], Timed]] = {
    "decode alone": decode,
    **{f"forward, {precision}": partial(forward, precision=precision) for precision in PRECISIONS},
    **{f"compute_cam, {precision}": partial(ours, precision=precision) for precision in PRECISIONS},
    "compute_cam, one stream": one_after_the_other,
    "apply_model": partial(apply_model, maps=False, settings=[(256, 8), (256, 16)]),
}


if __name__ == "__main__":
    main()
