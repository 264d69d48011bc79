"""Presets of what the baselines of Sec. 4.1 distil from: extractions with something else in CLARID's place."""

from __future__ import annotations

from collections.abc import Callable

from clarep_ray.config import ExtractConfig
from clarep_ray.presets.extract import cifar10_unet, digits_smoke, dit_xl_256
from clarep_ray.presets.preset import Preset


def dmdistill_features() -> Preset[ExtractConfig]:
    """DMDistill's targets (Sec. 4.1): the model's features of every ImageNet image, at (l_f, t_f) of `dit_xl_256`.

    Two readings that stop at the layer, and no inversion, singular vectors, decoding or pictures: about 14 kB per
    image. `--output.extras original` keeps the pictures too.
    """
    return dit_xl_256().replaced(
        paper={"data.fraction": 1.0, "output.what": "features"},
        default={"engine.unit_size": 512, "engine.micro_batch": 64},
    )


def cfg_samples() -> Preset[ExtractConfig]:
    """CFGDistill's samples (Sec. 4.1): `dit_xl_256` with guidance in place of CLARID on the same inverted latents.

    About 280 evaluations per image, all of them inversion, its check and guided decoding.
    """
    return dit_xl_256().replaced(paper={"projection.mode": "none", "decoding.guidance_scale": 3.0})


def fresh_samples() -> Preset[ExtractConfig]:
    """CFGDistill's samples on CIFAR-10, whose model cannot be guided: class samples from noise (Sec. 4.1).

    As many of each class as there are CLAReps of it, 100 evaluations each. Keys are CLASS-NUMBER; more of them
    (`--data.per-class`) repeat none.
    """
    return cifar10_unet().replaced(
        inferred={"data.per_class": 500},  # a tenth of the training images, as of CLAReps
        paper={"output.what": "samples", "data.source": "noise"},
        default={"data.fraction": 1.0, "data.path": None},
    )


def dmdistill_features_smoke() -> Preset[ExtractConfig]:
    """The path of `dmdistill_features` on the embedded model and data, pictures included."""
    return digits_smoke().replaced(tuned={"output.what": "features", "output.extras": ("original",)})


def cfg_samples_smoke() -> Preset[ExtractConfig]:
    """The path of `cfg_samples` on the embedded model and data."""
    return digits_smoke().replaced(tuned={"projection.mode": "none", "output.extras": ("original",)})


def fresh_samples_smoke() -> Preset[ExtractConfig]:
    """The path of `fresh_samples` on the embedded model, two samples of two classes."""
    return digits_smoke().replaced(
        tuned={
            "output.what": "samples",
            "output.extras": (),
            "data.source": "noise",
            "data.classes": ("3", "7"),
            "data.per_class": 2,
        },
    )


BASELINES: dict[str, Callable[[], Preset[ExtractConfig]]] = {
    preset.__name__: preset
    for preset in (
        dmdistill_features,
        dmdistill_features_smoke,
        cfg_samples,
        cfg_samples_smoke,
        fresh_samples,
        fresh_samples_smoke,
    )
}
