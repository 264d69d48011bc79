"""Find t_e, feature layer and timestep, and M of a model: uv run jobs/calibrate.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import CalibrateConfig
from clarep_ray.presets import CALIBRATE


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """Calibrate CLARID for a model and a set of images. The same command continues an interrupted run."""

    config: Annotated[CalibrateConfig, tyro.conf.arg(name="")]
    preset: str = "digits"
    """The extraction preset to calibrate; see clarep_ray/presets/calibrate.py."""
    dry_run: bool = False
    """Check everything, print what would be done, and stop; nothing is written."""


def main() -> None:
    job = cli.parse(CalibrateJob, CALIBRATE, "digits")
    cli.print_config(CALIBRATE[job.preset](), job.config)
    with cli.exit_codes():
        if job.dry_run:
            from clarep_ray.cluster import dry_run

            cli.say(dry_run.plan_calibration(job.config))
            return
        from clarep_ray.cluster.calibrate_report import run_calibration

        run_calibration(job.config, job.preset)


if __name__ == "__main__":
    stopping.run(main)
