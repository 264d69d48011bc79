"""Train the embedded diffusion model on Ray Train: resumable, the same batches for any number of workers."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from clarep_ray import dotted, tracking
from clarep_ray.cluster import runtime
from clarep_ray.config import TrainCdmConfig

RESULT = "result.json"


def train_cdm(config: TrainCdmConfig) -> dict[str, Any]:
    """Train, or continue training, and return what was written: folder, steps, loss, data digest.

    The output folder receives `model/` (config.json and float16 model.safetensors of the weight average),
    `checkpoints/`, `metrics.jsonl` and, last, `result.json`. Raises ValueError where it belongs to another config.
    """
    from clarep_ray.models.cdm_training import check_checkpoints

    output, mark = Path(config.output).absolute(), _fingerprint(config)
    check_checkpoints(output / "checkpoints", mark)
    finished = _result(output)
    if finished.get("fingerprint") == mark:
        return finished
    runtime.connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    output.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"config": dotted.flatten(config), "output": str(output)},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": 1}
        ),
        run_config=RunConfig(
            name=f"train_cdm-{uuid.uuid4().hex[:8]}",  # a fresh name: checkpoints are ours, found by fingerprint
            storage_path=str(output / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    trainer.fit()
    result = _result(output)
    tracking.log_run(
        config.tracking,
        f"train_cdm {mark[:8]}",
        output,
        params=dotted.flatten(config),
        metrics={"loss": result["loss"], "steps": float(result["steps"])},
        tags={"job": "train_cdm", "fingerprint": mark, "data_sha256": result["data_sha256"]},
        artifacts=[output / RESULT, output / "metrics.jsonl"],
    )
    return result


def _fingerprint(config: TrainCdmConfig) -> str:
    return dotted.fingerprint(dotted.fingerprint_fields(config))


def _result(output: Path) -> dict[str, Any]:
    """Return what a finished training wrote last; empty where there is none."""
    path = output / RESULT
    return json.loads(path.read_text()) if path.is_file() else {}


def _loop(arguments: dict[str, Any]) -> None:
    """Run on every worker."""
    import torch
    from ray import train
    from ray.train.torch import prepare_model

    from clarep_ray.models import cdm_training as cdm
    from clarep_ray.models.digits_dit import make_network

    config = dotted.from_flat(TrainCdmConfig, arguments["config"])
    output = Path(arguments["output"])
    mark = _fingerprint(config)
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    network = make_network(cdm.architecture_of(config))
    forward = prepare_model(network)
    device = next(forward.parameters()).device
    trainer = cdm.CdmTrainer.start(network.to(device), config)
    cdm.load_newest(trainer, output / "checkpoints", mark)
    pixels, labels, digest = cdm.training_pictures(config)
    began, first = time.monotonic(), trainer.step
    while trainer.step < config.num_steps:
        batch = cdm.draw_batch(pixels, labels, config, trainer.step)
        share = {name: values[rank::world].to(device) for name, values in batch.items()}
        cdm.train_step(trainer, forward, share, config)
        if trainer.step % config.checkpoint_every == 0 or trainer.step == config.num_steps:
            seconds = (time.monotonic() - began) / (trainer.step - first)
            metrics = {"step": trainer.step, "loss": trainer.recent_loss, "seconds_per_step": seconds}
            if rank == 0:
                cdm.save_checkpoint(trainer, output / "checkpoints", mark)
                _append(output / "metrics.jsonl", metrics)
            train.report(metrics)
    if rank == 0:
        _finish(trainer, config, output, {"data_sha256": digest, "fingerprint": mark})


def _append(path: Path, metrics: dict[str, Any]) -> None:
    line = json.dumps(metrics)
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def _finish(trainer: Any, config: TrainCdmConfig, output: Path, result: dict[str, Any]) -> None:
    import torch

    from clarep_ray.models import cdm_training as cdm
    from clarep_ray.models.digits_dit import load_parameters, save

    load_parameters(trainer.network, trainer.average)
    save(trainer.network, cdm.architecture_of(config), output / "model", torch.float16)
    measured = {"steps": trainer.step, "loss": trainer.recent_loss}
    record = result | measured | {"model": str(output / "model"), "config": dotted.flatten(config)}
    work = output / f".tmp-{RESULT}"
    work.write_text(json.dumps(record, indent=2) + "\n")
    work.replace(output / RESULT)
