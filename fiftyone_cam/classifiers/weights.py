"""Files of weights: read without running anything that they name, and fitted to the architecture that they are for."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from fiftyone_cam.core.errors import SourceError

_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Names of the weights in a file that holds more, in the order of preference. Averages (EMA) come last."""

_DEPTH = 3


def load_weights(module: nn.Module, path: Path, what: str, trusted: Any = None) -> str:
    """Load a file of weights into a module, whatever wrapper it was saved through; say what was taken off.

    Prefixes that all names share (``module.``, ``_orig_mod.``, ``model.``), the counter of averaged models, and the
    old names of torchvision's DenseNets are taken off where the names then fit; losses and metrics, which Lightning
    saves beside the network, are left out.

    Args:
        module: of the architecture that the weights are for.
        path: safetensors, or what ``torch.save`` wrote.
        what: the architecture in words, for the message.
        trusted: what the caller unpickled from the file already.

    Returns:
        where in the file they lay, and the prefix: ``"model_ema: module."``; often ``""``.

    Raises:
        SourceError: the file cannot be read, or does not fit.

    >>> load_weights(torchvision.models.resnet18(), Path("resnet18.pth"), "resnet18")
    ''
    """
    content = read_weights(path) if trusted is None else trusted
    found = sorted(_state_dicts(content), key=lambda entry: _rank(entry[0]))
    if not found:
        raise SourceError(f"{path.name} holds no state dict: expected tensors by name, found {_described(content)}")
    wanted = module.state_dict()
    fitting = [
        (_rank(place), ": ".join(part for part in (".".join(place), prefix) if part), fitted)
        for place, state in found
        for prefix, fitted in _fitting(state, wanted)
    ]
    if fitting:
        rank, part, fitted = fitting[0]
        others = [name for other, name, state in fitting[1:] if other == rank and not _equal(state, fitted)]
        if others:
            raise SourceError(
                f"{path.name} holds several weights that fit {what}: {', '.join([part, *others])}. "
                "Save the ones that you mean alone"
            )
        module.load_state_dict(fitted)
        return part
    raise SourceError(f"{path.name} does not fit {what}: {_misfit(module, found[0][1])}")


def read_weights(path: Path) -> Any:
    """What a file of weights holds, without running anything that the file could name.

    Raises:
        SourceError: it cannot be read, or not without running code that it holds.

    >>> read_weights(Path("model.safetensors"))["fc.bias"].shape
    torch.Size([1000])
    """
    _check_size(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path} cannot be read as safetensors: {str(error).splitlines()[0]}") from error
    try:
        # a Namespace is attributes and no code: timm's and torchvision's own training scripts save one
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # UnpicklingError, zip and struct errors: the format is open-ended
        raise SourceError(
            f"{path.name} is not a file of weights alone, and was not opened: a pickled module can run any code. "
            "Convert it where you trust it, torch.save(module.state_dict(), 'weights.pth'), and pass arch=; "
            "or, in Python and for a file that you trust, load_classifier(…, trust_pickle=True)"
        ) from error


def _check_size(path: Path) -> None:
    """See that a file can be read, before it is: nothing in it is larger than it says, and memory is large enough."""
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:  # PyTorch writes its archives without compression
                raise SourceError(
                    f"{path.name} has {size:,} bytes and unpacks to {unpacked:,}: no file of torch.save does. "
                    "It was not opened"
                )
    except (OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if size > (free := psutil.virtual_memory().available):
        raise SourceError(f"{path.name} has {size:,} bytes, and {free:,} are free in memory: it was not opened")


def _state_dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """All mappings of names to tensors in what a file holds, with the keys that lead to them."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield place, dict(content)
    elif len(place) < _DEPTH:
        for key, value in content.items():
            yield from _state_dicts(value, (*place, str(key)))


def _rank(place: tuple[str, ...]) -> tuple[bool, int]:
    averaged = any("ema" in key.lower() or "average" in key.lower() for key in place)
    usual = [_USUAL.index(key) for key in place if key in _USUAL]
    return averaged, min(usual, default=len(_USUAL))


def _fitting(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    """The variant that fits, if there is one; of a state dict of several modules the variants of each that does."""
    for prefix, fitted in _variants(state):
        if _fits(fitted, wanted):
            return [(prefix, fitted)]
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        modules.setdefault(name.partition(".")[0] if "." in name else "", {})[name] = value
    if len(modules) < 2:
        return []
    found = {name: _fitting(part, wanted) for name, part in modules.items() if name}
    beside = [name for name in modules if not found.get(name)]
    return (
        [] if any(not _BESIDE.search(name) for name in beside) else [each for part in found.values() for each in part]
    )


_BESIDE = re.compile(r"loss|criterion|metric|acc|auroc|f1|precision|recall|confus", re.IGNORECASE)


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(name in second and torch.equal(value, second[name]) for name, value in first.items())


def _variants(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights under the names that they may have had before they were wrapped, with the prefix taken off."""
    current = {name: value for name, value in state.items() if name != "n_averaged"}
    prefix = ""
    while True:
        yield prefix, current
        yield prefix, {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in current.items()}
        heads = {name.partition(".")[0] for name in current}
        if len(heads) != 1 or not all("." in name for name in current):
            return
        [head] = heads
        prefix += f"{head}."
        current = {name.removeprefix(f"{head}."): value for name, value in current.items()}


_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")


def _fits(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}  # PyTorch fills in the counters
    return needed <= state.keys() <= wanted.keys() and all(
        value.shape == wanted[name].shape and _oddity(value, wanted[name]) is None for name, value in state.items()
    )


def _oddity(value: Tensor, wanted: Tensor) -> str | None:
    """What a tensor is that cannot be taken for weights: quantised ones would be copied without their scale."""
    if value.is_meta or value.layout != torch.strided:
        return "without values" if value.is_meta else f"of layout {value.layout}"
    if wanted.is_floating_point() and not value.is_floating_point():
        return f"of type {value.dtype}"
    return None


def _misfit(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Why the best of the variants does not fit, in PyTorch's words, and with the prefix that it carries."""
    shapes = module.state_dict()
    prefix, best = max(_variants(state), key=lambda entry: len(entry[1].keys() & shapes.keys()))
    odd = ((name, _oddity(value, shapes[name])) for name, value in best.items() if name in shapes)
    if found := next(((name, oddity) for name, oddity in odd if oddity), None):
        return f"{found[0]} is {found[1]}, expected plain floats"
    try:
        module.load_state_dict(best)
    except RuntimeError as error:
        reasons = " ".join(line.strip() for line in str(error).splitlines()[1:3])[:400]
    else:
        reasons = "its names are another module's"
    first = next(iter(state))
    seen = f"; its names begin as in {first!r}" if not best.keys() & shapes.keys() else ""
    return f"{reasons}{seen}" + (f" (without the prefix {prefix!r}, which all of its names have)" if prefix else "")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a {type(content).__name__} of {', '.join(sorted(map(str, content))[:8]) or 'nothing'}"
    return f"a {type(content).__name__}"
