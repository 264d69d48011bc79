"""The network batch of a run that leaves it to the machine: what an earlier process recorded, else what fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from clarep_ray.cluster import runtime
from clarep_ray.cluster.workers import TASK_CPUS, actors_per_device, default_actors, gpus_per_actor
from clarep_ray.config import ExtractConfig
from clarep_ray.models.batch_memory import BatchMemory, fitting_batch, probe_memory

Choose = Callable[[ExtractConfig], int]
"""Returns how many images a network batch of an extraction takes."""


def batch_here(config: ExtractConfig) -> int:
    """Return what fits into a share of this machine's memory or GPU for each actor that it would have."""
    gpus = torch.cuda.device_count()
    memory, free = probe_memory(config, "cuda" if gpus else "cpu")
    return _fitting(config, memory, free, gpus, os.cpu_count() or 1, num_nodes=1)[0]


def batch_on_cluster(config: ExtractConfig, say: Callable[[str], None]) -> int:
    """Return what fits where an actor runs, measured by a task that takes an actor's place, and say it."""
    resources = runtime.connect()
    import ray

    gpus = resources.get("GPU", 0.0)
    per_actor = gpus_per_actor(config, gpus)
    probe = ray.remote(num_cpus=1.0 - TASK_CPUS, num_gpus=per_actor, max_calls=1)(probe_memory)
    memory, free = ray.get(probe.remote(config, "cuda" if per_actor else "cpu"))
    nodes: list[dict[str, Any]] = ray.nodes()
    working = sum(1 for node in nodes if node["Alive"] and node["Resources"].get("CPU"))
    number, line = _fitting(config, memory, free, gpus, resources.get("CPU", 1.0), working)
    say(line)
    return number


def _fitting(
    config: ExtractConfig, memory: BatchMemory, free: int, gpus: float, cpus: float, num_nodes: int
) -> tuple[int, str]:
    """Return the batch and the line that tells why."""
    actors = default_actors(config, gpus, cpus)
    sharing = actors_per_device(actors, gpus_per_actor(config, gpus), num_nodes)
    number = fitting_batch(memory, free / sharing, config.engine.unit_size)
    return number, f"micro-batch {number}: {memory}; {free / sharing / 1e9:.1f} GB free for each of {sharing} actors"
