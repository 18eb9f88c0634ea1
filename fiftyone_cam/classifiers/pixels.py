"""Whether a network is fed what its author fed it: our input against what the source's own code makes of a picture.

Settings are read, but not believed: two processors with the same settings may do different things with them (one
divides by the deviation twice, one ignores its own mean). So colours are measured, and every reading of the geometry
is compared on pictures. What is equal to within the rounding of a resize is taken, everything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fiftyone_cam.core.checks import Check
from fiftyone_cam.core.errors import SourceError
from fiftyone_cam.core.preprocessing import Preprocessing

Picture: TypeAlias = NDArray[np.uint8]

Theirs: TypeAlias = Callable[[Picture], Tensor]
"""The source's own code: ``(H, W, 3)`` uint8 RGB to the network's float input, ``(C, height, width)``."""

MOST_LEVELS, MEAN_LEVELS = 3.0, 0.75
"""Of 255: how far apart two libraries' resizes may be, at most and on average. Seen: 1 to 2, and up to 0.5."""

_SAME_COLOUR = 1e-5
_LOW, _HIGH = 48, 208
"""Of the pictures: a bicubic resize of floats is not cut at black and white as one of bytes is."""

# Sides that leave odd remainders, and long sides that round up and down: a crop that is a pixel off is seen
_SIZES: Mapping[str, tuple[int, int]] = {
    "landscape": (301, 452),
    "portrait": (455, 302),
    "small": (61, 47),
    "wide": (200, 333),
    "grey": (289, 350),
    # Some rules hold for long pictures alone (a bound on the long side), some for those smaller than a small crop
    "panorama": (21, 149),
    "column": (143, 19),
}


def fitting(readings: Sequence[Preprocessing], theirs: Theirs, name: str) -> tuple[Preprocessing, Check]:
    """The first reading that gives the source's own input, with the check that says so.

    Args:
        readings: what the settings may mean, the likeliest first; mean, deviation and channels are measured where
            they differ.
        theirs: the source's own code.
        name: of the source's code, for the messages.

    Raises:
        SourceError: none of the readings does.

    >>> preset = ResNet18_Weights.DEFAULT.transforms()
    >>> fitting([Preprocessing(steps)], lambda image: preset(Image.fromarray(image)), "the preset")[1].passed
    True
    """
    expected = _inputs(theirs, name)
    mean, std, channels = _colours(theirs, name)
    nearest: Check | None = None
    fitting: list[tuple[Preprocessing, Check]] = []
    for reading in readings:
        check = compare(coloured := _coloured(reading, mean, std, channels), expected, name)
        nearest = min(nearest or check, check, key=lambda each: each.difference or 0.0)
        if check.passed:
            fitting.append((coloured, check))
    while len(fitting) > 1 and (size := _telling_size(fitting[0][0], [other for other, _ in fitting[1:]])):
        picture = _picture(*size)
        truth = {f"{size[0]}x{size[1]}": (picture, _input(theirs, picture))}
        remaining = [entry for entry in fitting if compare(entry[0], truth, name).passed]
        if len(remaining) in (0, len(fitting)):  # that picture does not tell either
            break
        fitting = remaining
    if fitting:
        return fitting[0]
    detail = nearest.detail if nearest else "no reading of its sizes is known"
    raise SourceError(f"{name} cannot be said as steps: {detail}. Pass preprocessing=Preprocessing(…)")


def _telling_size(first: Preprocessing, others: Sequence[Preprocessing]) -> tuple[int, int] | None:
    """The size of a picture that two readings place differently; where there is none, they are the same."""
    for size in product(range(97, 160, 7), range(97, 240, 5)):
        if any(other.frame(*size) != first.frame(*size) for other in others):
            return size
    return None


def compare(ours: Preprocessing, expected: Mapping[str, tuple[Picture, Tensor]], name: str) -> Check:
    """Our input of each picture against the expected one.

    >>> compare(preprocessing, {"portrait": (picture, expected)}, "its processor").difference
    1.0
    """
    worst, where = 0.0, ""
    level = torch.tensor(ours.std).view(-1, 1, 1) * 255
    for kind, (picture, input) in expected.items():
        try:
            found = ours.normalize(ours.apply(torch.from_numpy(picture).permute(2, 0, 1))[None])[0]
        except (RuntimeError, ValueError, NotImplementedError) as error:  # an interpolation that torch does not have
            return Check("pixels", False, np.inf, detail=f"on the {kind} picture ours fails: {str(error)[:200]}")
        if found.shape != input.shape:
            sizes = f"{tuple(found.shape)}, {name} gives {tuple(input.shape)}"
            return Check("pixels", False, np.inf, detail=f"of the {kind} picture we make {sizes}")
        difference = (found - input).abs() * level
        most, mean = float(difference.max()), float(difference.mean())
        if not (most <= MOST_LEVELS and mean <= MEAN_LEVELS):
            told = f"differs by up to {most:.1f} of 255 grey levels, {mean:.1f} on average, on the {kind} picture"
            return Check("pixels", False, most, "of 255 grey levels", told)
        if most >= worst:
            worst, where = most, kind
    detail = f"against {name}, on {len(expected)} pictures; most on the {where} one"
    return Check("pixels", True, round(worst, 2), "of 255 grey levels", detail)


