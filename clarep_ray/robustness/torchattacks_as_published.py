"""The attacks of torchattacks 3.5.1 as the paper used them, errors included, behind our interface.

What is wrong with them, so that their figures can be read: CW's margin is wrong where logits are negative, its
pixels at exactly 0 or 1 cannot move, it stops by the batch's summed cost and never looks at its last step; PGD
returns its last iterate, not its best; APGD and Square seed the global random state anew for every batch, so that
each batch starts from the same noise. All of them depend on which pictures share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clarep_ray.config.evaluate import AttacksConfig
from clarep_ray.robustness.attack import AttackResult, as_evaluated, check_inputs
from clarep_ray.seeding import stream_seed

REQUIREMENT = "torchattacks==3.5.1"
"""The extra `torchattacks`; with --no-deps, for it asks for an old requests that mlflow cannot use, and needs none."""


def require_torchattacks() -> None:
    """Raise ValueError, saying how to install it, where the library is missing."""
    if find_spec("torchattacks") is None:
        raise ValueError(
            f"attacks.implementation: torchattacks is not installed; install it: pip install --no-deps {REQUIREMENT}"
        )


def _pgd(model: nn.Module, config: AttacksConfig, seed: int) -> Any:
    from torchattacks import PGD

    eps = config.eps_255 / 255
    return PGD(model, eps=eps, alpha=config.pgd.step(eps), steps=config.pgd.num_steps)


def _cw(model: nn.Module, config: AttacksConfig, seed: int) -> Any:
    from torchattacks import CW

    cw, build = config.cw, cast(Any, CW)  # its defaults are whole numbers, and so the types inferred from them
    return build(model, c=cw.c, kappa=cw.kappa, steps=cw.num_steps, lr=cw.learning_rate)


def _apgd(loss: str) -> Callable[[nn.Module, AttacksConfig, int], Any]:
    def build(model: nn.Module, config: AttacksConfig, seed: int) -> Any:
        from torchattacks import APGD

        apgd = config.apgd
        settings: dict[str, Any] = {
            "steps": apgd.num_steps,
            "n_restarts": apgd.num_restarts,
            "eot_iter": apgd.num_eot,
            "rho": apgd.rho,
        }
        return APGD(model, eps=config.eps_255 / 255, seed=seed, loss=loss, **settings)

    return build


def _square(model: nn.Module, config: AttacksConfig, seed: int) -> Any:
    from torchattacks import Square

    square = config.square
    return Square(model, eps=config.eps_255 / 255, n_queries=square.num_queries, p_init=square.p_init, seed=seed)


BUILDERS: dict[str, Callable[[nn.Module, AttacksConfig, int], Any]] = {
    "pgd": _pgd,
    "cw": _cw,
    "apgd_ce": _apgd("ce"),
    "apgd_dlr": _apgd("dlr"),
    "square": _square,
}


@dataclass(frozen=True, kw_only=True)
class TorchattacksAsPublished:
    """One attack of the library on a whole batch, pictures that are wrong from the beginning included.

    Its damage to the global random state is undone. PGD draws from that state; here it is seeded by the batch's keys.
    Gradients are counted as the settings say: the library tells nothing. Raises ValueError where it is missing.
    """

    attack: str
    config: AttacksConfig
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attack not in BUILDERS:
            raise ValueError(f"attack: {self.attack!r} is unknown; valid: {', '.join(BUILDERS)}")
        require_torchattacks()

    @property
    def name(self) -> str:
        return self.attack

    def __call__(
        self, model: nn.Module, images: Float[Tensor, " b c h w"], labels: Int[Tensor, " b"], keys: Sequence[str]
    ) -> AttackResult:
        check_inputs(images, labels, keys)
        attacked = torch.ones_like(labels, dtype=torch.bool)
        adversarial, success = images.clone(), torch.zeros_like(attacked)
        with as_evaluated(model), _private_random_state(images.device):
            torch.manual_seed(stream_seed(self.seed, "|".join(keys), f"torchattacks/{self.attack}"))
            if len(images):
                library = BUILDERS[self.attack](model, self.config, self.seed)
                library.set_device(images.device)
                adversarial = library(images, labels).detach()
                with torch.no_grad():
                    success = model(adversarial).argmax(1) != labels
        return AttackResult(adversarial, success, attacked, *self._costs(len(images)))

    def _costs(self, count: int) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"]]:
        config = self.config
        gradients = {
            "pgd": config.pgd.num_steps,
            "cw": config.cw.num_steps,
            "square": 0,
        }.get(self.attack, (config.apgd.num_steps + 1) * config.apgd.num_eot * config.apgd.num_restarts)
        queries = config.square.num_queries if self.attack == "square" else 0
        return torch.full((count,), gradients), torch.full((count,), queries)


@contextmanager
def _private_random_state(device: torch.device) -> Generator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
