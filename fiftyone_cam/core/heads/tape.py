"""A forward written down call by call: what its output depends on, and a part of it run again with other values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fiftyone_cam.core.errors import HeadError
from fiftyone_cam.core.heads.tap import Tap, full_name, short_name, tensors_in

ATTENDING = ("scaled_dot_product_attention", "multi_head_attention_forward", "matmul", "bmm")


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a tensor that depends on where the tape began."""

    node: int


@dataclass(slots=True)
class Step:
    """One call.

    ``outputs`` are nodes, in the order of the output's tensors (None: an argument given back as it was). ``mutated``
    are arguments that it changed in place, by their place among the call's tensors, and their new nodes. ``held`` are
    the tensors of what may be attention, where the tape holds them. ``reads`` and ``writes`` are all nodes that go in
    and come out.
    """

    func: Callable[..., Any]
    name: str
    full: str
    ordinal: int
    args: Any
    kwargs: Any
    outputs: list[int | None]
    mutated: dict[int, int]
    reads: list[int]
    held: list[Tensor] = field(default_factory=list)
    writes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.writes = [node for node in (*self.outputs, *self.mutated.values()) if node is not None]


class Tape(TorchFunctionMode):
    """Writes down every call whose tensors depend on a beginning: a tensor, or what passes a tap.

    Tensors that depend on it are written as :class:`Ref`, and are not kept: a tape costs no memory but for what it
    reads from elsewhere, which are mostly weights. Make the forward under ``no_grad``, not under inference mode.

    >>> tape = Tape(tap=head.tap)
    >>> with torch.no_grad(), tape:
    ...     output = module(batch)
    >>> tape.begin.shape, [step.name for step in tape.steps]
    (torch.Size([2, 512, 7, 7]), ['adaptive_avg_pool2d', 'flatten', 'linear'])
    """

    def __init__(
        self,
        begin: Tensor | None = None,
        *,
        tap: Tap | None = None,
        watch: Tap | None = None,
        keep: Collection[int] | None = (),
        hold: bool = False,
    ) -> None:
        super().__init__()
        self._mine = object()  # marks tensors; a tape that they pointed to could not be freed at once
        self._watch = watch
        self._watched: Tensor | None = None
        self._tap = tap
        self._calls: Counter[str] = Counter()
        self._keep, self._hold = keep, hold
        self.values: dict[int, Tensor] = {}
        """Of the nodes to ``keep``; None is all."""
        self.steps: list[Step] = []
        self.shapes: list[tuple[int, ...]] = []
        self.places: dict[int, Tap] = {}
        """Where each node is first read: a tap without layout."""
        self.constants: dict[tuple[int, torch.dtype], Tensor] = {}
        """What replays read from outside, in their precision: converted once, for a head may have 100 million."""
        self._begin: Tensor | None = None
        self._version = 0
        if begin is not None:
            self._start(begin)

    @property
    def begin(self) -> Tensor:
        """The tensor at node 0.

        Raises:
            HeadError: the forward did not pass the tap.
        """
        if self._begin is None:
            assert self._tap is not None
            raise HeadError(
                f"the forward made no call #{self._tap.ordinal} of {self._tap.function}: it takes another path than "
                "probed"
            )
        return self._begin

    @property
    def untouched(self) -> bool:
        """Whether the tensor at node 0 still has its values: nothing changed it in place."""
        return self.begin._version == self._version

    @property
    def watched(self) -> Tensor:
        """The tensor that passed the watched tap.

        Raises:
            HeadError: the forward did not pass it.
        """
        if self._watched is None:
            assert self._watch is not None
            raise HeadError(f"the forward made no call #{self._watch.ordinal} of {self._watch.function}")
        return self._watched

    def node(self, tensor: Tensor) -> int | None:
        """Of a tensor in the forward; None where it does not depend on the beginning."""
        mark = getattr(tensor, "cam_node", None)
        return mark[1] if mark is not None and mark[0] is self._mine else None

    def _start(self, tensor: Tensor) -> None:
        self._begin = tensor
        self._version = tensor._version
        self._mark(tensor)

    def _mark(self, tensor: Tensor) -> int:
        node = len(self.shapes)
        tensor.cam_node = (self._mine, node)  # type: ignore[attr-defined]  # dies with the tensor
        self.shapes.append(tuple(tensor.shape))
        if self._keep is None or node in self._keep:
            self.values[node] = tensor.clone()
        return node

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = full_name(func)
        self._calls[name] += 1
        if self._watch and name == self._watch.function and self._calls[name] == self._watch.ordinal:
            self._watched = tensors_in((args, kwargs))[self._watch.argument]
        if self._begin is None:
            tap = self._tap
            if tap is None or name != tap.function or self._calls[name] != tap.ordinal:
                return func(*args, **kwargs)
            self._start(tensors_in((args, kwargs))[tap.argument])
        tensors = tensors_in((args, kwargs))
        nodes = [self.node(tensor) for tensor in tensors]
        if all(node is None for node in nodes):
            return func(*args, **kwargs)
        written = self._written((args, kwargs))  # before the call: it may change its arguments in place
        versions = [tensor._version for tensor in tensors]
        output = func(*args, **kwargs)
        given = {id(tensor) for tensor in tensors}
        mutated = {i: -1 for i, tensor in enumerate(tensors) if tensor._version != versions[i]}
        fresh = tensors_in(output)
        if not mutated and all(id(tensor) in given for tensor in fresh):
            return output  # a shape that was asked for, or a tensor given back as it was
        for i, node in enumerate(nodes):
            if node is not None:
                self.places.setdefault(node, Tap(name, self._calls[name], "", i))
        changed: dict[int, int] = {}
        for i in mutated:
            mutated[i] = changed.setdefault(id(tensors[i]), -1)
            if changed[id(tensors[i])] < 0:
                changed[id(tensors[i])] = self._mark(tensors[i])
            mutated[i] = changed[id(tensors[i])]
        outputs: list[int | None] = []
        for tensor in fresh:
            if id(tensor) in changed:
                outputs.append(changed[id(tensor)])
            else:
                outputs.append(self.node(tensor) if id(tensor) in given else self._mark(tensor))
        reads = [node for node in nodes if node is not None]
        step = Step(func, _short_name(name), name, self._calls[name], written[0], written[1], outputs, mutated, reads)
        if self._hold and step.name in ATTENDING and len(step.reads) > 1:
            step.held = tensors
        self.steps.append(step)
        return output

    def _written(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            node = self.node(value)
            return value if node is None else Ref(node)
        return mapped(value, self._written)


_short_name = cache(short_name)


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dictionaries with a function applied to what is in them."""
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(function(each) for each in value))
    if isinstance(value, (list, tuple)):
        return type(value)(function(each) for each in value)
    if isinstance(value, dict):
        return {key: function(each) for key, each in value.items()}
    return value


def refs_in(value: Any) -> list[Ref]:
    """All references in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, (list, tuple)):
        return [ref for each in value for ref in refs_in(each)]
    if isinstance(value, dict):
        return [ref for each in value.values() for ref in refs_in(each)]
    return []


