"""Finding the head of a classifier by probe forwards. Nothing is guessed from names of modules.

The probe writes down every torch function that the forward calls. The feature maps are the last tensor with places
through which *everything* passes on its way from the image to the logits; what comes after them is the tail. It is run
alone, on probes: if it acts as an affine map there, it is one, and its matrix is read; if it does so with its gates
frozen, it is exact for each image. All equalities are numeric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from fiftyone_cam.core.cam import CERTIFICATE_TOLERANCE, certificate
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.float32 import ieee_float32
from fiftyone_cam.core.heads.constant import ConstantHead, is_affine, matrix
from fiftyone_cam.core.heads.frozen import ACTIVATIONS, MAXIMA, RANKED, Frozen
from fiftyone_cam.core.heads.head import IN_ORDER, SHAPE_ONLY, Head
from fiftyone_cam.core.heads.per_image import PerImageHead, linearised, taped_forward
from fiftyone_cam.core.heads.places import ask, readings
from fiftyone_cam.core.heads.tap import LogitsAt, Tap, evaluating, read_logits, same, tapped_forward
from fiftyone_cam.core.heads.tape import Replay, Step, Tape, between, cuts
from fiftyone_cam.core.heads.tokens import ClassTokenHead, attends, stream_agrees, stream_path

__all__ = ["Head", "LogitsAt", "Tap", "certified", "evaluating", "find_head", "read_logits", "tapped_forward"]

_TOLERANCE_GPU = 2e-3
"""Instead of :data:`CERTIFICATE_TOLERANCE`, where the network's last layer may be computed in TensorFloat-32."""

