"""CaDistill and what it is compared with: name -> the terms of its loss and what they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clarep_ray.cadistill.baseline_losses import (
    attention_map,
    loss_attention,
    loss_dkd,
    loss_fitnet,
    loss_kd,
    loss_rkd,
)
from clarep_ray.cadistill.losses import linear_cka, loss_align, loss_cka, loss_separate, loss_supcon
from clarep_ray.config import DistillMethod, LossConfig

MAP_SIDE = 4
"""Side of the grid on which attention maps are compared."""


OWN_READING = ("repfusion", "diffaug")
"""Methods that ask the diffusion model themselves, without labels."""


@dataclass(frozen=True)
class Step:
    """All rows of a global batch, as the losses see them; what a method has no use for is empty.

    `features`, `logits` and `extra` are of the images (of all views, one view after the other), `canonical_*` of
    their Canonical Samples, `teacher_*` of the teacher: stored or read features, logits, the map (b, c, h, w).
    `progress` is the share of the stage that is done, 0..1.
    """

    labels: Tensor
    targets: Tensor
    features: Tensor
    logits: Tensor
    extra: dict[str, Tensor]
    canonical_features: Tensor
    canonical_logits: Tensor
    teacher_features: Tensor
    teacher_logits: Tensor
    teacher_attention: Tensor
    progress: float
    config: LossConfig


Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    """`terms` returns the loss's terms without their weights, which LossConfig has as weight_NAME."""

    terms: Callable[[Step], Terms]
    clareps: bool = False
    """Whether each image comes with a CLARep, whose picture goes through the student in the same forward pass."""
    views: int = 1
    """Augmentations of each image in a batch."""
    head: Literal["none", "attention", "projection", "regressor", "repfusion"] = "none"
    denoises: bool = False
    """Whether the batch is joined by one-step denoised images."""
    second_stage: Literal["none", "linear", "finetune"] = "none"


def cross_entropy(step: Step) -> Tensor:
    """Return the cross-entropy of the images, with mixed or smoothed targets."""
    return F.cross_entropy(step.logits, step.targets)


def vanilla(step: Step) -> Terms:
    """Plain training."""
    return {"ce": cross_entropy(step)}


def cadistill(step: Step) -> Terms:
    """CaDistill (Eq. 6); CFGDistill is the same with other CLAReps."""
    settings, canonical = step.config, step.canonical_features
    return {
        "ce": cross_entropy(step),
        "align": loss_align(step.features, canonical, step.labels, settings.temperature),
        "separate": loss_separate(canonical, step.labels, settings.temperature),
        "cka": loss_cka(step.features, canonical, step.teacher_features, settings.cka),
    }


def cadistill_ce(step: Step) -> Terms:
    """CaDistill with cross-entropy on the Canonical Samples in place of L_sep (Sec. K.7.5, Table 13)."""
    terms = cadistill(step)
    del terms["separate"]
    return {**terms, "canonical_ce": F.cross_entropy(step.canonical_logits, step.labels)}


def matched_cka(step: Step) -> Terms:
    """CKA with one teacher feature for each image: DMDistill (Sec. 4.1), or a class token (Sec. K.4)."""
    cka = 1 - linear_cka(step.features, step.teacher_features, step.config.cka)
    return {"ce": cross_entropy(step), "cka": cka}


def fitnet(step: Step) -> Terms:
    """L2 to the teacher's features through a regressor (Sec. K.1)."""
    return {"ce": cross_entropy(step), "fitnet": loss_fitnet(step.extra["regressed"], step.teacher_features)}


def attention(step: Step) -> Terms:
    """Attention transfer (Sec. K.1), of the last map."""
    return {"ce": cross_entropy(step), "at": loss_attention(step.extra["attention"], step.teacher_attention)}


def relations(step: Step) -> Terms:
    """Relational distillation (Sec. K.1)."""
    return {"ce": cross_entropy(step), "rkd": loss_rkd(step.features, step.teacher_features)}


def logits(step: Step) -> Terms:
    """Hinton's distillation."""
    soft = loss_kd(step.logits, step.teacher_logits, step.config.kd_temperature)
    return {"ce": cross_entropy(step), "kd": soft}


def decoupled_logits(step: Step) -> Terms:
    """Decoupled distillation."""
    settings = step.config
    weights = (settings.dkd_target, settings.dkd_others)
    soft = loss_dkd(step.logits, step.teacher_logits, step.labels, settings.kd_temperature, *weights)
    return {"ce": cross_entropy(step), "dkd": soft}


def contrastive(step: Step) -> Terms:
    """SupCon's first stage: two views of each image, the contrastive term alone."""
    labels = step.labels.repeat(len(step.features) // len(step.labels))
    return {"supcon": loss_supcon(step.extra["projected"], labels, step.config.temperature)}


def repfusion(step: Step) -> Terms:
    """RepFusion's first stage: features at a timestep that a policy chooses, rewarded by how well they classify.

    REINFORCE with the reward -CE of the judge, the batch's mean as its baseline, and the policy's entropy as a
    bonus that falls from 0.1 to 0 over the first half of the stage (its public settings).
    """
    extra = step.extra
    errors = F.cross_entropy(extra["judged"], step.labels, reduction="none")
    reward = -errors.detach()
    chosen = extra["log_policy"].gather(1, extra["chosen"][:, None])[:, 0]
    entropy = -(extra["log_policy"].exp() * extra["log_policy"]).sum(1).mean()
    bonus = 0.1 * max(0.0, 1 - 2 * step.progress)
    return {
        "fitnet": loss_fitnet(extra["regressed"], extra["taught"]),
        "teacher_head": errors.mean(),
        "policy": -((reward - reward.mean()) * chosen).mean() - bonus * entropy,
    }


def denoised(step: Step) -> Terms:
    """DiffAug: cross-entropy on the images and on their one-step reconstructions, the second view."""
    clean, rebuilt = step.logits.chunk(2)
    return {
        "ce": F.cross_entropy(clean, step.targets),
        "denoised_ce": F.cross_entropy(rebuilt, step.targets),
    }


METHODS: dict[DistillMethod, Method] = {
    "vanilla": Method(vanilla),
    "cadistill": Method(cadistill, clareps=True),
    "cadistill_ce": Method(cadistill_ce, clareps=True),
    "cfgdistill": Method(cadistill, clareps=True),
    "dmdistill": Method(matched_cka),
    "class_token": Method(matched_cka),
    "fitnet": Method(fitnet, head="regressor"),
    "at": Method(attention, head="attention"),
    "rkd": Method(relations),
    "kd": Method(logits),
    "dkd": Method(decoupled_logits),
    "supcon": Method(contrastive, views=2, head="projection", second_stage="linear"),
    "repfusion": Method(repfusion, head="repfusion", second_stage="finetune"),
    "diffaug": Method(denoised, denoises=True),
}


def total(terms: Terms, settings: LossConfig) -> Tensor:
    """Return the weighted sum of the terms (Eq. 6)."""
    return torch.stack([getattr(settings, f"weight_{name}") * term for name, term in terms.items()]).sum()


def teacher_attention(maps: Tensor) -> Tensor:
    """Return the attention map of a teacher's map; empty for an empty one."""
    return attention_map(maps, MAP_SIDE) if maps.ndim == 4 and maps.numel() else maps.flatten(1)