def between(steps: Sequence[Step], begin: int, end: int) -> list[int]:
    """Indices of the steps that lead from one node to another.

    Raises:
        HeadError: the end also depends on nodes that do not come from the beginning.
    """
    reached = {begin}
    forward = []
    for i, step in enumerate(steps):
        if any(node in reached for node in step.reads) and begin not in step.writes:
            reached.update(step.writes)
            forward.append(i)
    needed, path = {end}, []
    for i in reversed(forward):
        if any(node in needed for node in steps[i].writes):
            needed.update(steps[i].reads)
            path.append(i)
    written = {begin, *(node for i in path for node in steps[i].writes)}
    if not needed <= written:
        raise HeadError("the logits depend on more than what passes there")
    return path[::-1]


def cuts(tape: Tape, end: int) -> list[int]:
    """Nodes through which every path from the beginning to the end goes, in order."""
    last_use = {end: len(tape.shapes)}
    for step in reversed(tape.steps):
        if any(node in last_use for node in step.writes):
            first = min(node for node in step.writes)
            for node in step.reads:
                last_use[node] = max(last_use.get(node, -1), max(n for n in step.writes if n in last_use), first)
    found, reach = [], 0
    for node in sorted(last_use):
        if node <= end and reach <= node:
            found.append(node)
        reach = max(reach, last_use[node])
    return found


class Replay:
    """A part of a tape, run again: from one node to another, with any values at the first.

    ``dtype`` is that of all floating tensors in it: the forward itself may have run in another.
    """

    def __init__(self, tape: Tape, begin: int, end: int, dtype: torch.dtype) -> None:
        self.steps, self.begin, self.end, self.dtype = tape.steps, begin, end, dtype
        self.path = between(tape.steps, begin, end)
        self._constants = tape.constants

    @property
    def names(self) -> list[str]:
        return [self.steps[i].name for i in self.path]

    def __call__(self, value: Tensor) -> Tensor:
        """The values at the end for these at the beginning."""
        values = {self.begin: value}
        for i in self.path:
            step = self.steps[i]
            args, kwargs, tensors = self.arguments(step, values)
            self.assign(step, values, step.func(*args, **kwargs), tensors)
        return values[self.end]

    def arguments(self, step: Step, values: Mapping[int, Tensor]) -> tuple[Any, Any, list[Tensor]]:
        """A step's arguments, and all tensors in them; what it will change in place is a copy."""
        tensors: list[Tensor] = []

        def read(value: Any) -> Any:
            if isinstance(value, Ref):
                tensor = values[value.node]
                if len(tensors) in step.mutated:
                    tensor = tensor.clone()
                tensors.append(tensor)
                return tensor
            if isinstance(value, Tensor):
                tensors.append(self.constant(value))
                if len(tensors) - 1 in step.mutated:
                    tensors[-1] = tensors[-1].clone()
                return tensors[-1]
            if isinstance(value, torch.dtype) and value.is_floating_point:
                return self.dtype
            return mapped(value, read)

        args, kwargs = read((step.args, step.kwargs))
        return args, kwargs, tensors

    def constant(self, tensor: Tensor) -> Tensor:
        """A tensor from outside the tape in this replay's precision."""
        if not tensor.is_floating_point() or (tensor.dtype == self.dtype and not tensor.requires_grad):
            return tensor
        key = (id(tensor), self.dtype)
        if key not in self._constants:
            self._constants[key] = tensor.detach().to(self.dtype)
        return self._constants[key]

    @staticmethod
    def assign(step: Step, values: dict[int, Tensor], output: Any, tensors: Sequence[Tensor]) -> None:
        for place, node in step.mutated.items():
            values[node] = tensors[place]
        for maybe, tensor in zip(step.outputs, tensors_in(output), strict=True):
            if maybe is not None:
                values[maybe] = tensor
