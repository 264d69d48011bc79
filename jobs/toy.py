"""The paper's two-dimensional proof of concept (Sec. 3.3): uv run jobs/toy.py"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

import tyro

from clarep_ray.config import ToyConfig


def main() -> None:
    config = tyro.cli(ToyConfig)
    from clarep_ray.analysis.toy_report import run_toy

    print(run_toy(config).markdown())
    print(f"\nscatter plot and tables in {config.output}")


if __name__ == "__main__":
    stopping.run(main)
