"""Measure against named references in the same run: uv run jobs/benchmark.py svd|engine|size|attacks"""

import platform
from importlib.metadata import version
from importlib.util import find_spec

import tyro

from clarep_ray import cli
from clarep_ray.config import AttackBenchmarkConfig, EngineBenchmarkConfig, SizeBenchmarkConfig, SvdBenchmarkConfig
from clarep_ray.presets import EXTRACT


def main() -> None:
    kinds = {"svd": SvdBenchmarkConfig, "engine": EngineBenchmarkConfig, "size": SizeBenchmarkConfig}
    config = tyro.extras.subcommand_cli_from_dict({**kinds, "attacks": AttackBenchmarkConfig})
    with cli.exit_codes():
        cli.check_preset(EXTRACT, getattr(config, "preset", "digits"))
        if isinstance(config, SvdBenchmarkConfig):
            from clarep_ray.analysis.svd_benchmark import run_svd_benchmark

            table = run_svd_benchmark(config)
        elif isinstance(config, SizeBenchmarkConfig):
            from clarep_ray.analysis.size_benchmark import run_size_benchmark

            table = run_size_benchmark(config)
        elif isinstance(config, AttackBenchmarkConfig):
            from clarep_ray.robustness.attack_benchmark import run_attack_benchmark

            table = run_attack_benchmark(config)
        else:
            from clarep_ray.cluster.engine_benchmark import run_engine_benchmark

            table = run_engine_benchmark(config, EXTRACT[config.preset]().config)
    installed = [name for name in ("torch", "ray", "diffusers", "numpy", "torchattacks") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in installed)
    print(f"{table}\n\n{platform.machine()}, Python {platform.python_version()}, {versions}\n{config}")


if __name__ == "__main__":
    main()
