"""Train a diffusion model on Ray Train: resumable, the same batches for any number of workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarep_ray import dotted, tracking
from clarep_ray.cluster import runtime
from clarep_ray.cluster.tracked import start_cdm
from clarep_ray.cluster.workers import check_workers
from clarep_ray.config import TrainCdmConfig
from clarep_ray.data.inside import append_inside
from clarep_ray.data.owner import owned
from clarep_ray.data.plain_json import json_line
from clarep_ray.data.sources import absolute_data

if TYPE_CHECKING:
    from clarep_ray.models.cdm_training import TrainingSet

METRICS = "metrics.jsonl"


def train_cdm(config: TrainCdmConfig) -> dict[str, Any]:
    """Train, or continue training, and return what was written: folder, steps, loss, data digest.

    The output folder receives `model/` (the weight average, as `model.weights` reads it), `checkpoints/`,
    `metrics.jsonl` and, last, `result.json`. Raises ValueError, before Ray starts, where a picture cannot be read or
    the folder belongs to another config, other pictures or classes of other names; OutputInUse where another
    process works on it.
    """
    with owned(Path(config.output), config.take_over, setting="take-over"):
        return _train_cdm(config)


def _train_cdm(config: TrainCdmConfig) -> dict[str, Any]:
    from clarep_ray.models.cdm_networks import MODEL, RESULT, read_result

    output = Path(config.output).absolute()
    if (there := runtime.resources_here()) is not None:
        check_workers(config.num_workers, config.use_gpu, there)
    data, mark = check_training(config)
    print(data.summary(), flush=True)
    data_sha256, class_names = data.sha256, data.class_names
    del data  # the workers read it again
    if read_result(output).get("fingerprint") == mark:
        print(f"{output}: this training has finished; nothing left to do")
    with start_cdm(config, mark, data_sha256) as run, tracking.following(run, output / METRICS, "step"):
        if read_result(output).get("fingerprint") != mark:
            runtime.train(
                _loop,
                {
                    "config": dotted.flatten(_absolute(config)),
                    "output": str(output),
                    "fingerprint": mark,
                    "data_sha256": data_sha256,
                    "class_names": list(class_names),
                },
                job="train_cdm",
                output=output,
                num_workers=config.num_workers,
                use_gpu=config.use_gpu,
            )
        run.files([output / RESULT, output / METRICS])
    return read_result(output) | {"model": str(output / MODEL)}  # whatever the record says


def check_training(config: TrainCdmConfig) -> tuple[TrainingSet, str]:
    """Return what a training reads, and its fingerprint; raises as `train_cdm`."""
    from clarep_ray.models.cdm_training import TrainingSet, fingerprint
    from clarep_ray.models.checkpoints import check_checkpoints

    data = TrainingSet.read(config)
    mark = fingerprint(config, data)
    check_checkpoints(Path(config.output).absolute() / "checkpoints", mark)
    return data, mark


def _absolute(config: TrainCdmConfig) -> TrainCdmConfig:
    """Return the config with paths as every process finds them: a worker has a working directory of its own."""
    return dotted.override(config, absolute_data(config.data, "data"))


def _loop(arguments: dict[str, Any]) -> None:
    """Run on every worker."""
    import torch
    from ray import train
    from ray.train.torch import prepare_model

    from clarep_ray.models import cdm_networks, checkpoints
    from clarep_ray.models import cdm_training as cdm

    config = dotted.from_flat(TrainCdmConfig, arguments["config"])
    output, mark = Path(arguments["output"]), arguments["fingerprint"]
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1)
    data = cdm.TrainingSet.read(config)
    if (data.sha256, list(data.class_names)) != (arguments["data_sha256"], arguments["class_names"]):
        raise ValueError("data.path: this worker reads other pictures than the job did; every node must see the same")
    network = cdm_networks.make_network(config, data.class_names)
    forward = prepare_model(network)
    trainer = cdm.CdmTrainer.start(network.to(next(forward.parameters()).device), config)
    checkpoints.load_newest(trainer, output / "checkpoints", mark)
    began, first = time.monotonic(), trainer.step
    for step in cdm.train_steps(trainer, forward, data, config, rank, world):
        if step % config.checkpoint_every == 0 or step == config.num_steps:
            seconds = (time.monotonic() - began) / (step - first)
            metrics = {"step": step, "loss": trainer.recent_loss, "seconds_per_step": seconds}
            if rank == 0:
                checkpoints.save_checkpoint(trainer, output / "checkpoints", mark)
                _append(output, metrics)
            train.report(metrics)
    if rank == 0:
        cdm_networks.write_result(trainer, config, data, output, mark)


def _append(output: Path, metrics: dict[str, Any]) -> None:
    line = json_line(metrics)
    print(line.decode(), end="", flush=True)
    append_inside(output, METRICS, line)
