"""Check every hash and count of an extraction: uv run jobs/verify.py outputs/extract [--repair]"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clarep_ray import cli


@dataclass(frozen=True)
class VerifyJob:
    """Check an extraction output; exits with 1 where something is damaged and was not repaired."""

    output: Annotated[Path, tyro.conf.Positional]
    """Output folder of an extraction."""
    repair: bool = False
    """Compute damaged units again, and nothing else."""


def main() -> None:
    job = tyro.cli(VerifyJob)
    with cli.exit_codes():
        from clarep_ray.data.records import printable
        from clarep_ray.data.verify import verify

        damages = verify(job.output)
        for damage in damages:
            print(printable(f"damaged: {'' if damage.unit is None else f'unit {damage.unit}: '}{damage.what}"))
        if damages and job.repair:
            from clarep_ray.cluster.repair import repair

            print(f"computed again: {repair(job.output, damages)}")
            damages = verify(job.output)
    print(f"{job.output}: {'damaged' if damages else 'every hash and count is right'}")
    sys.exit(1 if damages else 0)


if __name__ == "__main__":
    main()
