"""CLARID on a batch, from clean latents to Canonical Samples and Canonical Features (Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clarep_ray.clarid.directions import Elbow, explained_variance_ratio, find_elbow
from clarep_ray.clarid.jacobian import FeatureJacobian
from clarep_ray.clarid.model import DiffusionModel
from clarep_ray.clarid.projection import PROJECTIONS, ProjectionInputs, class_centre, random_directions
from clarep_ray.clarid.sampling import ddim_step, decode, guided_eps, inversion_noise, invert
from clarep_ray.clarid.schedule import path_of
from clarep_ray.clarid.subspace_iteration import subspace_iteration
from clarep_ray.clarid.svd import SingularTriplets, block_lanczos
from clarep_ray.config import ExtractConfig, SpectrumConfig, parse_extra
from clarep_ray.seeding import torch_generator

OK = "ok"


@dataclass(frozen=True)
class Inversion:
    """Latents at t_e and what decoding them unguided gives back."""

    x_t: Float[Tensor, " b *latent"]
    reconstruction: Float[Tensor, " b *latent"] | None
    """None where an earlier run's latents are used."""
    round_trip_error: Float[Tensor, " b"]
    """||reconstruction - x_0|| / ||x_0||."""
    noise_std: Float[Tensor, " b"]
    """Standard deviation of (x_t - alpha x_0) / sigma, which a wrong clock moves."""
    noise_outside: Bool[Tensor, " b"]
    """Whether that is beyond what a right model leads to (`sampling.inversion_noise`)."""


@dataclass(frozen=True)
class Removal:
    """k of every sample and what vouches for it."""

    num_removed: Int[Tensor, " b"]
    elbows: list[Elbow]
    ambiguous: Bool[Tensor, " b"]
    """The decision is closer than elbow.ambiguous_margin, or than the spectrum's own estimated errors."""


@dataclass(frozen=True)
class CLARepBatch:
    """Everything CLARID, or a baseline in its place (`clarid/baselines.py`), says about a batch.

    What a baseline does without is None.
    """

    inversion: Inversion | None
    triplets: SingularTriplets | None
    removal: Removal | None
    canonical_latents: Float[Tensor, " b *latent"] | None
    canonical_samples: Float[Tensor, " b *latent"] | None
    canonical_features: Float[Tensor, " b channels"]
    null_features: Float[Tensor, " b null_channels"] | None
    """Canonical Features read without the label; None where the model has no unconditional branch.

    Their width is another one where that branch is a network of its own (EDM2)."""
    extras: dict[str, tuple[Tensor, Tensor, Tensor | None]]
    """name -> (clean latents, features, features read without the label)."""
    status: list[str]
    """`ok`, or why a sample has no result."""
    norm_ratio: Float[Tensor, " b"] | None = None
    """||x_t projected by Eq. 2|| / ||x_t||, whatever the run's own projection: what controls of the norm can show."""


def clarid(
    model: DiffusionModel,
    x_0: Float[Tensor, " b *latent"],
    labels: Int[Tensor, " b"],
    config: ExtractConfig,
    keys: Sequence[str],
    resumed: tuple[Inversion, SingularTriplets] | None = None,
) -> CLARepBatch:
    """Return the CLAReps of a batch of clean latents (Sec. 3.2).

    Every sample's random streams follow from `config.seed` and its key. `resumed` supplies an earlier run's
    inversion and triplets. A sample that turns non-finite or has a rank-deficient Jacobian is reported in
    `status` and leaves its neighbours untouched.
    """
    cond = model.cond(labels)
    sampler = Sampler(model, cond, len(labels), config)
    inversion, triplets = resumed or sampler.spectrum(x_0, keys)
    triplets = triplets.first(config.spectrum.num_directions)
    removal = choose_removal(triplets, config)
    inputs = sampler.projection_inputs(inversion.x_t, triplets, removal, keys)
    canonical_latents = PROJECTIONS[config.projection.mode](inputs)
    canonical_samples = sampler.decode(canonical_latents, config.decoding.guidance_scale)
    features, null_features = sampler.features(canonical_samples, keys)
    extras = {name: sampler.extra(name, x_0, inversion, inputs, keys) for name in config.output.extras}
    return CLARepBatch(
        inversion=inversion,
        triplets=triplets,
        removal=removal,
        canonical_latents=canonical_latents,
        canonical_samples=canonical_samples,
        canonical_features=features,
        null_features=null_features,
        extras=extras,
        status=first_fault(
            nonfinite_inversion=finite(inversion.x_t),
            nonfinite_jacobian=triplets.finite,
            rank_deficient=_full_rank(triplets, removal),
            nonfinite_decoding=finite(canonical_samples),
            nonfinite_features=finite(features),
        ),
        norm_ratio=inputs.norm_ratio,
    )


