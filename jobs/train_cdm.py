"""Train a diffusion model of one's own: uv run jobs/train_cdm.py --preset own_dit --data.path FOLDER"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install()

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clarep_ray import cli
from clarep_ray.config import TrainCdmConfig
from clarep_ray.presets import TRAIN_CDM


@dataclass(frozen=True, kw_only=True)
class TrainCdmJob:
    """Train a DiT or UNet in pixel space, on any images and classes, with Ray Train. Resumes by itself."""

    config: Annotated[TrainCdmConfig, tyro.conf.arg(name="")]
    preset: str = "rho90"
    """Where the defaults below come from; see clarep_ray/presets/train_cdm.py."""
    dry_run: bool = False
    """Check everything, print what would be done, and stop; nothing is written."""


def main() -> None:
    job = cli.parse(TrainCdmJob, TRAIN_CDM, "rho90")
    cli.print_config(TRAIN_CDM[job.preset](), job.config)
    with cli.exit_codes():
        if job.dry_run:
            from clarep_ray.cluster import dry_run

            cli.say(dry_run.plan_cdm(job.config))
            return
        from clarep_ray.cluster.train_cdm import train_cdm

        result = train_cdm(job.config)
        print(f"trained {result['steps']} steps, loss {result['loss']:.4f}; model in {result['model']}")
        if job.config.conditional:
            print(f"extract with it: --model.name {job.config.network} --model.weights {result['model']}")
        from clarep_ray.analysis.model_card import can_judge, write_card

        if can_judge(job.config, result.get("class_names", ())):
            command = f"uv run jobs/train_cdm.py --preset {job.preset}"
            for name, share in write_card(Path(result["model"]), result, command).items():
                print(f"{share:.3f}  {name}")


if __name__ == "__main__":
    stopping.run(main)
