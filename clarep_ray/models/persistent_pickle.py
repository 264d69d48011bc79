"""NVIDIA's persistent network pickles, read without running or importing anything that they name.

Such a file holds objects as `_reconstruct_persistent_obj(meta)`, where `meta` carries the source code of their class
and their state. Here the code is never looked at: every global of the file is looked up in a closed table of inert
stand-ins, and only tensors, numbers, texts and containers come out. Any other global is refused by name.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from clarep_ray.data.pickle_ops import check_pickle, look_up
from clarep_ray.data.records import shown
from clarep_ray.data.untrusted import read_bounded

MAX_BYTES = 8 * 2**30
"""Of a file; EDM2-XXL's network has 3 GB."""


class Inert:
    """Stands in for an object of the file: the name of its class and its state, and no behaviour."""

    kind = ""
    state: Any = None

    def __init__(self, *_ignored: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Table(dict[Any, Any]):
    """Stands in for dictionaries with behaviour; what they hold besides their entries is dropped."""

    def __setstate__(self, _state: Any) -> None:
        pass


class _Stored:
    """Wraps a tensor or a storage, so that the file cannot reach its methods."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __setstate__(self, _state: Any) -> None:
        raise ValueError("it changes a tensor after the fact")


def _persistent(meta: Any, *_ignored: Any) -> Inert:
    found = Inert()
    found.kind, found.state = str(meta["class_name"]), meta["state"]
    return found


def _storage(content: bytes) -> _Stored:
    if content[:2] == b"PK":
        raise ValueError("it has an archive in place of a storage")
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, torch.TypedStorage):
        raise ValueError(f"it has a {type(found).__name__} in place of a storage")
    return _Stored(torch.empty(0, dtype=found.dtype).set_(found))


def _tensor(storage: _Stored, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_ignored: Any) -> _Stored:
    flat: Tensor = storage.content
    view = flat.as_strided(size, stride, offset)  # refuses to leave the storage
    if view.numel() > flat.numel():
        raise ValueError("it has a tensor larger than its storage")
    return _Stored(view)


def _parameter(data: _Stored, *_ignored: Any) -> _Stored:
    return data


_ALLOWED: dict[str, Callable[..., Any]] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _Table,
    "dnnlib.util.EasyDict": _Table,
    "torch.nn.modules.container.ModuleDict": Inert,
    "torch.nn.modules.container.ModuleList": Inert,
    "torch.nn.modules.container.Sequential": Inert,
    # Numbers of arrays beside the network: an encoder's statistics, factors of the blocks.
    **{
        f"numpy{name}": Inert
        for core in (".core", "._core")
        for name in (f"{core}.multiarray._reconstruct", f"{core}.multiarray.scalar", ".ndarray", ".dtype")
    },
}


class _StandIns(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return look_up(_ALLOWED, module_name, global_name, "networks and their tensors")


def read_network(path: Path) -> Inert:
    """Return the `ema` network of a file. Raises ValueError, naming the file, for anything else than such a file."""
    try:
        data = read_bounded(path, MAX_BYTES)
        check_pickle(data)
        network = _StandIns(io.BytesIO(data)).load()["ema"]
        if not isinstance(network, Inert) or not network.kind:
            raise ValueError("its ema is no network")
    except OSError as error:
        raise ValueError(f"checkpoint: {str(path)!r} cannot be read: {error.strerror}") from None
    except Exception as error:  # an unpickler raises many kinds for damaged bytes
        raise ValueError(f"checkpoint: {str(path)!r} is no network pickle: {shown(str(error))}") from None
    return network


def tensors(module: Inert) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and persistent buffers of a module and those inside it, by dotted name.

    Raises ValueError where a module lies inside itself, or in two places: such a tree can be endless.
    """
    yield from _tensors(module, "", set())


def _tensors(module: Inert, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if id(module) in seen:
        raise ValueError(f"it has one module in two places, first: {shown(prefix)}")
    seen.add(id(module))
    state = module.state
    for part in ("_parameters", "_buffers"):
        for name, value in state[part].items():
            if value is not None and name not in state.get("_non_persistent_buffers_set", ()):
                yield f"{prefix}{name}", cast(Tensor, value.content)
    for name, inner in state["_modules"].items():
        if inner is not None:
            yield from _tensors(inner, f"{prefix}{name}.", seen)
