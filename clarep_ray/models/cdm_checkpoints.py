"""Checkpoints of a training: hashed, put under their final name in one step, continued to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from clarep_ray.models.cdm_training import CdmTrainer
from clarep_ray.models.digits_dit import load_parameters

KEPT_CHECKPOINTS = 2


def save_checkpoint(trainer: CdmTrainer, root: Path, fingerprint: str) -> Path:
    """Write a checkpoint under its final name in one step, hashed, and drop the oldest beyond two."""
    target = root / f"step-{trainer.step:08d}"
    work = root / f".tmp-{os.getpid()}-{target.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    moments = {
        f"{name}.{key}": value
        for name, parameter in trainer.network.named_parameters()
        for key, value in trainer.optimizer.state[parameter].items()
    }
    parts = {"network": dict(trainer.network.named_parameters()), "average": trainer.average, "optimizer": moments}
    for part, tensors in parts.items():
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, work / f"{part}.safetensors")
    hashes = {part: _sha256(work / f"{part}.safetensors") for part in parts}
    state = {"step": trainer.step, "loss": trainer.recent_loss, "fingerprint": fingerprint, "sha256": hashes}
    (work / "state.json").write_text(json.dumps(state, indent=2))
    _sync(work)
    shutil.rmtree(target, ignore_errors=True)
    work.rename(target)
    for old in _checkpoints(root)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return target


def check_checkpoints(root: Path, fingerprint: str) -> None:
    """Raise ValueError where the checkpoints in `root` belong to another config or to other pictures."""
    known = {state["fingerprint"] for folder in _checkpoints(root) if (state := _state(folder))}
    if known - {fingerprint}:
        raise ValueError(
            f"output: {str(root.parent)!r} holds a training with another config or other pictures; choose another one"
        )


def load_newest(trainer: CdmTrainer, root: Path, fingerprint: str) -> None:
    """Continue from the newest checkpoint whose hashes match; a damaged one is passed over with a warning.

    Raises ValueError where checkpoints exist but none is usable, or where they belong to another config.
    """
    check_checkpoints(root, fingerprint)
    candidates = _checkpoints(root)
    for folder in reversed(candidates):
        state = _state(folder)
        if state is not None and _intact(folder, state):
            _restore(trainer, folder, state)
            return
        warnings.warn(f"checkpoint {folder.name} is damaged; trying the one before", stacklevel=2)
    if candidates:
        raise ValueError(f"output: {str(root.parent)!r} has checkpoints, but all are damaged")


def _state(folder: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says about itself, or None where that cannot be read."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return {name: state[name] for name in ("step", "loss", "fingerprint", "sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _intact(folder: Path, state: dict[str, Any]) -> bool:
    paths = {folder / f"{part}.safetensors": sha for part, sha in state["sha256"].items()}
    return all(path.is_file() and _sha256(path) == sha for path, sha in paths.items())


def _restore(trainer: CdmTrainer, folder: Path, state: dict[str, Any]) -> None:
    network, average, moments = (
        load_file(folder / f"{part}.safetensors") for part in ("network", "average", "optimizer")
    )
    load_parameters(trainer.network, network)
    trainer.average = {name: average[name].to(value.device) for name, value in trainer.average.items()}
    for name, parameter in trainer.network.named_parameters():
        trainer.optimizer.state[parameter] = {
            key: moments[f"{name}.{key}"].to("cpu" if key == "step" else parameter.device)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }
    trainer.step, trainer.recent_loss = state["step"], state["loss"]


def _checkpoints(root: Path) -> list[Path]:
    return sorted(root.glob("step-*")) if root.is_dir() else []


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
