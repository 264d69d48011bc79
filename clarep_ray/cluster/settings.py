"""Which settings a model can do, checked before anything expensive starts. Does not import Ray."""

from __future__ import annotations

import torch

from clarep_ray.clarid.schedule import check_noisy, path_of
from clarep_ray.config import ExtractConfig, parse_extra
from clarep_ray.models.adapter import NO_CLASSES, Adapter
from clarep_ray.models.extractor import uses_other_image


def check_settings(model: Adapter, config: ExtractConfig) -> None:
    """Raise ValueError for a setting this model cannot do, naming it and the valid values."""
    if "label" not in model.readings:
        raise ValueError(NO_CLASSES)
    for name, layer in (("spectrum.layer", config.spectrum.layer), ("features.layer", config.features.layer)):
        if layer not in model.feature_layers:
            raise ValueError(f"{name}: {layer!r} is not a layer of the model; valid: {', '.join(model.feature_layers)}")
    try:
        path_of(model.schedule, config.inversion)
    except ValueError as error:
        raise ValueError(f"inversion.num_steps or inversion.project_t: {error}") from None
    try:
        check_noisy(model.schedule, config.features.feature_t)
    except ValueError as error:
        raise ValueError(f"features.feature_t: {error}") from None
    latent = int(torch.tensor(model.latent_shape).prod())
    if config.spectrum.num_directions > latent:
        raise ValueError(f"spectrum.num_directions: {config.spectrum.num_directions} exceeds the latent size {latent}")
    extras = [extra for name in config.output.extras if (extra := parse_extra(name))]
    scales = [config.decoding.guidance_scale] + [extra.guidance_scale or 1.0 for extra in extras]
    modes = {config.projection.mode} | {extra.mode for extra in extras}
    if uses_other_image(config) and config.engine.micro_batch == 1:
        raise ValueError(f"engine.micro_batch: {config.engine.micro_batch} leaves no other image; valid: 2 or more")
    guided = config.output.what != "features" and any(scale != 1.0 for scale in scales)
    if guided or (config.needs_spectrum and "unconditional" in modes):
        model.null_cond(1)
