"""EDM (Karras et al. 2022): class-conditional pixels on the clock of sigma, from weights converted to safetensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clarep_ray.clarid.schedule import SigmaSchedule
from clarep_ray.config import ModelConfig
from clarep_ray.data.class_list import ClassList
from clarep_ray.data.durable import new_folder
from clarep_ray.models.adapter import READINGS, NetworkAdapter, checked_labels
from clarep_ray.models.autoencoder import Autoencoder
from clarep_ray.models.class_names import read_classes
from clarep_ray.models.edm_folder import GUIDE, cast_parameters, load_network, save_network
from clarep_ray.models.edm_networks import EdmArchitecture, EdmNetwork


class Edm(NetworkAdapter):
    """Conditions are one-hot labels; a zero label is the unconditional one where the network was trained on it.

    An optional second network without classes (`guide`) takes the unconditional branch over. The released EDM
    models have neither, and their guidance must be 1.
    """

    def __init__(
        self,
        network: nn.Module,
        guide: nn.Module | None = None,
        autoencoder: Autoencoder | None = None,
        classes: ClassList | None = None,
    ) -> None:
        sizes: Any = network.sizes
        self.sizes, self.num_classes = sizes, int(sizes.label_dim)
        if not self.num_classes:
            raise ValueError("model.weights: the network has no classes (label_dim is 0); CLARID needs them")
        self.guide = None if guide is None else _checked_guide(guide, sizes).eval().requires_grad_(False)
        super().__init__(
            network,
            schedule=SigmaSchedule(),
            prediction="sample",
            classes=classes or ClassList.by_convention(self.num_classes),
            latent_shape=(sizes.img_channels, sizes.img_resolution, sizes.img_resolution),
            feature_layers=sizes.plan.layers(),
            autoencoder=autoencoder,
        )

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.network,) if self.guide is None else (self.network, self.guide)

    @property
    def readings(self) -> tuple[str, ...]:
        """With the label alone where a guide is the unconditional branch: its features are another network's."""
        return super().readings if self.guide is None else READINGS[:1]

    def set_precision(self, dtype: torch.dtype) -> None:
        """Let the network, and the guide, hold parameters in `dtype`; frequencies and noise scales stay in float32."""
        for network in self.networks:
            cast_parameters(network, dtype)

    def cond(self, labels: Int[Tensor, " b"]) -> Float[Tensor, " b classes"]:
        """Return one-hot labels on the device; ValueError for one the model does not know."""
        known = checked_labels(labels, self.num_classes).long()
        return torch.nn.functional.one_hot(known, self.num_classes).float().to(self.device)

    def null_cond(self, num: int) -> Float[Tensor, " b classes"]:
        """Return zero labels, of no width where they go to the guide; ValueError where neither was trained."""
        if self.guide is None and not self.sizes.label_dropout > 0:
            raise ValueError(
                "decoding.guidance_scale or output.extras: these weights were trained without label dropout and "
                f"have no {GUIDE}/ beside them; valid: guidance 1 and no `unconditional` projection"
            )
        return torch.zeros(num, self.num_classes if self.guide is None else 0, device=self.device)

    def forward(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        """Return F(c_in x_t; c_noise) (Eq. 7 and Table 1); ValueError for t = 0, which no network is trained on."""
        if not t > 0:
            raise ValueError(f"t: {t} is no noise scale of the network; valid: more than 0")
        c_in, c_noise = 1 / math.hypot(t, self.sizes.sigma_data), math.log(t) / 4
        noise = torch.full((len(x_t),), c_noise, dtype=torch.float32, device=x_t.device)
        return self._branch(cond)((c_in * x_t).to(self.dtype), noise, cond)

    def eps(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Float[Tensor, " b classes"]
    ) -> Float[Tensor, " b *latent"]:
        """Return (x_t - D) / sigma, written out in x_t and F so that nothing cancels where sigma is small (Eq. 7)."""
        with torch.no_grad():
            output = self.forward(x_t, t, cond).float()
        scale = math.hypot(t, self.sizes.sigma_data)
        return (t / scale**2) * x_t - (self.sizes.sigma_data / scale) * output

    def outputs(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Float[Tensor, " b classes"], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        """Return the outputs of several layers, of the guide under its condition; differentiable in x_t itself."""
        return self.capture(self._branch(cond), layers, lambda: self.forward(x_t, t, cond))

    def _branch(self, cond: Tensor) -> nn.Module:
        return self.network if self.guide is None or cond.shape[1] else self.guide


def _checked_guide(guide: nn.Module, sizes: Any) -> nn.Module:
    """Return the guide; ValueError unless it is unconditional and of the network's own latents."""
    found: Any = guide.sizes
    for name, valid in (
        ("label_dim", 0),
        ("img_channels", sizes.img_channels),
        ("img_resolution", sizes.img_resolution),
        ("sigma_data", sizes.sigma_data),
    ):
        if getattr(found, name) != valid:
            raise ValueError(f"model.weights: {name} of {GUIDE}/ is {getattr(found, name)}; valid: {valid}")
    return guide


def load_guide(folder: Path, kind: type[nn.Module], sizes_kind: type[Any], precision: str) -> nn.Module | None:
    """Return the network of the folder's guide/, if there is one."""
    path = folder / GUIDE
    return load_network(path, kind, sizes_kind, precision) if path.is_dir() else None


def build(config: ModelConfig) -> Edm:
    """Return the model of a folder with config.json and model.safetensors, and guide/ in the same layout, if any.

    Raises ValueError naming what is missing or does not fit.
    """
    folder = Path(config.weights)
    network = load_network(folder, EdmNetwork, EdmArchitecture, config.precision)
    guide = load_guide(folder, EdmNetwork, EdmArchitecture, config.precision)
    return Edm(network, guide, classes=read_classes(folder, network.sizes.label_dim))


def save(model: Edm, folder: Path) -> None:
    """Write a model in the layout that `build` reads."""
    save_network(model.network.state_dict(), model.sizes, folder)
    if model.guide is not None:
        guide: Any = model.guide
        save_network(guide.state_dict(), guide.sizes, folder / GUIDE)
    if model.autoencoder is not None:
        with new_folder(folder, "vae") as work:
            model.autoencoder.vae.save_pretrained(work)


def build_tiny() -> Edm:
    """Return a small random ADM on pictures of 16 pixels in ten classes; like the released ones, without guidance."""
    sizes = EdmArchitecture(
        img_resolution=16,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
    )
    return Edm(EdmNetwork(sizes))
