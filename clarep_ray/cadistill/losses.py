"""The losses of CaDistill (Sec. 4, Eq. 3 to 6).

Every function takes the features of the whole, global batch: under several workers gather them first
(`gathering.gather`), because the terms compare samples with each other. They compute in float32 whatever the precision
of the features, in float64 where these are, and under autocast too. No epsilon is absolute: what compares directions
or structure is the same for features of any scale, and what has no direction (a zero row, a batch without spread)
has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CkaEstimator = Literal["biased", "debiased"]
MIN_DEBIASED = 4
"""Samples the debiased estimator needs."""
BASE_TEMPERATURE = 0.07
"""The official SupCon loss is scaled by temperature / 0.07."""
ROUNDING = 8
"""A spread of so many roundings of the values themselves is none."""
Arguments = ParamSpec("Arguments")


def full_precision(loss: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Return the loss computed outside autocast, tensors of half precision as float32."""

    call: Callable[..., Tensor] = loss

    @wraps(loss)
    def computed(*args: Arguments.args, **named: Arguments.kwargs) -> Tensor:
        tensors = [each for each in (*args, *named.values()) if isinstance(each, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return call(*map(_widened, args), **{name: _widened(value) for name, value in named.items()})

    return computed


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def rescaled(x: Float[Tensor, "*shape"], *dims: int) -> Float[Tensor, "*shape"]:
    """Return x over its largest magnitude along `dims` (all where none is named); zeros where there is none to divide.

    The scale takes no part in gradients: for what follows only where x points, its derivative is zero anyway.
    """
    scale = x.detach().abs().amax(dims, keepdim=True)
    # The derivative is 1 / scale: below this it could be no float.
    alive = scale > torch.finfo(x.dtype).tiny * 2**20
    return torch.where(alive, x, 0.0) / torch.where(alive, scale, 1.0)


def unit(x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
    """Return the rows over their Euclidean norm; a zero row stays zero and has no gradient."""
    scaled = rescaled(x, -1)
    squares = scaled.square().sum(-1, keepdim=True)
    return scaled / torch.where(squares > 0, squares, 1.0).sqrt()


@full_precision
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
    similarity = unit(features) @ unit(canonical).T / temperature
    same = labels[:, None] == labels[None, :]
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    return -(torch.where(same, log_share, 0.0).sum(1) / same.sum(1)).mean()


@full_precision
def loss_separate(
    canonical: Float[Tensor, " b d"], labels: Int[Tensor, " b"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return L_sep (Eq. 4): Canonical Samples of one class together, of different classes apart.

    A sample that is alone in its class contributes its denominator, the log-sum over the other classes (Eq. 12);
    nothing where there is no other class either. Draws are with replacement, as in the paper: a CLARep drawn
    twice is its own positive with similarity 1 and keeps its place in the denominator.
    """
    rows = unit(canonical)
    similarity = rows @ rows.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels[None, :]) & ~itself
    others = _log_sum_of_others(similarity, itself)
    positives = same.sum(1)
    together = -torch.where(same, similarity - others, 0.0).sum(1) / positives.clamp_min(1)
    alone = others[:, 0] if len(labels) > 1 else 0.0 * others[:, 0]
    return torch.where(positives > 0, together, alone).mean()


def _log_sum_of_others(similarity: Float[Tensor, " n n"], itself: Bool[Tensor, " n n"]) -> Float[Tensor, " n 1"]:
    """Return the logarithm of each row's summed exponentials without the sample itself; finite for a single sample."""
    excluded = torch.finfo(similarity.dtype).min
    return similarity.masked_fill(itself, excluded).logsumexp(1, keepdim=True)


@full_precision
def linear_cka(
    x: Float[Tensor, " b d"], y: Float[Tensor, " b e"], estimator: CkaEstimator = "biased"
) -> Float[Tensor, ""]:
    """Return linear centred kernel alignment of two feature matrices; rows are the same samples.

    `biased` (Kornblith et al. 2019; the paper cites no other) is 0..1, and never far below 1 where the batch is
    small against the widths: features without any relation reach 0.98 for 32 samples of 2048. `debiased` replaces
    the sums by the unbiased estimator of HSIC (Song et al. 2012, Eq. 5): about 0 without a relation, at most 1, and
    slightly negative by chance. Features of any scale give the same; 0 where one side has no spread. Raises
    ValueError for `debiased` with fewer than 4 samples, or an unknown estimator.
    """
    if estimator == "debiased":
        return _debiased_cka(x, y)
    if estimator != "biased":
        raise ValueError(f"cka: {estimator!r} is unknown; valid: biased, debiased")
    x, y = _centred(x), _centred(y)
    if len(x) < max(x.shape[1], y.shape[1]):
        return _aligned(x @ x.T, y @ y.T)
    shared = (y.T @ x).square().sum()
    return _quotient(shared, _norm(x.T @ x), _norm(y.T @ y))


def _centred(x: Tensor) -> Tensor:
    """Return the features less their mean, at a Frobenius norm of 1; zeros where the rows differ by rounding alone.

    CKA knows no scale, so that the norm takes no part in gradients.
    """
    scaled = rescaled(x)
    centred = scaled - scaled.mean(0)
    spread = _norm(centred.detach())
    alive = spread > ROUNDING * torch.finfo(x.dtype).eps * _norm(scaled.detach())
    return torch.where(alive, centred, 0.0) / torch.where(alive, spread, 1.0)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)  # its gradient at zero is zero


def _aligned(gram_x: Tensor, gram_y: Tensor) -> Tensor:
    return _quotient((gram_x * gram_y).sum(), _norm(gram_x), _norm(gram_y))


def _quotient(shared: Tensor, norm_x: Tensor, norm_y: Tensor) -> Tensor:
    """Return shared / (norm_x norm_y), zero without a gradient where either norm is zero."""
    norm = norm_x * norm_y
    return torch.where(norm > 0, shared, 0.0) / torch.where(norm > 0, norm, 1.0)


def _debiased_cka(x: Tensor, y: Tensor) -> Tensor:
    if len(x) < MIN_DEBIASED:
        raise ValueError(f"cka: debiased needs a batch of {MIN_DEBIASED} or more; this one has {len(x)}")
    return _aligned(_u_centred(x), _u_centred(y))


def _u_centred(x: Tensor) -> Tensor:
    """Return the U-centred Gram matrix: inner products of two of them are the unbiased HSIC times n (n - 3).

    Zeros where samples have no structure, all at one distance from each other but for rounding.
    """
    count = len(x)
    # Centring first changes nothing in exact arithmetic, and keeps digits where features have a large mean.
    centred = _centred(x)
    off = ~torch.eye(count, dtype=torch.bool, device=x.device)
    gram = torch.where(off, centred @ centred.T, 0.0)
    rows = gram.sum(1) / (count - 2)
    total = gram.sum() / ((count - 1) * (count - 2))
    found = torch.where(off, gram - rows[:, None] - rows[None, :] + total, 0.0)
    alive = _norm(found.detach()) > ROUNDING * torch.finfo(x.dtype).eps * _norm(centred.detach()).square()
    return torch.where(alive, found, 0.0)


@full_precision
def loss_cka(
    features: Float[Tensor, " b d"],
    canonical: Float[Tensor, " b d"],
    teacher: Float[Tensor, " b e"],
    estimator: CkaEstimator = "biased",
) -> Float[Tensor, ""]:
    """Return L_cka (Eq. 5): 1 - CKA with the Canonical Features, for the images and for the Canonical Samples."""
    return (1 - linear_cka(features, teacher, estimator)) + (1 - linear_cka(canonical, teacher, estimator))


@full_precision
def loss_supcon(
    features: Float[Tensor, " n d"], labels: Int[Tensor, " n"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return the supervised contrastive loss of several views of each image, as the official code has it.

    L_out of Khosla et al. (2020), times temperature / 0.07. A row without a positive contributes nothing; with two
    views of each image there is none.
    """
    rows = unit(features)
    similarity = rows @ rows.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same: Bool[Tensor, " n n"] = (labels[:, None] == labels[None, :]) & ~itself
    log_share = similarity - _log_sum_of_others(similarity, itself)
    positives = same.sum(1)
    terms = -torch.where(same, log_share, 0.0).sum(1) / positives.clamp_min(1)
    return temperature / BASE_TEMPERATURE * terms.mean()
