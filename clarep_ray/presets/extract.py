"""Presets of extractions: name -> a complete config, with the origin of every value that is not a plain default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clarep_ray.config import ExtractConfig
from clarep_ray.presets.preset import Config, Preset


def _preset(base: Config, **groups: dict[str, Any]) -> Preset[Config]:
    """Return `base` with the fields of each origin group replaced."""
    return Preset(base, {}).replaced(**groups)


def _variant(parent: Preset[Config], changes: dict[str, Any]) -> Preset[Config]:
    """Return a preset with some fields chosen anew."""
    return parent.replaced(tuned=changes)


def digits() -> Preset[ExtractConfig]:
    """Embedded data and the model whose training backgrounds said nothing about the class: the default.

    About two minutes on two CPU cores. CLARID takes the background for extraneous and the digit for core.
    """
    return _preset(
        ExtractConfig(),
        inferred={"inversion.num_refinements": 0, "decoding.guidance_scale": 3.0, "elbow.rule": "kneed"},
        tuned={
            "model.weights": "rho10",
            "data.digits.split": "random_background",
            "inversion.num_steps": 50,
            "inversion.project_t": 600.0,
            "spectrum.layer": "transformer_blocks.3",
            "spectrum.num_directions": 20,
            "spectrum.block_size": 4,
            "features.layer": "transformer_blocks.2",
            "features.feature_t": 60.0,
            "output.extras": ("original", "reconstruction", "guidance"),
        },
    )


def digits_fast() -> Preset[ExtractConfig]:
    """The default with 64 evaluations of an image beside the products, not 124, and nearer to the limit of fine steps.

    Measured on this model alone: deploy/benchmarks/sampling_cpu_202611.md.
    """
    return _variant(
        digits(), {"inversion.solver": "dpmpp_2m", "inversion.spacing": "log_snr", "inversion.num_steps": 16}
    )


def digits_correlated() -> Preset[ExtractConfig]:
    """The model of correlated backgrounds (0.9), in distribution."""
    return _variant(digits(), {"model.weights": "rho90", "data.digits.split": "test"})


def digits_conflict() -> Preset[ExtractConfig]:
    """The same model, every picture on another class's background: what it takes for core is replaced, not removed."""
    return _variant(digits(), {"model.weights": "rho90", "data.digits.split": "conflict"})


def digits_smoke() -> Preset[ExtractConfig]:
    """The default's path on a few pictures, few steps and few directions: seconds of work."""
    return _variant(
        digits(),
        {
            "data.digits.count": 12,
            "engine.unit_size": 4,
            "engine.micro_batch": 4,
            "inversion.num_steps": 10,
            "spectrum.num_directions": 6,
        },
    )


def dit_xl_256() -> Preset[ExtractConfig]:
    """DiT-XL/2 on ImageNet at 256 pixels, a tenth of the training set (Sec. 3.4, 4, App. E, K.7.6).

    `model.weights` is the original checkpoint through jobs/convert.py, which keeps its time frequencies, or a
    diffusers folder of facebook/DiT-XL-2-256; `data.path` a folder per WordNet id. About 700 evaluations of 119 GMAC
    per image; not run with its weights yet.
    """
    return _preset(
        ExtractConfig(),
        paper={
            "model.name": "dit",
            "data.fraction": 0.1,
            "inversion.num_steps": 100,
            "inversion.num_refinements": 0,
            "decoding.guidance_scale": 3.0,
        },
        inferred={
            "inversion.project_t": 700.0,  # Park et al. (2023) use 0.7 T and 0.6 T
            "spectrum.layer": "transformer_blocks.27",  # "last block", 28 of them
            "spectrum.num_directions": 50,  # Park et al. (2023)
            "elbow.rule": "kneed",
            "features.layer": "transformer_blocks.13",  # DDAE probes DiT-XL/2 there
            "features.feature_t": 81.0,
        },
        default={
            "model.weights": "weights/DiT-XL-2-256",
            "data.source": "image_folder",
            "data.path": "data/imagenet/train",
            "engine.unit_size": 64,
            "engine.micro_batch": 8,
        },
    )


