"""How long a training lasts, in which stage a step is, and its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clarep_ray.cadistill.methods import METHODS
from clarep_ray.config import DistillConfig


@dataclass(frozen=True)
class Stages:
    """Steps of an epoch, of the first stage and of the whole training."""

    per_epoch: int
    first: int
    total: int

    @staticmethod
    def of(config: DistillConfig, per_epoch: int) -> Stages:
        first = config.schedule.epochs * per_epoch
        second = config.second_stage.epochs * per_epoch
        return Stages(per_epoch, first, first + (second if METHODS[config.method].second_stage != "none" else 0))

    def in_second(self, step: int) -> bool:
        """Say whether a step belongs to the second stage."""
        return step >= self.first

    def progress(self, step: int) -> float:
        """Return the share of the step's stage that is done, 0..1."""
        return (step - self.first) / (self.total - self.first) if self.in_second(step) else step / self.first


def learning_rate_at(step: int, config: DistillConfig, stages: Stages) -> float:
    """Return the rate of a step (Table 4): warm-up from zero, then steps by epochs, half a cosine, or as it is."""
    if stages.in_second(step):
        second = config.second_stage
        epoch = (step - stages.first) // stages.per_epoch
        return second.learning_rate * second.factor ** sum(epoch >= each for each in second.milestones)
    schedule, peak = config.schedule, config.optimizer.learning_rate
    warmup = schedule.warmup_epochs * stages.per_epoch
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.decay == "step":
        return peak * schedule.factor ** sum(step // stages.per_epoch >= each for each in schedule.milestones)
    if schedule.decay == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, stages.first - warmup)))


def weight_decay_at(step: int, config: DistillConfig, stages: Stages) -> float:
    """Return the weight decay of a step's stage."""
    return config.second_stage.weight_decay if stages.in_second(step) else config.optimizer.weight_decay
