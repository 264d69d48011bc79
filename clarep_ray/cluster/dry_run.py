"""What a calibration, an evaluation or a training would do: all that is checked before Ray starts, and nothing written.

An extraction's plan, which has more to say, is `cluster/plan.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clarep_ray.cluster import runtime
from clarep_ray.cluster.workers import check_workers
from clarep_ray.config import CalibrateConfig, DistillConfig, EvaluateConfig, TrainCdmConfig


def plan_calibration(config: CalibrateConfig) -> Iterator[str]:
    """Yield what a calibration would do, a line each; raises as `calibrate.open_session`."""
    from clarep_ray.cluster import calibrate as work

    session = work.open_session(config, write=False)
    yield from (f"input        {note}" for note in session.labels)
    yield f"images       {len(session.rows)} of the classes in {len(session.draws)} draws"
    yield f"parts        {', '.join(session.config.parts)}"
    yield from _machine(session.config.output)


def plan_evaluation(config: EvaluateConfig) -> Iterator[str]:
    """Yield what an evaluation would do, a line each; raises as `evaluate.open_session`."""
    from clarep_ray.cluster import evaluate as work
    from clarep_ray.cluster.evaluate_findings import view_lines

    session = work.open_session(config, write=False)
    yield from view_lines(session)
    for (benchmark, part), size in session.sizes.items():
        yield f"benchmark    {benchmark} {part}: {size} images"
    units = (*work.trust_units(session), *work.verdict_units(session))
    done = set(session.context.parts.names()) & {unit.name for unit in units}
    yield f"units        {len(units)}, {len(done)} are done"
    yield from _machine(session.config.output)


def plan_cdm(config: TrainCdmConfig) -> Iterator[str]:
    """Yield what the training of a diffusion model would do, a line each; raises as `train_cdm`."""
    from clarep_ray.cluster.train_cdm import check_training

    _check_workers(config)
    data, mark = check_training(config)
    yield data.summary()
    yield f"training     {config.num_steps} steps on {config.num_workers} workers, fingerprint {mark[:16]}"
    yield from _machine(config.output)


def plan_students(config: DistillConfig, preset: str, seeds: Sequence[int]) -> Iterator[str]:
    """Yield what the training of students would do, a line each; raises as `distill` and `compare` do."""
    from clarep_ray.cadistill.run import prepare
    from clarep_ray.cluster.compare import plan_runs
    from clarep_ray.cluster.distill import seeded, with_absolute_paths

    _check_workers(config)
    config = with_absolute_paths(config)
    if preset == "compare":
        yield f"trainings    {len(plan_runs(config, seeds or range(5)))}"
        yield from _machine(config.output)
        return
    for one in seeded(config, seeds):
        opened, mark, finished = prepare(one)
        yield from (f"labels       {line}" for line in opened.labels)
        yield f"training     {one.method}, {one.schedule.epochs} epochs on {one.num_workers} workers, into {one.output}"
        yield f"fingerprint  {mark[:16]}{', finished already' if finished else ''}"
    yield from _machine(config.output)


def _check_workers(config: TrainCdmConfig | DistillConfig) -> None:
    if (there := runtime.resources_here()) is not None:
        check_workers(config.num_workers, config.use_gpu, there)


def _machine(output: str) -> Iterator[str]:
    """Yield where the output goes, which was tried, and which machines were looked at."""
    yield f"output       {Path(output).absolute()} can be written"
    there = runtime.resources_here()
    if there is None:
        yield "machines     those of a cluster; its CPUs and GPUs are looked at when a job has joined it"
    else:
        yield f"machines     this one: {there['CPU']:.0f} CPUs, {there['GPU']:.0f} GPUs"