_MOST_CANDIDATES = 8
_TOGETHER = ("cat", "concat", "concatenate", "stack", "hstack", "vstack")
_CHANNELS_FIRST = ("conv2d", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
_ON_TOP = ("softmax", "sigmoid", "log_softmax", "logsigmoid")
_DIMS = {"NCHW": (2, 3), "NHWC": (1, 2), "NCL": (2,), "NLC": (1,)}


@ieee_float32()
def find_head(module: nn.Module, example: Tensor) -> Head:
    """Find and certify what follows a classifier's feature maps.

    Args:
        module: the classifier, in eval mode.
        example: a ``(N, 3, H, W)`` float input, as the module expects it; noise is best, and two of it at least.

    Raises:
        HeadError: its logits are no function of cells; the message names what was found.

    >>> head = find_head(torchvision.models.resnet18().eval(), torch.randn(2, 3, 224, 224))
    >>> head.grade, head.weight.shape, head.tap.describe()
    ('exact', torch.Size([1000, 512]), 'input of torch.nn.functional.adaptive_avg_pool2d #1')
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise HeadError(f"{type(module).__name__} is compiled and cannot be looked into: load the eager module instead")
    if len(example) < 3:  # of two, a stack of twin heads would look like a batch
        example = torch.cat([example, example.flip(-1), example.flip(-2)])[:3]
    tape, end, logits_at = _probed(module, example)
    reasons: list[str] = []
    unfollowed: int | None = None
    for node in _candidates(tape, end):
        try:
            return _head_at(module, example, tape, node, end, logits_at)
        except HeadError as error:
            if not reasons and not isinstance(error, _NotHereError):
                raise
            reasons.append(str(error))  # the first is of what lies nearest to the logits
            if isinstance(error, _UnfollowedError):
                unfollowed = node
            if isinstance(error, _NeverFollowedError) or not isinstance(error, _NotHereError):
                break
    for node in () if unfollowed is None else _before_tokens(tape, end, unfollowed):
        with suppress(HeadError):
            return _head_at(module, example, tape, node, end, logits_at)
    if _single_cell(tape, end):
        raise HeadError(
            f"the feature maps have a single cell for an input of {example.shape[2]}x{example.shape[3]}: there is no "
            "place to look at; give a preprocessing with a larger input size"
        )
    why = f" ({reasons[0]})" if reasons else ""
    raise HeadError(
        "no head that can be laid out in space: expected feature maps, and after them steps that are affine once their "
        f"gates are those of the image; {_found(tape, end)}{why}"
    )


class _NotHereError(HeadError):
    """These are not the feature maps; earlier ones may be."""


class _UnfollowedError(_NotHereError):
    """A token without a place that is not followed: all that comes after the patches may still be frozen."""


class _NeverFollowedError(_UnfollowedError):
    """Nor would it be from an earlier tensor on, which would be misread."""


def _probed(module: nn.Module, example: Tensor) -> tuple[Tape, int, LogitsAt]:
    """A forward written down from the image on, the node of its logits, and where they are in the output."""
    image = example.clone()
    tape = Tape(image)
    with torch.inference_mode(False), torch.no_grad(), tape:
        output = module(image)
    logits = read_logits(output)
    if logits.ndim != 2 or len(logits) != len(example):
        raise HeadError(f"expected logits of shape (N, classes), found {tuple(logits.shape)}: not a classifier")
    end = tape.node(logits)
    if end is None:
        raise HeadError("the logits do not depend on the image by functions that PyTorch lets one see")
    writers = {node: step for step in tape.steps for node in step.writes}
    node: int = end
    while node in writers and writers[node].name in IN_ORDER and len(writers[node].reads) == 1:
        node = writers[node].reads[0]
    step = writers.get(node)
    if step is not None and step.name in _ON_TOP and tape.shapes[step.reads[0]] == tape.shapes[end]:
        return tape, step.reads[0], LogitsAt(Tap(step.full, step.ordinal, ""))
    return tape, end, LogitsAt()


def _candidates(tape: Tape, end: int) -> Iterator[int]:
    """Nodes that could be the feature maps, from the last on; of two spellings of the same the one with rows first."""
    nodes = cuts(tape, end)
    writers = {node: step for step in tape.steps for node in step.writes}
    tried: set[int] = set()
    for i in range(len(nodes) - 1, -1, -1):
        node = nodes[i]
        if i + 1 < len(nodes) and any(_looks_around(tape, k) for k in between(tape.steps, node, nodes[i + 1])):
            return
        shape = tape.shapes[node]
        if len(shape) not in (3, 4) or _positions(shape) < 2 or shape[0] != tape.shapes[0][0] or node in tried:
            continue
        group = [node]
        for earlier in reversed(nodes[:i]):
            step = writers[group[-1]]
            alike = math.prod(tape.shapes[earlier]) == math.prod(tape.shapes[node])
            if step.name not in SHAPE_ONLY or step.reads != [earlier] or not alike:
                break
            group.append(earlier)
        group.sort(key=lambda each: len(tape.shapes[each]) != 4)  # stable: latest first
        for each in group:
            if len(tape.shapes[each]) in (3, 4) and each not in tried:
                tried.add(each)
                yield each
                if len(tried) == _MOST_CANDIDATES:
                    return


def _before_tokens(tape: Tape, end: int, tokens: int) -> list[int]:
    """Nodes of the patches alone, before the token that gave a tensor its shape joined them; rows and columns first."""
    nodes = cuts(tape, end)
    joined = next(i for i, node in enumerate(nodes) if tape.shapes[node] == tape.shapes[tokens])
    found: list[int] = []
    for node in reversed(nodes[:joined]):
        shape = tape.shapes[node]
        if len(shape) not in (3, 4) or _positions(shape) < 2 or shape[0] != tape.shapes[0][0]:
            break
        if found and math.prod(shape) != math.prod(tape.shapes[found[0]]):
            break
        found.append(node)
    return sorted(found, key=lambda node: len(tape.shapes[node]) != 4)[:_MOST_CANDIDATES]


def _looks_around(tape: Tape, index: int) -> bool:
    """Whether a step is a convolution of neighbours, which belongs to the network and not to its tail."""
    step = tape.steps[index]
    if step.name not in ("conv2d", "max_pool2d", "conv1d"):
        return False
    after = tape.shapes[step.writes[0]]
    before = tape.shapes[step.reads[0]]
    if step.name != "conv2d":
        return step.name == "max_pool2d" and math.prod(after[2:]) > 1
    weight = step.args[1] if len(step.args) > 1 else step.kwargs.get("weight")
    if not isinstance(weight, Tensor) or weight[0, 0].numel() == 1:
        return False
    return tuple(weight.shape[2:]) != before[2:] or math.prod(after[2:]) > 1


def _head_at(module: nn.Module, example: Tensor, probe: Tape, node: int, probe_end: int, logits_at: LogitsAt) -> Head:
    size = (example.shape[-2], example.shape[-1])
    tap = probe.places[node]
    tape, logits, end = taped_forward(module, example, tap, logits_at, keep=None)
    steps = tuple(tape.steps[i].name for i in between(tape.steps, 0, end))
    found = _pooled(tape, end, readings(tape.shapes[0], size, tap))
    if found is not None:
        tap, pooled = found
        if len(tape.shapes[0]) == 3 or tap.layout == "NHWC":
            tap = _placed(module, example, [tap])
        replay = Replay(tape, pooled, end, torch.float64)
        value = tape.values[pooled]
        if is_affine(replay, value):
            weight, bias = matrix(replay, value)
            features = int(weight.shape[1])
            exact = ConstantHead(tap, logits_at, features, len(weight), steps, 0.0, weight, bias)
            return certified(module, example, exact)
    else:
        pooled = None
        first = next(n for n in cuts(probe, probe_end) if probe.shapes[n] == probe.shapes[node])
        if len(tape.shapes[0]) == 3:  # tokens are told apart best where they begin, before they look at each other
            where = _placed(module, example, readings(tape.shapes[0], size, probe.places[first]))
        elif _channels_first(probe, node):
            where = replace(tap, layout="NCHW")
        else:
            where = _placed(module, example, readings(tape.shapes[0], size, tap))
        tap = replace(tap, layout=where.layout, prefix=where.prefix)
        if tap.prefix and tap.layout == "NLC":
            reads, reads_patches = _reads(tape, logits, end, tap.prefix)
            if reads and first == node:
                raise _UnfollowedError("a class token that is not followed further back")
            if reads:
                return _class_token(module, example, replace(where, layout="NLC"), tap, logits_at, steps, reads_patches)
    frozen = Frozen(tape, pooled or 0, end, torch.float64)
    _check_frozen(frozen, tape.values[pooled or 0], logits, None if pooled else replace(tap, prefix=0))
    features = tap.feature_maps(tape.begin, size).shape[1]
    froze = tuple(sorted(frozen.froze))
    head = PerImageHead(tap, logits_at, features, logits.shape[1], steps, 0.0, pooled, froze)
    return certified(module, example, head)


def _channels_first(probe: Tape, node: int) -> bool:
    """Whether a function that knows one order of axes gave a tensor, so that no place need be measured."""
    writers = {written: step for step in probe.steps for written in step.writes}
    shape = probe.shapes[node]
    while node in writers and writers[node].name in (*ACTIVATIONS, "add", "mul", "dropout"):
        if probe.shapes[writers[node].reads[0]] != shape:
            break
        node = writers[node].reads[0]
    return node in writers and writers[node].name in _CHANNELS_FIRST and len(probe.shapes[node]) == 4


def _reads(tape: Tape, logits: Tensor, end: int, prefix: int) -> tuple[bool, bool]:
    """Whether the logits read the tokens without a place, and whether the patches, directly."""
    frozen = Frozen(tape, 0, end, torch.float64)
    value = tape.values[0].double()
    _check_frozen(frozen, value, logits)
    indices = torch.arange(min(4, logits.shape[1]), device=logits.device).expand(len(logits), -1)
    gradients, _ = linearised(frozen, value, indices)
    return bool(gradients[:, :, :prefix].any()), bool(gradients[:, :, prefix:].any())


def _class_token(
    module: nn.Module,
    example: Tensor,
    first: Tap,
    tap: Tap,
    logits_at: LogitsAt,
    steps: tuple[str, ...],
    reads_patches: bool,
) -> Head:
    bare = replace(first, layout="", prefix=0)
    tape, logits, _ = taped_forward(module, example, bare, logits_at, keep=None, hold=True)
    last = next(n for n, place in tape.places.items() if place == replace(tap, layout="", prefix=0))
    blocks = sum(attends(tape.steps[i]) for i in stream_path(tape.steps, last))
    if not blocks:
        raise _UnfollowedError("a class token that is not followed further back")
    try:
        agrees = stream_agrees(tape, last, tap.prefix, tape.values[last])
    except (RuntimeError, KeyError, IndexError, TypeError) as error:
        raise _NeverFollowedError(f"the class token cannot be followed alone: {str(error).splitlines()[0]}") from error
    if not agrees:
        raise _NeverFollowedError("the class token, followed alone, ends elsewhere")
    width = tape.shapes[0][2]
    head = ClassTokenHead(tap, logits_at, width, logits.shape[1], steps, 0.0, first, last, reads_patches, blocks)
    return certified(module, example, head)


def _pooled(tape: Tape, end: int, taps: list[Tap]) -> tuple[Tap, int] | None:
    """The node that *is* the spatial mean of the tape's beginning, through which all goes, and for which reading."""
    begin = tape.begin
    for tap in taps:
        placed = begin
        if tap.prefix:
            placed = begin[:, tap.prefix :] if tap.layout == "NLC" else begin[:, :, tap.prefix :]
        mean = placed.mean(_DIMS[tap.layout])
        for node in cuts(tape, end)[1:]:
            value = tape.values[node]
            alike = value.ndim > 1 and len(value) == len(mean) and value[0].numel() == mean.shape[1]
            if alike and same(value.flatten(1), mean):
                return tap, node
    return None


def _placed(module: nn.Module, example: Tensor, taps: list[Tap]) -> Tap:
    """The reading of a tensor that bright spots bear out."""
    if not taps:
        raise _NotHereError("the number of positions is that of no grid over the image")
    answer = ask(module, example, taps[0])
    misfits = [answer.misfit(tap) for tap in taps]
    turned = [answer.turned(tap).misfit(tap) for tap in taps if tap.prefix and len(taps) > 1]
    if turned and min(turned) < min(misfits):
        raise _NeverFollowedError("the tokens without a place come last: expected them before those of the grid")
    if not misfits or not math.isfinite(min(misfits)):
        raise _NotHereError("the positions do not follow what is put at places of the image: they are no grid of it")
    return taps[misfits.index(min(misfits))]


def _check_frozen(frozen: Frozen, value: Tensor, logits: Tensor, tap: Tap | None = None) -> None:
    """That a tail with frozen gates gives the logits, is affine, and that all of it lies in the cells.

    ``tap``: how the value's cells lie, where each has weights of its own.
    """
    value = value.detach().to(frozen.dtype)
    with torch.no_grad():
        again = frozen(value.clone())
    if not same(again, logits):
        raise HeadError(f"the tail cannot be run alone: {', '.join(frozen.names[:12])}")
    if not is_affine(frozen, value, ()):
        raise HeadError(f"the tail is not affine, even with frozen gates: {', '.join(frozen.names[:12])}")
    indices = torch.arange(min(4, logits.shape[1]), device=logits.device).expand(len(logits), -1)
    gradients, _ = linearised(frozen, value, indices)
    if frozen.unplaced:
        names = " and ".join(sorted(frozen.unplaced))
        raise HeadError(f"part of the logits lies in no cell: what {names} gives is added to what the cells give")
    if tap is not None and not set(frozen.froze) & {*MAXIMA, *RANKED}:
        read = gradients.ne(0).flatten(0, 1).any(0)
        read = read if tap.layout in ("NHWC", "NLC") else read.movedim(0, -1)
        if read.ndim > 1 and read[..., 0].numel() > 1 and int(read.any(-1).sum()) == 1:
            at = int(read.any(-1).flatten().nonzero()[0]) + 1
            raise _NeverFollowedError(
                f"of {read[..., 0].numel()} positions the logits read number {at} alone, in every image: the last of a "
                "sequence, or a class token that does not come first; expected a class token before the others"
            )
    if not bool(gradients.any()):
        with torch.no_grad():
            other = Replay.__call__(frozen, value.flip(0))
        if not same(other, logits):
            top = next((name for name in frozen.names if name in _ON_TOP), None)
            advice = f". Let the network return its logits, before the {top}" if top else ""
            raise HeadError(f"nothing of the logits lies in cells: {', '.join(frozen.names[:12])}{advice}")


@ieee_float32()
def certified(module: nn.Module, example: Tensor, head: Head) -> Head:
    """This head as a module's, if the mean of each map plus the bias *is* the logit.

    Raises:
        HeadError: it is not.

    >>> certified(module, example, head).error < 1e-5
    True
    """
    with torch.no_grad():
        reading = head.read(module, example)
        indices = torch.arange(head.classes, device=example.device)
        if not head.constant:
            indices = indices[:: max(1, len(indices) // 8)]
        indices = indices.expand(len(example), -1)
        maps, bias = reading.maps(indices)
        logits = reading.logits.gather(1, indices)
        error = float(certificate(maps, bias, logits, scale_of_terms(maps, bias, reading.logits)).max())
    tolerance = CERTIFICATE_TOLERANCE if logits.device.type == "cpu" else _TOLERANCE_GPU
    if error > tolerance:
        raise HeadError(
            f"the certificate fails: mean of the map plus bias differs from the logit by {error:.1e} (relative), "
            f"expected at most {tolerance:.0e}: what was found is not the head"
        )
    return head.certified_by(reading, error)


def scale_of_terms(maps: Tensor, bias: Tensor, logits: Tensor) -> Tensor:
    """The scale of an image's sums, ``(N, 1)``: its largest logit, or largest term of a map's mean plus bias."""
    logits, bias, maps = (each.cpu().double() for each in (logits, bias, maps))  # a sum of float32 may be infinite
    terms = torch.stack([each.abs().amax(1) for each in (logits, bias, maps.flatten(2).abs().mean(2))])
    return terms.amax(0)[:, None]


def _positions(shape: tuple[int, ...]) -> int:
    if len(shape) == 4:  # NHWC joins the last two as well as NCHW: the smaller side cannot be the channels
        return min(math.prod(shape[2:]), math.prod(shape[1:3]))
    return min(shape[1:]) if len(shape) == 3 else 1


def _joining(tape: Tape, end: int) -> tuple[list[Step], int]:
    """The steps to the logits, and which of them joined the positions last (-1: none did)."""
    path = [tape.steps[i] for i in between(tape.steps, 0, end)]
    ends = [(tape.shapes[step.reads[0]], tape.shapes[step.writes[0]]) for step in path]
    count = tape.shapes[0][0]
    joins = [a[0] == count == b[0] and _positions(a) > 1 and _positions(b) == 1 for a, b in ends]
    return path, max((i for i, joined in enumerate(joins) if joined), default=-1)


def _single_cell(tape: Tape, end: int) -> bool:
    """Whether a convolution of neighbours, and no pooling, left a single cell."""
    path, last = _joining(tape, end)
    if last < 0 or path[last].name != "conv2d":
        return False
    weight = (*path[last].args, *path[last].kwargs.values())[1]
    return isinstance(weight, Tensor) and tuple(weight.shape[2:]) != tape.shapes[path[last].reads[0]][2:]


def _found(tape: Tape, end: int) -> str:
    """What follows the last place where positions were joined, in words; and where several tensors come together."""
    path, last = _joining(tape, end)
    if last < 0:
        return "found no layer that joins the positions"
    steps = [f"{path[last].name} {_cells(tape, path[last].reads[0])} -> {_cells(tape, path[last].writes[0])}"]
    for step in path[last + 1 :]:
        before, after = tape.shapes[step.reads[0]], tape.shapes[step.writes[0]]
        if step.name in ("linear", "conv2d"):
            steps.append(f"{step.name} {before[1]} -> {after[1]}")
        elif step.name not in SHAPE_ONLY:
            steps.append(step.name)
    words = "found " + ", then ".join(steps[:8]) + (", …" if len(steps) > 8 else "")
    shapes = {node: tape.shapes[node] for node in cuts(tape, end)}
    places = [n for n, s in shapes.items() if len(s) > 2 and s[0] == tape.shapes[0][0] and _positions(s) > 3]
    for step in reversed(path):
        parts = list(dict.fromkeys(step.reads))
        if step.name in _TOGETHER and len(parts) > 1 and min(step.writes) > max(places, default=0):
            several = f"{step.name} of {len(parts)} tensors ({', '.join(_cells(tape, n) for n in parts[:4])})"
            return f"{words}; the logits come from several places of the network, by {several}"
    return words


def _cells(tape: Tape, node: int) -> str:
    return "x".join(map(str, tape.shapes[node][1:]))
