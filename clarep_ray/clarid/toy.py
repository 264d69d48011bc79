"""The two-dimensional proof of concept of Sec. 3.3: a core segment, class-independent noise, a small MLP.

A point of class c is drawn on the core segment of its class (on the line y = height) and moved by noise
e ~ N(0, 0.25^2) along (shear, 1): what is core and what is extraneous is known for every point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from clarep_ray.clarid.directions import leading, project_out
from clarep_ray.clarid.pipeline import leading_triplets
from clarep_ray.clarid.projection import random_directions
from clarep_ray.clarid.sampling import decode, guided_eps, invert
from clarep_ray.clarid.schedule import linear_schedule, path_to
from clarep_ray.config import SpectrumConfig, ToyConfig
from clarep_ray.seeding import torch_generator

SEGMENTS = ((-2.5, -0.5), (0.5, 2.5))
"""Core segment of each class along x."""
NOISE, SHEAR, WIDTH, EMBEDDING = 0.25, 0.5, 80, 16
NUM_CLASSES = 2


@dataclass(frozen=True)
class ToyPoints:
    """Observed points (n, 2), and their noise-free places on the core segment."""

    observed: Float[Tensor, " n 2"]
    core: Float[Tensor, " n 2"]


def draw_points(labels: Int[Tensor, " n"], height: float, generator: torch.Generator) -> ToyPoints:
    """Draw one point of each label from the toy process (App. I, Eq. 11)."""
    low, high = torch.tensor(SEGMENTS)[labels].unbind(1)
    place = low + (high - low) * torch.rand(len(labels), generator=generator)
    core = torch.stack([place, torch.full_like(place, height)], 1)
    noise = NOISE * torch.randn(len(labels), 1, generator=generator)
    return ToyPoints(core + noise * torch.tensor([SHEAR, 1.0]), core)


def distance_to_segment(points: Float[Tensor, " n 2"], label: int, height: float) -> Float[Tensor, " n"]:
    """Return each point's distance to the core segment of a class."""
    low, high = SEGMENTS[label]
    beyond = points[:, 0] - points[:, 0].clamp(low, high)
    return torch.hypot(beyond, points[:, 1] - height)


class ToyNetwork(nn.Module):
    """Three-layer MLP on the point, a sinusoidal time embedding and a label embedding (App. I)."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(NUM_CLASSES + 1, EMBEDDING)
        self.first = nn.Linear(2 + 2 * EMBEDDING, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the three layers: `first` and `second` after their activation, and `eps`."""
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(EMBEDDING // 2) / (EMBEDDING // 2))
        angles = timesteps[:, None].float() * frequencies
        inputs = torch.cat([x_t, angles.sin(), angles.cos(), self.labels(labels)], 1)
        first = F.silu(self.first(inputs))
        second = F.silu(self.second(first))
        return {"first": first, "second": second, "eps": self.last(second)}


class ToyModel:
    """The trained network as a DiffusionModel; layers: first, second (the two hidden ones), eps (the output)."""

    feature_layers = ("first", "second", "eps")
    latent_shape = (2,)

    def __init__(self, network: ToyNetwork) -> None:
        self.schedule = linear_schedule()
        self.network = network.requires_grad_(False)

    def cond(self, labels: Tensor) -> Tensor:
        return labels

    def null_cond(self, num: int) -> Tensor:
        return torch.full((num,), NUM_CLASSES)

    def eps(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        return self.features(x_t, t, cond, "eps")

    def features(self, x_t: Tensor, t: float, cond: Tensor, layer: str) -> Tensor:
        return self.network(x_t, torch.full((len(x_t),), t), cond)[layer]

    def pool(self, features: Tensor) -> Tensor:
        return features

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def train_toy(config: ToyConfig, seed: int) -> ToyModel:
    """Train the eps-prediction network on points of both classes, with label dropout for guidance."""
    generator = torch_generator(seed, "toy", "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ToyNetwork()
    schedule = linear_schedule()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    alphas, sigmas = schedule.alpha_sigma(torch.arange(1000, dtype=torch.float64))
    for _ in range(config.num_steps):
        labels = torch.randint(NUM_CLASSES, (config.batch_size,), generator=generator)
        x_0 = draw_points(labels, config.height, generator).observed
        timesteps = torch.randint(1000, (config.batch_size,), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = alphas[timesteps, None].float() * x_0 + sigmas[timesteps, None].float() * noise
        dropped = torch.rand(config.batch_size, generator=generator) < config.label_dropout
        shown = torch.where(dropped, NUM_CLASSES, labels)
        loss = F.mse_loss(network(x_t, timesteps.float(), shown)["eps"], noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return ToyModel(network)


@dataclass(frozen=True)
class ToyOutcome:
    """Decoded points of one method and how they compare with the core."""

    points: Float[Tensor, " n 2"]
    distance: float
    """Mean distance to the core segment of the class."""
    correlation: float
    """Correlation of x with the place on the core: whether the class content survived."""


def run_method(model: ToyModel, points: ToyPoints, method: str, layer: str, t: float, config: ToyConfig) -> ToyOutcome:
    """Carry class-1 points through one method at projection time t.

    `original`, `reconstruction`, `guidance` (scale 3), or Eq. 2 with k = 1: `clarid`, `clarid_centred` (about the
    class mean), `random`, `random_centred`. Raises ValueError for another method.
    """
    labels = torch.ones(len(points.observed), dtype=torch.long)
    times = path_to(model.schedule.times(config.num_inference_steps), t)
    plain = guided_eps(model, labels, None, 1.0)
    x_t = invert(plain, points.observed, model, times)
    mean = torch.tensor([sum(SEGMENTS[1]) / 2, config.height]).expand_as(x_t)
    centre = model.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))[0].float() * mean
    one = torch.ones(len(labels), dtype=torch.long)
    generators = [torch_generator(config.seed, f"point/{i}", method) for i in range(len(labels))]
    if method == "original":
        return outcome(points.observed, points, config.height)
    if method == "reconstruction":
        return outcome(decode(plain, x_t, model, times), points, config.height)
    if method == "guidance":
        guided = guided_eps(model, labels, model.null_cond(len(labels)), config.guidance_scale)
        return outcome(decode(guided, x_t, model, times), points, config.height)
    if method.startswith("clarid"):
        settings = SpectrumConfig(layer=layer, num_directions=2, max_products=2)
        directions = leading_triplets(model, x_t, t, labels, settings, generators).right_vectors
    elif method.startswith("random"):
        directions = random_directions(generators, 2, 2)
    else:
        raise ValueError(f"method: {method!r} is unknown")
    projected = project_out(x_t, leading(directions, one), centre if method.endswith("_centred") else None)
    return outcome(decode(plain, projected, model, times), points, config.height)


def outcome(decoded: Float[Tensor, " n 2"], points: ToyPoints, height: float) -> ToyOutcome:
    """Compare decoded class-1 points with the core."""
    correlation = torch.corrcoef(torch.stack([decoded[:, 0], points.core[:, 0]]))[0, 1]
    return ToyOutcome(decoded, distance_to_segment(decoded, 1, height).mean().item(), correlation.item())
