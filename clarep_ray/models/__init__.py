"""Adapters: every family of diffusion models behind `adapter.Adapter`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clarep_ray.config import ModelConfig
from clarep_ray.data.shards import sha256_file
from clarep_ray.models import hub

if TYPE_CHECKING:
    from clarep_ray.models.adapter import Adapter

TINY = "tiny"
"""Value of `model.weights` that stands for a small random model: the family's path without weights."""
TINY_SEED = 0
WEIGHT_FILES = ("*.json", "*.safetensors", "*.txt")


@dataclass(frozen=True)
class Family:
    """How a family is built: from a config's weights, and small and random."""

    build: Callable[[ModelConfig], Adapter]
    build_tiny: Callable[..., Adapter]
    """Without arguments; with a config where there are prompts."""
    has_prompts: bool = False
    """Its conditions are texts."""


def _digits_dit() -> Family:
    from clarep_ray.models import digits_dit

    return Family(digits_dit.build, digits_dit.build_tiny)


def _dit() -> Family:
    from clarep_ray.models import dit

    return Family(dit.build, dit.build_tiny)


def _class_unet() -> Family:
    from clarep_ray.models import class_unet

    return Family(class_unet.build, class_unet.build_tiny)


def _stable_diffusion() -> Family:
    from clarep_ray.models import stable_diffusion

    return Family(stable_diffusion.build, stable_diffusion.build_tiny, has_prompts=True)


def _uvit() -> Family:
    from clarep_ray.models import uvit

    return Family(uvit.build, uvit.build_tiny)


def _edm() -> Family:
    from clarep_ray.models import edm

    return Family(edm.build, edm.build_tiny)


def _edm2() -> Family:
    from clarep_ray.models import edm2

    return Family(edm2.build, edm2.build_tiny)


MODELS: dict[str, Callable[[], Family]] = {
    "digits_dit": _digits_dit,
    "dit": _dit,
    "class_unet": _class_unet,
    "stable_diffusion": _stable_diffusion,
    "uvit": _uvit,
    "edm": _edm,
    "edm2": _edm2,
}


def build(config: ModelConfig, called: str = "model") -> Adapter:
    """Return the model of a config, frozen, on the CPU.

    Raises ValueError for an unknown name, missing weights, and prompts for a family without; `called` is what its
    settings begin with in the message.
    """
    import torch

    with _called(called):
        family = _family(config.name)
        check_prompts(config)
        if config.weights != TINY:
            with _of_folder(config.weights):
                model = family.build(config)
        else:
            model = _tiny(family, config)
            model.set_precision(getattr(torch, config.precision))
        if config.compile:
            model.compile()
        return model


@contextmanager
def _of_folder(weights: str) -> Generator[None]:
    """Name the folder in an error about its settings that does not."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if text.startswith(("vae/", "model.weights: ")) and repr(weights)[1:-1] not in text:
            raise ValueError(f"model.weights: {weights!r}: {text.removeprefix('model.weights: ')}") from None
        raise


@contextmanager
def _called(prefix: str) -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"^model(?=\.)", prefix, str(error))) from None


def build_tiny(name: str) -> Adapter:
    """Return the family's small random model, the same on every call."""
    return _tiny(_family(name), None)


def check_prompts(config: ModelConfig) -> None:
    """Raise ValueError for prompts that the family would not read."""
    if _family(config.name).has_prompts:
        return
    for field in ("prompts", "prompt_template"):
        given, default = getattr(config, field), getattr(ModelConfig(), field)
        if given != default:
            raise ValueError(f"model.{field}: {given!r} has no effect on {config.name}; valid: {default!r}")


def _tiny(family: Family, config: ModelConfig | None) -> Adapter:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY_SEED)
        return family.build_tiny(config) if config and family.has_prompts else family.build_tiny()


def absolute_weights(config: ModelConfig) -> str:
    """Return the config's weights as every process finds them: a shipped name, `tiny`, or an absolute path.

    The only place that may download, and only with `model.allow_download`. Raises ValueError where there are none.
    """
    folder = _folder(config)
    if folder is None or folder.is_relative_to(Path(__file__).parent):
        return config.weights
    return str(hub.local_folder(config.weights, config.allow_download).absolute())


def weights_sha256(config: ModelConfig, called: str = "model") -> str:
    """Return one sha256 over the names and bytes of the model's files, prompts included.

    Raises ValueError without files, and where the config says that it is another one; `called` as for `build`.
    """
    with _called(called):
        return _weights_sha256(config)


def _weights_sha256(config: ModelConfig) -> str:
    folder, total = _folder(config), hashlib.sha256()
    if folder is None:
        total.update(f"{config.name} tiny {TINY_SEED}".encode())
    else:
        found = sorted({path for pattern in WEIGHT_FILES for path in folder.rglob(pattern)})
        if not found:
            raise ValueError(f"model.weights: {config.weights!r} is not a folder with weights")
        for path in found:
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + sha256_file(path).encode())
    if config.prompts is not None:
        total.update(b"prompts\0" + sha256_file(Path(config.prompts)).encode())
    if config.weights_sha256 not in (None, total.hexdigest()):
        raise ValueError(
            f"model.weights_sha256: {config.weights_sha256} is not that of {config.weights!r}; valid: "
            f"{total.hexdigest()}, if these are the weights you trust"
        )
    return total.hexdigest()


def _folder(config: ModelConfig) -> Path | None:
    """Return the folder of the weights; None for the tiny model."""
    _family(config.name)
    if config.weights == TINY:
        return None
    if config.name == "digits_dit":
        from clarep_ray.models.digits_dit import weights_folder

        return weights_folder(config.weights)
    return Path(config.weights)


def _family(name: str) -> Family:
    if name not in MODELS:
        raise ValueError(f"model.name: {name!r} is unknown; valid: {', '.join(sorted(MODELS))}")
    hub.stay_offline()
    return MODELS[name]()
