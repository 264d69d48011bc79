"""Presets of calibrations: each calibrates the extraction preset of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clarep_ray.config import CalibrateConfig
from clarep_ray.dotted import flatten, override
from clarep_ray.presets import extract as presets
from clarep_ray.presets.preset import Origin, Preset, with_own_output

CLASSIFIERS = (
    "weights/vit_large_patch14_clip_224.laion2b_ft_in12k_in1k",
    "weights/swinv2_large_window12to16_192to256.ms_in22k_ft_in1k",
    "weights/convnextv2_huge.fcmae_ft_in22k_in1k_384",
)
"""Of the models that fit what App. H.1 says of its three classifiers; which of them it used is not in its text."""


def _calibrates(extract: Preset[Any], **groups: dict[str, Any]) -> Preset[CalibrateConfig]:
    """Return the calibration of an extraction preset with the fields of each origin group replaced."""
    known = flatten(CalibrateConfig())
    shared = {name: value for name, value in flatten(extract.config).items() if name in known}
    origins: dict[str, Origin] = {name: origin for name, origin in extract.origins.items() if name in known}
    # Guidance pulls features towards the class by itself, so that NMI would measure it (App. G.2).
    off = Preset(override(CalibrateConfig(), shared), origins).replaced(inferred={"decoding.guidance_scale": 1.0})
    return off.replaced(**groups)


def digits() -> Preset[CalibrateConfig]:
    """The embedded model whose backgrounds said nothing about the class. About nine minutes on two CPU cores."""
    return _calibrates(
        presets.digits(),
        tuned={
            "data.digits.count": 400,
            "projected_per_class": 20,
            "saturation.images_per_class": 20,
            "draws.classes": 8,
            "feature_map.times": (0.0, 20.0, 60.0, 100.0, 200.0, 400.0, 600.0, 800.0),
            "window.windows": (5, 10, 20, 40),
            "window.fixed": (1, 2, 5, 10, 20),
            "interaction.layers": ("transformer_blocks.1", "transformer_blocks.3"),
        },
    )


def digits_conflict() -> Preset[CalibrateConfig]:
    """The embedded model of correlated backgrounds, every picture on another class's background."""
    own = {name: value for name, value in flatten(digits().config).items() if not name.startswith(("data.", "model."))}
    return _calibrates(presets.digits_conflict(), tuned={**own, "data.digits.count": 400})


def digits_smoke() -> Preset[CalibrateConfig]:
    """Every part on a few pictures, few steps and few directions."""
    return _calibrates(
        presets.digits_smoke(),
        tuned={
            "data.digits.count": 16,
            "data.digits.split": "test",
            "saturation.num_steps": 10,
            "saturation.images_per_class": 1,
            "saturation.num_times": 3,
            "draws.count": 2,
            "draws.classes": 4,
            "feature_map.layers": ("transformer_blocks.0", "transformer_blocks.2"),
            "feature_map.times": (0.0, 100.0),
            "window.windows": (4, 8),
            "window.fixed": (1, 3),
            "interaction.fixed": 3,
        },
    )


def _imagenet(extract: Preset[Any], **tuned: Any) -> Preset[CalibrateConfig]:
    """Return the calibration on ImageNet20 as the paper has it, with three classifiers and several class draws."""
    return _calibrates(
        extract,
        paper={
            "data.classes": ("imagenet20",),
            "data.per_class": 50,
            "decoding.guidance_scale": 1.0,
            "saturation.num_steps": 50,
            "saturation.images_per_class": 5,
        },
        inferred={"classifiers": CLASSIFIERS},
        tuned={"data.fraction": 1.0, "draws.classes": 15, "window.windows": (10, 20, 30, 50, 80), **tuned},
    )


def dit_xl_256() -> Preset[CalibrateConfig]:
    """DiT-XL/2 on ImageNet20 (Sec. 3.2.1, App. G.1, H); not run with its weights yet."""
    return _imagenet(presets.dit_xl_256(), **{"interaction.layers": ("transformer_blocks.13", "transformer_blocks.27")})


def sd21() -> Preset[CalibrateConfig]:
    """Stable Diffusion 2.1 on ImageNet20 (App. H.1, H.2.1); not run with its weights yet."""
    return _imagenet(presets.sd21())


def uvit_256() -> Preset[CalibrateConfig]:
    """U-ViT-H/2 on ImageNet20; not run with its weights yet."""
    return _imagenet(presets.uvit_256()).elsewhere("model.name")


def cifar10_unet() -> Preset[CalibrateConfig]:
    """A UNet without an unconditional branch: no two-stage sampling, t_e from the interaction's table (App. G.2)."""
    parts = {"parts": ("features", "window", "interaction"), "data.fraction": 1.0, "data.per_class": 50}
    return _calibrates(
        presets.cifar10_unet(),
        paper={"decoding.guidance_scale": 1.0},
        tuned={**parts, "draws.classes": 7, "classifiers": ()},
    )


def edm() -> Preset[CalibrateConfig]:
    """EDM on ImageNet20 at 64 pixels; trained without label dropout, so that t_e is not looked for."""
    return _imagenet(presets.edm(), parts=("features", "window", "interaction")).elsewhere(
        "model.name", "spectrum.layer"
    )


def edm2() -> Preset[CalibrateConfig]:
    """EDM2 on ImageNet20, with an unconditional network in guide/; not run with its weights yet."""
    return _imagenet(presets.edm2()).elsewhere()


def dit_xl_256_smoke() -> Preset[CalibrateConfig]:
    """The path of `dit_xl_256` with a random DiT; nothing on disk knows its classes, so t_e is not looked for."""
    parts = ("features", "window", "interaction")
    small = {"draws.count": 2, "draws.classes": 4, "window.windows": (4, 8), "window.fixed": (1, 3)}
    times = {"feature_map.num_times": 2, "interaction.fixed": 3, "data.digits.count": 16}
    return _calibrates(presets.dit_xl_256_smoke(), tuned={"parts": parts, "classifiers": (), **small, **times})


CALIBRATE: dict[str, Callable[[], Preset[CalibrateConfig]]] = {
    preset.__name__: preset if preset is digits else with_own_output(preset, "output", "calibrate_")
    for preset in (
        digits,
        digits_conflict,
        digits_smoke,
        dit_xl_256,
        dit_xl_256_smoke,
        sd21,
        uvit_256,
        cifar10_unet,
        edm,
        edm2,
    )
}
"""`digits` writes to `outputs/calibrate`, every other one to `outputs/calibrate_NAME`."""
