"""The losses of CaDistill (Sec. 4, Eq. 3 to 6).

Every function takes the features of the whole, global batch: under several workers gather them first
(`gathering.gather`), because the terms compare samples with each other.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CkaEstimator = Literal["biased", "debiased"]
MIN_DEBIASED = 4
"""Samples the debiased estimator needs."""


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


def linear_cka(
    x: Float[Tensor, " b d"], y: Float[Tensor, " b e"], estimator: CkaEstimator = "biased"
) -> Float[Tensor, ""]:
    """Return linear centred kernel alignment of two feature matrices; rows are the same samples.

    `biased` (Kornblith et al. 2019; the paper cites no other) is 0..1, and never far below 1 where the batch is
    small against the widths: features without any relation reach 0.98 for 32 samples of 2048. `debiased` replaces
    the sums by the unbiased estimator of HSIC (Song et al. 2012, Eq. 5): about 0 without a relation, at most 1, and
    slightly negative by chance. Raises ValueError for `debiased` with fewer than 4 samples, or an unknown estimator.
    """
    if estimator == "debiased":
        return _debiased_cka(x, y)
    if estimator != "biased":
        raise ValueError(f"cka: {estimator!r} is unknown; valid: biased, debiased")
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) < max(x.shape[1], y.shape[1]):
        gram_x, gram_y = x @ x.T, y @ y.T
        shared, norm = (gram_x * gram_y).sum(), gram_x.norm() * gram_y.norm()
    else:
        shared, norm = (y.T @ x).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return shared / norm.clamp_min(torch.finfo(x.dtype).tiny)


def _debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    if len(x) < MIN_DEBIASED:
        raise ValueError(f"cka: debiased needs a batch of {MIN_DEBIASED} or more; this one has {len(x)}")
    gram_x, gram_y = _u_centred(x), _u_centred(y)
    # Of a batch without any structure the estimate of a norm can come out as zero or below.
    norms = [(gram * gram).sum().clamp_min(torch.finfo(x.dtype).tiny).sqrt() for gram in (gram_x, gram_y)]
    return (gram_x * gram_y).sum() / (norms[0] * norms[1])


def _u_centred(x: Tensor) -> Tensor:
    """Return the U-centred Gram matrix: inner products of two of them are the unbiased HSIC times n (n - 3)."""
    count = len(x)
    # Centring first changes nothing in exact arithmetic, and keeps digits where features have a large mean.
    centred = x - x.mean(0)
    off = ~torch.eye(count, dtype=torch.bool, device=x.device)
    gram = torch.where(off, centred @ centred.T, 0.0)
    rows = gram.sum(1) / (count - 2)
    total = gram.sum() / ((count - 1) * (count - 2))
    return torch.where(off, gram - rows[:, None] - rows[None, :] + total, 0.0)


def loss_cka(
    features: Float[Tensor, " b d"],
    canonical: Float[Tensor, " b d"],
    teacher: Float[Tensor, " b e"],
    estimator: CkaEstimator = "biased",
) -> Float[Tensor, ""]:
    """Return L_cka (Eq. 5): 1 - CKA with the Canonical Features, for the images and for the Canonical Samples."""
    return (1 - linear_cka(features, teacher, estimator)) + (1 - linear_cka(canonical, teacher, estimator))


def loss_supcon(
    features: Float[Tensor, " n d"], labels: Int[Tensor, " n"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return the supervised contrastive loss (Khosla et al. 2020, L_out) of several views of each picture.

    A row without a positive contributes nothing; with two views of each picture there is none.
    """
    unit = F.normalize(features, dim=1)
    similarity = unit @ unit.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same: Bool[Tensor, " n n"] = (labels[:, None] == labels[None, :]) & ~itself
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    positives = same.sum(1)
    terms = -torch.where(same, log_share, 0.0).sum(1) / positives.clamp_min(1)
    return torch.where(positives > 0, terms, 0.0).mean()
