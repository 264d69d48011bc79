"""Weights that others have made: safetensors and, once, torch's archives; and whether a config fits them.

A config of a few bytes can ask for any network. What it asks for is held against the tensors that lie beside it
before anything is built.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from clarep_ray.data.inside import new_inside
from clarep_ray.data.pickle_ops import check_instructions
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import check_plain_file, read_json_object

MAX_NUMBER = 2**24
"""Of a size in a config; the largest known, a vocabulary, has 2^18."""
COUNTS = ("layer", "depth", "block", "repeat", "stage")
"""Words in the names of settings that say how often something is built; each of them has at least one tensor."""
SPARE = 2
"""How many times its stored parameters a network may have: tied ones are stored once."""

KERNELS = (None, "eager", "sdpa")
FOREIGN: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("attn_implementation", "_attn_implementation", "_attn_implementation_internal"), KERNELS),
    **dict.fromkeys(("experts_implementation", "_experts_implementation", "_experts_implementation_internal"), KERNELS),
    **dict.fromkeys(
        ("kernel_config", "use_kernels", "auto_map", "custom_pipelines", "quantization_config", "trust_remote_code"),
        (None, False),
    ),
}
"""Settings that name code, which a library may look for on a hub, -> the values that name none but its own."""
SPARE_TENSORS = 1000
MAX_HEADER_BYTES = 4 * 2**20
"""Of a safetensors file: names and shapes of 40,000 tensors."""
MAX_TENSORS = 100_000
LEGACY_PICKLES = 4
"""With which a file of `torch.save` before 1.6 begins: three marks and the state."""
MAX_ARCHIVE_END = 66_000
"""Bytes at the end of an archive among which its directory is found."""
MAX_TABLES = 2**24
"""Numbers that a network computes for itself, such as its positions, beyond as many as are stored."""


def read_sizes(path: Path, num_tensors: int) -> dict[str, Any]:
    """Return a config.json for weights of `num_tensors`; ValueError naming the file and a number that is too large."""
    config = read_json_object(path)
    check_runs_nothing(config, repr(str(path)))
    for name, number in _numbers(config):
        counts = any(word in name for word in COUNTS)
        limit = num_tensors if counts else MAX_NUMBER
        if not -MAX_NUMBER * (not counts) <= number <= limit:  # refuses what is no number, too
            raise ValueError(f"{str(path)!r}: {shown(name)} is {number:.4g}; valid: at most {limit}")
    return config


def check_runs_nothing(config: Mapping[str, Any], where: str) -> None:
    """Raise ValueError for a setting by which a library would fetch code or run it, or pack the weights otherwise."""
    for name, value in config.items():
        if isinstance(value, dict) and name not in FOREIGN:
            check_runs_nothing(cast("dict[str, Any]", value), where)
        elif name in FOREIGN and value not in FOREIGN[name]:
            valid = " or ".join(map(repr, FOREIGN[name]))
            raise ValueError(f"{where}: {name} is {shown(repr(value))}; valid: {valid}")


@contextmanager
def few_tensors(stored: int) -> Generator[None]:
    """Stop building a network, by a ValueError, as soon as it has many more tensors than are stored for it."""
    limit, count = SPARE_TENSORS + 4 * stored, 0

    def registered(_module: nn.Module, _name: str, _tensor: object) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ValueError(f"it has more than {limit} tensors; {stored} are stored")

    hooks = (
        register_module_parameter_registration_hook(registered),
        register_module_buffer_registration_hook(registered),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file by name; ValueError naming one that is damaged."""
    from safetensors import safe_open

    _check_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its own error class, and Rust's panics
        raise ValueError(f"{str(path)!r} is no safetensors file: {shown(str(error))}") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; ValueError naming one that is damaged."""
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(f"{str(path)!r} is no safetensors file: {shown(str(error))}") from None


def write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file into a folder in one step; raises as `new_inside`."""
    from safetensors.torch import save_file

    with new_inside(folder, name) as work:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, work)


