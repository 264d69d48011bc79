"""Training of diffusion models in pixel space: batches, loss, weight average. Plain torch; no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clarep_ray import dotted
from clarep_ray.clarid.schedule import linear_schedule
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.manifest import names_sha256
from clarep_ray.data.pictures import read_pictures
from clarep_ray.data.records import shown
from clarep_ray.models.checkpoints import Parts, optimizer_tensors, restore_optimizer
from clarep_ray.models.diffusers_schedule import Prediction
from clarep_ray.models.digits_dit import load_parameters
from clarep_ray.models.divergence import clip_finite
from clarep_ray.seeding import stream_seed, torch_generator

LOSS_MEMORY = 0.99
FEW_IMAGES = 20
SHOWN_NAMES = 10


@dataclass(frozen=True)
class TrainingSet:
    """Pictures (n, 3, h, w) as uint8, labels (n,), what labels stand for, and the sha256 of pictures and labels.

    Every class has pictures: a network could be asked for one that it never saw. `left_out` are those of the input
    that the config's selection left without any.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    sha256: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the reader of the images chose by itself and passed over."""

    @staticmethod
    def read(config: TrainCdmConfig) -> TrainingSet:
        """Return the pictures of a config; ValueError where one cannot be read or its class is not known."""
        found = read_pictures(config.data, config.image_size)
        images, labels = torch.from_numpy(found.images).permute(0, 3, 1, 2), torch.from_numpy(found.labels)
        seen, labels = labels.unique(return_inverse=True)
        names = tuple(found.class_names[number] for number in seen.tolist())
        if _numbers(found.class_names) == list(found.class_names) and _numbers(names) != list(names):
            missing = next(name for name in found.class_names if name not in names)
            raise ValueError(
                f"data: no image has the label {missing}, and classes that are numbers cannot be numbered anew; valid: "
                "labels from 0 on without gaps, or classes with names"
            )
        left_out = tuple(name for name in found.class_names if name not in set(names))
        return TrainingSet(images, labels, names, found.sha256, left_out, found.notes)

    def summary(self) -> str:
        """Return what is trained on in a few lines; worth a look before hours are spent."""
        counts = torch.bincount(self.labels, minlength=len(self.class_names)).tolist()
        few = [name for name, count in zip(self.class_names, counts, strict=True) if count < FEW_IMAGES]
        span = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        lines = [f"{len(self.images)} images of {len(counts)} classes ({_cut(self.class_names)}), {span} each"]
        if self.left_out:
            lines.append(f"no images of {len(self.left_out)} classes, which are left out: {_cut(self.left_out)}")
        if len(self.class_names) == 1:
            lines.append("one class alone: its label tells the network nothing, and guidance will do nothing")
        if few:
            lines.append(f"fewer than {FEW_IMAGES} images, which a network learns by heart: {_cut(few)}")
        return "\n".join([*lines, *self.notes])


def _numbers(names: Sequence[str]) -> list[str]:
    return list(map(str, range(len(names))))


def _cut(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:SHOWN_NAMES])) + (", ..." if len(names) > SHOWN_NAMES else "")


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
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, config.adam_beta2),
        )
        average = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        return CdmTrainer(network, optimizer, average)

    def parts(self) -> Parts:
        return {
            "network": dict(self.network.named_parameters()),
            "average": self.average,
            "optimizer": optimizer_tensors(self.optimizer, self.network),
        }

    def notes(self) -> dict[str, Any]:
        return {"loss": self.recent_loss}

    def restore(self, parts: Parts, notes: Mapping[str, Any]) -> None:
        load_parameters(self.network, parts["network"])
        self.average = {name: parts["average"][name].to(value.device) for name, value in self.average.items()}
        restore_optimizer(self.optimizer, self.network, parts["optimizer"])
        self.recent_loss = notes["loss"]


def fingerprint(config: TrainCdmConfig, data: TrainingSet) -> str:
    """Return what a training that may be continued has in common: its settings, pictures, and what labels stand for."""
    own = {"data_sha256": data.sha256, "label_map_sha256": names_sha256(data.class_names)}
    return dotted.fingerprint(dotted.fingerprint_fields(config) | own)


