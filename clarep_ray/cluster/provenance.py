"""What an extraction writes about itself into every sample and into the root manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarep_ray.config import ExtractConfig


def provenance(config: ExtractConfig, fields: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return what every sample says about the run it comes from: who it is and what was done to an image."""
    return {
        "fingerprint": fingerprint,
        "model": config.model.name,
        "weights_sha256": fields["weights_sha256"],
        "seed": config.seed,
        **_method(config),
    }


def identity(fields: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """Return what the root manifest says about the run: who it is, and what its label numbers stand for."""
    return {name: fields[name] for name in ("label_map_sha256", "classes_sha256")} | {"fingerprint": fingerprint}


def _method(config: ExtractConfig) -> dict[str, Any]:
    """Return what was done to an image, as far as it was done."""
    what = config.output.what
    if what == "features":
        return {"what": what, "feature_layer": config.features.layer, "feature_t": config.features.feature_t}
    if what == "samples":
        return {"what": what, "guidance_scale": config.decoding.guidance_scale}
    return {
        "projection": config.projection.mode,
        "guidance_scale": config.decoding.guidance_scale,
        "project_t": config.inversion.project_t,
    }
