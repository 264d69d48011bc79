"""Measure against named references in the same run: uv run jobs/benchmark.py svd|engine"""

import platform
from importlib.metadata import version

import tyro

from clarep_ray import cli
from clarep_ray.config import EngineBenchmarkConfig, SvdBenchmarkConfig
from clarep_ray.presets import EXTRACT


def main() -> None:
    config = tyro.extras.subcommand_cli_from_dict({"svd": SvdBenchmarkConfig, "engine": EngineBenchmarkConfig})
    with cli.exit_codes():
        cli.check_preset(EXTRACT, getattr(config, "preset", "digits"))
        if isinstance(config, SvdBenchmarkConfig):
            from clarep_ray.analysis.svd_benchmark import run_svd_benchmark

            table = run_svd_benchmark(config)
        else:
            from clarep_ray.cluster.engine_benchmark import run_engine_benchmark

            table = run_engine_benchmark(config, EXTRACT[config.preset]().config)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "diffusers", "numpy"))
    print(f"{table}\n\n{platform.machine()}, Python {platform.python_version()}, {versions}\n{config}")


if __name__ == "__main__":
    main()
