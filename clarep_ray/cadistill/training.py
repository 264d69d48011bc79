"""One loop for every method: a step on a worker's share, losses over the global batch, state that can be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from clarep_ray.cadistill.batches import STAGE, Batch, prefetched
from clarep_ray.cadistill.diffusion_teacher import DiffusionTeacher
from clarep_ray.cadistill.evaluation import Validation
from clarep_ray.cadistill.gathering import gather
from clarep_ray.cadistill.inputs import Opened
from clarep_ray.cadistill.learner import Learner, Outputs
from clarep_ray.cadistill.methods import METHODS, OWN_READING, Step, Terms, teacher_attention, total, vanilla
from clarep_ray.cadistill.mixing import share
from clarep_ray.cadistill.schedule import Stages, learning_rate_at, weight_decay_at
from clarep_ray.cadistill.teachers import Reading, Teacher
from clarep_ray.config import DistillConfig
from clarep_ray.models.checkpoints import Parts, optimizer_tensors, restore_optimizer
from clarep_ray.models.divergence import clip_finite
from clarep_ray.seeding import stream_seed, torch_generator

AnyTeacher = Teacher | DiffusionTeacher | None


@dataclass
class Distiller:
    """Learner and optimiser after `step` steps, the sums of the running epoch, and what past epochs came to."""

    learner: Learner
    optimizer: Optimizer
    config: DistillConfig
    stages: Stages
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum over the epoch's steps of every term, and of the total."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record per finished epoch, as in metrics.jsonl."""

    @staticmethod
    def start(learner: Learner, config: DistillConfig, per_epoch: int) -> Distiller:
        """Return a training before its first step."""
        return Distiller(learner, _optimizer(learner, config), config, Stages.of(config, per_epoch))

    @property
    def device(self) -> torch.device:
        return next(self.learner.parameters()).device

    @property
    def best(self) -> dict[str, Any] | None:
        """Return the record of the best epoch so far, the earliest of equals; None before the first has ended."""
        return max(self.history, key=lambda record: record["val_accuracy"], default=None)

    def parts(self) -> Parts:
        return {
            "learner": self.learner.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.learner),
            "sums": self.sums or {"none": torch.zeros(0)},
        }

    def notes(self) -> dict[str, Any]:
        return {"history": self.history}

    def restore(self, parts: Parts, notes: Mapping[str, Any]) -> None:
        self.learner.load_state_dict(dict(parts["learner"]))
        restore_optimizer(self.optimizer, self.learner, parts["optimizer"])
        self.sums = {name: value.to(self.device) for name, value in parts["sums"].items() if value.numel()}
        self.history = list(notes["history"])

    def enter_step(self, rank: int) -> None:
        """Set rates, modes and torch's own stream for the coming step; a second stage starts with a new optimiser."""
        config, second = self.config, self.stages.in_second(self.step)
        if self.step == self.stages.first:
            self.optimizer.state.clear()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config, self.stages)
            group["weight_decay"] = weight_decay_at(self.step, config, self.stages)
        self.learner.linear_only = second and METHODS[config.method].second_stage == "linear"
        self.learner.train()
        # Dropout draws from torch's own generators: without this, a training that was interrupted would end elsewhere.
        torch.manual_seed(stream_seed(config.seed, f"dropout/{self.step}/{rank}", STAGE))

    def close_epoch(self, found: Validation) -> dict[str, Any]:
        """Return and keep the record of the epoch that has just ended, and of what its validation found."""
        means = {name: value.item() / self.stages.per_epoch for name, value in sorted(self.sums.items())}
        epoch = self.step // self.stages.per_epoch
        rate = learning_rate_at(self.step - 1, self.config, self.stages)
        record = {"epoch": epoch, "step": self.step, "learning_rate": rate, **means, "val_accuracy": found.accuracy}
        if found.not_finite:
            record["val_not_finite"] = found.not_finite
        self.history.append(record)
        self.sums = {}
        return record


def _optimizer(learner: nn.Module, config: DistillConfig) -> Optimizer:
    settings = config.optimizer
    if settings.name == "sgd":
        return SGD(
            learner.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
        )
    return AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def train_step(
    trainer: Distiller, forward: nn.Module, batch: Batch, teacher: AnyTeacher, rank: int = 0, world: int = 1
) -> None:
    """Take one optimiser step on this worker's share of the batch.

    `forward` is the learner, or its wrapper that averages gradients over workers. Raises TrainingDiverged.
    """
    trainer.enter_step(rank)
    terms = batch_terms(trainer, forward, batch.to(trainer.device), teacher, rank, world)
    loss = total(terms, trainer.config.loss)
    trainer.optimizer.zero_grad()
    loss.backward()
    clip_finite(loss, trainer.learner.parameters(), trainer.config.optimizer.clip_norm, trainer.step + 1)
    trainer.optimizer.step()
    for name, value in {**terms, "loss": loss}.items():
        seen = trainer.sums.setdefault(name, torch.zeros((), dtype=torch.float64, device=trainer.device))
        seen += value.detach()
    trainer.step += 1


