"""Train an embedded conditional diffusion model: uv run jobs/train_cdm.py --preset rho90"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import TrainCdmConfig
from clarep_ray.presets import TRAIN_CDM


@dataclass(frozen=True, kw_only=True)
class TrainCdmJob:
    """Train the embedded class-conditional DiT on spurious_digits with Ray Train."""

    config: Annotated[TrainCdmConfig, tyro.conf.arg(name="")]
    preset: str = "rho90"
    """Where the defaults below come from: rho90, rho10 or smoke."""


def main() -> None:
    job = cli.parse(TrainCdmJob, TRAIN_CDM, "rho90")
    cli.print_config(TRAIN_CDM[job.preset](), job.config)
    from clarep_ray.cluster.train_cdm import train_cdm

    result = train_cdm(job.config)
    print(f"trained {result['steps']} steps, loss {result['loss']:.4f}; model in {result['model']}")


if __name__ == "__main__":
    main()
