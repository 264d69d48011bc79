"""Presets of the trainings: name -> a complete config, with the origin of every value that is not a plain default."""

from __future__ import annotations

from collections.abc import Callable

from clarep_ray.config import TrainCdmConfig
from clarep_ray.presets.preset import Preset


def rho90() -> Preset[TrainCdmConfig]:
    """The shipped model of strongly correlated backgrounds (correlation 0.9)."""
    return Preset(TrainCdmConfig(), {}).replaced(
        tuned={"dit.patch_size": 2, "num_steps": 7000, "data.digits.correlation": 0.9}
    )


def rho10() -> Preset[TrainCdmConfig]:
    """The shipped model of uncorrelated backgrounds (correlation 0.1: each of ten kinds equally likely)."""
    return rho90().replaced(tuned={"data.digits.correlation": 0.1})


def smoke() -> Preset[TrainCdmConfig]:
    """A few steps of a tiny network, to see the path run."""
    return Preset(TrainCdmConfig(), {}).replaced(
        tuned={
            "image_size": 8,
            "data.digits.image_size": 8,
            "data.digits.count": 64,
            "dit.hidden_size": 16,
            "dit.num_blocks": 1,
            "dit.num_heads": 2,
            "batch_size": 8,
            "num_steps": 8,
            "checkpoint_every": 4,
        },
    )


def own_dit() -> Preset[TrainCdmConfig]:
    """A small DiT with an unconditional branch on one's own images, a folder per class; ten minutes on two CPU cores.

    Chosen on 20,000 images of Fashion-MNIST at 28 pixels, where 2000 steps are usable. Four blocks, so that
    `extract.py` finds the layers of its defaults.
    """
    return Preset(TrainCdmConfig(), {}).replaced(
        default={"data.source": "image_folder", "data.path": "data/train", "output": "outputs/cdm_own_dit"},
        inferred={"label_dropout": 0.1},  # DiT
        tuned={
            "image_size": 32,
            "dit.patch_size": 4,
            "dit.hidden_size": 128,
            "dit.num_blocks": 4,
            "dit.num_heads": 4,
            "num_steps": 3000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "warmup_steps": 200,
            "ema_decay": 0.999,
            "prediction": "v_prediction",
        },
    )


def cifar10_unet() -> Preset[TrainCdmConfig]:
    """A class-conditional UNet on CIFAR-10 without an unconditional branch, for `class_unet` (Sec. 3.4, K.7.6).

    The paper's authors trained their own and say no more than that it follows DDPM and DDAE: sizes and training are
    those of DDAE's public `DDPM_ddpm.yaml` (2000 epochs of 390 batches, 13 of them warm-up), which are DDPM's but
    for its rate of 2e-4. 35.75 million parameters; a checkpoint takes 0.6 GB, two are kept. Meant for one GPU
    (`--use-gpu`); not run in full yet. `--num-steps 200000` is a usable model in a quarter of the time.
    """
    return Preset(TrainCdmConfig(), {}).replaced(
        default={
            "data.path": "data/cifar-10-batches-py",
            "checkpoint_every": 5000,
            "output": "outputs/cdm_cifar10_unet",
        },
        paper={"network": "class_unet", "label_dropout": 0.0, "data.source": "cifar10", "image_size": 32},
        inferred={
            "unet.channels": 128,
            "unet.multipliers": (1, 2, 2, 2),
            "unet.layers_per_block": 2,
            "unet.attention_sides": (16,),
            "unet.dropout": 0.1,
            "prediction": "epsilon",
            "flip": True,
            "num_steps": 780_000,
            "batch_size": 128,
            "learning_rate": 1e-4,
            "decay": "constant",
            "warmup_steps": 5000,
            "adam_beta2": 0.999,  # torch's Adam
            "weight_decay": 0.0,
            "ema_decay": 0.9999,
        },
    )


def cifar10_unet_smoke() -> Preset[TrainCdmConfig]:
    """The path of `cifar10_unet` with a tiny UNet on embedded pictures, without files; seconds.

    With `--data.source cifar10 --data.path FOLDER --image-size 32` the same on CIFAR-10's batches.
    """
    return (
        cifar10_unet()
        .elsewhere()
        .replaced(
            tuned={
                "data.source": "spurious_digits",
                "data.path": None,
                "data.digits.count": 64,
                "image_size": 16,
                "unet.channels": 8,
                "unet.multipliers": (1, 2, 2),
                "unet.layers_per_block": 1,
                "unet.attention_sides": (8,),
                "unet.norm_groups": 4,
                "batch_size": 8,
                "num_steps": 8,
                "warmup_steps": 2,
            },
            default={"checkpoint_every": 4, "output": "outputs/cdm_cifar10_unet_smoke"},
        )
    )


def cifar10_unet_uncond() -> Preset[TrainCdmConfig]:
    """The UNet of `cifar10_unet` without classes: RepFusion's and DiffAug's teacher on CIFAR-10 (Sec. K.6, Table 1).

    A label would tell RepFusion's policy the answer. This is DDAE's `DDPM_ddpm.yaml` itself, which has no classes.
    Not run in full yet.
    """
    return cifar10_unet().replaced(paper={"conditional": False}, default={"output": "outputs/cdm_cifar10_unet_uncond"})


def cifar10_unet_uncond_smoke() -> Preset[TrainCdmConfig]:
    """The path of `cifar10_unet_uncond` as `cifar10_unet_smoke` has it; seconds."""
    return cifar10_unet_smoke().replaced(
        inferred={"conditional": False}, default={"output": "outputs/cdm_cifar10_unet_uncond_smoke"}
    )


TRAIN_CDM: dict[str, Callable[[], Preset[TrainCdmConfig]]] = {
    preset.__name__: preset
    for preset in (
        rho90,
        rho10,
        smoke,
        own_dit,
        cifar10_unet,
        cifar10_unet_smoke,
        cifar10_unet_uncond,
        cifar10_unet_uncond_smoke,
    )
}
