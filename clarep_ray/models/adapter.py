"""What adapters of torch networks share: prediction to eps, early exit, pooling, precision, devices."""

from __future__ import annotations

import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clarep_ray.clarid.model import DiffusionModel, NoiseSchedule
from clarep_ray.clarid.sampling import eps_from_v, eps_from_x0
from clarep_ray.data.class_list import ClassList
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.capture import capture
from clarep_ray.models.diffusers_schedule import Prediction

PIXEL_CHANNELS = 3
READINGS = ("label", "null")
"""Features are read with the label and, where the model has an unconditional branch, without it."""
NO_CLASSES = (
    "model.weights: this model has no classes; CLARID needs a class-conditional one (valid here: as a teacher of "
    "repfusion and diffaug)"
)


@runtime_checkable
class Adapter(DiffusionModel, Protocol):
    """A diffusion model as an extraction needs it: the method's view, its pictures, its classes, its device."""

    @property
    def image_size(self) -> int:
        """Side of the square pictures that `encode` takes [pixels]."""
        ...

    @property
    def classes(self) -> ClassList:
        """What the labels stand for."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of `classes`."""
        ...

    @property
    def prompt_texts(self) -> tuple[str, ...]:
        """Text of every condition number `label + n * classes`, n the prompt; empty where conditions are no texts."""
        ...

    @property
    def prompts_per_class(self) -> int:
        """How many conditions each class has; a picture is extracted once with each."""
        ...

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device | str) -> Adapter: ...

    @property
    def readings(self) -> tuple[str, ...]:
        """How one network reads features: with the label and, where it has an unconditional branch, without it."""
        ...

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let the network compute in `dtype`; latents and eps stay in float32."""
        ...

    def compile(self) -> None:
        """Let `eps` run compiled networks; ValueError where there is no compiler."""
        ...

    def layer_means(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the spatial means (b, channels) of several layers' outputs in one forward pass, in float32."""
        ...

    def spatial(self, features: Float[Tensor, " b *feature"]) -> Float[Tensor, " b channels h w"]:
        """Return a layer's output as a map; ValueError where its tokens form none."""
        ...


