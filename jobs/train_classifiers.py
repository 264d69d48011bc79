"""Train the two judges of the embedded data: uv run jobs/train_classifiers.py"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from clarep_ray import cli
from clarep_ray.data.writable import check_writable
from clarep_ray.dotted import check_local


@dataclass(frozen=True, kw_only=True)
class TrainClassifiersJob:
    """Train the digit and the background classifier and print their accuracy on every split."""

    output: Path = Path("outputs/classifiers")
    """Output folder."""
    seed: int = 0
    """Seed of initial weights and batches."""


def main() -> None:
    with cli.exit_codes():
        job = cli.read_arguments(partial(tyro.cli, TrainClassifiersJob))
        check_local("--output", job.output)
        check_writable(job.output)
        from clarep_ray.analysis.judges import accuracy_by_split
        from clarep_ray.models import digit_classifier

        for target in digit_classifier.TARGETS:
            network = digit_classifier.train(target, job.seed)
            digit_classifier.save(network, target, job.output)
            for split, accuracy in accuracy_by_split(network, target).items():
                print(f"{target:<10}  {split:<18}  {accuracy:.3f}")


if __name__ == "__main__":
    stopping.run(main)
