"""Exact with remainder: a class token, and whatever other tokens have no place.

The *entry* decomposition. Every path from a patch to the logit enters the stream of the placeless tokens once, in some
block, through their attention: ``c_lj = sum_h a_lh(cls, j) V_lhj``. What that stream does with it afterwards (its MLPs,
its attention to itself, the last norm, the head) is linear with the gates of this image, so that
``E(j) = sum_l J_l c_lj`` over all patches, plus what the stream has from elsewhere (its own beginning, biases), *is*
the logit. That remainder goes into the bias. Where the head also reads the patches (their mean beside the class token),
they have that part as well.

Only the stream is run again, a token or a few of some hundred, so that it costs little beside the forward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fiftyone_cam.core.cam import product_dtype
from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads.frozen import (
    MULTI_HEAD_ARGUMENTS,
    Frozen,
    Kept,
    attention_weights,
    by_head,
    multi_head_weights,
    value_projection,
)
from fiftyone_cam.core.heads.head import REMAINDER, Head, Reading
from fiftyone_cam.core.heads.per_image import before_last_linear, linearised, taped_forward
from fiftyone_cam.core.heads.tap import Tap
from fiftyone_cam.core.heads.tape import Ref, Step, Tape, mapped

ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")
_SHAPED = ("view", "reshape", "expand", "unflatten", "split", "split_with_sizes", "narrow", "repeat")
_PRODUCTS = ("matmul", "bmm")


class Stream(Frozen):
    """The tokens without a place, followed alone from the first tokens to the last, with their gates frozen.

    After a call, ``entries`` has for each block what entered from the patches (a leaf of autograd), ``read`` the
    weights and values that it was made of. ``silent``: the same, had nothing entered.
    """

    def __init__(self, tape: Tape, end: int, prefix: int, dtype: torch.dtype) -> None:
        self.steps, self.begin, self.end, self.dtype = tape.steps, 0, end, dtype
        self.path = stream_path(tape.steps, end)
        self._constants = tape.constants
        self._first: dict[int, Any] = {}
        self.froze: set[str] = set()
        self.unplaced: set[str] = set()
        self._prefix, self._tokens = prefix, tape.shapes[0][1]
        self._batch = tape.shapes[0][0]
        self.entries: dict[int, Tensor] = {}
        self.read: dict[int, tuple[Tensor, Tensor]] = {}
        self.silent = False

    def _live(self, step: Step, live: set[int]) -> list[bool]:
        return [True] if attends(step) else super()._live(step, live)

    def _frozen(
        self,
        step: Step,
        args: Any,
        kwargs: Any,
        tensors: Sequence[Tensor],
        lives: Sequence[bool],
        gates: set[int],
        kept: Kept,
    ) -> Any:
        if not attends(step):
            return super()._frozen(step, args, kwargs, tensors, lives, gates, kept)
        self.froze.add("attention")
        own = tensors[0]  # the values of the stream's own tokens
        key = id(step)
        bound: Mapping[str, Any] = {}
        if step.name == "multi_head_attention_forward":
            bound = dict(zip(MULTI_HEAD_ARGUMENTS, args, strict=False)) | dict(kwargs)
            own = by_head(nnf.linear(own, *value_projection(bound)), bound["num_heads"])
        if key not in self.read:
            with torch.no_grad():
                self.read[key] = self._weights_and_values(step, bound)
        weights, values = self.read[key]
        out = weights[..., : self._prefix] @ own
        if not self.silent:
            if key not in self.entries:
                entry = weights[..., self._prefix :] @ values
                self.entries[key] = entry.detach().requires_grad_(torch.is_grad_enabled())
            out = out + self.entries[key]
        if step.name == "multi_head_attention_forward":
            out = out.permute(2, 0, 1, 3).flatten(2)
            return nnf.linear(out, bound["out_proj_weight"], bound["out_proj_bias"]), None
        return out

    def _weights_and_values(self, step: Step, bound: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What the stream's tokens take of every token, ``(…, P, L)``, and the patches' values, ``(…, L - P, d)``."""
        p = self._prefix
        held = [each.detach().to(self.dtype) if each.is_floating_point() else each for each in step.held]
        if step.name in _PRODUCTS:
            return held[0][..., :p, :], held[1][..., p:, :]
        if step.name == "multi_head_attention_forward":
            tokens = dict(bound) | {"query": held[0], "key": held[1]}
            values = nnf.linear(held[2][p:], *value_projection(bound))
            return multi_head_weights(tokens, p), by_head(values, bound["num_heads"])
        q, k, v = held[:3]
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = dict(zip(names, step.args, strict=False)) | dict(step.kwargs)
        mask = held[3] if len(held) > 3 else None
        if mask is not None and mask.shape[-2] == self._tokens:
            mask = mask[..., :p, :]
        if given.get("is_causal"):
            raise HeadError("causal attention: a class token that comes first sees nothing")
        return attention_weights(q[..., :p, :], k, mask, False, given.get("scale")), v[..., p:, :]

    def arguments(self, step: Step, values: Mapping[int, Tensor]) -> tuple[Any, Any, list[Tensor]]:
        """As for all tokens, with this stream's few wherever their number stands."""
        if not attends(step):
            written = _resized(step, self._tokens, self._prefix, self._batch)
            args, kwargs, tensors = super().arguments(written, values)
            return args, kwargs, tensors
        node = _value_node(step)

        def read(value: Any) -> Any:
            if isinstance(value, Ref):
                return values.get(value.node)
            return self.constant(value) if isinstance(value, Tensor) else mapped(value, read)

        args, kwargs = read((step.args, step.kwargs))
        return args, kwargs, [values[node]]


