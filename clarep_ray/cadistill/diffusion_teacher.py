"""A frozen diffusion model beside a training: features of images, a choice of timesteps, one-step denoising."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from clarep_ray.cadistill.learner import Head
from clarep_ray.cadistill.teachers import Reading
from clarep_ray.config import TeacherConfig
from clarep_ray.data.class_list import Match
from clarep_ray.models.adapter import Adapter


class DiffusionTeacher:
    """A diffusion model read with labels or without, at one layer.

    Not a module on purpose: it is frozen, belongs to no checkpoint, and several workers each have their own.
    """

    def __init__(self, model: Adapter, config: TeacherConfig, found: Match | None = None) -> None:
        self.match = found
        """How the model's labels became the training set's; None where it is read without labels."""
        self.model, self.layer, self.feature_t = model, config.reading.layer, config.reading.feature_t
        if self.layer not in model.feature_layers:
            valid = ", ".join(model.feature_layers)
            raise ValueError(f"teacher.reading.layer: {self.layer!r} is not valid; valid: {valid}")
        try:
            grid = model.schedule.times(config.num_times).tolist()
        except ValueError as error:
            raise ValueError(f"teacher.num_times: {error}") from None
        latest = model.schedule.finest()[-1].item()
        if not 0 <= self.feature_t <= latest:
            raise ValueError(f"teacher.reading.feature_t: {self.feature_t} is not valid; valid: 0 to {latest:g}")
        self.times: list[float] = grid[1:]
        """The timesteps there are to choose from, ascending."""

    def to(self, device: torch.device) -> DiffusionTeacher:
        self.model = self.model.to(device)
        return self

    def width(self, labelled: bool) -> int:
        """Return the width of the averaged features, as they are read with labels or without."""
        latents = torch.zeros(1, *self.model.latent_shape, device=self.model.device)
        cond = self.model.cond(torch.zeros(1, dtype=torch.long)) if labelled else self.model.null_cond(1)
        return self.model.layer_means(latents, self.times[0], cond, [self.layer])[self.layer].shape[1]

    def latents(self, pixels: Float[Tensor, " b 3 h w"]) -> Tensor:
        """Return clean latents of pixels in [0, 1], resized to the model's side."""
        side = (self.model.image_size, self.model.image_size)
        if pixels.shape[-2:] != side:
            pixels = F.interpolate(pixels, side, mode="bicubic", antialias=True).clamp(0, 1)
        return self.model.encode(pixels * 2 - 1)

    @torch.no_grad()
    def read(
        self, pixels: Float[Tensor, " b 3 h w"], labels: Int[Tensor, " b"], eps: Float[Tensor, " b *latent"]
    ) -> Reading:
        """Return the layer's output on noised images, with their labels, at the feature timestep (Sec. 4).

        As an extraction reads features, but of the images as the student sees them; `labels` are the training set's,
        `eps` is the noise.
        """
        assert self.match is not None, "a teacher that is read with labels knows how they match"
        cond = self.model.cond(torch.tensor(self.match.labels)[labels.cpu()])
        times = torch.full((len(pixels),), self.feature_t, dtype=torch.float64)
        latents = self._noised(self.latents(pixels), times, eps)
        output = self.model.features(latents, self.feature_t, cond, self.layer).float()
        maps = self.model.spatial(output)
        return Reading(torch.zeros(len(pixels), 0, device=pixels.device), maps.mean((2, 3)), maps)

    def null_features(self, pixels: Float[Tensor, " b 3 h w"], chosen: Int[Tensor, " b"]) -> Float[Tensor, " b e"]:
        """Return averaged features of clean images, each at its chosen timestep, without a label.

        RepFusion feeds the image as it is, together with t; without the label, which would give the answer away
        (Sec. K.6): by a model that was trained without any, or by the unconditional branch.
        """
        latents = self.latents(pixels)

        def read(rows: Tensor, t: float) -> Tensor:
            cond = self.model.null_cond(len(rows))
            return self.model.layer_means(rows, t, cond, [self.layer])[self.layer]

        return self._by_time(latents, chosen, read)

    @torch.no_grad()
    def denoised(
        self, pixels: Float[Tensor, " b 3 h w"], chosen: Int[Tensor, " b"], eps: Float[Tensor, " b *latent"]
    ) -> Float[Tensor, " b 3 h w"]:
        """Return one-step reconstructions (DiffAug): noise each image to its timestep and predict x_0 at once.

        Without a label. Pixels in [0, 1], with the side of the input; `eps` is the noise.
        """
        latents = self.latents(pixels)
        times = torch.tensor(self.times, dtype=torch.float64)[chosen.cpu()]
        x_t = self._noised(latents, times, eps)
        alpha, sigma = self._scales(times, latents)
        predicted = self._by_time(x_t, chosen, lambda rows, t: self.model.eps(rows, t, self.model.null_cond(len(rows))))
        clean = self.model.decode((x_t - sigma * predicted) / alpha.clamp_min(1e-3)).clamp(-1, 1) / 2 + 0.5
        return F.interpolate(clean, pixels.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)

    def _scales(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.model.schedule.alpha_sigma(times)
        return alpha.to(like).view(-1, 1, 1, 1), sigma.to(like).view(-1, 1, 1, 1)

    def _noised(self, latents: Tensor, times: Tensor, eps: Tensor) -> Tensor:
        alpha, sigma = self._scales(times, latents)
        return alpha * latents + sigma * eps

    def _by_time(self, rows: Tensor, chosen: Tensor, read: Callable[[Tensor, float], Tensor]) -> Tensor:
        """Return `read(rows, t)` of every row at its own timestep: a model takes one timestep per call."""
        parts, order = list[Tensor](), list[Tensor]()
        for number in chosen.unique().tolist():
            places = (chosen == number).nonzero()[:, 0]
            parts.append(read(rows[places], self.times[number]))
            order.append(places)
        return torch.cat(parts)[torch.cat(order).argsort()]


class RepFusionHead(Head):
    """RepFusion: a small policy chooses each image's timestep, a linear head judges the teacher's features there."""

    def __init__(self, teacher: DiffusionTeacher, width: int, num_classes: int) -> None:
        super().__init__()
        self.teacher = teacher
        num_times, teacher_width = len(teacher.times), teacher.width(labelled=False)
        self.policy = nn.Sequential(
            nn.Conv2d(3, 6, 5, padding=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(14),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(5),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, num_times),
        )
        self.judge = nn.Linear(teacher_width, num_classes)
        self.regressor = nn.Linear(width, teacher_width)

    def forward(self, features: Tensor, maps: Tensor, pixels: Tensor, draws: Tensor) -> dict[str, Tensor]:
        log_policy = F.log_softmax(self.policy(pixels).float(), 1)
        below = log_policy.detach().exp().cumsum(1)
        chosen = (draws[:, :1] >= below).sum(1).clamp_max(log_policy.shape[1] - 1)
        taught = self.teacher.null_features(pixels, chosen)
        return {
            "log_policy": log_policy,
            "chosen": chosen,
            "taught": taught,
            "judged": self.judge(taught).float(),
            "regressed": self.regressor(features).float(),
        }
