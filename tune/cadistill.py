"""Sweep CaDistill: number of CLAReps, loss weights, temperature, guidance, pairing: uv run tune/cadistill.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import DistillConfig, SearchConfig
from clarep_ray.presets import CADISTILL_SWEEPS, DISTILL


@dataclass(frozen=True, kw_only=True)
class CadistillSweep:
    """Run a named sweep, or one of your own (--search.space FILE). The same command continues an interrupted one."""

    config: Annotated[DistillConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """Where the defaults below come from; see clarep_ray/presets/distill.py."""
    sweep: str = "balance"
    """Which sweep; see clarep_ray/presets/sweeps.py."""
    search: SearchConfig = field(default_factory=SearchConfig)


def main() -> None:
    job = cli.parse(CadistillSweep, DISTILL, "digits", CADISTILL_SWEEPS)
    cli.print_config(cli.start_of_sweep(DISTILL[job.preset](), CADISTILL_SWEEPS, job.sweep), job.config)
    with cli.exit_codes():
        from clarep_ray.cluster.sweep import sweep_cadistill

        sweep_cadistill(job.config, CADISTILL_SWEEPS[job.sweep](), job.search, job.sweep)


if __name__ == "__main__":
    stopping.run(main)
