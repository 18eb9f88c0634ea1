"""A tail with the gates of one image: linear in what goes into it, and equal to the tail for that image.

Every activation becomes ``x * g + act(0)`` with ``g = (act(x) - act(0)) / x`` of this image, every norm keeps its
scale, every softmax its weights, every maximum its place. What remains is affine in the input, so that the gradient
times the input plus what a zero input gives *is* the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fiftyone_cam.core.heads.tap import same, tensors_in, words
from fiftyone_cam.core.heads.tape import Replay, Step, Tape, refs_in

_SMALL, _SMALL_FLOAT32 = 1e-6, 1e-3
"""An input that is nearer to zero has the gate of this one: in float64 the limit to six digits. MPS has no float64."""

_LEAST = 1e-30

ACTIVATIONS = words(
    "relu relu6 gelu silu mish hardswish hardtanh hardsigmoid sigmoid tanh elu selu celu leaky_relu prelu rrelu",
    "softplus softsign logsigmoid threshold clamp clip clamp_min clamp_max pow square sqrt exp expm1 log1p erf abs",
    "softshrink hardshrink tanhshrink sin maximum minimum",
)
CONSTANTS = words(
    "softmax log_softmax std_mean var_mean rsqrt reciprocal argmax rdiv rpow logsumexp log sign sgn gt ge lt le eq ne",
    "prod",
)
"""What is taken as it is for this image: scales, weights, and choices."""

NORMS = words("layer_norm rms_norm group_norm normalize instance_norm cosine_similarity")
MAXIMA = words("max amax min amin adaptive_max_pool1d adaptive_max_pool2d max_pool2d max_pool1d")
RANKED = {"topk": 2, "kthvalue": 2, "sort": 1, "median": 1}
"""What picks values by their rank, and where it takes the axis."""
DEGREES = {"norm": 1, "vector_norm": 1, "linalg_norm": 1, "linalg_vector_norm": 1, "std": 1, "var": 2}
"""What scales with its input, and by which power: Euler's theorem lays it out over what went in."""
ADDED = words("add sub rsub cat concat concatenate stack hstack vstack")
PRODUCTS = words("mul div matmul bmm einsum baddbmm addcmul")

Kept = Callable[[Callable[[], Any]], Any]
"""Gives the value of the first pass, which it makes there."""


