"""The two interfaces every conditional diffusion model is seen through."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class NoiseSchedule(Protocol):
    """Signal and noise scale over a model's own time: x_t = alpha x_0 + sigma eps."""

    def alpha_sigma(self, t: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Return alpha and sigma (float64, CPU) at the given times; the clean time gives (1, 0)."""
        ...

    def times(self, num_steps: int) -> Float[Tensor, " n"]:
        """Return the sampling grid, ascending: the clean time, then `num_steps` noisy times (float64, CPU)."""
        ...

    def finest(self) -> Float[Tensor, " n"]:
        """Return the noisy times, ascending, among which others than `times` may choose (float64, CPU)."""
        ...


@runtime_checkable
class DiffusionModel(Protocol):
    """A frozen conditional diffusion model.

    `cond` is opaque to the method: whatever `cond()` returns goes back into `eps` and `features`.
    Every method treats the samples of a batch independently.
    """

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one latent x_t, e.g. (channels, height, width)."""
        ...

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """Module paths that `features` accepts, in the order of the forward pass."""
        ...

    def cond(self, labels: Int[Tensor, " b"]) -> Any:
        """Return the condition of each label; ValueError for a label the model does not know."""
        ...

    def null_cond(self, num: int) -> Any:
        """Return `num` unconditional conditions; ValueError where the family has no unconditional branch."""
        ...

    def eps(self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any) -> Float[Tensor, " b *latent"]:
        """Return the noise prediction at time t, in the units of x_t = alpha x_0 + sigma eps."""
        ...

    def features(
        self, x_t: Float[Tensor, " b *latent"], t: float, cond: Any, layer: str
    ) -> Float[Tensor, " b *feature"]:
        """Return the output of `layer`, stopping the forward pass there; differentiable twice in x_t."""
        ...

    def pool(self, features: Float[Tensor, " b *feature"]) -> Float[Tensor, " b channels"]:
        """Average a layer's output over space."""
        ...

    def encode(self, pixels: Float[Tensor, " b 3 h w"]) -> Float[Tensor, " b *latent"]:
        """Return the clean latents x_0 of pixels in [-1, 1]."""
        ...

    def decode(self, latents: Float[Tensor, " b *latent"]) -> Float[Tensor, " b 3 h w"]:
        """Return pixels, nominally in [-1, 1] and not clipped, of clean latents."""
        ...