def check_no_nan(path: Path, where: str) -> None:
    """Raise ValueError, beginning with `where`, for a safetensors file with a NaN in it, naming the first such tensor.

    Infinity is let through: masks are stored so.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ValueError(f"{where} has NaN in {shown(name)} of {path.name}; valid: weights without it")


def check_fits(make: Callable[[], nn.Module], shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Raise ValueError where the network that `make` builds cannot be, or has more parameters than are stored.

    It is built without storage. `where` is what the message begins with.
    """
    try:
        with torch.device("meta"), few_tensors(len(shapes)):
            network = make()
            asked = sum(parameter.numel() for parameter in network.parameters())
            tables = sum(buffer.numel() for buffer in network.buffers())
    except Exception as error:  # sizes that make no network fail in many ways
        raise ValueError(f"{where} describes no network: {type(error).__name__}: {shown(str(error))}") from None
    stored = sum(math.prod(shape) for shape in shapes.values())
    if asked > SPARE * stored or tables > stored + MAX_TABLES:
        raise ValueError(
            f"{where} describes a network of {asked} parameters and {tables} numbers in tables; {stored} are stored"
        )


def read_checkpoint(path: Path, allowed: Sequence[type] = ()) -> Any:
    """Return what a file of `torch.save` holds: tensors, numbers, texts and containers, and `allowed` classes.

    torch's restricted unpickler refuses anything else. Raises ValueError, naming the file, for that, for an archive
    that is packed (torch writes none; a megabyte would become a gigabyte), and for a tensor larger than its storage.
    """
    where = f"checkpoint: {str(path)!r}"
    try:
        check_plain_file(path)
        if zipfile.is_zipfile(path):
            _check_archive(path)
        else:
            with path.open("rb") as file:
                check_instructions(file, LEGACY_PICKLES)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler objects to
        raise ValueError(f"{where} is not a plain state dict: {shown(str(error))}") from None


def check_state(state: Any, where: str) -> dict[str, Tensor]:
    """Return a dictionary of tensors by name; ValueError for anything else, and for tensors beyond their storage."""
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise ValueError(f"{where} is not a plain state dict, nor a dict with one as 'ema'")
    for name, value in state.items():
        if value.layout != torch.strided or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{where}: {shown(name)} is larger than its storage, or sparse")
    return dict(state)


def _check_archive(path: Path) -> None:
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            if item.filename.endswith("/data.pkl") and item.compress_type == zipfile.ZIP_STORED:
                with archive.open(item) as file:
                    check_instructions(cast("BinaryIO", file), 1)
        packed = [item.filename for item in archive.infolist() if item.compress_type != zipfile.ZIP_STORED]
        total = sum(item.file_size for item in archive.infolist())
    if packed:
        raise ValueError(f"{packed[0][:100]!r} in it is packed")
    if total > path.stat().st_size:
        raise ValueError(f"its parts have {total} bytes, more than it has itself")


def _check_directory(path: Path) -> None:
    """Raise ValueError for an archive of more entries than tensors of a network: each takes a microsecond and more."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_ARCHIVE_END))
        end = file.read()
    place = end.rfind(b"PK\x05\x06")
    entries = int.from_bytes(end[place + 10 : place + 12], "little")
    if entries == 0xFFFF and (wide := end.rfind(b"PK\x06\x06", 0, place)) >= 0:
        entries = int.from_bytes(end[wide + 32 : wide + 40], "little")
    if entries > MAX_TENSORS:
        raise ValueError(f"it has {entries} entries; valid: at most {MAX_TENSORS}")


def _check_header(path: Path) -> None:
    """Raise ValueError for a safetensors file whose header is longer than that of any network."""
    check_plain_file(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length <= path.stat().st_size:
        raise ValueError(
            f"{str(path)!r} is no safetensors file: its header has {length} bytes; valid: at most {MAX_HEADER_BYTES}"
        )


def _numbers(value: Any, name: str = "") -> list[tuple[str, int | float]]:
    """Return every number of a config with the name of its setting."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _numbers(inner, str(key))]
    if isinstance(value, list):
        return [found for inner in value for found in _numbers(inner, name)]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []
