"""What two gloo processes do in `test_distributed.py`: gradients of the global batch, each from its half."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from clarep_ray.cadistill.evaluation import validate
from clarep_ray.cadistill.methods import total
from clarep_ray.cadistill.training import batch_terms, needs_unused_parameters, train_step
from clarep_ray.config import DistillConfig
from tests.cadistill.small import start


def gradients(config: DistillConfig, rank: int, world: int, step: int = 0) -> dict[str, torch.Tensor]:
    """Return the gradient of every parameter for the global batch of a step, and the loss."""
    trainer, opened, teacher = start(config)
    forward = trainer.learner
    if world > 1:
        forward = DistributedDataParallel(forward, find_unused_parameters=needs_unused_parameters(config))
    trainer.step = step
    trainer.enter_step(rank)
    batch = opened.inputs.batch(config, step, rank, world)
    loss = total(batch_terms(trainer, forward, batch, teacher, rank, world), config.loss)
    loss.backward()
    found = {name: value.grad for name, value in trainer.learner.named_parameters() if value.grad is not None}
    return {**found, "loss": loss.detach()}


def trained(config: DistillConfig, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Return the weights after three steps, and the accuracy then."""
    trainer, opened, teacher = start(config)
    forward = DistributedDataParallel(trainer.learner) if world > 1 else trainer.learner
    for step in range(3):
        train_step(trainer, forward, opened.inputs.batch(config, step, rank, world), teacher, rank, world)
    share = validate(trainer.learner.student, opened.val, rank, world).accuracy
    weights = {name: value.detach() for name, value in trainer.learner.named_parameters()}
    return {**weights, "accuracy": torch.tensor(share)}


def work(rank: int, world: int, folder: str, cases: dict[str, tuple[DistillConfig, int]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    for name, (config, step) in cases.items():
        found = trained(config, rank, world) if name == "trained" else gradients(config, rank, world, step)
        save_file(found, Path(folder) / f"{name}.{rank}.safetensors")
    dist.destroy_process_group()
