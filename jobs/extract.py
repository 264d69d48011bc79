"""Images in, shards of Canonical Samples and Features out: uv run jobs/extract.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import ExtractConfig
from clarep_ray.errors import TooManyRejects
from clarep_ray.presets import EXTRACT


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """Extract Canonical Latent Representations (CLARID). The same command continues an interrupted run."""

    config: Annotated[ExtractConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """Where the defaults below come from; see clarep_ray/presets/extract.py and baselines.py."""
    calibration: str | None = None
    """calibration.json of jobs/calibrate.py: its settings replace the preset's; made with the same weights."""
    dry_run: bool = False
    """Check everything, print plan and cost, and stop."""
    controls: bool = False
    """Compare every projection control over three seeds instead of extracting once."""


def main() -> None:
    job = cli.parse(ExtractJob, EXTRACT, "digits")
    cli.print_config(cli.start_of(EXTRACT, job.preset, job.calibration), job.config)
    with cli.exit_codes():
        from clarep_ray.cluster import health, plan, publish

        if job.calibration is not None:
            plan.check_calibration(job.calibration, job.config)
        if job.dry_run:
            made = plan.make_plan(job.config)
            print(plan.describe(made))
            health.tell_plan(made)
        elif job.controls:
            publish.run_controls(job.config, job.preset)
        else:
            rate = publish.extract_and_publish(job.config, job.preset)["reject_rate"]
            if rate > job.config.output.max_reject_rate:
                raise TooManyRejects(
                    f"output.max_reject_rate: {rate:.2%} of the images were rejected, which is more than "
                    f"{job.config.output.max_reject_rate:.2%}; the reasons are in index.parquet, all else is written"
                )


if __name__ == "__main__":
    stopping.run(main)
