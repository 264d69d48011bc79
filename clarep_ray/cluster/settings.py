"""Which settings a model can do, checked before anything expensive starts. Does not import Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from clarep_ray.clarid.schedule import check_noisy, path_of
from clarep_ray.config import ExtractConfig, parse_extra
from clarep_ray.dotted import flatten
from clarep_ray.models.adapter import NO_CLASSES, Adapter
from clarep_ray.models.extractor import uses_other_image

LISTED = 30
"""Layers named in an error."""
NO_EFFECT: tuple[tuple[str, str, Callable[[ExtractConfig], bool]], ...] = (
    ("elbow.num_removed", "elbow.rule is fixed", lambda config: config.elbow.rule == "fixed"),
    ("elbow.ambiguous_margin", "output.what is canonical", lambda config: config.output.what == "canonical"),
    *(
        (
            f"spectrum.{name}",
            "spectrum.solver is block_lanczos",
            lambda config: config.spectrum.solver == "block_lanczos",
        )
        for name in ("block_size", "max_products")
    ),
    *(
        (f"gate.{name}", "gate.enabled", lambda config: config.gate.enabled)
        for name in flatten(ExtractConfig().gate)
        if name != "enabled"
    ),
    (
        "decoding.guided_channels",
        "something is guided",
        lambda config: (
            config.decoding.guidance_scale != 1.0 or any(_scale(name) != 1.0 for name in config.output.extras)
        ),
    ),
)
"""Setting, where alone it has an effect, and whether that is so; those of the data are `check_effects` of sources."""


def _scale(extra: str) -> float:
    found = parse_extra(extra)
    return 1.0 if found is None else found.guidance_scale or 1.0


def check_effects(config: ExtractConfig) -> None:
    """Raise ValueError for a setting that was chosen and would change nothing, naming it and where it counts."""
    given, default = flatten(config), flatten(ExtractConfig())
    for name, where, counts in NO_EFFECT:
        if given[name] != default[name] and not counts(config):
            raise ValueError(f"{name}: {given[name]!r} has no effect; valid: {default[name]!r}, or where {where}")


def check_settings(model: Adapter, config: ExtractConfig, called: Mapping[str, str] | None = None) -> None:
    """Raise ValueError for a setting this model cannot do, naming it and the valid values.

    `called` gives the names of the settings whose values stand in the config in place of its own.
    """
    if "label" not in model.readings:
        raise ValueError(NO_CLASSES)
    names = called or {}
    for name, layer in (("spectrum.layer", config.spectrum.layer), ("features.layer", config.features.layer)):
        if layer not in model.feature_layers:
            known = model.feature_layers
            more = f" and {len(known) - LISTED} more up to {known[-1]}" if len(known) > LISTED else ""
            raise ValueError(
                f"{names.get(name, name)}: {layer!r} is not a layer of the model; valid: "
                f"{', '.join(known[:LISTED])}{more}"
            )
    try:
        path_of(model.schedule, config.inversion)
    except ValueError as error:
        name = names.get("inversion.project_t", "inversion.num_steps or inversion.project_t")
        raise ValueError(f"{name}: {error}") from None
    try:
        check_noisy(model.schedule, config.features.feature_t)
    except ValueError as error:
        name = "features.feature_t"
        raise ValueError(f"{names.get(name, name)}: {error}") from None
    latent = int(torch.tensor(model.latent_shape).prod())
    if config.spectrum.num_directions > latent:
        name = "spectrum.num_directions"
        raise ValueError(f"{names.get(name, name)}: {config.spectrum.num_directions} exceeds the latent size {latent}")
    extras = [extra for name in config.output.extras if (extra := parse_extra(name))]
    scales = [config.decoding.guidance_scale] + [extra.guidance_scale or 1.0 for extra in extras]
    modes = {config.projection.mode} | {extra.mode for extra in extras}
    if uses_other_image(config) and config.engine.micro_batch == 1:
        raise ValueError(f"engine.micro_batch: {config.engine.micro_batch} leaves no other image; valid: 2 or more")
    guided = config.output.what != "features" and any(scale != 1.0 for scale in scales)
    if guided or (config.needs_spectrum and "unconditional" in modes):
        model.null_cond(1)
