"""What work asks of a machine, operator by operator, and the least time that this machine needs for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
"""They write nothing."""
TRIADS = (2**20, 2**23, 2**26, 2**29)
"""Bytes that one operator moves, at which the memory's speed is measured: in caches, and beyond them."""
TURNS = 7


@dataclass
class Counts:
    """Operators of some work: how many, the FLOPs of their products, and the bytes that each of them moves."""

    operators: int = 0
    flops: int = 0
    moved: Counter[int] = field(default_factory=Counter[int])
    """bytes read and written by an operator -> how many such operators."""

    @property
    def moved_bytes(self) -> int:
        return sum(size * count for size, count in self.moved.items())

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.operators + other.operators, self.flops + other.flops, self.moved + other.moved)


class Counting(TorchDispatchMode):
    """Counts inside what every operator below autograd and vmap does: its inputs read, its outputs written, unfused.

    FLOPs are those of `torch.utils.flop_counter`: matrix products, convolutions and attention. Views move nothing; an
    expanded tensor is read once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def take(self) -> Counts:
        """Return what was counted since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        self.counts.operators += 1
        formula = flop_registry.get(func._overloadpacket)
        self.counts.flops += int(formula(*args, **named, out_val=result)) if formula else 0
        moved = 0 if func._overloadpacket in ALLOCATIONS else _moved(func, (args, named), result)
        self.counts.moved[moved] += 1
        return result


def _moved(func: Any, given: Any, result: Any) -> int:
    arguments, named = given
    read = list(_tensors((arguments, {name: value for name, value in named.items() if name != "out"})))
    written = list(_tensors(result))
    sources = {_storage(tensor) for tensor in read}
    if not func._schema.is_mutable and written and all(_storage(tensor) in sources for tensor in written):
        return 0  # a view
    return sum(map(_size, read)) + sum(map(_size, written))


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, each once where it is expanded."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count * tensor.element_size()


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at its best, measured: arithmetic [FLOP/s], memory [B/s], and the cost of an operator."""

    flops_per_s: float
    bytes_per_s: Mapping[int, float]
    """Of operators that move so many bytes, ascending; smaller ones are as fast as the first."""
    operator_s: float

    def bounds(self, counts: Counts) -> dict[str, float]:
        """Return the least seconds that each resource alone takes for the work."""
        memory = sum(size * count / self._speed(size) for size, count in counts.moved.items())
        return {
            "arithmetic": counts.flops / self.flops_per_s,
            "memory": memory,
            "dispatch": counts.operators * self.operator_s,
        }

    def _speed(self, size: int) -> float:
        fitting = [speed for moved, speed in self.bytes_per_s.items() if size <= moved]
        return fitting[0] if fitting else list(self.bytes_per_s.values())[-1]


def measure_ceilings(device: str) -> Ceilings:
    """Return the ceilings of this process on its threads or GPU: float32 products, triads, one-element operators."""
    side = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device)
    product_s = fastest(lambda: a @ b)
    one = torch.ones(1, device=device)
    many = 2000
    operator_s = fastest(lambda: [one + one for _ in range(many)]) / many
    return Ceilings(2 * side**3 / product_s, {moved: _triad(moved, device) for moved in TRIADS}, operator_s)


def _triad(moved: int, device: str) -> float:
    """Return the bytes per second of a = b + c, all three together `moved` bytes."""
    b, c = torch.zeros(2, moved // 12, device=device)
    a = torch.zeros_like(b)
    times = max(1, 2**27 // moved)
    return moved * times / fastest(lambda: [torch.add(b, c, out=a) for _ in range(times)])


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of several turns, after one that is not measured."""
    work()
    clock = Stopwatch()
    turns: list[float] = []
    for _ in range(TURNS):
        clock.take()
        work()
        turns.append(clock.take())
    return min(turns)


class Stopwatch:
    """Seconds since the last look, with the GPU's work done."""

    def __init__(self) -> None:
        self._before = self._now()

    def take(self) -> float:
        now = self._now()
        taken, self._before = now - self._before, now
        return taken

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


Amount = TypeVar("Amount")


class Stages(Generic[Amount]):
    """Shares out what a meter says to named stages; what is inside another stage is not the outer one's."""

    def __init__(self, take: Callable[[], Amount]) -> None:
        self._take, self._open = take, list[str]()
        self.found: dict[str, list[Amount]] = {}

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        self._close()
        self._open.append(name)
        self.found.setdefault(name, [])
        try:
            yield
        finally:
            self._close()
            self._open.pop()

    def _close(self) -> None:
        taken = self._take()
        if self._open:
            self.found[self._open[-1]].append(taken)