class Frozen(Replay):
    """A :class:`Replay` whose gates are those of the first value it is called with.

    >>> frozen = Frozen(tape, pooled_node, logits_node, torch.float32)
    >>> logits = frozen(pooled)                      # as the tail gives them
    >>> rest = frozen(torch.zeros_like(pooled))      # what does not come from there
    """

    def __init__(self, tape: Tape, begin: int, end: int, dtype: torch.dtype) -> None:
        super().__init__(tape, begin, end, dtype)
        self._first: dict[int, Any] = {}
        self.froze: set[str] = set()
        """Names of the functions that are not linear by themselves."""
        self.unplaced: set[str] = set()
        """Names of functions whose values, taken as they are, are added to the rest: they lie in no cell."""

    def __call__(self, value: Tensor) -> Tensor:
        values, live, gates = {self.begin: value}, {self.begin}, set[int]()
        held: dict[int, str] = {}  # nodes that are taken as they are, and of which function
        for i in self.path:
            step = self.steps[i]

            def kept(make: Callable[[], Any], i: int = i) -> Any:
                if i not in self._first:
                    with torch.no_grad():
                        self._first[i] = _detached(make())
                return self._first[i]

            args, kwargs, tensors = self.arguments(step, values)
            lives = self._live(step, live)
            if not any(lives) or step.name in CONSTANTS or _diverges_at_zero(step):
                if any(lives):
                    self.froze.add(step.name)
                by = step.name if any(lives) else next((held[n] for n in step.reads if n in held), step.name)
                held.update(dict.fromkeys(step.writes, by))
                output, freshly = kept(partial(step.func, *args, **kwargs)), False
                if step.mutated:
                    tensors = [output if p in step.mutated else each for p, each in enumerate(tensors)]
            else:
                if step.name in ADDED:
                    self.unplaced.update(held[node] for node in step.reads if node in held)
                output, freshly = self._frozen(step, args, kwargs, tensors, lives, gates, kept), True
                if step.mutated and isinstance(output, Tensor):
                    tensors = [output if p in step.mutated else each for p, each in enumerate(tensors)]
            self.assign(step, values, output, tensors)
            if freshly:
                live.update(step.writes)
                passes = step.name not in ("linear", "conv2d", "matmul") and any(n in gates for n in step.reads)
                if step.name in ACTIVATIONS or step.name in DEGREES or passes:
                    gates.update(step.writes)
            elif step.name in CONSTANTS:
                gates.update(step.writes)
        return values[self.end] if self.end in live else values[self.end].detach()

    def _live(self, step: Step, live: set[int]) -> list[bool]:
        """Of each tensor among the arguments, whether it is linear in the beginning."""
        places: list[bool] = []

        def walk(value: Any) -> None:
            if isinstance(value, (Tensor,)):
                places.append(False)
            elif isinstance(value, (list, tuple)):
                for each in value:
                    walk(each)
            elif isinstance(value, dict):
                for each in value.values():
                    walk(each)
            elif refs_in(value):
                places.append(value.node in live)

        walk((step.args, step.kwargs))
        return places

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
        name, first = step.name, lives[0]
        if name in ACTIVATIONS and first and sum(lives) == 1:
            self.froze.add(name)
            return gated(lambda x: step.func(x, *args[1:], **kwargs), tensors[0], kept, steep=name in ("pow", "sqrt"))
        if name in NORMS and (first or name == "cosine_similarity"):
            self.froze.add(name)
            return normed(name, args, kwargs, kept)
        if name in MAXIMA and first and sum(lives) == 1:
            self.froze.add(name)
            return reduced(step.func, args, kwargs, kept)
        if name in DEGREES and first:
            self.froze.add(name)
            return reduced(step.func, args, kwargs, kept, DEGREES[name])
        if name in RANKED:
            self.froze.add(name)
            return ranked(step, args, kwargs, kept)
        if name == "glu":
            self.froze.add(name)
            value, gate = args[0].chunk(2, kwargs.get("dim", args[1] if len(args) > 1 else -1))
            return value * kept(gate.sigmoid)
        if name == "scaled_dot_product_attention":
            self.froze.add("attention")
            return attended(args, kwargs, kept)
        if name == "multi_head_attention_forward":
            self.froze.add("attention")
            return multi_head(args, kwargs, kept)
        if name in PRODUCTS and sum(lives) > 1:
            self.froze.add(name)
            reads = step.reads
            which = 0 if name != "div" and reads[0] in gates and reads[-1] not in gates else 1
            if name in ("matmul", "bmm"):
                which = 0  # attention times values
            held = kept(lambda: tensors[which])
            count = iter(range(len(tensors)))

            def swap(value: Any) -> Any:
                if isinstance(value, Tensor):
                    return held if next(count) == which else value
                if isinstance(value, (list, tuple)):
                    return type(value)(swap(each) for each in value)
                return value

            return step.func(*swap(args), **kwargs)
        if name == "div" and not first:  # constant / x
            self.froze.add(name)
            return kept(lambda: step.func(*args, **kwargs))
        return step.func(*args, **kwargs)


def gated(function: Callable[[Tensor], Tensor], x: Tensor, kept: Kept, *, steep: bool = False) -> Tensor:
    """``function(x)`` as ``x * gate + function(0)``.

    ``steep``: it may be infinitely steep at 0, as roots are, so that the gate of a small input is that of no other. A
    generalised mean of a channel that is dead takes the third root of 1e-18.

    >>> gated(torch.relu, torch.tensor([-1.0, 0.0, 2.0]), lambda make: make())
    tensor([0., 0., 2.])
    """

    def make() -> tuple[Tensor, Tensor]:
        has_float64 = x.device.type != "mps"
        small = _LEAST if steep else _SMALL if has_float64 else _SMALL_FLOAT32
        exact = x.double() if has_float64 else x.float()
        exact = torch.where(exact.abs() < small, torch.where(exact < 0, -small, small), exact)
        try:
            begin = function(torch.zeros_like(exact))
            gate = (function(exact.clone()) - begin) / exact
        except RuntimeError:  # with a parameter in another precision
            exact = exact.to(x.dtype)
            begin = function(torch.zeros_like(exact))
            gate = (function(exact.clone()) - begin) / exact
        return gate.to(x.dtype), begin.to(x.dtype)

    gate, begin = kept(make)
    result: Tensor = x * gate + begin
    return result


