"""Training of the embedded diffusion model: loss, weight average, checkpoints. Plain torch; no Ray."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clarep_ray.clarid.schedule import linear_schedule
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.spurious_digits import NUM_CLASSES, SpuriousDigits
from clarep_ray.models.digits_dit import DigitsDitArchitecture, load_parameters
from clarep_ray.seeding import torch_generator

KEPT_CHECKPOINTS = 2
LOSS_MEMORY = 0.99


@dataclass
class CdmTrainer:
    """Network, optimiser and weight average after `step` optimiser steps."""

    network: nn.Module
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    step: int = 0
    recent_loss: float | None = None
    """Running mean of this worker's loss; None before the first step."""

    @staticmethod
    def start(network: nn.Module, config: TrainCdmConfig) -> CdmTrainer:
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        average = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        return CdmTrainer(network, optimizer, average)


def architecture_of(config: TrainCdmConfig) -> DigitsDitArchitecture:
    """Return the sizes of the network a config asks for."""
    return DigitsDitArchitecture(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=config.hidden_size,
        num_blocks=config.num_blocks,
        num_heads=config.num_heads,
    )


def training_pictures(config: TrainCdmConfig) -> tuple[Tensor, Tensor, str]:
    """Return pixels in [-1, 1] (n, 3, h, w), labels (n,), and the sha256 of the uint8 pictures and labels."""
    pictures = SpuriousDigits(
        split="train",
        count=config.num_images,
        image_size=config.image_size,
        correlation=config.correlation,
        seed=config.data_seed,
    )
    rows = [pictures[i] for i in range(len(pictures))]
    images = np.stack([row.image for row in rows])
    labels = np.array([row.label for row in rows], dtype=np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, torch.from_numpy(labels), digest


def draw_batch(pixels: Tensor, labels: Tensor, config: TrainCdmConfig, step: int) -> dict[str, Tensor]:
    """Return the global batch of one step, the same for any number of workers or interruptions."""
    generator = torch_generator(config.seed, f"step/{step}", "train_cdm")
    chosen = torch.randint(len(pixels), (config.batch_size,), generator=generator)
    timesteps = torch.randint(1000, (config.batch_size,), generator=generator)
    eps = torch.randn((config.batch_size, *pixels.shape[1:]), generator=generator)
    dropped = torch.rand(config.batch_size, generator=generator) < config.label_dropout
    classes = torch.where(dropped, NUM_CLASSES, labels[chosen])
    return {"x_0": pixels[chosen], "timesteps": timesteps, "eps": eps, "classes": classes}


def v_prediction_loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean squared error of the v-prediction, v = alpha eps - sigma x_0."""
    alpha, sigma = linear_schedule().alpha_sigma(batch["timesteps"].cpu().double())
    alpha, sigma = (scale.float().to(batch["x_0"].device).view(-1, 1, 1, 1) for scale in (alpha, sigma))
    x_t = alpha * batch["x_0"] + sigma * batch["eps"]
    target = alpha * batch["eps"] - sigma * batch["x_0"]
    predicted = network(x_t, timestep=batch["timesteps"], class_labels=batch["classes"], return_dict=False)[0]
    return F.mse_loss(predicted, target)


def learning_rate_at(step: int, config: TrainCdmConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))


def train_step(trainer: CdmTrainer, forward: nn.Module, batch: dict[str, Tensor], config: TrainCdmConfig) -> None:
    """Take one optimiser step on this worker's share of the batch.

    `forward` is the network, or its wrapper that averages gradients over workers.
    """
    for group in trainer.optimizer.param_groups:
        group["lr"] = learning_rate_at(trainer.step, config)
    loss = v_prediction_loss(forward, batch)
    trainer.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(trainer.network.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.step += 1
    decay = min(config.ema_decay, trainer.step / (trainer.step + 9))
    with torch.no_grad():
        for name, parameter in trainer.network.named_parameters():
            trainer.average[name].lerp_(parameter, 1 - decay)
    before = loss.item() if trainer.recent_loss is None else trainer.recent_loss
    trainer.recent_loss = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * loss.item()


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
    """Raise ValueError where the checkpoints in `root` belong to another config."""
    known = {state["fingerprint"] for folder in _checkpoints(root) if (state := _state(folder))}
    if known - {fingerprint}:
        raise ValueError(f"output: {str(root.parent)!r} holds a training with another config; choose another folder")


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