def choose_removal(triplets: SingularTriplets, config: ExtractConfig) -> Removal:
    """Return k of every sample from its M singular values (Sec. 3.2.1)."""
    ratios = explained_variance_ratio(triplets.singular_values.cpu())
    elbows = [find_elbow(row, config.elbow) for row in ratios]
    margins = torch.tensor([elbow.margin for elbow in elbows])
    # A comparison behind k involves two values and the curve's two ends: four errors at most.
    doubt = 4 * triplets.value_errors.cpu().amax(1)
    return Removal(
        num_removed=torch.tensor([elbow.num_removed for elbow in elbows], device=triplets.singular_values.device),
        elbows=elbows,
        ambiguous=margins <= torch.maximum(doubt, torch.tensor(config.elbow.ambiguous_margin)),
    )


def leading_triplets(
    model: DiffusionModel,
    x_t: Float[Tensor, " b *latent"],
    t: float,
    cond: Any,
    config: SpectrumConfig,
    generators: Sequence[torch.Generator],
) -> SingularTriplets:
    """Return the leading singular triplets of the feature Jacobian at (x_t, t, cond) (Eq. 1)."""
    jacobian = FeatureJacobian(lambda x: model.features(x, t, cond, config.layer), x_t)
    if config.solver == "subspace_iteration":
        return subspace_iteration(
            jacobian.gram,
            jacobian.dim,
            config.num_directions,
            generators,
            tolerance=config.stops_at,
            device=x_t.device,
        )
    return block_lanczos(
        jacobian.gram,
        jacobian.dim,
        config.num_directions,
        generators,
        block_size=config.block_size,
        tolerance=config.stops_at,
        max_products=config.max_products,
        device=x_t.device,
    )


def noised(
    model: DiffusionModel, x_0: Float[Tensor, " b *latent"], t: float, generators: Sequence[torch.Generator]
) -> Float[Tensor, " b *latent"]:
    """Return clean latents with each sample's own Gaussian noise added, at time t."""
    noise = torch.stack([torch.randn(x_0.shape[1:], generator=generator) for generator in generators]).to(x_0.device)
    alpha, sigma = (scale.item() for scale in model.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64)))
    return ddim_step(x_0, noise, (1.0, 0.0), (alpha, sigma))


