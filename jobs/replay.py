"""Send to MLflow what it could not take before: uv run jobs/replay.py outputs/extract"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import TrackingConfig
from clarep_ray.dotted import check_text


@dataclass(frozen=True)
class ReplayJob:
    """Send what runs in this folder and below left in their outboxes; exits with 1 where something stays there."""

    output: Annotated[str, tyro.conf.Positional]
    """Output folder of a job or a sweep; of s3://BUCKET/PREFIX what its driver keeps on this machine is sent."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def main() -> None:
    with cli.exit_codes():
        job = cli.read_arguments(partial(tyro.cli, ReplayJob))
        from clarep_ray.data.records import printable
        from clarep_ray.data.store import open_store
        from clarep_ray.tracking import replay

        check_text("OUTPUT", job.output)
        found = replay(open_store(job.output).desk, job.tracking)
        for output, problem in found.items():
            print(printable(f"{output}: {problem or 'MLflow has everything'}"))
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    stopping.run(main)
