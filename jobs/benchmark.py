"""Measure against named references in the same run: uv run jobs/benchmark.py --help"""

import platform
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import tyro

from clarep_ray import cli, config
from clarep_ray.presets import DISTILL, EXTRACT

KINDS: dict[str, tuple[type, str, Any]] = {
    "svd": (config.SvdBenchmarkConfig, "analysis.svd_benchmark", None),
    "peers": (config.PeersBenchmarkConfig, "analysis.peers_benchmark", None),
    "products": (config.ProductsBenchmarkConfig, "analysis.products_benchmark", None),
    "sampling": (config.SamplingBenchmarkConfig, "analysis.sampling_benchmark", EXTRACT),
    "reference": (config.ReferenceBenchmarkConfig, "analysis.reference_benchmark", EXTRACT),
    "engine": (config.EngineBenchmarkConfig, "cluster.engine_benchmark", EXTRACT),
    "scaling": (config.ScalingBenchmarkConfig, "cluster.scaling_benchmark", EXTRACT),
    "size": (config.SizeBenchmarkConfig, "analysis.size_benchmark", None),
    "attacks": (config.AttackBenchmarkConfig, "robustness.attack_benchmark", None),
    "distill": (config.DistillBenchmarkConfig, "cadistill.step_benchmark", DISTILL),
}
"""Subcommand: its config, the module whose `run` measures, and the presets that one of them starts from."""


def main() -> None:
    chosen = tyro.extras.subcommand_cli_from_dict({name: kind for name, (kind, _, _) in KINDS.items()})
    _, module, presets = next(entry for entry in KINDS.values() if isinstance(chosen, entry[0]))
    with cli.exit_codes():
        start = (cli.preset_config(presets, chosen.preset),) if presets else ()
        table = import_module(f"clarep_ray.{module}").run(chosen, *start)
    installed = [name for name in ("torch", "ray", "diffusers", "numpy", "torchattacks") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in installed)
    print(f"{table}\n\n{platform.machine()}, Python {platform.python_version()}, {versions}\n{chosen}")


if __name__ == "__main__":
    main()
