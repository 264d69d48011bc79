"""Measure against named references in the same run: uv run jobs/benchmark.py --help"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from clarep_ray import cli, config
from clarep_ray.presets import DISTILL, EXTRACT

KINDS: dict[str, tuple[type, str, Any]] = {
    "svd": (config.SvdBenchmarkConfig, "analysis.svd_benchmark", None),
    "peers": (config.PeersBenchmarkConfig, "analysis.peers_benchmark", None),
    "products": (config.ProductsBenchmarkConfig, "analysis.products_benchmark", None),
    "limits": (config.LimitsBenchmarkConfig, "analysis.limits_benchmark", None),
    "sampling": (config.SamplingBenchmarkConfig, "analysis.sampling_benchmark", EXTRACT),
    "reference": (config.ReferenceBenchmarkConfig, "analysis.reference_benchmark", EXTRACT),
    "engine": (config.EngineBenchmarkConfig, "cluster.engine_benchmark", EXTRACT),
    "scaling": (config.ScalingBenchmarkConfig, "cluster.scaling_benchmark", EXTRACT),
    "size": (config.SizeBenchmarkConfig, "analysis.size_benchmark", None),
    "health": (config.HealthBenchmarkConfig, "analysis.health_benchmark", None),
    "attacks": (config.AttackBenchmarkConfig, "robustness.attack_benchmark", None),
    "distill": (config.DistillBenchmarkConfig, "cadistill.step_benchmark", DISTILL),
    "plot": (config.PlotBenchmarkConfig, "analysis.benchmark_figures", None),
}
"""Subcommand: its config, the module whose `run` measures (or draws), and the presets that one of them starts from."""
Chosen = tyro.extras.subcommand_type_from_defaults(
    {name: kind() for name, (kind, _, _) in KINDS.items()},
    {name: str(kind.__doc__) for name, (kind, _, _) in KINDS.items()},
    prefix_names=False,
)


def asked(chosen: Annotated[Any, tyro.conf.arg(name="")], record: Path | None = None) -> tuple[Any, Path | None]:
    """Measure and print.

    Args:
        chosen: What.
        record: Append every row, dated and with its hardware, to this file of JSON lines.
    """
    return chosen, record


def main() -> None:
    asked.__annotations__["chosen"] = Chosen
    with cli.exit_codes():
        chosen, record = cli.read_arguments(partial(tyro.cli, asked, config=(tyro.conf.OmitArgPrefixes,)))
        kind, (_, module, presets) = next(entry for entry in KINDS.items() if isinstance(chosen, entry[1][0]))
        from clarep_ray.analysis import recorded_rows as rows

        if record is not None:
            rows.check_record(record, kind)
        start = (cli.preset_config(presets, chosen.preset),) if presets else ()
        tables = import_module(f"clarep_ray.{module}").run(chosen, *start)
        print("\n\n".join(table.markdown() for table in tables), end="\n\n")
        print(rows.hardware(), rows.versions(), chosen, sep="\n")
        if record is not None:
            configs = {"benchmark": chosen} | ({"preset": start[0]} if start else {})
            print(f"{rows.record_rows(record, kind, configs, tables)} rows appended to {record}")


if __name__ == "__main__":
    stopping.run(main)
