"""The paper's two-dimensional proof of concept (Sec. 3.3): uv run jobs/toy.py"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

from functools import partial
from pathlib import Path

import tyro

from clarep_ray import cli
from clarep_ray.config import ToyConfig
from clarep_ray.data.writable import check_writable


def main() -> None:
    with cli.exit_codes():
        config = cli.read_arguments(partial(tyro.cli, ToyConfig))
        check_writable(Path(config.output))
        from clarep_ray.analysis.toy_report import run_toy

        print(run_toy(config).markdown())
        print(f"\nscatter plot and tables in {config.output}")


if __name__ == "__main__":
    stopping.run(main)
