"""Look at a pickle's instructions before an unpickler carries them out."""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from clarep_ray.data.records import shown

MAX_OPS = 1_000_000
"""A network of 4,000 tensors has some 200,000, a batch of 10,000 labels some 20,000."""
ONE_AT_A_TIME = {"PUT", "BINPUT", "LONG_BINPUT"}
FOREIGN = {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8"}
"""Instructions that no file of ours has: registered extensions, ids and buffers from outside."""


def check_pickle(data: bytes) -> None:
    """Raise ValueError for a pickle that is malformed, too long, or reserves memory that it does not fill.

    Python's unpickler makes room for every number up to the highest a memo is stored under: one instruction of five
    bytes can take 64 GB.
    """
    stored = 0
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if number >= MAX_OPS:
            raise ValueError(f"it has more than {MAX_OPS} instructions")
        if instruction.name in FOREIGN:
            raise ValueError(f"it has the instruction {instruction.name}")
        stored += instruction.name in ONE_AT_A_TIME or instruction.name == "MEMOIZE"
        if instruction.name in ONE_AT_A_TIME and int(argument or 0) > 2 * stored + 1000:
            raise ValueError(f"it stores object {stored} under the number {argument}")


def check_instructions(file: BinaryIO, pickles: int) -> None:
    """Raise ValueError where that many pickles, one after another, have more than `MAX_OPS` instructions."""
    number = 0
    for _ in range(pickles):
        for _ in pickletools.genops(file):
            number += 1
            if number > MAX_OPS:
                raise ValueError(f"it has more than {MAX_OPS} instructions")


def look_up(table: Mapping[str, Callable[..., Any]], module_name: str, global_name: str, what: str) -> Any:
    """Return what a closed table has for a global of a pickle, importing nothing; ValueError naming any other."""
    name = f"{module_name}.{global_name}"
    if name not in table:
        raise ValueError(f"it asks for {shown(name)}; only {what} are read")
    return table[name]
