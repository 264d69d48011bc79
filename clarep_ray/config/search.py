"""How a search space is searched, and what a search space is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clarep_ray.config.checks import require, require_seed
from clarep_ray.dotted import EXECUTION, check_types

SearchMethod = Literal["grid", "random", "optuna"]


@dataclass(frozen=True)
class Range:
    """Values between two ends, both included; whole numbers where both ends are."""

    low: float
    high: float
    log: bool = False
    """Spread evenly over the logarithm."""

    def __post_init__(self) -> None:
        require(self.low < self.high, "range", (self.low, self.high), "low below high")
        require(not self.log or self.low > 0, "range", (self.low, self.high), "a low above 0 where log is true")

    @property
    def whole(self) -> bool:
        return type(self.low) is int and type(self.high) is int


Block = Mapping[str, "tuple[Any, ...] | Range"]
"""{dotted config field: values to try}; a grid is their product."""
Space = tuple[Block, ...]
"""One block, or several whose points are joined."""
Point = dict[str, Any]
"""{dotted config field: value} of one trial."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the space is searched."""

    method: SearchMethod = "grid"
    """Every combination, `num_trials` random ones, or Optuna's tree-structured Parzen estimator."""
    space: str | None = field(default=None, metadata=EXECUTION)
    """JSON file {"dotted.field": [values] or {"low": a, "high": b, "log": true}}, or a list of such, for the sweep's
    own."""
    num_trials: int = 20
    """random, optuna: trials; a grid has as many as it has points."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each trial is run with each seed; tables give mean, standard deviation and interval over them."""
    metric: str | None = None
    """What makes a trial the best; None takes the sweep's own."""
    mode: Literal["max", "min"] | None = None
    """Whether more of it is better or less; None takes the sweep's own."""
    sampler_seed: int = 0
    """Seed of random draws and of Optuna."""
    asha: bool = False
    """cadistill: stop trials early that are behind after as many epochs (Li et al. 2020); one seed, by val_accuracy."""
    grace_epochs: int = 5
    """asha: no trial is stopped earlier [epochs]."""
    at_once: int | None = field(default=None, metadata=EXECUTION)
    """Trials at a time; None takes as many as the cluster has CPUs, or GPUs."""
    retry_failed: bool = field(default=False, metadata=EXECUTION)
    """Run failed trials once more; otherwise they stay in the table as they are."""

    def __post_init__(self) -> None:
        check_types(self)
        for seed in self.seeds:
            require_seed(seed)
        distinct = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        require(distinct, "search.seeds", self.seeds, "one or more different seeds")
        for name in ("num_trials", "grace_epochs"):
            require(getattr(self, name) >= 1, f"search.{name}", getattr(self, name), "1 or more")
        require(self.at_once is None or self.at_once >= 1, "search.at_once", self.at_once, "None, or 1 and more")
        require(not self.asha or len(self.seeds) == 1, "search.seeds", self.seeds, "one seed where search.asha is on")
        known = not self.asha or self.metric in (None, "val_accuracy")
        require(known, "search.metric", self.metric, "val_accuracy where search.asha is on")
