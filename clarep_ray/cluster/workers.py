"""How many actors a run has on a cluster's resources, and what each reserves. Does not import Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from clarep_ray.config import EngineConfig

TASK_CPUS = 0.2
"""Share of a CPU that a decode or commit task reserves; what is left of each CPU is the actor's."""


class HasEngine(Protocol):
    """The config of any job that runs on actors."""

    @property
    def engine(self) -> EngineConfig: ...


def default_actors(config: HasEngine, gpus: float, cpus: float) -> int:
    """Return how many actors a run has on these resources: as set, or one per (share of a) GPU, or one per CPU."""
    per_actor = gpus_per_actor(config, gpus)
    return config.engine.num_actors or max(1, int(gpus / per_actor) if per_actor else int(cpus))


def gpus_per_actor(config: HasEngine, gpus: float) -> float:
    """Return the GPUs of one actor: as set, or one where there are GPUs, else none."""
    return (1.0 if gpus else 0.0) if config.engine.gpus_per_actor is None else config.engine.gpus_per_actor


def worker_counts(config: HasEngine, resources: dict[str, Any], num_units: int) -> dict[str, Any]:
    """Return how many actors there are, at most one per unit, and what each reserves.

    Raises ValueError where they need more GPUs than there are and the cluster does not grow.
    """
    gpus = resources.get("GPU", 0.0)
    per_actor = gpus_per_actor(config, gpus)
    actors = default_actors(config, gpus, resources.get("CPU", 1.0))
    if per_actor * actors > gpus and not config.engine.autoscaling:
        most = f"at most {int(gpus / per_actor)}" if gpus >= per_actor else "--engine.gpus-per-actor 0 for CPUs"
        raise ValueError(
            f"engine.num_actors: {actors} actors of {per_actor:g} GPUs exceed the cluster's {gpus:g}; valid: {most}, "
            "or --engine.autoscaling where it grows"
        )
    return {"num_actors": min(actors, num_units), "gpus_per_actor": per_actor, "cpus_per_actor": 1.0 - TASK_CPUS}


def check_workers(num_workers: int, use_gpu: bool, resources: Mapping[str, Any]) -> None:
    """Raise ValueError where a training's workers, of one CPU and at most one GPU each, would be waited for in vain."""
    for what in ("CPU", "GPU") if use_gpu else ("CPU",):
        there = int(resources.get(what, 0))
        if num_workers > there:
            valid = f"at most {there}" if there else "--no-use-gpu"
            raise ValueError(
                f"num_workers: {num_workers} workers of one {what} each exceed the cluster's {there}; valid: {valid}, "
                "or RAY_ADDRESS of a cluster that has them"
            )


def actors_per_device(actors: int, gpus_per_actor: float, num_nodes: int) -> int:
    """Return how many actors share the memory that one of them finds: of its GPU, or of its machine."""
    return max(1, int(1 / gpus_per_actor)) if gpus_per_actor else -(-actors // max(1, num_nodes))