def sd21() -> Preset[ExtractConfig]:
    """Stable Diffusion 2.1 (768 pixels, v-prediction) on ImageNet, one prompt per class (Sec. 3.4, App. E, H.1).

    `model.weights` is a diffusers folder of a mirror; the original repository is gone. 2.1-base works the same way.
    """
    return _replaced(
        dit_xl_256().elsewhere("inversion.num_steps", "inversion.num_refinements"),
        paper={
            "model.name": "stable_diffusion",
            "model.prompt_template": "a photo of {}",
            "spectrum.layer": "mid_block",
            "features.layer": "up_blocks.1",
        },
        inferred={"inversion.project_t": 701.0, "features.feature_t": 101.0},
        default={"model.weights": "weights/stable-diffusion-2-1", "engine.micro_batch": 2},
    )


def cifar10_unet() -> Preset[ExtractConfig]:
    """A class-conditional UNet on CIFAR-10, without an unconditional branch and therefore without guidance (K.7.6).

    `model.weights` is a diffusers folder with unet/ and scheduler/; no public weights are known to be the paper's, but
    jobs/train_cdm.py --preset cifar10_unet trains one.
    """
    return _replaced(
        dit_xl_256().elsewhere("data.fraction", "inversion.num_refinements"),
        paper={
            "model.name": "class_unet",
            "decoding.guidance_scale": 1.0,
            "spectrum.layer": "mid_block",
        },
        inferred={"inversion.project_t": 600.0, "features.layer": "up_blocks.1", "features.feature_t": 50.0},
        default={
            "model.weights": "weights/cifar10-unet",
            "data.source": "cifar10",
            "data.path": "data/cifar-10-batches-py",
            "engine.micro_batch": 32,
        },
    )


def uvit_256() -> Preset[ExtractConfig]:
    """U-ViT-H/2 on ImageNet at 256 pixels by DDIM (App. F.2; qualitative in the paper).

    `model.weights` is a folder made by jobs/convert.py from the released checkpoint, with a diffusers VAE beside it.
    """
    return _replaced(
        dit_xl_256().elsewhere("inversion.num_refinements"),
        paper={"model.name": "uvit"},
        inferred={
            "decoding.guidance_scale": 3.0,
            "inversion.project_t": 701.0,  # its clock begins at 1
            "spectrum.layer": "out_blocks.13",
            "features.layer": "mid_block",
            "features.feature_t": 81.0,
        },
        default={"model.weights": "weights/uvit-huge-256"},
    )


def edm() -> Preset[ExtractConfig]:
    """EDM's class-conditional ADM on ImageNet at 64 pixels (App. F.2; qualitative in the paper), without guidance.

    `model.weights` is a folder made by jobs/convert.py from edm-imagenet-64x64-cond-adm.pkl; the CIFAR-10 networks
    work the same way. `dec.8x8_in1` ends the middle of the U: "after the mid block". EDM's sampler is Heun's, here in
    half as many steps as `dit_xl_256`. Times are sigma, near sigma / alpha of that preset's (12.0 at its 700).
    """
    return _replaced(
        dit_xl_256().elsewhere(),
        paper={"model.name": "edm", "spectrum.layer": "dec.8x8_in1"},
        inferred={
            "decoding.guidance_scale": 1.0,  # trained without label dropout
            "inversion.solver": "heun",
            "inversion.num_steps": 50,
            "inversion.project_t": 11.8513,
            "features.layer": "dec.16x16_block3",  # the second level up, as for Stable Diffusion
            "features.feature_t": 0.28,
        },
        default={"model.weights": "weights/edm-imagenet-64", "engine.micro_batch": 16},
    )