def batch_terms(
    trainer: Distiller, forward: nn.Module, batch: Batch, teacher: AnyTeacher, rank: int, world: int
) -> Terms:
    """Return the loss's terms over the global batch: images and Canonical Samples in one forward pass."""
    config, method = trainer.config, METHODS[trainer.config.method]
    second = trainer.stages.in_second(trainer.step)
    views = 1 if second else method.views + int(method.denoises)
    pixels = batch.pixels[: len(batch.labels)] if second else batch.pixels
    if method.denoises and not second:
        pixels = torch.cat([pixels, denoised(trainer, batch, teacher, rank, world)])
    seen = torch.cat([pixels, batch.canonical])
    if config.channels_last:
        seen = seen.contiguous(memory_format=torch.channels_last)
    draws = batch.draws.repeat(len(seen) // len(batch.draws), 1)
    with torch.autocast(trainer.device.type, torch.bfloat16, enabled=config.amp):
        outputs: Outputs = forward(seen, draws, not second)
    reading = read_teacher(trainer, batch, None if second else teacher, rank, world)
    step = _step(outputs, batch, reading, views, trainer.stages.progress(trainer.step), config)
    return vanilla(step) if second else method.terms(step)


def step_noise(trainer: Distiller, teacher: DiffusionTeacher, rank: int, world: int) -> Tensor:
    """Return this worker's share of the step's noise, in the shape of the teacher's latents."""
    config = trainer.config
    size = config.schedule.batch_size
    generator = torch_generator(config.seed, f"noise/{trainer.step}", STAGE)
    eps = torch.randn((size, *teacher.model.latent_shape), generator=generator)
    return eps[torch.from_numpy(share(size, rank, world, config.augment.mixes))].to(trainer.device)


def denoised(trainer: Distiller, batch: Batch, teacher: AnyTeacher, rank: int, world: int) -> Tensor:
    """Return DiffAug's view of a worker's images, each at a timestep of its own."""
    assert isinstance(teacher, DiffusionTeacher), "the config asks for one"
    chosen = (batch.draws[:, 1] * len(teacher.times)).long()
    return teacher.denoised(batch.pixels, chosen, step_noise(trainer, teacher, rank, world))


def read_teacher(trainer: Distiller, batch: Batch, teacher: AnyTeacher, rank: int, world: int) -> Reading:
    """Return what the teacher says of the first view of the images; where there is none, the stored features."""
    images = batch.pixels[: len(batch.labels)]
    if isinstance(teacher, Teacher):
        return teacher.read(images)
    if isinstance(teacher, DiffusionTeacher) and trainer.config.method not in OWN_READING:
        return teacher.read(images, batch.labels, step_noise(trainer, teacher, rank, world))
    return Reading(batch.features[:, :0], batch.features, batch.features[:, :0, None, None])


def _step(outputs: Outputs, batch: Batch, reading: Reading, views: int, progress: float, config: DistillConfig) -> Step:
    """Return all rows of the global batch: images first, view by view, then Canonical Samples."""
    count = views * len(batch.labels)

    def images(rows: Tensor) -> Tensor:
        return torch.cat([gather(view) for view in rows[:count].chunk(views)])

    return Step(
        labels=gather(batch.labels),
        targets=gather(batch.targets),
        features=images(outputs.features),
        logits=images(outputs.logits),
        extra={name: images(rows) for name, rows in outputs.extra.items()},
        canonical_features=gather(outputs.features[count:]),
        canonical_logits=gather(outputs.logits[count:]),
        teacher_features=gather(reading.features),
        teacher_logits=gather(reading.logits),
        teacher_attention=gather(teacher_attention(reading.maps)),
        progress=progress,
        config=config.loss,
    )


def train_steps(
    trainer: Distiller, forward: nn.Module, opened: Opened, teacher: AnyTeacher, rank: int = 0, world: int = 1
) -> Iterator[int]:
    """Train from where the trainer is to the last step, and yield after each how many are done."""
    config = trainer.config

    def make(step: int) -> Batch:
        return opened.inputs.batch(config, step, rank, world)

    for batch in prefetched(make, trainer.step, trainer.stages.total, config.loader_threads):
        train_step(trainer, forward, batch, teacher, rank, world)
        yield trainer.step


def needs_unused_parameters(config: DistillConfig) -> bool:
    """Say whether parameters go without a gradient in some steps, which DDP must be told: two stages."""
    return METHODS[config.method].second_stage != "none"
