"""Sweep CLARID: window M, elbow rule, k, guidance, t_e, Jacobian layer, controls: uv run tune/clarid.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import ExtractConfig, SearchConfig
from clarep_ray.presets import CLARID_SWEEPS, EXTRACT


@dataclass(frozen=True, kw_only=True)
class ClaridSweep:
    """Run a named sweep, or one of your own (--search.space FILE). The same command continues an interrupted one."""

    config: Annotated[ExtractConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """Where the defaults below come from; see clarep_ray/presets/extract.py."""
    sweep: str = "window"
    """Which sweep; see clarep_ray/presets/sweeps.py."""
    search: SearchConfig = field(default_factory=SearchConfig)


def main() -> None:
    job = cli.parse(ClaridSweep, EXTRACT, "digits", CLARID_SWEEPS)
    cli.print_config(cli.start_of_sweep(EXTRACT[job.preset](), CLARID_SWEEPS, job.sweep), job.config)
    with cli.exit_codes():
        from clarep_ray.cluster.sweep import sweep_clarid

        sweep_clarid(job.config, CLARID_SWEEPS[job.sweep](), job.search, job.sweep)


if __name__ == "__main__":
    stopping.run(main)
