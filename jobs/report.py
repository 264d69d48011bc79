"""One HTML page of an extraction or a sweep: uv run jobs/report.py outputs/extract [--k-steps 0 4 8]"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import Given, ReportConfig


@dataclass(frozen=True, kw_only=True)
class ReportJob(ReportConfig):
    """Write report.html into the folder of an extraction or a sweep: one file that works without a network."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Output folder of an extraction, or folder of a sweep."""
    given: Annotated[Given, tyro.conf.arg(name="")] = field(default_factory=Given)


def main() -> None:
    with cli.exit_codes():
        job = cli.read_arguments(partial(tyro.cli, ReportJob))
        from clarep_ray.cluster.report import write_report

        page = write_report(job)
        print(f"look at      {page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    stopping.run(main)