def normed(name: str, args: Any, kwargs: Mapping[str, Any], kept: Kept) -> Tensor:
    """A norm with its scale frozen; the mean that it takes away is linear."""
    bound = dict(zip(_NORM_ARGUMENTS[name], args, strict=False)) | dict(kwargs)
    if name == "cosine_similarity":
        one, other = bound["x1"], bound["x2"]
        axis, eps = bound.get("dim", 1), bound.get("eps", 1e-8)
        lengths = kept(lambda: one.norm(dim=axis).clamp_min(eps) * other.norm(dim=axis).clamp_min(eps))
        product: Tensor = (one * other).sum(axis) / lengths
        return product
    x: Tensor = bound["input"]
    if name == "normalize":
        dims = bound.get("dim", 1)
        scale: Tensor = kept(lambda: x.norm(bound.get("p", 2.0), dims, keepdim=True).clamp_min(bound.get("eps", 1e-12)))
        return x / scale
    weight, bias = bound.get("weight"), bound.get("bias")
    if name in ("layer_norm", "rms_norm"):
        axes = tuple(range(-len(bound["normalized_shape"]), 0))
        given = bound.get("eps", 1e-5 if name == "layer_norm" else None)
        eps = torch.finfo(torch.float32).eps if given is None else float(given)
        centred = x - x.mean(axes, keepdim=True) if name == "layer_norm" else x
        scale = kept(lambda: (centred.square().mean(axes, keepdim=True) + eps).rsqrt())
        result = centred * scale
    else:
        groups = bound["num_groups"] if name == "group_norm" else x.shape[1]
        eps = float(bound.get("eps", 1e-5))
        split = x.reshape(x.shape[0], groups, -1)
        centred = split - split.mean(2, keepdim=True)
        scale = kept(lambda: (centred.square().mean(2, keepdim=True) + eps).rsqrt())
        result = (centred * scale).reshape(x.shape)
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        weight = None if weight is None else weight.reshape(shape)
        bias = None if bias is None else bias.reshape(shape)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


_NORM_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "layer_norm": ("input", "normalized_shape", "weight", "bias", "eps"),
    "rms_norm": ("input", "normalized_shape", "weight", "eps"),
    "group_norm": ("input", "num_groups", "weight", "bias", "eps"),
    "instance_norm": ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps"),
    "normalize": ("input", "p", "dim", "eps"),
    "cosine_similarity": ("x1", "x2", "dim", "eps"),
}


def reduced(function: Callable[..., Any], args: Any, kwargs: Any, kept: Kept, degree: int = 1) -> Any:
    """A maximum as a choice of places, a length or spread as a weighted sum: linear once they are chosen.

    All of them scale with their input, so that input times gradient, over the degree, *is* the output.
    """
    x: Tensor = args[0]

    def make() -> tuple[Tensor, Any, tuple[int, ...] | None, Tensor | None]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            output = function(leaf, *args[1:], **kwargs)
            values = tensors_in(output)[0]
            (chosen,) = torch.autograd.grad(values.sum(), leaf)
        chosen = torch.nan_to_num(chosen) / degree  # a spread of nothing has no direction
        axes, indices = _joined(x.detach() * chosen, values.detach()), None
        if axes is None and x.ndim == 4 and "return_indices" in kwargs:  # windows, each with a maximum of its own
            _, indices = function(x, *args[1:], **{**kwargs, "return_indices": True})
        return chosen, output, axes, indices

    chosen, output, axes, indices = kept(make)
    values = tensors_in(output)[0]
    if axes is not None:
        result = (x * chosen).sum(axes).reshape(values.shape)
    elif indices is not None:
        result = x.flatten(2).gather(2, indices.flatten(2)).reshape(values.shape)
    else:
        return function(x, *args[1:], **kwargs)
    return result if isinstance(output, Tensor) else type(output)((result, *list(output)[1:]))


def _joined(parts: Tensor, sums: Tensor) -> tuple[int, ...] | None:
    """The axes over which parts were summed."""
    missing = parts.ndim - sums.ndim
    if not missing:
        differ = tuple(i for i, (b, a) in enumerate(zip(parts.shape, sums.shape, strict=True)) if b != a)
        ways = [differ] if differ and all(sums.shape[i] == 1 for i in differ) else []
    else:
        ways = [tuple(range(begin, begin + missing)) for begin in range(sums.ndim + 1)]
    for axes in ways:  # a side as long as another has several; the values tell
        joined = parts.sum(axes)
        if joined.numel() == sums.numel() and same(joined.reshape(sums.shape), sums):
            return axes
    return None


