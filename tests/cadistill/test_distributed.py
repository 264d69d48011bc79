"""Two workers with half a batch each take the step of one worker with the whole batch, whatever the loss."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from clarep_ray.cadistill.methods import METHODS
from tests.cadistill.small import small_config
from tests.cadistill.workers import gradients, trained, work

CASES = [*METHODS, "debiased", "mixed", "second_stage", "trained"]


def case(name: str, files: Path) -> tuple:
    if name == "debiased":
        return small_config(files, "cadistill", loss__cka="debiased"), 0
    if name == "mixed":
        return small_config(files, "cadistill", augment__mixup=0.8, augment__cutmix=1.0), 1
    if name == "second_stage":
        return small_config(files, "supcon"), 9
    return small_config(files, "cadistill" if name == "trained" else name), 0


@pytest.fixture(scope="module")
def halves(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    arguments = (2, str(folder), {name: case(name, files) for name in CASES})
    other = mp.get_context("spawn").Process(target=work, args=(1, *arguments))  # this process is the first
    other.start()
    work(0, *arguments)
    other.join()
    assert other.exitcode == 0
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_workers_take_the_step_of_one(name: str, files: Path, halves: Path) -> None:
    config, step = case(name, files)
    whole = trained(config, 0, 1) if name == "trained" else gradients(config, 0, 1, step)
    first, second = (load_file(halves / f"{name}.{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys() == whole.keys()
    assert any(value.abs().max() > 1e-4 for key, value in whole.items() if key != "loss")
    for key, expected in whole.items():
        largest = expected.abs().max().item()
        torch.testing.assert_close(
            first[key], expected, rtol=1e-3, atol=2e-5 * largest + 1e-8, msg=lambda m, k=key: f"{k}: {m}"
        )
        torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5 * largest + 1e-8)
