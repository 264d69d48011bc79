"""What an extraction costs: network evaluations per sample, time and disk, estimated. Does not import Ray."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clarep_ray import models
from clarep_ray.clarid.model import DiffusionModel
from clarep_ray.clarid.sampling import path_evaluations
from clarep_ray.clarid.schedule import path_of
from clarep_ray.config import ExtractConfig, parse_extra
from clarep_ray.data.store import Store
from clarep_ray.data.writable import free_bytes
from clarep_ray.errors import DiskFull

if TYPE_CHECKING:
    from clarep_ray.cluster.plan import Plan

PRODUCTS_PER_DIRECTION = 3.0
"""Products with J^T J that block Lanczos takes per wanted triplet (README, "Speed"); for estimates only."""
EVALUATIONS_PER_PRODUCT = 2.5
"""Cost of one JVP and one VJP in forward passes (README, "Speed"); for estimates only."""


@dataclass(frozen=True)
class Cost:
    """What a plan takes, estimated."""

    evaluations_per_sample: dict[str, float]
    products_per_sample: float
    seconds_per_evaluation: float
    bytes_per_sample: int

    @property
    def total_evaluations(self) -> float:
        return sum(self.evaluations_per_sample.values())


def estimate_cost(plan: Plan) -> Cost:
    """Count network evaluations per sample and time one evaluation here, on one thread or one GPU."""
    config = plan.config
    model = models.build(config.model)
    counts = _evaluations(config, model, plan.latent_size)
    products = counts.get("singular vectors", 0.0) / EVALUATIONS_PER_PRODUCT
    return Cost(counts, products, _time_evaluation(model, config), bytes_per_sample(plan, model))


def _evaluations(config: ExtractConfig, model: DiffusionModel, latent_size: int) -> dict[str, float]:
    """Return the network evaluations of one sample, step by step of the method."""
    settings = config.inversion
    readings = _readings(model)
    guided = 1 if config.decoding.guidance_scale == 1 else 2
    if config.output.what == "features":
        return {"features": readings}
    if config.output.what == "samples":
        steps = len(model.schedule.times(settings.num_steps)) - 1
        return {"sampling": guided * path_evaluations(steps, settings.solver), "features": readings}
    steps = len(path_of(model.schedule, settings)) - 1
    decoding = path_evaluations(steps, settings.solver)
    products = 0.0 if config.output.from_spectrum or not config.needs_spectrum else _products(config, latent_size)
    counts: dict[str, float] = {}
    if not config.output.from_spectrum:
        counts["inversion"] = path_evaluations(steps, settings.solver, settings.num_refinements)
        counts["round trip"] = decoding
        if products:
            counts["singular vectors"] = products * EVALUATIONS_PER_PRODUCT
    counts["decoding"] = 0 if guided == 1 and not config.needs_spectrum else decoding * guided
    counts["features"] = readings
    for name in config.output.extras:
        counts[f"extra {name}"] = readings + _extra_evaluations(name, config, decoding, products)
    return counts


def _readings(model: DiffusionModel) -> int:
    """Return how often features are read: with the label, and without it where the model can."""
    try:
        model.null_cond(1)
    except ValueError:
        return 1
    return 2


def _products(config: ExtractConfig, latent_size: int) -> float:
    """Return the products with J^T J that the singular triplets of one sample take."""
    if config.spectrum.solver == "subspace_iteration":
        return 100.0 * config.spectrum.num_directions
    return min(PRODUCTS_PER_DIRECTION * config.spectrum.num_directions, latent_size)


def _extra_evaluations(name: str, config: ExtractConfig, decoding: int, products: float) -> float:
    extra = parse_extra(name)
    if extra is None or (extra.mode == "none" and extra.guidance_scale == 1 and not config.output.from_spectrum):
        return 0
    scale = config.decoding.guidance_scale if extra.guidance_scale is None else extra.guidance_scale
    more = {"unconditional": products * EVALUATIONS_PER_PRODUCT, "centred": 64.0}.get(extra.mode, 0.0)
    return decoding * (1 if scale == 1 else 2) + more


def _time_evaluation(model: Any, config: ExtractConfig) -> float:
    """Return the seconds one evaluation takes per sample, in a micro-batch on this machine."""
    torch.set_num_threads(config.engine.num_threads)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    x_t = torch.randn(config.engine.rows_per_call, *model.latent_shape, device=model.device)
    cond = model.cond(torch.zeros(len(x_t), dtype=torch.long))
    seconds: list[float] = []
    for _ in range(4):
        began = time.perf_counter()
        model.eps(x_t, float(config.inversion.project_t), cond).sum().item()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / len(x_t)


def check_space(store: Store, needed: int) -> str:
    """Return what is free where an output lies, in words, empty in object storage; DiskFull where it is too little."""
    if store.desk != Path(store.where):
        return ""
    free = free_bytes(store.desk, "output.path")
    if free < needed:
        raise DiskFull(
            f"output.path: about {needed / 1e6:.1f} MB are to be written, and {free / 1e6:.1f} MB are free at "
            f"{store.where!r}; valid: a disk with more space"
        )
    return f", of {free / 1e6:.1f} MB that are free"


def bytes_per_sample(plan: Plan, model: Any = None) -> int:
    """Return the disk one sample takes: pictures as PNG, JSON, the side-car if kept, and features of the model."""
    output, num_directions = plan.config.output, plan.config.spectrum.num_directions
    pictures = len(output.extras) + (output.what != "features")
    features = 0
    if model is not None:
        width = _stored(128 + 4 * _feature_width(model, plan.config))
        features = (1 + len(output.extras)) * _readings(model) * width
    record = 1024 + (3 * 12 * num_directions if plan.config.needs_spectrum else 0)
    spectrum = 4 * plan.latent_size * (num_directions + 1) + 2048
    told = _stored(1) + _stored(record)
    return pictures * _stored(plan.image_size**2 * 2) + features + told + (spectrum if output.keep_spectrum else 0)


def _stored(size: int) -> int:
    """Return the bytes of a tar member with its header."""
    return 512 + -(-size // 512) * 512


def _feature_width(model: Any, config: ExtractConfig) -> int:
    x_t = torch.zeros(1, *model.latent_shape, device=model.device)
    cond = model.cond(torch.zeros(1, dtype=torch.long))
    with torch.no_grad():
        return model.pool(model.features(x_t, float(config.features.feature_t), cond, config.features.layer)).shape[1]
