"""Independent references: a diffusion model known in closed form, dense Jacobians and their exact spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from clarep_ray.clarid.model import NoiseSchedule
from clarep_ray.clarid.sampling import eps_from_x0
from clarep_ray.clarid.schedule import SigmaSchedule, linear_schedule


class GaussianModel:
    """The optimal denoiser of x | c ~ N(mu_c, diag lam): inversion, Jacobian and decoding are known exactly."""

    feature_layers = ("eps", "x_0")

    def __init__(self, means: Tensor, variances: Tensor, schedule: NoiseSchedule | None = None) -> None:
        self.schedule = schedule or linear_schedule()
        self.means, self.variances = means, variances
        self.latent_shape = (len(variances),)

    def scales(self, t: float) -> tuple[float, float]:
        alpha, sigma = self.schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))
        return alpha.item(), sigma.item()

    def cond(self, labels: Tensor) -> Tensor:
        return self.means[labels]

    def null_cond(self, num: int) -> Tensor:
        return self.means.mean(0).expand(num, -1)

    def eps(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        alpha, sigma = self.scales(t)
        return sigma * (x_t - alpha * cond) / (alpha**2 * self.variances + sigma**2)

    def features(self, x_t: Tensor, t: float, cond: Tensor, layer: str) -> Tensor:
        eps = self.eps(x_t, t, cond)
        alpha, sigma = self.scales(t)
        return {"eps": eps, "x_0": (x_t - sigma * eps) / alpha}[layer]

    def pool(self, features: Tensor) -> Tensor:
        return features

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def exact_latent(self, x_0: Tensor, t: float, cond: Tensor) -> Tensor:
        """Return the end of the probability-flow path from x_0 to time t."""
        alpha, sigma = self.scales(t)
        return alpha * cond + ((alpha**2 * self.variances + sigma**2) / self.variances).sqrt() * (x_0 - cond)


class EdmGaussianModel(GaussianModel):
    """The same model as EDM has it: a denoiser D of x_0 on the clock of sigma."""

    def __init__(self, means: Tensor, variances: Tensor) -> None:
        super().__init__(means, variances, SigmaSchedule())

    def eps(self, x_t: Tensor, t: float, cond: Tensor) -> Tensor:
        denoised = (self.variances * x_t + t**2 * cond) / (self.variances + t**2)
        return eps_from_x0(denoised, x_t, 1.0, t)


class DenseOperator:
    """J^T J of explicit matrices, for solvers that only multiply."""

    def __init__(self, matrices: Tensor) -> None:
        self.matrices = matrices
        self.products = 0

    def gram(self, vectors: Tensor) -> Tensor:
        self.products += vectors.shape[1]
        return vectors @ self.matrices.mT @ self.matrices

    def exact(self, count: int) -> tuple[Tensor, Tensor]:
        """Return exact singular values (b, count) and right vectors (b, count, d) in float64."""
        _, values, right = torch.linalg.svd(self.matrices.double(), full_matrices=False)
        return values[:, :count], right[:, :count]


def largest_angle_sine(first: Tensor, second: Tensor) -> float:
    """Return the sine of the largest principal angle between the row spaces of two (k, d) orthonormal bases."""
    first, second = first.double(), second.double()
    return float(torch.linalg.matrix_norm(first - first @ second.mT @ second, ord=2))


def projection_gap(first: Tensor, second: Tensor, x: Tensor) -> float:
    """Return ||(P_1 - P_2) x|| / ||x|| for the projectors on the row spaces of two bases."""
    first, second, x = first.double(), second.double(), x.double().flatten()
    difference = first.mT @ (first @ x) - second.mT @ (second @ x)
    return float(difference.norm() / x.norm())
