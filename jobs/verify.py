"""Check every hash and count of an extraction: uv run jobs/verify.py outputs/extract [--repair]"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import Given
from clarep_ray.dotted import check_local, check_text


@dataclass(frozen=True)
class VerifyJob:
    """Check an extraction output; exits with 1 where something is damaged and was not repaired."""

    where: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """Output folder of an extraction, or s3://BUCKET/PREFIX."""
    repair: bool = False
    """Compute damaged units again, and nothing else; summary, figures and page are made again from the units.

    Places that the extraction read are given below, as to it.
    """
    copy_to: Path | None = None
    """Copy a finished output at s3:// into this new folder, which is there once every hash is right; continues."""
    given: Annotated[Given, tyro.conf.arg(name="")] = field(default_factory=Given)


def main() -> None:
    with cli.exit_codes():
        job = cli.read_arguments(partial(tyro.cli, VerifyJob))
        from clarep_ray.data.store import open_store

        check_text("OUTPUT", job.where)
        store = open_store(job.where)
        if job.copy_to is not None:
            from clarep_ray.data.copy_output import copy_output
            from clarep_ray.data.writable import check_writable

            check_local("--copy-to", job.copy_to)
            check_writable(job.copy_to, "--copy-to")
            return copy_output(store, job.copy_to)
        from clarep_ray.data.records import printable
        from clarep_ray.data.verify import uncovered, verify

        damages = verify(store)
        for damage in damages:
            print(printable(f"damaged: {'' if damage.unit is None else f'unit {damage.unit}: '}{damage.what}"))
        if damages and job.repair:
            from clarep_ray.cluster.made_again import is_derived, make_again
            from clarep_ray.cluster.repair import repair

            if not all(map(is_derived, damages)):
                print(f"computed again: {repair(store, damages, job.given)}")
            print(f"made again: {', '.join(make_again(store)) or 'none'}")
            damages = verify(store)
        for line in uncovered(store):
            print(printable(f"not covered: {line}"))
        print(f"{store.where}: {'damaged' if damages else 'every hash and count is right'}")
    sys.exit(1 if damages else 0)


if __name__ == "__main__":
    stopping.run(main)
