"""Measure how robust a classifier is, or compare two: uv run jobs/evaluate.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import EvaluateConfig
from clarep_ray.presets import EVALUATE


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Evaluate on benchmarks and under attacks, trust checks first. The same command continues an interrupted run."""

    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """Where the defaults below come from; see clarep_ray/presets/evaluate.py."""
    dry_run: bool = False
    """Check everything, print what would be done, and stop; nothing is written."""


def main() -> None:
    job = cli.parse(EvaluateJob, EVALUATE, "digits")
    cli.print_config(EVALUATE[job.preset](), job.config)
    with cli.exit_codes():
        if job.dry_run:
            from clarep_ray.cluster import dry_run

            cli.say(dry_run.plan_evaluation(job.config))
            return
        from clarep_ray.cluster.evaluate_report import run_evaluation

        run_evaluation(job.config, job.preset)


if __name__ == "__main__":
    stopping.run(main)