class NetworkAdapter(ABC):
    """Base of the adapters: subclasses say how the network is called and what its conditions are.

    `prediction` is what the network's first channels mean. Latents and eps are float32 whatever the precision of
    the network; features and their derivatives have the network's precision.
    """

    compiled = False
    """Whether `eps` runs compiled networks."""
    num_prefix_tokens = 0
    """Tokens before those of the picture, in layers whose outputs are tokens."""

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: NoiseSchedule,
        prediction: Prediction,
        classes: ClassList,
        latent_shape: tuple[int, int, int],
        feature_layers: Sequence[str],
        autoencoder: Autoencoder | None = None,
        prompt_texts: Sequence[str] = (),
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.schedule, self.prediction, self.autoencoder = schedule, prediction, autoencoder
        self.classes, self.feature_layers = classes, tuple(feature_layers)
        self.latent_shape, self.prompt_texts = latent_shape, tuple(prompt_texts)
        self.image_size = latent_shape[1] * (autoencoder.factor if autoencoder else 1)
        taken = autoencoder.channels if autoencoder else PIXEL_CHANNELS
        if latent_shape[0] != taken:
            what = "its autoencoder makes" if autoencoder else "images have"
            raise ValueError(
                f"model.weights: the network takes {latent_shape[0]} channels, {what} {taken}; valid: the same number "
                "(networks that also take a mask, a depth or an image are not read)"
            )

    @abstractmethod
    def forward(self, x_t: Tensor, t: float, cond: Any) -> Tensor:
        """Return the network's output in its own parametrisation and precision."""

    @abstractmethod
    def cond(self, labels: Int[Tensor, " b"]) -> Any: ...

    @abstractmethod
    def null_cond(self, num: int) -> Any: ...

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What `forward` may call."""
        return (self.network,)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def prompts_per_class(self) -> int:
        return len(self.prompt_texts) // len(self.classes) if self.prompt_texts else 1

    @property
    def dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def to(self, device: torch.device | str) -> NetworkAdapter:
        for network in self.networks:
            network.to(device)
        if self.autoencoder is not None:
            self.autoencoder.vae.to(device)
        return self

    @property
    def readings(self) -> tuple[str, ...]:
        """How one network reads features: with the label and, where it has an unconditional branch, without it."""
        try:
            self.null_cond(1)
        except ValueError:
            return READINGS[:1]
        return READINGS

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let the network compute in `dtype`; latents and eps stay in float32."""
        nn.Module.to(self.network, dtype)  # diffusers' own `to` warns of parts that it does not have

    def compile(self) -> None:
        """Let `eps` run compiled networks; ValueError where there is no compiler.

        Each shape of a batch is compiled at its first call. Features stay as they are: a compiled graph neither stops
        at a layer nor has the second derivative that products with J take.
        """
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise ValueError(
                f"model.compile: True is not valid without a C++ compiler, and {compiler!r} is not on the path; valid: "
                "False, or g++ (another one: CXX)"
            )
        for network in self.networks:
            network.compile(fullgraph=True, dynamic=False)
        self.compiled = True

    def eps(self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any) -> Float[Tensor, " b *latent"]:
        """Return the noise prediction; channels beyond the latent's, a learned variance, are dropped."""
        with torch.no_grad():
            output = self.forward(x_t.to(self.dtype), t, cond)[:, : self.latent_shape[0]].float()
        if self.prediction == "epsilon":
            return output
        alpha, sigma = (scale.item() for scale in self.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64)))
        convert = eps_from_v if self.prediction == "v_prediction" else eps_from_x0
        return convert(output, x_t, alpha, sigma)

    def features(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any, layer: str
    ) -> Float[Tensor, " b *feature"]:
        """Return the output of `layer`, stopping the forward pass there; differentiable twice in x_t."""
        return self.outputs(x_t, t, cond, [layer])[layer]

    def outputs(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the outputs of several layers, stopping the forward pass at the last; differentiable in x_t."""
        return self.capture(self.network, layers, lambda: self.forward(x_t.to(self.dtype), t, cond))

    def capture(self, network: nn.Module, layers: Sequence[str], forward: Callable[[], Any]) -> dict[str, Tensor]:
        """Return the outputs of a network's layers during `forward()`, which runs nothing that is compiled."""
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            return capture(network, layers, forward)

    def layer_means(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any, layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the spatial means (b, channels) of several layers' outputs in one forward pass, in float32."""
        with torch.no_grad():
            outputs = self.outputs(x_t, t, cond, layers)
            return {layer: self.pool(outputs[layer]).float() for layer in layers}

    def pool(self, features: Float[Tensor, " b *feature"]) -> Float[Tensor, " b channels"]:
        """Average over space: tokens (b, n, c), of the picture alone, or maps (b, c, h, w)."""
        return features.mean((2, 3)) if features.ndim == 4 else features[:, self.num_prefix_tokens :].mean(1)

    def spatial(self, features: Float[Tensor, " b *feature"]) -> Float[Tensor, " b channels h w"]:
        """Return a layer's output as a map; ValueError where the picture's tokens form no square."""
        if features.ndim == 4:
            return features
        tokens = features[:, self.num_prefix_tokens :]
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ValueError(f"features: {tokens.shape[1]} tokens form no square map")
        return tokens.transpose(1, 2).unflatten(2, (side, side))

    def encode(self, pixels: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b *latent"]:
        """Return clean latents of pixels in [-1, 1]: the posterior's mean, or the pixels themselves."""
        with torch.no_grad():
            return pixels if self.autoencoder is None else self.autoencoder.encode(pixels)

    def decode(self, latents: Float[Tensor, " b *latent"]) -> Float[Tensor, " b 3 h w"]:
        """Return pixels, not clipped, of clean latents."""
        with torch.no_grad():
            return latents if self.autoencoder is None else self.autoencoder.decode(latents)


class LabelledAdapter(NetworkAdapter):
    """Base where conditions are labels, and the one after the last class is the unconditional one.

    A network without classes has `num_classes` 0: it has the unconditional condition alone.
    """

    num_classes: int
    null_branch: bool = True
    """Whether the network was trained on samples without a label."""

    @property
    def readings(self) -> tuple[str, ...]:
        return super().readings if self.num_classes else READINGS[1:]

    def cond(self, labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the labels on the device; ValueError for one the model does not know."""
        if not self.num_classes:
            raise ValueError(NO_CLASSES)
        return checked_labels(labels, self.num_classes).to(self.device)

    def null_cond(self, num: int) -> Int[Tensor, " b"]:
        if not self.null_branch:
            raise ValueError(
                "decoding.guidance_scale or output.extras: this model has no unconditional branch (it was trained "
                "without label dropout); valid: guidance 1 and no `unconditional` projection"
            )
        return torch.full((num,), self.num_classes, device=self.device)


def checked_labels(labels: Int[Tensor, " b"], num_classes: int) -> Int[Tensor, " b"]:
    """Return the labels; ValueError naming the first outside 0..num_classes - 1."""
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise ValueError(f"labels: {int(outside[0])} is outside 0..{num_classes - 1}")
    return labels


def timesteps(x_t: Tensor, t: float) -> Tensor:
    """Return the integer timestep of every sample, on the device."""
    return torch.full((len(x_t),), int(t), dtype=torch.long, device=x_t.device)
