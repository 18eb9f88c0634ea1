"""Who runs: the machine's limits, this project, FiftyOne's own road, and two other libraries; each at its best."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import fiftyone as fo
import fiftyone.utils.torch as fout
import torch
from PIL import Image
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import v2

import fiftyone_cam as focam
from benchmarks.workloads import Workload
from fiftyone_cam.core.compilation import compile_forward
from fiftyone_cam.core.explain import Prepared, prepare
from fiftyone_cam.core.folding import folded
from fiftyone_cam.core.heads import tapped_forward
from fiftyone_cam.core.preprocessing import CenterCrop, Resize
from fiftyone_cam.core.results import Item

Timed = Callable[[], float]
"""Does it once; the seconds that it took."""


# the limits of the machine


def decode(workload: Workload) -> Timed:
    """Decoding and shaping alone, by as many threads as are fastest: one, for small files, or all cores."""
    preprocessing = workload.classifier.network.preprocessing
    items = [Item(str(i), path) for i, path in enumerate(workload.paths)]

    def run(workers: int, count: int | None = None) -> float:
        began = time.perf_counter()
        if workers == 1:
            for item in items[:count]:
                prepare(item, preprocessing)
        else:
            with ThreadPoolExecutor(workers) as pool:
                for _ in pool.map(lambda item: prepare(item, preprocessing), items[:count]):
                    pass
        return time.perf_counter() - began

    few = 2 * workload.batch_size
    best = fastest(run, [(workers, few) for workers in range(1, (os.cpu_count() or 1) + 1)])
    return lambda: run(best[0])


def forward(workload: Workload, how: str) -> Timed:
    """The bare forward alone over as many images; the batches lie in memory, normalised.

    ``"fastest"`` is what there is without compiling: batch normalisation folded, slices that the caches hold, each core
    with a batch of its own.
    """
    network = workload.classifier.network
    prepared = [prepare(Item("", path), network.preprocessing) for path in workload.paths[: workload.batch_size]]
    pixels = torch.stack([entry.pixels for entry in prepared if isinstance(entry, Prepared)])
    batch = network.preprocessing.normalize(pixels)
    module = network.module.eval()
    if how != "contiguous":
        batch = batch.contiguous(memory_format=torch.channels_last)
        module = module.to(memory_format=torch.channels_last)
    rounds = len(workload.paths) // len(batch)
    whole = len(workload.paths) / (rounds * len(batch))

    if how in ("contiguous", "channels last"):

        def run() -> float:
            began = time.perf_counter()
            with torch.inference_mode():
                for _ in range(rounds):
                    module(batch)
            return (time.perf_counter() - began) * whole

        return run

    cores, tap = os.cpu_count() or 1, network.head.tap
    with torch.no_grad():
        module = folded(module, batch[:1]).to(memory_format=torch.channels_last)
    controller = ThreadpoolController()
    with controller.limit(limits=1, user_api="openmp"):
        slices = batch.split(network.slice_size(batch.shape[1:], threads=1))
        call: Callable[[Tensor], Any] = lambda part: tapped_forward(module, part, tap)  # noqa: E731
        if how == "compiled":
            fast = compile_forward(module, tap, slices[0])
            if fast is None:
                raise RuntimeError("it cannot be compiled here")
            call = lambda part: fast(part) if len(part) == len(slices[0]) else tapped_forward(module, part, tap)  # noqa: E731

    def once(_: int) -> None:
        with torch.inference_mode():
            for part in slices:
                call(part)

    def all_cores() -> float:
        began = time.perf_counter()
        limit = partial(controller.limit, limits=1, user_api="openmp")
        with ThreadPoolExecutor(cores, initializer=limit) as pool:
            list(pool.map(once, range(rounds)))
        return (time.perf_counter() - began) * whole

    return all_cores


# this project


def ours(workload: Workload, precision: str = "float32") -> Timed:
    def run() -> float:
        with _dataset(workload) as dataset:
            began = time.perf_counter()
            focam.compute_cam(
                dataset,
                workload.classifier,
                batch_size=workload.batch_size,
                device=workload.device,
                precision=precision,
                progress=False,
            )
            return time.perf_counter() - began

    return run


# FiftyOne's own road


class _HeatmapProcessor(fout.OutputProcessor):
    """What one would write in half an hour: the CAM of the predicted class, a heatmap label for each image."""

    def __init__(self, network: Any, taps: dict[str, Tensor]) -> None:
        self._network, self._taps = network, taps

    def __call__(self, output: Tensor, frame_size: Any, confidence_thresh: Any = None, **_: Any) -> list[fo.Heatmap]:
        indices = output.argmax(1)
        weight = self._network.head.weight[indices]
        maps = torch.einsum("nk,nkhw->nhw", weight, self._taps["features"]).clamp_min(0)
        maps = nn.functional.interpolate(maps[:, None], size=(96, 96), mode="bilinear")[:, 0]
        levels = (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-6) * 255).byte().cpu().numpy()
        return [fo.Heatmap(map=values, range=[0, 255]) for values in levels]


def fiftyone_model(workload: Workload, maps: bool) -> fout.TorchImageModel:
    network = workload.classifier.network
    settings: dict[str, Any] = {
        "model": network.module,
        "classes": list(network.classes),
        "transforms": transforms(workload),
        "ragged_batches": False,
        "device": workload.device,
    }
    if maps:
        taps: dict[str, Tensor] = {}
        pooled_from(workload).register_forward_hook(lambda _, __, output: taps.update(features=output))
        settings["output_processor"] = _HeatmapProcessor(network, taps)
    else:
        settings["output_processor_cls"] = "fiftyone.utils.torch.ClassifierOutputProcessor"
    return fout.TorchImageModel(fout.TorchImageModelConfig(settings))


def apply_model(workload: Workload, maps: bool, settings: list[tuple[int, int]] | None = None) -> Timed:
    """``dataset.apply_model`` with the batch size and the number of workers that are fastest here.

    ``settings``: pairs of them to choose from, by all images; without them, all that make sense, by the first images.
    """
    model = fiftyone_model(workload, maps)

    def run(batch_size: int, workers: int, count: int | None = None) -> float:
        with _dataset(workload, count) as dataset:
            began = time.perf_counter()
            dataset.apply_model(model, label_field="found", batch_size=batch_size, num_workers=workers, progress=False)
            return time.perf_counter() - began

    few = None if settings else min(len(workload.paths), 2 * workload.batch_size)
    settings = settings or [(n, k) for n in batch_sizes(workload) for k in range((os.cpu_count() or 1) + 1)]
    found = fastest(run, [(n, k, few) for n, k in settings])
    return lambda: run(*found[:2])


# other libraries, in the loop of their README


class _Photos(Dataset[Tensor]):
    def __init__(self, workload: Workload) -> None:
        self._paths, self._transforms = workload.paths, transforms(workload)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        tensor: Tensor = self._transforms(Image.open(self._paths[index]).convert("RGB"))
        return tensor


def torch_cam(workload: Workload) -> Timed:
    from torchcam.methods import CAM

    module = workload.classifier.network.module.eval()
    target = pooled_from(workload)

    def explain(batch: Tensor) -> Iterator[Any]:
        scores = module(batch)
        [maps] = extractor(scores.argmax(1).tolist(), scores)
        yield from maps.numpy()

    names = {part: name for name, part in module.named_modules()}
    last = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
    extractor = CAM(module, target_layer=names[target], fc_layer=last)
    extractor.disable_hooks()

    def run(batch_size: int, count: int | None = None) -> float:
        extractor.enable_hooks()
        try:
            with torch.inference_mode():
                return _loop(workload, explain, batch_size, count)
        finally:
            extractor.disable_hooks()

    return _batched(workload, run)


def grad_cam(workload: Workload) -> Timed:
    from pytorch_grad_cam import GradCAM

    module, case = workload.classifier.network.module.eval(), workload.case
    target = pooled_from(workload) if case is None else case.layer(module)
    places = None if case is None else case.places

    def run(batch_size: int, count: int | None = None) -> float:
        with GradCAM(model=module, target_layers=[target], reshape_transform=places) as cam:
            return _loop(workload, lambda batch: iter(cam(input_tensor=batch, targets=None)), batch_size, count)

    return _batched(workload, run)


def _batched(workload: Workload, run: Callable[..., float]) -> Timed:
    """With the batch size that is fastest here."""
    few = min(len(workload.paths), 2 * workload.batch_size)
    best, _ = fastest(run, [(size, few) for size in batch_sizes(workload)])
    return lambda: run(best)


def _loop(workload: Workload, explain: Callable[[Tensor], Iterator[Any]], batch_size: int, count: int | None) -> float:
    with _dataset(workload, count) as dataset:
        began = time.perf_counter()
        ids = dataset.values("id")
        loader = DataLoader(Subset(_Photos(workload), range(len(ids))), batch_size, num_workers=0)
        done = 0
        for batch in loader:
            heatmaps = [fo.Heatmap(map=values, range=[0, 1]) for values in explain(batch)]
            dataset.set_values("heat", dict(zip(ids[done:], heatmaps, strict=False)), key_field="id")
            done += len(batch)
        return time.perf_counter() - began


# what they share


def batch_sizes(workload: Workload) -> list[int]:
    """What peers may choose from."""
    return sorted({4, 16, workload.batch_size})


def fastest(run: Callable[..., float], settings: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The settings that take the least time: the first are tried twice, what is loaded then is loaded for all."""
    run(*settings[0])
    return min(settings, key=lambda setting: run(*setting))