def edm2() -> Preset[ExtractConfig]:
    """EDM2 on ImageNet at 512 pixels in the latents of a VAE; the paper names its licence and shows no such images.

    `model.weights` is a folder made by jobs/convert.py from edm2-img512-*.pkl, with a diffusers VAE (sd-vae-ft-mse)
    in vae/ and, for guidance, the unconditional edm2-img512-xs-uncond-*.pkl converted into guide/; without it,
    `--decoding.guidance-scale 1`. Its latents have half the spread of DiT's, and so the same time half the sigma.
    """
    return _replaced(
        edm().elsewhere(),
        default={"model.name": "edm2", "model.weights": "weights/edm2-img512-s", "engine.micro_batch": 8},
        inferred={
            "spectrum.layer": "dec.8x8_in1",  # "after the mid block"
            "decoding.guidance_scale": 3.0,
            "inversion.project_t": 6.430457,
            "features.feature_t": 0.14,
        },
    )


def _replaced(parent: Preset[Config], **groups: dict[str, Any]) -> Preset[Config]:
    """Return the parent with the fields of each origin group replaced, and their origins."""
    return parent.replaced(**groups)


def _smoke(parent: Preset[ExtractConfig], **changes: Any) -> Preset[ExtractConfig]:
    """Return the parent's path on a small random model and a few embedded pictures: seconds, and no weights."""
    small = {
        "model.weights": "tiny",
        "data.source": "spurious_digits",
        "data.path": None,
        "data.fraction": 1.0,
        "data.digits.count": 8,
        "inversion.num_steps": 10,
        "spectrum.num_directions": 6,
        "engine.unit_size": 4,
        "engine.micro_batch": 4,
    }
    return _variant(parent.elsewhere(), small | {name.replace("__", "."): value for name, value in changes.items()})


def dit_xl_256_smoke() -> Preset[ExtractConfig]:
    """The path of `dit_xl_256` with a random DiT of three blocks on pictures of 32 pixels."""
    return _smoke(
        dit_xl_256(),
        data__digits__image_size=32,
        spectrum__layer="transformer_blocks.2",
        features__layer="transformer_blocks.1",
    )


def sd21_smoke() -> Preset[ExtractConfig]:
    """The path of `sd21` with a random UNet, VAE and text encoder on pictures of 32 pixels."""
    return _smoke(sd21(), data__digits__image_size=32)


def cifar10_unet_smoke() -> Preset[ExtractConfig]:
    """The path of `cifar10_unet` with a random UNet on pictures of 16 pixels."""
    return _smoke(cifar10_unet())


def uvit_256_smoke() -> Preset[ExtractConfig]:
    """The path of `uvit_256` with a random U-ViT of five blocks on pictures of 32 pixels."""
    return _smoke(uvit_256(), data__digits__image_size=32, spectrum__layer="out_blocks.1")


def edm_smoke() -> Preset[ExtractConfig]:
    """The path of `edm` with a random ADM of two levels on pictures of 16 pixels."""
    return _smoke(edm(), inversion__project_t=9.723201, features__layer="dec.16x16_block1")


def edm2_smoke() -> Preset[ExtractConfig]:
    """The path of `edm2` with random networks of two levels, a VAE and a guide on pictures of 32 pixels."""
    return _smoke(
        edm2(),
        data__digits__image_size=32,
        spectrum__layer="dec.4x4_in1",
        inversion__project_t=4.066124,
        features__layer="dec.8x8_block1",
    )


EXTRACT: dict[str, Callable[[], Preset[ExtractConfig]]] = {
    preset.__name__: preset
    for preset in (
        digits,
        digits_fast,
        digits_correlated,
        digits_conflict,
        digits_smoke,
        dit_xl_256,
        dit_xl_256_smoke,
        sd21,
        sd21_smoke,
        cifar10_unet,
        cifar10_unet_smoke,
        uvit_256,
        uvit_256_smoke,
        edm,
        edm_smoke,
        edm2,
        edm2_smoke,
    )
}
