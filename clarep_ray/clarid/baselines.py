"""What the baselines of Sec. 4.1 put in CLARID's place: no projection, features of the originals, fresh samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clarep_ray.clarid.model import DiffusionModel
from clarep_ray.clarid.pipeline import CLARepBatch, Sampler, finite, first_fault
from clarep_ray.config import ExtractConfig


def unprojected(
    model: DiffusionModel,
    x_0: Float[Tensor, " b *latent"],
    labels: Int[Tensor, " b"],
    config: ExtractConfig,
    keys: Sequence[str],
) -> CLARepBatch:
    """Return the inverted latents decoded as they are, guided or not: CFGDistill's samples, without any SVD.

    Equal to `clarid` with `projection.mode` none. `output.extras` may name nothing that projects.
    """
    sampler = Sampler(model, model.cond(labels), len(labels), config)
    inversion = sampler.invert(x_0)
    name = f"none@{config.decoding.guidance_scale}"
    samples, features, null_features = sampler.extra(name, x_0, inversion, None, keys)
    return CLARepBatch(
        inversion=inversion,
        triplets=None,
        removal=None,
        canonical_latents=inversion.x_t,
        canonical_samples=samples,
        canonical_features=features,
        null_features=null_features,
        extras={extra: sampler.extra(extra, x_0, inversion, None, keys) for extra in config.output.extras},
        status=first_fault(
            nonfinite_inversion=finite(inversion.x_t),
            nonfinite_decoding=finite(samples),
            nonfinite_features=finite(features),
        ),
    )


def original_features(
    model: DiffusionModel,
    x_0: Float[Tensor, " b *latent"],
    labels: Int[Tensor, " b"],
    config: ExtractConfig,
    keys: Sequence[str],
) -> CLARepBatch:
    """Return the features of the originals at (l_f, t_f): DMDistill's target, one reading each and nothing else."""
    sampler = Sampler(model, model.cond(labels), len(labels), config)
    features, null_features = sampler.features(x_0, keys)
    return CLARepBatch(
        inversion=None,
        triplets=None,
        removal=None,
        canonical_latents=None,
        canonical_samples=None,
        canonical_features=features,
        null_features=null_features,
        extras=dict.fromkeys(config.output.extras, (x_0, features, null_features)),
        status=first_fault(nonfinite_features=finite(features)),
    )


def class_samples(
    model: DiffusionModel,
    x_0: Float[Tensor, " b *latent"],
    labels: Int[Tensor, " b"],
    config: ExtractConfig,
    keys: Sequence[str],
) -> CLARepBatch:
    """Return samples of the classes from pure noise over the whole grid: CFGDistill where nothing can be guided.

    Each key has its own noise; of `x_0` only the shape counts.
    """
    sampler = Sampler(model, model.cond(labels), len(labels), config)
    grid = model.schedule.times(config.inversion.num_steps)
    alpha, sigma = (scale.item() for scale in model.schedule.alpha_sigma(grid[-1:]))
    noise = torch.stack([torch.randn(x_0.shape[1:], generator=stream) for stream in sampler.generators(keys, "noise")])
    x_t = noise.to(x_0.device) * math.hypot(alpha, sigma)
    samples = sampler.decode(x_t, config.decoding.guidance_scale, grid)
    features, null_features = sampler.features(samples, keys)
    return CLARepBatch(
        inversion=None,
        triplets=None,
        removal=None,
        canonical_latents=None,
        canonical_samples=samples,
        canonical_features=features,
        null_features=null_features,
        extras={},
        status=first_fault(nonfinite_decoding=finite(samples), nonfinite_features=finite(features)),
    )


Method = Callable[[DiffusionModel, Tensor, Tensor, ExtractConfig, Sequence[str]], CLARepBatch]
BASELINES: dict[str, Method] = {"canonical": unprojected, "features": original_features, "samples": class_samples}
"""output.what -> what is done where no singular vector is needed."""
