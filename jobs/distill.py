"""Train students with CaDistill or a baseline: uv run jobs/distill.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import DistillConfig
from clarep_ray.presets import DISTILL


@dataclass(frozen=True, kw_only=True)
class DistillJob:
    """Train students (CaDistill, Sec. 4, or a baseline), or compare all with `--preset compare`. Resumes by itself."""

    config: Annotated[DistillConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """Where the defaults below come from; see clarep_ray/presets/distill.py."""
    seeds: tuple[int, ...] = ()
    """Train one student per seed, in folders below `output`; empty: the one of `seed`, or five to compare."""
    dry_run: bool = False
    """Check everything, print what would be done, and stop; nothing is written."""


def main() -> None:
    job = cli.parse(DistillJob, DISTILL, "digits")
    cli.print_config(DISTILL[job.preset](), job.config)
    with cli.exit_codes():
        if job.dry_run:
            from clarep_ray.cluster import dry_run

            cli.say(dry_run.plan_students(job.config, job.preset, job.seeds))
            return
        if job.preset == "compare":
            from clarep_ray.cluster.compare import compare

            compare(job.config, job.seeds or tuple(range(5)))
        else:
            from clarep_ray.cluster.distill import distill_seeds

            distill_seeds(job.config, job.seeds)


if __name__ == "__main__":
    stopping.run(main)
