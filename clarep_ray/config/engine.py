"""Work units and the machines that do them."""

from __future__ import annotations

from dataclasses import dataclass, field

from clarep_ray.config.checks import require
from clarep_ray.dotted import EXECUTION, check_types


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Work units and the machines that do them."""

    unit_size: int = 24
    """Rows of a work unit: one unit is one shard, committed and retried as a whole [images]."""
    micro_batch: int | None = 12
    """Rows of one network batch, padded to exactly this many; None, in an extraction: as many as fit into the memory of
    the machine that the run begins on, recorded with it [images]."""
    num_threads: int = 1
    """CPU threads of torch in an actor."""
    num_actors: int | None = field(default=None, metadata=EXECUTION)
    """Model actors; None takes one per GPU, or one per CPU where there is no GPU."""
    gpus_per_actor: float | None = field(default=None, metadata=EXECUTION)
    """GPUs (or a fraction) of each actor; None takes 1 where the cluster has GPUs, else 0."""
    autoscaling: bool = field(default=False, metadata=EXECUTION)
    """The cluster grows to what the actors ask for, perhaps from nothing: num_actors and gpus_per_actor say it.

    Off, more actors than the cluster has GPUs for are refused instead of waited for."""
    units_in_flight: int = field(default=2, metadata=EXECUTION)
    """Units an actor may hold, one at work and the others waiting; bounds memory [units]."""
    max_attempts: int = field(default=4, metadata=EXECUTION)
    """Give a unit up, loudly, after so many interrupted attempts on the whole of it that no single picture explains."""
    unit_deadline_s: float | None = field(default=None, metadata=EXECUTION)
    """End an actor whose unit takes longer, with a stack trace on its machine, and start the unit again; None: in an
    extraction ten times the median of the actor's own units, 60 at least, once it has done three; else never [s]."""
    allow_poison: bool = field(default=False, metadata=EXECUTION)
    """Reject a picture that kills or hangs every process that works on it; off, an extraction does everything else and
    ends with 3, naming it."""
    take_over: bool = field(default=False, metadata=EXECUTION)
    """Take the output from a process that still works on it; that one ends with 8 within ten seconds."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("unit_size", "num_threads", "units_in_flight", "max_attempts"):
            require(getattr(self, name) >= 1, f"engine.{name}", getattr(self, name), "1 or more")
        rows = self.micro_batch
        require(rows is None or rows >= 1, "engine.micro_batch", rows, "None, or 1 and more")
        limit = self.unit_deadline_s
        require(limit is None or limit > 0, "engine.unit_deadline_s", limit, "None, or above 0")
        require(
            self.num_actors is None or self.num_actors >= 1, "engine.num_actors", self.num_actors, "None, or 1 and more"
        )
        require(
            self.gpus_per_actor is None or self.gpus_per_actor >= 0,
            "engine.gpus_per_actor",
            self.gpus_per_actor,
            "None, or 0 and more",
        )
        for name in ("num_actors", "gpus_per_actor"):
            given = getattr(self, name) is not None
            require(given or not self.autoscaling, f"engine.{name}", None, "a number where engine.autoscaling is on")

    @property
    def rows_per_call(self) -> int:
        """`micro_batch` as a number; ValueError where none was chosen."""
        if self.micro_batch is None:
            raise ValueError("engine.micro_batch: None is not valid; valid: 1 and more, once a plan has chosen it")
        return self.micro_batch