def stream_path(steps: Sequence[Step], end: int) -> list[int]:
    """Indices of the steps that the stream itself goes through: attention weights are taken as they are."""
    needed, path = {end}, []
    for i in range(len(steps) - 1, -1, -1):
        step = steps[i]
        if any(node in needed for node in step.writes):
            needed.update([_value_node(step)] if attends(step) else step.reads)
            path.append(i)
    return path[::-1]


def attends(step: Step) -> bool:
    """Whether a step may be attention that takes values by weights; the certificate tells."""
    return step.name in ATTENTION or (step.name in _PRODUCTS and len(step.reads) > 1)


def _value_node(step: Step) -> int:
    """The node of an attention's values: the third input where it is fused, else the second."""
    if step.name in ATTENTION:
        value = step.args[2] if len(step.args) > 2 else step.kwargs["value"]
    else:
        value = step.args[1]
    return int(value.node) if isinstance(value, Ref) else step.reads[-1]


def _resized(step: Step, tokens: int, prefix: int, batch: int) -> Step:
    """A step with the stream's number of tokens in shapes, and rows of constants that have one for each token."""
    if step.name in _SHAPED:
        seen = iter(range(1 << 30))

        def resize(value: Any) -> Any:
            if isinstance(value, int) and not isinstance(value, bool):
                place = next(seen)
                is_batch = batch == tokens and place == 0  # shapes begin with the batch
                return prefix if value == tokens and not is_batch else value
            if isinstance(value, torch.Size):
                return tuple(resize(each) for each in value)
            return mapped(value, resize)

        return replace(step, args=resize(step.args), kwargs=resize(step.kwargs))
    if step.name in ("add", "mul", "sub", "div"):

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim > 1 and value.shape[-2] == tokens:
                return value[..., :prefix, :]
            return mapped(value, cut)

        return replace(step, args=cut(step.args), kwargs=cut(step.kwargs))
    return step