def ranked(step: Step, args: Any, kwargs: Any, kept: Kept) -> Any:
    """Values by rank, as a choice of places."""
    x: Tensor = args[0]
    output = kept(lambda: step.func(*args, **kwargs))
    if isinstance(output, Tensor):  # a median of all, which has no axis
        return step.func(*args, **kwargs)
    values, indices = output
    place = RANKED[step.name]
    axis = kwargs.get("dim", args[place] if len(args) > place else -1)
    index = indices if indices.ndim == x.ndim else indices.unsqueeze(axis)
    return type(output)((x.gather(axis, index).reshape(values.shape), indices))


def _diverges_at_zero(step: Step) -> bool:
    """Whether it is a negative power, which has no value at zero to begin from: a scale."""
    exponent = step.args[1] if len(step.args) > 1 else step.kwargs.get("exponent")
    return step.name == "pow" and isinstance(exponent, (int, float)) and exponent < 0


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """What each query takes of each key: softmax of scaled products."""
    scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ k.transpose(-2, -1)
    if causal:
        upper = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(upper, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def attended(args: Any, kwargs: Mapping[str, Any], kept: Kept) -> Tensor:
    """Fused attention with its weights frozen."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    bound = dict(zip(names, args, strict=False)) | dict(kwargs)
    q, k, v = bound["query"], bound["key"], bound["value"]
    if bound.get("enable_gqa"):
        k, v = (each.repeat_interleave(q.shape[-3] // each.shape[-3], -3) for each in (k, v))
    weights: Tensor = kept(
        lambda: attention_weights(q, k, bound.get("attn_mask"), bound.get("is_causal", False), bound.get("scale"))
    )
    result: Tensor = weights @ v
    return result


def multi_head(args: Any, kwargs: Mapping[str, Any], kept: Kept) -> tuple[Tensor, Tensor | None]:
    """``multi_head_attention_forward`` with its attention frozen: tokens come first, ``(L, N, D)``."""
    bound = dict(zip(MULTI_HEAD_ARGUMENTS, args, strict=False)) | dict(kwargs)
    weights = kept(lambda: multi_head_weights(bound))
    value: Tensor = bound["value"]
    heads = bound["num_heads"]
    weight, bias = value_projection(bound)
    v = by_head(nnf.linear(value, weight, bias), heads)
    out = (weights @ v).permute(2, 0, 1, 3).flatten(2)
    return nnf.linear(out, bound["out_proj_weight"], bound["out_proj_bias"]), (
        weights.mean(1) if bound.get("need_weights", True) else None
    )


MULTI_HEAD_ARGUMENTS = words(
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p",
    "out_proj_weight out_proj_bias",
)


def _projection(bound: Mapping[str, Any], which: int) -> tuple[Tensor, Tensor | None]:
    bias = None if bound["in_proj_bias"] is None else bound["in_proj_bias"].chunk(3)[which]
    if bound.get("use_separate_proj_weight"):
        return bound[("q_proj_weight", "k_proj_weight", "v_proj_weight")[which]], bias
    return bound["in_proj_weight"].chunk(3)[which], bias


def by_head(tokens: Tensor, heads: int) -> Tensor:
    """``(L, N, D)`` to ``(N, heads, L, d)``."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).permute(1, 2, 0, 3)


def value_projection(bound: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias by which tokens become values."""
    return _projection(bound, 2)


def multi_head_weights(bound: Mapping[str, Any], rows: int | None = None) -> Tensor:
    """``(N, heads, L, L)``; of the first ``rows`` queries alone."""
    query = bound["query"] if rows is None else bound["query"][:rows]
    q, k = (
        by_head(nnf.linear(each, *_projection(bound, i)), bound["num_heads"])
        for i, each in enumerate((query, bound["key"]))
    )
    return attention_weights(q, k, None, False, None)


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        if hasattr(value, "_fields") or type(value) not in (list, tuple):
            return type(value)([each.detach() if isinstance(each, Tensor) else each for each in value])
        return type(value)(_detached(each) for each in value)
    return value