@lru_cache(maxsize=1)
def pictures() -> dict[str, Picture]:
    """Pictures with coarse and fine texture, made on the spot: landscape, portrait, small, wide, grey, very long.

    >>> pictures()["portrait"].shape
    (455, 302, 3)
    """
    made = {kind: _picture(height, width) for kind, (height, width) in _SIZES.items()}
    made["grey"][...] = made["grey"][..., :1]
    return made


def _picture(height: int, width: int) -> Picture:
    rng = np.random.default_rng((height, width))
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR), np.float64)
    textured = _LOW + (_HIGH - _LOW) * (0.75 * smooth / 255 + 0.25 * rng.random((height, width, 3)))
    return np.rint(textured).astype(np.uint8)


def _inputs(theirs: Theirs, name: str) -> dict[str, tuple[Picture, Tensor]]:
    """The pictures and what the source's code makes of them; of those that it can take at all."""
    found, problem = {}, None
    for kind, picture in pictures().items():
        try:
            found[kind] = picture, _input(theirs, picture)
        except Exception as error:  # the code is anybody's
            problem = problem or f"{type(error).__name__}: {error}"
    if not found:
        raise SourceError(f"{name} fails on a plain picture ({str(problem)[:300]}): pass preprocessing=")
    picture, input = next(iter(found.values()))
    if not all(torch.equal(_input(theirs, picture), input) for _ in range(2)):
        raise SourceError(f"{name} gives another input each time: pass the transforms of the evaluation")
    return found


def _input(theirs: Theirs, picture: Picture) -> Tensor:
    input = torch.as_tensor(theirs(picture.copy()))
    if not input.is_floating_point():
        raise ValueError(f"it makes {input.dtype}, expected a tensor of floats")
    if input.ndim == 4 and len(input) == 1:
        input = input[0]
    if input.ndim != 3:
        raise ValueError(f"expected an input of (channels, height, width), found {tuple(input.shape)}")
    return input.detach().cpu().float()


def _colours(theirs: Theirs, name: str) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, deviation and channels, measured on pictures of one colour."""
    flat = {}
    for colour in ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (60, 120, 200)):
        try:
            input = _input(theirs, np.broadcast_to(np.array(colour, np.uint8), (256, 256, 3)))
        except Exception as error:
            raise SourceError(f"{name} fails on a plain picture ({str(error)[:300]}): pass preprocessing=") from error
        flat[colour] = input[:, input.shape[1] // 2, input.shape[2] // 2].double()
    black = flat[0, 0, 0]
    gains = torch.stack([flat[255, 0, 0], flat[0, 255, 0], flat[0, 0, 255]], 1) - black[:, None]
    total = gains.sum(1)
    if not bool((total > 0).all()):
        raise SourceError(f"{name} turns bright pixels into small numbers, or into one: pass preprocessing=")
    shares = gains / total[:, None]
    letters = ""
    for row in shares:
        for letter, pattern in (("R", (1, 0, 0)), ("G", (0, 1, 0)), ("B", (0, 0, 1)), ("L", (0.299, 0.587, 0.114))):
            if float((row - torch.tensor(pattern)).abs().max()) < 0.01:
                letters += letter
    mixed = torch.tensor([60, 120, 200], dtype=torch.float64) / 255
    off = (black + gains @ mixed - flat[60, 120, 200]).abs() / total * 255
    if len(letters) != len(total) or float(off.max()) > MOST_LEVELS:
        raise SourceError(f"{name} mixes or bends the colours, which no preprocessing here does: pass preprocessing=")
    std = tuple(float(f"{1 / value:.7g}") for value in total.tolist())
    mean = tuple(float(f"{-low / value:.7g}") + 0.0 for low, value in zip(black.tolist(), total.tolist(), strict=True))
    return mean, std, letters


def _coloured(reading: Preprocessing, mean: tuple[float, ...], std: tuple[float, ...], channels: str) -> Preprocessing:
    """The reading with the measured colours; with its own, which are rounder, where they are the same."""
    told = reading.channels or {1: "L", 3: "RGB"}.get(len(reading.mean), "")
    same = told == channels and all(
        abs(theirs - ours) <= _SAME_COLOUR * max(ours, spread)
        for ours, theirs, spread in zip((*reading.std, *reading.mean), (*std, *mean), reading.std * 2, strict=True)
    )
    if same:
        return reading
    return replace(reading, mean=mean, std=std, channels=None if channels in ("RGB", "L") else channels)