@dataclass(frozen=True)
class ClassTokenHead(Head):
    """Tokens of which the first ``tap.prefix`` have no place, and a head that reads them.

    ``first`` is where the tokens begin (a tap), ``last`` the tape's node of the last tokens, which ``tap`` taps.
    """

    first: Tap
    last: int
    reads_patches: bool
    blocks: int

    @property
    def grade(self) -> str:
        return REMAINDER

    @property
    def place_tap(self) -> Tap:
        return self.first

    @property
    def kind(self) -> str:
        tokens = "class token" if self.tap.prefix == 1 else f"{self.tap.prefix} tokens without a place"
        blocks = "1 block" if self.blocks == 1 else f"{self.blocks} blocks"
        return f"{tokens}{' and patches' if self.reads_patches else ''} after {blocks}, {super().kind}"

    def read(
        self,
        module: nn.Module,
        pixels: Tensor,
        precision: AbstractContextManager[Any] | None = None,
        anew: bool = False,
    ) -> Reading:
        with precision or nullcontext():
            tape, logits, end = taped_forward(module, pixels, self.first, self.logits_at, keep={self.last}, hold=True)
        size = (pixels.shape[-2], pixels.shape[-1])
        return self.reading(tape, logits, end, size, anew)

    def reading(self, tape: Tape, logits: Tensor, end: int, size: tuple[int, int], anew: bool) -> Reading:
        prefix, dtype = self.tap.prefix, product_dtype(logits.device)
        if self.last not in tape.values or tape.shapes[self.last] != tape.shapes[0]:
            raise HeadError("the forward takes another path than probed")
        tokens = tape.values[self.last].detach().to(dtype)
        tail = Frozen(tape, self.last, end, dtype)
        stream = Stream(tape, self.last, prefix, dtype)
        own = tape.begin[:, :prefix].detach().to(dtype)
        with torch.inference_mode(False), torch.enable_grad():
            rows = stream(own.clone())
        with torch.no_grad():
            if anew:
                logits = tail(torch.cat([rows.detach(), tokens[:, prefix:]], 1))
            else:
                tail(tokens)
            stream.silent = True
            rest = tail(torch.cat([stream(own), torch.zeros_like(tokens[:, prefix:])], 1)).float()

        def maps(indices: Tensor) -> tuple[Tensor, Tensor]:
            gradients, _ = linearised(tail, tokens, indices)
            columns: list[Tensor] = []
            for j in range(indices.shape[1]):
                if j and torch.equal(indices[:, j], indices[:, 0]):
                    columns.append(columns[0])
                    continue
                evidence = entered(stream, rows, gradients[:, j, :prefix])
                if self.reads_patches:
                    evidence = evidence + (gradients[:, j, prefix:] * tokens[:, prefix:]).sum(2)
                columns.append(evidence)
            evidence = torch.stack(columns, 1) * columns[0].shape[1]
            plain = replace(self.tap, layout="NCL", prefix=0)
            return plain.feature_maps(evidence.float(), size), rest.gather(1, indices)

        pooled = before_last_linear(tape, self.last, end, tokens)
        return Reading(logits.float(), self.tap.feature_maps(tokens.float(), size), maps, lambda: rest, pooled)


def entered(stream: Stream, rows: Tensor, gradient: Tensor) -> Tensor:
    """Evidence of each patch, ``(N, L - P)``: what it entered, block by block, times what became of that."""
    keys = list(stream.entries)
    with torch.inference_mode(False):
        found = torch.autograd.grad(
            rows, [stream.entries[key] for key in keys], gradient.detach(), retain_graph=True, allow_unused=True
        )
    total = torch.zeros((), dtype=rows.dtype, device=rows.device)
    for key, became in zip(keys, found, strict=True):
        if became is not None:
            weights, values = stream.read[key]
            shares = weights[..., stream._prefix :] * (became @ values.transpose(-2, -1))  # (N, heads, P, L - P)
            shares = shares.reshape(rows.shape[0], -1, shares.shape[-1])
            total = total + shares.sum(1)
    return total


def stream_agrees(tape: Tape, end: int, prefix: int, tokens: Tensor) -> bool:
    """Whether the stream, run alone, ends where it ended in the forward."""
    stream = Stream(tape, end, prefix, torch.float64)
    with torch.no_grad():
        rows = stream(tape.begin[:, :prefix].double())
    expected = tokens[:, :prefix].double()
    return rows.shape == expected.shape and bool((rows - expected).abs().max() <= 1e-4 * expected.abs().max())
