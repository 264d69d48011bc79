"""Checkpoints of a training: hashed, put under their final name in one step, continued to the bit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from clarep_ray.data.durable import new_folder, remove_whole
from clarep_ray.data.inside import has_file_inside, refuse_links, write_inside
from clarep_ray.data.records import shown
from clarep_ray.data.sealed import read_sealed, sealed
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.untrusted import check_fields

KEPT_CHECKPOINTS = 2
MAX_STATE_BYTES = 64 * 2**20
"""Of a checkpoint's notes, which hold the training's history."""
STATE_SEAL = "state_sha256"
"""What `state.json` calls the hash of itself."""

STEP, PART = re.compile(r"step-[0-9]{8,12}", re.ASCII), re.compile(r"[a-z][a-z_]*", re.ASCII)
Parts = Mapping[str, Mapping[str, Tensor]]


@runtime_checkable
class Resumable(Protocol):
    """A training that can be put down and taken up: tensors in named parts, and what JSON holds."""

    step: int

    def parts(self) -> Parts:
        """Return the tensors, by part and name."""
        ...

    def notes(self) -> dict[str, Any]:
        """Return what else there is to know, without the step."""
        ...

    def restore(self, parts: Parts, notes: Mapping[str, Any]) -> None:
        """Take over tensors (on the CPU) and notes; the step is set by the caller."""
        ...


def save_checkpoint(trainer: Resumable, root: Path, fingerprint: str) -> Path:
    """Write a checkpoint under its final name in one step, hashed, and drop the oldest beyond two."""
    target = root / f"step-{trainer.step:08d}"
    for left in refuse_links(root.parent, root.name).glob(".tmp-*"):
        with suppress(OSError):  # of another step, by a process that was killed while it saved
            remove_whole(left)
    with new_folder(root.parent, f"{root.name}/{target.name}") as work:
        parts = trainer.parts()
        for part, tensors in parts.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, work / f"{part}.safetensors")
        hashes = {part: sha256_file(work / f"{part}.safetensors") for part in parts}
        notes = trainer.notes()
        state = {**notes, "step": trainer.step, "fingerprint": fingerprint, "sha256": hashes, "names": sorted(notes)}
        write_inside(work, "state.json", sealed(state, STATE_SEAL))
    for old in _checkpoints(root)[:-KEPT_CHECKPOINTS]:
        remove_whole(old)
    return target


def check_checkpoints(root: Path, fingerprint: str) -> None:
    """Raise ValueError where the checkpoints in `root` have another config, other pictures or class names."""
    known = {state["fingerprint"] for folder in _checkpoints(root) if (state := _state(folder))}
    if known - {fingerprint}:
        raise ValueError(
            f"output: {str(root.parent)!r} holds a training with another config, other pictures or other class names; "
            "choose another one"
        )


def load_newest(trainer: Resumable, root: Path, fingerprint: str) -> None:
    """Continue from the newest checkpoint whose hashes match; a damaged one is passed over with a warning.

    Raises ValueError where checkpoints exist but none is usable, or where they belong to another config.
    """
    check_checkpoints(root, fingerprint)
    candidates = _checkpoints(root)
    for folder in reversed(candidates):
        state = _state(folder)
        if state is not None and _intact(folder, state):
            parts = {part: load_file(folder / f"{part}.safetensors") for part in state["sha256"]}
            try:
                trainer.restore(parts, state)
            except torch.OutOfMemoryError:
                raise
            except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
                what = f"{type(error).__name__}: {shown(str(error))}"
                raise ValueError(f"output: {str(folder)!r} is no checkpoint of this training: {what}") from None
            trainer.step = state["step"]
            return
        warnings.warn(f"checkpoint {folder.name} is damaged; trying the one before", stacklevel=2)
    if candidates:
        raise ValueError(f"output: {str(root.parent)!r} has checkpoints, but all are damaged")


def optimizer_tensors(optimizer: Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return an optimiser's state as {parameter.key: tensor}; what it has not yet made is left out."""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(optimizer: Optimizer, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned; step counters stay on the CPU, where torch keeps them."""
    for name, parameter in network.named_parameters():
        own = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        if own:
            optimizer.state[parameter] = {
                key: value.to("cpu" if key == "step" else parameter.device) for key, value in own.items()
            }


def _state(folder: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says about itself, or None where that cannot be read."""
    try:
        state = read_sealed(folder, "state.json", STATE_SEAL, MAX_STATE_BYTES)
        check_fields(state, {"step": int, "fingerprint": str, "sha256": dict, "names": list}, "state.json")
        same = folder.name == f"step-{state['step']:08d}" and all(PART.fullmatch(part) for part in state["sha256"])
        return state if same and set(state["names"]) <= state.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _intact(folder: Path, state: dict[str, Any]) -> bool:
    names = {f"{part}.safetensors": sha for part, sha in state["sha256"].items()}
    return all(has_file_inside(folder, name) and sha256_file(folder / name) == sha for name, sha in names.items())


def _checkpoints(root: Path) -> list[Path]:
    """Return the folders of checkpoints, the oldest first; NotInside where one, or the folder of all, is a link."""
    if not refuse_links(root.parent, root.name).is_dir():
        return []
    found = sorted(path for path in root.iterdir() if STEP.fullmatch(path.name))
    return [refuse_links(root, path.name) for path in found]
