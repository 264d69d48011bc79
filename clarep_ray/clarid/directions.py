"""From a spectrum to a Canonical Latent Representation: explained variance, elbow, projection (Eq. 2)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from clarep_ray.config import ElbowConfig

KNEED_SENSITIVITY = 1.0
"""kneed's S: how far (in mean steps) the curve must fall behind its chord after an elbow; its default."""


@dataclass(frozen=True)
class Elbow:
    """The discarded rank k of one sample, how it was found, and how close the decision was.

    `margin` is the smallest slack among the comparisons that decided k, in units of EVR_1: perturbing the
    explained-variance ratios by much less than that cannot change k.
    """

    num_removed: int
    method: str
    margin: float


def explained_variance_ratio(singular_values: Float[Tensor, " b m"]) -> Float[Tensor, " b m"]:
    """Return EVR_i = s_i^2 / sum_j s_j^2 over the window of M values (Sec. 3.2.1)."""
    squares = singular_values.double().square()
    return squares / squares.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)


def find_elbow(evr: Float[Tensor, " m"], config: ElbowConfig) -> Elbow:
    """Return k of one descending EVR sequence, 1 <= k <= M (Sec. 3.2.1, Algorithm 1), or the config's share of it.

    `kneed` asks kneed for the elbow of the convex falling curve and falls back to the chord rule where kneed
    finds none (`method` then says `chord_fallback`); `chord` takes the point farthest below the chord from
    (1, EVR_1) to (M, EVR_M); `fixed` takes `config.num_removed`, cut to M.
    """
    elbow = _find(np.asarray(evr, dtype=np.float64), config)
    return replace(elbow, num_removed=max(1, round(config.share * elbow.num_removed)))


def _find(y: NDArray[np.float64], config: ElbowConfig) -> Elbow:
    if config.rule == "fixed":
        return Elbow(min(config.num_removed, len(y)), "fixed", 1.0)
    if len(y) < 3 or y[0] <= y[-1]:
        return Elbow(1, "degenerate", 0.0)
    if config.rule == "kneed":
        return _kneed(y) or _chord_fallback(y)
    k, margin = _chord(y)
    return Elbow(k, "chord", margin)


def _chord_depth(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each point lies below the chord, as a share of the curve's whole fall."""
    return (y[0] - y) / (y[0] - y[-1]) - np.linspace(0.0, 1.0, len(y))


def _chord(y: NDArray[np.float64]) -> tuple[int, float]:
    depth = _chord_depth(y)
    best = int(depth.argmax())
    runner_up = float(np.delete(depth, best).max())
    return best + 1, (float(depth[best]) - runner_up) * float((y[0] - y[-1]) / y[0])


def _chord_fallback(y: NDArray[np.float64]) -> Elbow:
    """Return the chord rule's k; the margin also counts how far kneed was from finding an elbow after all."""
    k, margin = _chord(y)
    depth = _chord_depth(y)
    missed = _slack_of_falls(depth, last=len(depth) - 1, before=len(depth) - 1) * float((y[0] - y[-1]) / y[0])
    return Elbow(k, "chord_fallback", min(margin, max(0.0, missed)))


def _kneed(y: NDArray[np.float64]) -> Elbow | None:
    from kneed import KneeLocator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kneed warns where it finds none; the caller records that instead
        ranks = range(1, len(y) + 1)
        locator = KneeLocator(ranks, y, S=KNEED_SENSITIVITY, curve="convex", direction="decreasing")
    if locator.knee is None:
        return None
    k = int(locator.knee)
    return Elbow(k, "kneed", _kneed_margin(_chord_depth(y), k - 1) * float((y[0] - y[-1]) / y[0]))


def _kneed_margin(depth: NDArray[np.float64], knee: int) -> float:
    """Return the slack of kneed's decision for the point `knee` on the chord-depth curve.

    kneed takes the first local maximum from which the curve falls without a rise by more than one threshold.
    Three things keep it: the point tops both neighbours, the fall after it stays unbroken until past the
    threshold, and no earlier point starts such a fall.
    """
    threshold = KNEED_SENSITIVITY / (len(depth) - 1)
    rises = np.diff(depth)
    top = min(rises[knee - 1] if knee > 0 else np.inf, -rises[knee])
    falls = depth[knee] - depth[knee + 1 :] - threshold
    unbroken = np.minimum.accumulate(-rises[knee:])
    after = float(np.minimum(falls, unbroken).max())
    return float(max(0.0, min(top, after, _slack_of_falls(depth, last=knee, before=knee))))


def _slack_of_falls(depth: NDArray[np.float64], last: int, before: int) -> float:
    """Return the slack by which no point below `before` starts a deciding fall that ends at `last` or earlier."""
    threshold = KNEED_SENSITIVITY / (len(depth) - 1)
    rises = np.diff(depth)
    slack = np.inf
    for start in range(before):
        short = threshold - (depth[start] - depth[start + 1 : last + 1])
        broken = np.maximum.accumulate(rises[start:last])
        slack = min(slack, float(np.maximum(short, broken).min()))
    return slack


def leading(right_vectors: Float[Tensor, " b m d"], num_removed: Int[Tensor, " b"]) -> Float[Tensor, " b m d"]:
    """Return V_k of each sample: its first `num_removed` rows, the others set to zero."""
    ranks = torch.arange(right_vectors.shape[1], device=right_vectors.device)
    return torch.where((ranks < num_removed[:, None])[..., None], right_vectors, 0.0)


def project_out(
    x_t: Float[Tensor, " b *latent"],
    directions: Float[Tensor, " b m d"],
    centre: Float[Tensor, " b *latent"] | None = None,
) -> Float[Tensor, " b *latent"]:
    """Return (I - V^T V) x_t with V's rows orthonormal or zero (Eq. 2), or mu + (I - V^T V)(x_t - mu) with a centre."""
    flat = x_t.flatten(1)
    offset = flat if centre is None else flat - centre.flatten(1)
    coefficients = torch.einsum("bmd,bd->bm", directions, offset)
    return (flat - torch.einsum("bm,bmd->bd", coefficients, directions)).reshape(x_t.shape)