def inverted_noise(
    model: DiffusionModel, x_0: Float[Tensor, " b *latent"], x_t: Float[Tensor, " b *latent"], t: float
) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return `sampling.inversion_noise` of latents that were inverted to time t."""
    alpha, sigma = (scale.item() for scale in model.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64)))
    return inversion_noise(x_0, x_t, alpha, sigma)


class Sampler:
    """The model with its condition, its grid up to t_e and run settings bound."""

    def __init__(self, model: DiffusionModel, cond: Any, batch: int, config: ExtractConfig) -> None:
        self.model, self.cond, self.batch, self.config = model, cond, batch, config
        self.times = path_of(model.schedule, config.inversion)
        self.t = self.times[-1].item()

    def null_cond(self) -> Any:
        return self.model.null_cond(self.batch)

    def invert(self, x_0: Tensor) -> Inversion:
        denoise = guided_eps(self.model, self.cond, None, 1.0)
        settings = self.config.inversion
        x_t = invert(denoise, x_0, self.model, self.times, settings.num_refinements, settings.solver)
        back = decode(denoise, x_t, self.model, self.times, settings.solver)
        error = (back - x_0).flatten(1).norm(dim=1) / x_0.flatten(1).norm(dim=1).clamp_min(1e-12)
        return Inversion(x_t, back, error, *inverted_noise(self.model, x_0, x_t, self.t))

    def spectrum(self, x_0: Tensor, keys: Sequence[str]) -> tuple[Inversion, SingularTriplets]:
        inversion = self.invert(x_0)
        # One NaN would spoil the shared factorisations; the sample is reported by its own non-finite latent.
        x_t = torch.nan_to_num(inversion.x_t, nan=0.0, posinf=0.0, neginf=0.0)
        return inversion, self.triplets(x_t, self.cond, keys, "svd")

    def triplets(self, x_t: Tensor, cond: Any, keys: Sequence[str], stage: str) -> SingularTriplets:
        generators = self.generators(keys, stage)
        return leading_triplets(self.model, x_t, self.t, cond, self.config.spectrum, generators)

    def projection_inputs(
        self, x_t: Tensor, triplets: SingularTriplets, removal: Removal, keys: Sequence[str]
    ) -> ProjectionInputs:
        count, dim = triplets.right_vectors.shape[1:]
        return ProjectionInputs(
            x_t=x_t,
            right_vectors=triplets.right_vectors,
            num_removed=removal.num_removed,
            make_random=lambda: random_directions(self.generators(keys, "random"), count, dim).to(x_t.device),
            make_unconditional=lambda: self.triplets(x_t, self.null_cond(), keys, "svd_null").right_vectors,
            make_centre=lambda: class_centre(self.model, x_t, self.t, self.cond),
        )

    def decode(self, x_t: Tensor, guidance_scale: float, times: Tensor | None = None) -> Tensor:
        """Carry x_t down from t_e, or from the end of another grid."""
        null_cond = self.null_cond() if guidance_scale != 1.0 else None
        channels = self.config.decoding.guided_channels
        denoise = guided_eps(self.model, self.cond, null_cond, guidance_scale, channels)
        grid = self.times if times is None else times
        return decode(denoise, x_t, self.model, grid, self.config.inversion.solver)

    def features(self, x_0: Tensor, keys: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return features at (l_f, t_f) read with the label and without it, from the same noised latent."""
        settings = self.config.features
        x_t = noised(self.model, x_0, settings.feature_t, self.generators(keys, "features"))
        with torch.no_grad():
            read = [
                self.model.pool(self.model.features(x_t, float(settings.feature_t), cond, settings.layer)).float()
                for cond in self._readings()
            ]
        return read[0], read[1] if len(read) > 1 else None

    def extra(
        self, name: str, x_0: Tensor, inversion: Inversion, inputs: ProjectionInputs | None, keys: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return one of `output.extras`: latents and features; no `inputs` where nothing is projected."""
        extra = parse_extra(name)
        if extra is None:
            latents = x_0
        else:
            scale = self.config.decoding.guidance_scale if extra.guidance_scale is None else extra.guidance_scale
            known = inversion.reconstruction if (extra.mode, scale) == ("none", 1.0) else None
            start = inversion.x_t if inputs is None else PROJECTIONS[extra.mode](inputs)
            latents = self.decode(start, scale) if known is None else known
        return latents, *self.features(latents, keys)

    def _readings(self) -> list[Any]:
        try:
            return [self.cond, self.null_cond()]
        except ValueError:
            return [self.cond]

    def generators(self, keys: Sequence[str], stage: str) -> list[torch.Generator]:
        return [torch_generator(self.config.seed, key, stage) for key in keys]


def first_fault(**passed: Bool[Tensor, " b"]) -> list[str]:
    """Return the first of the named checks that each sample failed, or `ok`."""
    status: list[str] = []
    for outcomes in zip(*(check.tolist() for check in passed.values()), strict=True):
        status.append(next((reason for reason, good in zip(passed, outcomes, strict=True) if not good), OK))
    return status


def finite(values: Float[Tensor, " b *rest"]) -> Bool[Tensor, " b"]:
    """Say of each sample whether it holds finite numbers alone."""
    return values.isfinite().flatten(1).all(1)


def _full_rank(triplets: SingularTriplets, removal: Removal) -> Tensor:
    smallest = triplets.singular_values.gather(1, removal.num_removed[:, None] - 1)[:, 0]
    return smallest > 1e-6 * triplets.singular_values[:, 0]