def transforms(workload: Workload) -> v2.Compose:
    """The same preprocessing as torchvision's transforms."""
    preprocessing = workload.classifier.network.preprocessing
    interpolation = v2.InterpolationMode(preprocessing.interpolation)
    steps: list[Any] = [v2.ToImage()]
    for step in preprocessing.steps:
        if isinstance(step, Resize):
            size = list(step.size) if step.size else [step.short]
            steps.append(v2.Resize(size, interpolation, antialias=True))
        elif isinstance(step, CenterCrop):
            steps.append(v2.CenterCrop(step.size))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)]
    return v2.Compose(steps)


def pooled_from(workload: Workload) -> nn.Module:
    """The module whose output is pooled: the last that gives the head's number of channels, before the pooling."""
    network = workload.classifier.network
    channels = network.head.features
    found: list[nn.Module] = []

    def note(part: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == channels and output[0, 0].numel() > 1:
            found.append(part)

    hooks = [part.register_forward_hook(note) for part in network.module.modules()]
    height, width = network.preprocessing.input_size(*((32, 32) if not network.preprocessing.steps else (224, 224)))
    with torch.no_grad(), network.evaluating():
        network.module(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return found[-1]


@contextmanager
def _dataset(workload: Workload, count: int | None = None) -> Iterator[fo.Dataset]:
    dataset = workload.dataset()
    if count is not None:
        dataset.delete_samples(dataset.values("id")[count:])
    try:
        yield dataset
    finally:
        dataset.delete()