def draw_batch(data: TrainingSet, config: TrainCdmConfig, step: int) -> dict[str, Tensor]:
    """Return the global batch of one step, the same for any number of workers or interruptions.

    Drawn in this order: pictures, timesteps, noise, dropped labels, mirrored pictures (where the config flips). Without
    `classes` where the config is not conditional.
    """
    generator = torch_generator(config.seed, f"step/{step}", "train_cdm")
    chosen = torch.randint(len(data.images), (config.batch_size,), generator=generator)
    timesteps = torch.randint(1000, (config.batch_size,), generator=generator)
    eps = torch.randn((config.batch_size, *data.images.shape[1:]), generator=generator)
    dropped = torch.rand(config.batch_size, generator=generator) < config.label_dropout
    classes = torch.where(dropped, len(data.class_names), data.labels[chosen])
    x_0 = data.images[chosen].float() / 127.5 - 1
    if config.flip:
        mirrored = torch.rand(config.batch_size, generator=generator) < 0.5
        x_0 = torch.where(mirrored.view(-1, 1, 1, 1), x_0.flip(3), x_0)
    batch = {"x_0": x_0, "timesteps": timesteps, "eps": eps}
    return batch | {"classes": classes} if config.conditional else batch


def denoising_loss(network: nn.Module, batch: dict[str, Tensor], prediction: Prediction) -> Tensor:
    """Return the mean squared error of the prediction at x_t = alpha x_0 + sigma eps.

    The target is eps (Ho et al. 2020, Eq. 14), or v = alpha eps - sigma x_0 (Salimans and Ho 2022).
    """
    alpha, sigma = linear_schedule().alpha_sigma(batch["timesteps"].cpu().double())
    alpha, sigma = (scale.float().to(batch["x_0"].device).view(-1, 1, 1, 1) for scale in (alpha, sigma))
    x_t = alpha * batch["x_0"] + sigma * batch["eps"]
    target = batch["eps"] if prediction == "epsilon" else alpha * batch["eps"] - sigma * batch["x_0"]
    predicted = network(x_t, timestep=batch["timesteps"], class_labels=batch.get("classes"), return_dict=False)[0]
    return F.mse_loss(predicted, target)


def learning_rate_at(step: int, config: TrainCdmConfig) -> float:
    """Return the rate of a step: linear warm-up, then half a cosine down to zero or the same rate on."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay == "constant":
        return config.learning_rate * warm
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.num_steps))


def train_step(
    trainer: CdmTrainer, forward: nn.Module, batch: dict[str, Tensor], config: TrainCdmConfig, rank: int = 0
) -> None:
    """Take one optimiser step on this worker's share of the batch.

    `forward` is the network, or its wrapper that averages gradients over workers. Raises TrainingDiverged.
    """
    for group in trainer.optimizer.param_groups:
        group["lr"] = learning_rate_at(trainer.step, config)
    # Dropout draws from torch's own generators: without this, a training that was interrupted would end elsewhere.
    torch.manual_seed(stream_seed(config.seed, f"dropout/{trainer.step}/{rank}", "train_cdm"))
    loss = denoising_loss(forward, batch, config.prediction)
    trainer.optimizer.zero_grad()
    loss.backward()
    clip_finite(loss, trainer.network.parameters(), 1.0, trainer.step + 1)
    trainer.optimizer.step()
    trainer.step += 1
    decay = min(config.ema_decay, trainer.step / (trainer.step + 9))
    with torch.no_grad():
        for name, parameter in trainer.network.named_parameters():
            trainer.average[name].lerp_(parameter, 1 - decay)
    before = loss.item() if trainer.recent_loss is None else trainer.recent_loss
    trainer.recent_loss = LOSS_MEMORY * before + (1 - LOSS_MEMORY) * loss.item()


def train_steps(
    trainer: CdmTrainer, forward: nn.Module, data: TrainingSet, config: TrainCdmConfig, rank: int = 0, world: int = 1
) -> Iterator[int]:
    """Train from where the trainer is to the config's last step, and yield after each how many are done.

    Worker `rank` of `world` takes every `world`-th picture of the global batch. With dropout the masks depend on the
    number of workers; everything else that is drawn does not.
    """
    device = next(trainer.network.parameters()).device
    while trainer.step < config.num_steps:
        batch = draw_batch(data, config, trainer.step)
        share = {name: values[rank::world].to(device) for name, values in batch.items()}
        train_step(trainer, forward, share, config, rank)
        yield trainer.step
