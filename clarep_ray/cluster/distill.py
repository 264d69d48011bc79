"""Train students on Ray Train: resumable, the same global batches for any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clarep_ray import dotted, tracking
from clarep_ray.analysis.tables import SeedTable, mean_std
from clarep_ray.cluster import runtime
from clarep_ray.cluster.health import health_metrics, read_health, teacher_health
from clarep_ray.cluster.tracked import start_student, start_students
from clarep_ray.cluster.workers import check_workers
from clarep_ray.config import DistillConfig
from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import refuse_links, write_inside
from clarep_ray.data.owner import owned
from clarep_ray.data.sources import absolute_data
from clarep_ray.data.store import OutputStore

COLUMNS = ("last val_accuracy", "best val_accuracy")


def distill(config: DistillConfig, parent: str | None = None) -> dict[str, Any]:
    """Train one student, or continue, and return what `result.json` says.

    The output folder receives `last/` and `best/` (students for `models.students.load_student`), `metrics.jsonl`,
    `checkpoints/` and, last, `result.json`. In MLflow it is a run of its own, nested in `parent` where one is given,
    and the last student a version of `tracking.registered_model`. Raises ValueError, before Ray starts, for an input
    or a teacher that cannot be used, or a folder of another training, and OutputInUse where another process works on
    it.
    """
    with owned(Path(config.output), config.take_over, setting="take-over"):
        return _distill(config, parent)


def _distill(config: DistillConfig, parent: str | None) -> dict[str, Any]:
    from clarep_ray.cadistill.run import METRICS, prepare, read_result

    if (there := runtime.resources_here()) is not None:
        check_workers(config.num_workers, config.use_gpu, there)
    config = with_absolute_paths(config)
    output = Path(config.output)
    opened, mark, finished = prepare(config)
    if finished:
        print(f"{output}: this training has finished; nothing left to do")
    for name, images in (("data", opened.inputs.images), ("val", opened.val)):
        for note in images.notes:
            print(f"{name}: {note}")
    store = OutputStore(output)
    health = read_health(store) if finished else teacher_health(config, opened, print)
    with (
        start_student(config, mark, opened.sha256, parent) as run,
        tracking.following(run, output / METRICS, "epoch"),
    ):
        if not finished:
            runtime.train(
                _loop,
                {"config": dotted.flatten(config), "fingerprint": mark},
                job="distill",
                output=output,
                num_workers=config.num_workers,
                use_gpu=config.use_gpu,
            )
        result = finished or read_result(output)
        tell_student(run, config, result)
        run.metrics(health_metrics(health))
        if config.tracking.enabled:
            run.model(_served(config), config.tracking.registered_model, _model_tags(result))
    return result


def distill_seeds(config: DistillConfig, seeds: Sequence[int], say: Callable[[str], None] = print) -> SeedTable:
    """Train one student per seed, each in its own folder below `output`, and return the table of accuracies.

    Without seeds the config's own is taken, in `output` itself.
    """
    root, configs = Path(config.output), seeded(config, seeds)
    with start_students(config, "distill", seeds) as run:
        results = [distill(each, run.id) for each in configs]
        cells = {name: [result[name.split()[0]]["val_accuracy"] for result in results] for name in COLUMNS}
        table = SeedTable("method", COLUMNS, {config.method: cells})
        make_folder(root)
        write_inside(root, "table.md", f"{table.markdown()}\n".encode())
        write_inside(root, "table.csv", table.csv().encode())
        run.metrics({name.replace(" ", "/"): mean_std(values)[0] for name, values in cells.items()})
        run.note(f"Mean and standard deviation over {len(configs)} seeds\n\n{table.markdown()}")
        run.files([root / "table.md", root / "table.csv"])
    say(f"\n{table.markdown()}\n\nmean +- standard deviation over {len(configs)} seeds; students in {root}/**/last")
    say("`best` is chosen on the pictures it is measured on; report `last`.")
    return table


def seeded(config: DistillConfig, seeds: Sequence[int]) -> list[DistillConfig]:
    """Return the config of each seed's training, in its own folder; without seeds the config itself."""
    root = Path(config.output)
    return [
        dotted.override(config, {"seed": seed, "output": str(refuse_links(root, f"seed-{seed}"))}) for seed in seeds
    ] or [config]


def with_absolute_paths(config: DistillConfig) -> DistillConfig:
    """Return the config with paths as every process finds them: a worker has a working directory of its own."""
    from clarep_ray.models import absolute_weights

    changes: dict[str, Any] = {"output": str(Path(config.output).absolute())}
    for name in ("clareps.path", "teacher.features", "teacher.network"):
        path = dotted.flatten(config)[name]
        changes[name] = str(Path(path).absolute()) if path else path
    for name in ("data", "val"):
        changes |= absolute_data(getattr(config, name), name)
    if config.teacher.source == "diffusion":
        changes["teacher.diffusion.weights"] = absolute_weights(config.teacher.diffusion)
    return dotted.override(config, changes)


def tell_student(run: tracking.Run, config: DistillConfig, result: Mapping[str, Any]) -> None:
    """Tell what a finished training came to."""
    from clarep_ray.cadistill.run import METRICS, RESULT

    run.metrics({f"{kind}/val_accuracy": result[kind]["val_accuracy"] for kind in ("last", "best")})
    run.files([Path(config.output) / RESULT, Path(config.output) / METRICS])


def _served(config: DistillConfig) -> tracking.ServedModel:
    from clarep_ray.cadistill.run import LAST
    from clarep_ray.models.students import read_architecture

    folder = Path(config.output) / LAST
    architecture = read_architecture(folder)
    assert architecture is not None, "the folder was written by save_student"
    return tracking.ServedModel(
        kind="student",
        folder=folder,
        input_shape=(-1, 3, config.student.image_size, config.student.image_size),
        output_shape=(-1, len(architecture.class_names)),
    )


def _model_tags(result: Mapping[str, Any]) -> dict[str, str]:
    return {
        "method": result["method"],
        "seed": str(result["seed"]),
        "fingerprint": result["fingerprint"],
        "val_accuracy": f"{result['last']['val_accuracy']:.4f}",
    }


def _loop(arguments: dict[str, Any]) -> None:
    """Run on every worker."""
    import torch
    from ray import train
    from ray.train.torch import prepare_model

    from clarep_ray.cadistill.inputs import open_inputs
    from clarep_ray.cadistill.run import run_training
    from clarep_ray.cadistill.training import needs_unused_parameters

    config = dotted.from_flat(DistillConfig, arguments["config"])
    context = train.get_context()
    torch.set_num_threads(1)
    opened = open_inputs(config)
    if opened.fingerprint(config) != arguments["fingerprint"]:
        raise ValueError("inputs: this worker reads others than the job did; every node must see the same files")
    options = {"find_unused_parameters": needs_unused_parameters(config)}
    run_training(
        config,
        opened,
        arguments["fingerprint"],
        wrap=lambda learner: prepare_model(learner, parallel_strategy_kwargs=options),
        report=train.report,
        rank=context.get_world_rank(),
        world=context.get_world_size(),
    )
