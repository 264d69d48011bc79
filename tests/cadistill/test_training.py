"""The loop: every method trains, goes on after an interruption with the same bits, and draws from the step alone."""

from pathlib import Path

import pytest

from clarep_ray.cadistill.evaluation import Validation
from clarep_ray.cadistill.methods import METHODS
from clarep_ray.cadistill.training import Distiller, train_steps
from clarep_ray.models.checkpoints import load_newest, save_checkpoint
from tests.cadistill.small import digest, small_config, start


def run(trainer: Distiller, opened, teacher, until: int) -> Distiller:
    if trainer.step < until:
        for step in train_steps(trainer, trainer.learner, opened, teacher):
            if step % trainer.stages.per_epoch == 0:
                trainer.close_epoch(Validation(0.5, 0))
            if step == until:
                break
    return trainer


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_after_an_interruption_with_the_same_bits(
    method: str, files: Path, tmp_path: Path
) -> None:
    config = small_config(files, method, optimizer__name="sgd" if method == "supcon" else "adamw")
    whole, opened, teacher = start(config)
    before = digest(whole)
    run(whole, opened, teacher, whole.stages.total)
    assert digest(whole) != before
    assert set(whole.history[0]) >= {"loss", "epoch", "val_accuracy"}
    cut = 10 if METHODS[method].second_stage != "none" else 6  # in the second stage where there is one, mid-epoch
    first, opened, teacher = start(config)
    save_checkpoint(run(first, opened, teacher, cut), tmp_path, "mark")
    resumed, opened, teacher = start(config)
    load_newest(resumed, tmp_path, "mark")
    assert resumed.step == cut
    run(resumed, opened, teacher, whole.stages.total)
    assert digest(resumed) == digest(whole)
    assert resumed.history == whole.history
