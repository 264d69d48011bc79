"""Attacks by name, built from a config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clarep_ray.config.evaluate import AttacksConfig
from clarep_ray.robustness.apgd import Apgd, ApgdTargeted
from clarep_ray.robustness.attack import Attack
from clarep_ray.robustness.cw import Cw
from clarep_ray.robustness.ensemble import Ensemble
from clarep_ray.robustness.fab import FabTargeted
from clarep_ray.robustness.pgd import Pgd
from clarep_ray.robustness.square import Square
from clarep_ray.robustness.torchattacks_as_published import TorchattacksAsPublished

ENSEMBLE4 = ("pgd", "cw", "apgd_dlr", "apgd_ce")
"""What the paper's App. K.7 calls AutoAttack: its own four attacks."""
AUTOATTACK_STEPS, AUTOATTACK_QUERIES, AUTOATTACK_TARGETS = 100, 5000, 9
"""Budgets of the standard version (Croce and Hein 2020)."""


@dataclass(frozen=True)
class Running:
    """How an attack is run: seed of its draws, rows of a network call, and whether calls are padded to them."""

    seed: int = 0
    micro_batch: int | None = None
    padded: bool = False

    def fields(self) -> dict[str, Any]:
        return {"seed": self.seed, "micro_batch": self.micro_batch, "padded": self.padded}


def _pgd(config: AttacksConfig, running: Running) -> Attack:
    pgd, eps = config.pgd, config.eps_255 / 255
    return Pgd(eps=eps, step=pgd.step(eps), num_steps=pgd.num_steps, num_restarts=pgd.num_restarts, **running.fields())


def _cw(config: AttacksConfig, running: Running) -> Attack:
    cw = config.cw
    return Cw(c=cw.c, kappa=cw.kappa, num_steps=cw.num_steps, learning_rate=cw.learning_rate, **running.fields())


def _apgd_settings(config: AttacksConfig, running: Running) -> dict[str, Any]:
    apgd = config.apgd
    budget = {"num_steps": apgd.num_steps, "num_restarts": apgd.num_restarts, "num_eot": apgd.num_eot}
    return {"eps": config.eps_255 / 255, "rho": apgd.rho, **budget, **running.fields()}


def _apgd_ce(config: AttacksConfig, running: Running) -> Attack:
    return Apgd(loss="ce", **_apgd_settings(config, running))


def _apgd_dlr(config: AttacksConfig, running: Running) -> Attack:
    return Apgd(loss="dlr", **_apgd_settings(config, running))


def _apgd_t(config: AttacksConfig, running: Running) -> Attack:
    return ApgdTargeted(num_targets=config.apgd.num_targets, **_apgd_settings(config, running))


def _fab_t(config: AttacksConfig, running: Running) -> Attack:
    apgd = config.apgd
    return FabTargeted(
        eps=config.eps_255 / 255, num_steps=apgd.num_steps, num_targets=apgd.num_targets, **running.fields()
    )


def _square(config: AttacksConfig, running: Running) -> Attack:
    square = config.square
    return Square(eps=config.eps_255 / 255, num_queries=square.num_queries, p_init=square.p_init, **running.fields())


def _autoattack(config: AttacksConfig, running: Running) -> Attack:
    """Return AutoAttack's standard version: only the budget eps is the config's, all else is as published."""
    shared: dict[str, Any] = {"eps": config.eps_255 / 255, **running.fields()}
    targeted: dict[str, Any] = {"num_steps": AUTOATTACK_STEPS, "num_targets": AUTOATTACK_TARGETS, **shared}
    members = (
        Apgd(loss="ce", num_steps=AUTOATTACK_STEPS, **shared),
        ApgdTargeted(**targeted),
        FabTargeted(**targeted),
        Square(num_queries=AUTOATTACK_QUERIES, **shared),
    )
    return Ensemble(name="autoattack", members=members)


ATTACKS: dict[str, Callable[[AttacksConfig, Running], Attack]] = {
    "pgd": _pgd,
    "cw": _cw,
    "apgd_dlr": _apgd_dlr,
    "apgd_ce": _apgd_ce,
    "apgd_t": _apgd_t,
    "fab_t": _fab_t,
    "square": _square,
    "autoattack": _autoattack,
}


def build_attack(name: str, config: AttacksConfig, running: Running | None = None) -> Attack:
    """Return the attack of a name, in the implementation that the config asks for.

    Raises ValueError for an unknown name, listing the known ones, or one that torchattacks has no part of.
    """
    running = running or Running()
    if name == "ensemble4":
        members = tuple(build_attack(member, config, running) for member in ENSEMBLE4)
        return Ensemble(name=name, members=members)
    if name not in ATTACKS:
        raise ValueError(f"attacks.names: {name!r} is unknown; valid: {', '.join((*ATTACKS, 'ensemble4'))}")
    if config.implementation == "torchattacks":
        return TorchattacksAsPublished(attack=name, config=config, seed=running.seed)
    return ATTACKS[name](config, running)
