"""The losses of CaDistill (Sec. 4, Eq. 3 to 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def loss_align(
    features: Float[Tensor, " b d"],
    canonical: Float[Tensor, " b d"],
    labels: Int[Tensor, " b"],
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Return L_align (Eq. 3): each image is drawn to all Canonical Samples of its class in the batch.

    `features` are the student's features of the images, `canonical` those of the Canonical Samples drawn for
    them (row i has label i as well); both are L2-normalised here.
    """
    similarity = F.normalize(features, dim=1) @ F.normalize(canonical, dim=1).T / temperature
    same = labels[:, None] == labels[None, :]
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    return -(torch.where(same, log_share, 0.0).sum(1) / same.sum(1)).mean()


def loss_separate(
    canonical: Float[Tensor, " b d"], labels: Int[Tensor, " b"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return L_sep (Eq. 4): Canonical Samples of one class together, of different classes apart.

    A sample that is alone in its class contributes its denominator, the log-sum over the other classes (Eq. 12);
    nothing where there is no other class either. Draws are with replacement, as in the paper: a CLARep drawn
    twice is its own positive with similarity 1 and keeps its place in the denominator.
    """
    unit = F.normalize(canonical, dim=1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels[None, :]) & ~itself
    others = similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    positives = same.sum(1)
    together = -torch.where(same, similarity - others, 0.0).sum(1) / positives.clamp_min(1)
    alone = torch.where((positives == 0) & others[:, 0].isfinite(), others[:, 0], 0.0)
    return torch.where(positives > 0, together, alone).mean()


def linear_cka(x: Float[Tensor, " b d"], y: Float[Tensor, " b e"]) -> Float[Tensor, ""]:
    """Return linear centred kernel alignment of two feature matrices, 0..1.

    Columns are centred over the batch. The b x b Gram matrices are used where the batch is smaller than a width.
    With few samples CKA is biased upwards; compare values of equal batch sizes only.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) < max(x.shape[1], y.shape[1]):
        gram_x, gram_y = x @ x.T, y @ y.T
        shared, norm = (gram_x * gram_y).sum(), gram_x.norm() * gram_y.norm()
    else:
        shared, norm = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return shared / norm.clamp_min(torch.finfo(x.dtype).tiny)


def loss_cka(
    features: Float[Tensor, " b d"], canonical: Float[Tensor, " b d"], teacher: Float[Tensor, " b e"]
) -> Float[Tensor, ""]:
    """Return L_cka (Eq. 5): 1 - CKA with the Canonical Features, for the images and for the Canonical Samples."""
    return (1 - linear_cka(features, teacher)) + (1 - linear_cka(canonical, teacher))
