"""The losses of the distillation baselines: logits (KD, DKD), features (FitNet, AT, RKD)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.cadistill.losses import full_precision, rescaled, unit


@full_precision
def loss_kd(
    logits: Float[Tensor, " b c"], teacher: Float[Tensor, " b c"], temperature: float = 4.0
) -> Float[Tensor, ""]:
    """Return T^2 KL(teacher || student) of the softened classes, averaged over samples (Hinton et al. 2015).

    In double precision: at high temperatures it is a small difference of large logarithms, times T^2.
    """
    student, target = (F.log_softmax(each.double() / temperature, 1) for each in (logits, teacher))
    soft = temperature**2 * F.kl_div(student, target, reduction="batchmean", log_target=True)
    return soft.to(logits.dtype)


@full_precision
def loss_dkd(
    logits: Float[Tensor, " b c"],
    teacher: Float[Tensor, " b c"],
    labels: Int[Tensor, " b"],
    temperature: float = 4.0,
    weight_target: float = 1.0,
    weight_others: float = 8.0,
) -> Float[Tensor, ""]:
    """Return decoupled distillation (Zhao et al. 2022, Eq. 7): target against rest, and among the others.

    `weight_target` and `weight_others` are the paper's alpha and beta; both terms are scaled by T^2. With weights 1
    and the teacher's probability of the other classes it is KD again. The authors' linear warm-up of this term over
    20 epochs is left out. In double precision, as `loss_kd`.
    """
    kept, logits, teacher = logits.dtype, logits.double(), teacher.double()
    target = F.one_hot(labels, logits.shape[1]).bool()
    student_two, teacher_two = (_target_or_not(each / temperature, target) for each in (logits, teacher))
    tckd = F.kl_div(student_two, teacher_two, reduction="batchmean", log_target=True)
    student_rest, teacher_rest = (
        F.log_softmax((each / temperature)[~target].view(len(labels), -1), 1) for each in (logits, teacher)
    )
    nckd = F.kl_div(student_rest, teacher_rest, reduction="batchmean", log_target=True)
    return (temperature**2 * (weight_target * tckd + weight_others * nckd)).to(kept)


def _target_or_not(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-probabilities (b, 2) of the labelled class and of all others together."""
    log_share = F.log_softmax(logits, 1)
    others = log_share.masked_fill(target, -torch.inf).logsumexp(1)
    return torch.stack([log_share[target], others], 1)


@full_precision
def loss_fitnet(regressed: Float[Tensor, " b e"], teacher: Float[Tensor, " b e"]) -> Float[Tensor, ""]:
    """Return the mean squared difference to the teacher's features (Romero et al. 2015, Eq. 3, without its 1/2).

    `regressed` are the student's features after the learned regressor to the teacher's width.
    """
    return F.mse_loss(regressed, teacher)


@full_precision
def attention_map(maps: Float[Tensor, " b c h w"], side: int) -> Float[Tensor, " b side_squared"]:
    """Return where the activations are strong (Zagoruyko and Komodakis 2017): mean square over channels, unit norm.

    Averaged to `side` x `side` first, so that two networks can be compared. Zeros for a map of zeros.
    """
    strengths = rescaled(maps, 1, 2, 3).square().mean(1, keepdim=True)
    return unit(F.adaptive_avg_pool2d(strengths, side).flatten(1))


@full_precision
def loss_attention(student: Float[Tensor, " b p"], teacher: Float[Tensor, " b p"]) -> Float[Tensor, ""]:
    """Return the mean squared difference of two attention maps of unit norm, as the authors' code has it."""
    return F.mse_loss(student, teacher)


@full_precision
def loss_rkd(
    features: Float[Tensor, " b d"],
    teacher: Float[Tensor, " b e"],
    weight_distance: float = 25.0,
    weight_angle: float = 50.0,
) -> Float[Tensor, ""]:
    """Return relational distillation (Park et al. 2019, Eq. 5 and 8): Huber loss of distances and of angles.

    Distances are divided by their mean over the batch; angles are those at each sample between every two others,
    b^3 of them. Widths may differ.
    """
    distance = F.smooth_l1_loss(_distances(features), _distances(teacher))
    angle = F.smooth_l1_loss(_angles(features), _angles(teacher))
    return weight_distance * distance + weight_angle * angle


def _distances(x: Tensor) -> Tensor:
    """Return pairwise distances (b, b) over their mean, which the diagonal takes no part in; zeros if all are zero."""
    scaled = rescaled(x)
    squared = (scaled[:, None] - scaled[None, :]).square().sum(2)
    apart = squared > 0  # equal samples, and each with itself, have no gradient
    distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    total = distances.sum()
    return distances / torch.where(total > 0, total, 1.0) * (len(x) * (len(x) - 1))


def _angles(x: Tensor) -> Tensor:
    """Return the cosines (b, b, b) at sample j between the directions to samples i and k; 0 where one is at j."""
    directions = unit(x[None, :] - x[:, None])
    return directions @ directions.transpose(1, 2)
