"""Settings that stand in a file of an output, not on this command line: they narrow, and never widen.

An output may come from somebody else. What its files say of the method is followed where it has the right type and
size: it makes the same bytes again, and a fingerprint compares it. What would lead out of the output or cost more than
was allowed (a path, an address, a download, a permission, machines) is the reader's to say, each time anew. A field
without a kind here is refused.
"""

from __future__ import annotations

import dataclasses
import shlex
import typing
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from clarep_ray import dotted
from clarep_ray.config import calibrate, distill, evaluate, extract, search, student, train_cdm
from clarep_ray.config.gate import GateConfig
from clarep_ray.config.health import HealthConfig
from clarep_ray.config.tracking import TrackingConfig

Config = TypeVar("Config")


class Kind(StrEnum):
    """What a setting can do, and so who may say it."""

    SCIENCE = "science"
    """What is computed: a file may say it."""
    SIZE = "size"
    """The same, and memory follows from it: a file may say it up to `LARGEST`."""
    PLACE = "place"
    """Where something is read or written."""
    PERMISSION = "permission"
    """What is let through: downloads, rejects, other people's locks."""
    NETWORK = "network"
    """Who is told."""
    MACHINES = "machines"
    """Actors, GPUs, threads, time."""


LARGEST: Mapping[str, int] = {
    "engine.unit_size": 2**14,
    "engine.micro_batch": 2**14,
    "engine.num_threads": 2**10,
    "data.digits.count": 2**17,
    "data.digits.image_size": 2**10,
    "spectrum.num_directions": 2**12,
    "spectrum.block_size": 2**12,
}
"""Of what a file may say: far beyond any run that is known, and below what a machine dies of."""
SHIPPED: Mapping[str, tuple[Any, ...]] = {
    "model.weights": ("tiny", "rho90", "rho10"),
    "gate.classifiers": ("digits",),
}
"""Values of places that are none: they come with the package."""

DATA = {
    Kind.SCIENCE: "source image_column label_column split classes per_class fraction limit seed",
    Kind.PLACE: "path labels_file",
}
KINDS: Mapping[type, Mapping[Kind, str]] = {
    extract.ModelConfig: {
        Kind.SCIENCE: "name precision compile prompt_template weights_sha256",
        Kind.PLACE: "weights prompts",
        Kind.PERMISSION: "allow_download",
    },
    extract.DataConfig: DATA,
    extract.DigitsConfig: {Kind.SCIENCE: "split correlation seed", Kind.SIZE: "count image_size"},
    extract.InversionConfig: {Kind.SCIENCE: "num_steps project_t spacing solver num_refinements"},
    extract.SpectrumConfig: {
        Kind.SCIENCE: "layer solver tolerance max_products",
        Kind.SIZE: "num_directions block_size",
    },
    extract.ElbowConfig: {Kind.SCIENCE: "rule num_removed share ambiguous_margin"},
    extract.ProjectionConfig: {Kind.SCIENCE: "mode"},
    extract.DecodingConfig: {Kind.SCIENCE: "guidance_scale guided_channels"},
    extract.FeatureConfig: {Kind.SCIENCE: "layer feature_t"},
    extract.EngineConfig: {
        Kind.SIZE: "unit_size micro_batch num_threads",
        Kind.MACHINES: "num_actors gpus_per_actor autoscaling units_in_flight max_attempts unit_deadline_s",
        Kind.PERMISSION: "allow_poison take_over",
    },
    extract.OutputConfig: {
        Kind.SCIENCE: "what extras keep_spectrum",
        Kind.PLACE: "path from_spectrum",
        Kind.PERMISSION: "max_reject_rate",
    },
    extract.ExtractConfig: {Kind.SCIENCE: "seed"},
    GateConfig: {
        Kind.SCIENCE: "enabled min_votes max_artefact max_round_trip_error min_elbow_margin num_fewer num_earlier",
        Kind.PLACE: "classifiers",
    },
    HealthConfig: {Kind.PERMISSION: "enabled refuse", Kind.MACHINES: "num_images num_times"},
    TrackingConfig: {Kind.NETWORK: "enabled uri experiment registered_model"},
    calibrate.SaturationConfig: {
        Kind.SCIENCE: "num_steps images_per_class num_classes num_times times guidance_scale level"
    },
    calibrate.DrawsConfig: {Kind.SCIENCE: "count classes"},
    calibrate.FeatureMapConfig: {Kind.SCIENCE: "layers num_times times"},
    calibrate.WindowConfig: {Kind.SCIENCE: "windows fixed max_class_loss"},
    calibrate.InteractionConfig: {Kind.SCIENCE: "layers times fixed"},
    calibrate.CalibrateConfig: {Kind.SCIENCE: "parts projected_per_class seed", Kind.PLACE: "classifiers output"},
    distill.ClarepsConfig: {Kind.SCIENCE: "pictures pairing fraction seed", Kind.PLACE: "path"},
    distill.TeacherConfig: {Kind.SCIENCE: "source pictures num_times", Kind.PLACE: "features network"},
    distill.LossConfig: {
        Kind.SCIENCE: f"{' '.join(f'weight_{part}' for part in distill.PARTS)} temperature kd_temperature dkd_target "
        "dkd_others label_smoothing cka"
    },
    distill.DistillConfig: {
        Kind.SCIENCE: "method amp channels_last compile seed",
        Kind.PLACE: "output",
        Kind.PERMISSION: "take_over",
        Kind.MACHINES: "checkpoint_every loader_threads num_workers use_gpu",
    },
    student.StudentConfig: {Kind.SCIENCE: "name image_size resize interpolation mean std drop_path"},
    student.OptimizerConfig: {Kind.SCIENCE: "name learning_rate momentum nesterov weight_decay clip_norm"},
    student.ScheduleConfig: {Kind.SCIENCE: "epochs batch_size decay milestones factor warmup_epochs"},
    student.SecondStageConfig: {Kind.SCIENCE: "epochs learning_rate weight_decay milestones factor recipe"},
    student.AugmentConfig: {Kind.SCIENCE: "recipe source_size canonical mixup cutmix"},
    evaluate.PgdConfig: {Kind.SCIENCE: "num_steps step_255 step_relative num_restarts"},
    evaluate.CwConfig: {Kind.SCIENCE: "num_steps c kappa learning_rate"},
    evaluate.ApgdConfig: {Kind.SCIENCE: "num_steps rho num_eot num_restarts num_targets"},
    evaluate.SquareConfig: {Kind.SCIENCE: "num_queries p_init num_samples"},
    evaluate.AttacksConfig: {Kind.SCIENCE: "names implementation eps_255 seeds benchmarks num_samples"},
    evaluate.TrustConfig: {
        Kind.SCIENCE: "enabled num_samples eps_255 num_steps num_restarts num_queries tolerance",
        Kind.PERMISSION: "refuse",
    },
    evaluate.BenchmarksConfig: {
        Kind.SCIENCE: "names digits_splits image_size resize interpolation partial",
        Kind.PLACE: "image_folder cifar10 cifar10_c imagenet imagenet_c imagenet_a imagenet_real backgrounds",
    },
    evaluate.ClassifierConfig: {Kind.PLACE: "weights compared"},
    evaluate.EvaluateConfig: {Kind.SCIENCE: "seed", Kind.PLACE: "output"},
    train_cdm.DitSizes: {Kind.SCIENCE: "patch_size hidden_size num_blocks num_heads"},
    train_cdm.UnetSizes: {
        Kind.SCIENCE: "channels multipliers layers_per_block attention_sides norm_groups dropout",
    },
    train_cdm.TrainCdmConfig: {
        Kind.SCIENCE: "network conditional image_size prediction flip num_steps batch_size learning_rate decay "
        "warmup_steps adam_beta2 weight_decay label_dropout ema_decay seed",
        Kind.PLACE: "output",
        Kind.PERMISSION: "take_over",
        Kind.MACHINES: "checkpoint_every num_workers use_gpu",
    },
    search.SearchConfig: {
        Kind.SCIENCE: "method num_trials seeds metric mode sampler_seed asha grace_epochs",
        Kind.PLACE: "space",
        Kind.PERMISSION: "retry_failed",
        Kind.MACHINES: "at_once",
    },
}
"""The kind of every field of every config that is stored, or whose fields a file can name."""


@lru_cache
def kinds(config: type) -> Mapping[str, Kind | None]:
    """Return {dotted field: its kind} of a config class; None for one that nobody has thought about yet."""
    known = {name: kind for kind, names in KINDS.get(config, {}).items() for name in names.split()}
    hints = typing.get_type_hints(config)
    found: dict[str, Kind | None] = {}
    for item in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[item.name]):
            inner = kinds(typing.cast(type, hints[item.name]))
            found |= {f"{item.name}.{name}": kind for name, kind in inner.items()}
        else:
            found[item.name] = known.get(item.name)
    return found


def may_be_found(config: type, name: str) -> bool:
    """Say whether a file may set a dotted field of a config."""
    return kinds(config).get(name) in (Kind.SCIENCE, Kind.SIZE)


def check_found(config: type, name: str, value: object, where: str) -> None:
    """Raise ValueError, beginning with the file, unless it may set a dotted field to this value."""
    if not may_be_found(config, name):
        known = ", ".join(other for other in kinds(config) if may_be_found(config, other))
        raise ValueError(f"{where}: it may not set {_cut(name)}; valid: {_cut(known, 300)}")
    try:
        dotted.check_value(config, name, tuple(value) if isinstance(value, list) else value)
    except ValueError as error:
        raise ValueError(f"{where}: {_cut(str(error), 300)}") from None
    for entry in value if isinstance(value, list | tuple) else (value,):
        if isinstance(entry, str) and entry.startswith("@"):  # the command line reads a file so
            raise ValueError(f"{where}: {name} names a file, {_cut(entry)}; valid: what stands in it")
    largest = LARGEST.get(name)
    if largest is not None and isinstance(value, int) and value > largest:
        raise ValueError(f"{where}: {name} is {value}; valid: at most {largest}, or say it on the command line")


def found(config: type[Config], stored: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Config:
    """Return the config of a stored record: what is computed as the file says it, all else as given or by default.

    `given` holds the dotted fields that this command line sets, which nothing in the file changes. Raises ValueError,
    beginning with `where`, for a field or value that a file may not set, and for a place that was not given, with the
    options that give it.
    """
    of_kind, values, missing = kinds(config), dict(given), dict[str, Any]()
    for name, value in stored.items():
        kind = of_kind.get(name)
        if name in given or kind in (Kind.PERMISSION, Kind.NETWORK, Kind.MACHINES):
            continue
        if kind == Kind.PLACE and not _is_shipped(name, value, stored):
            missing[name] = value
            continue
        if kind != Kind.PLACE:
            check_found(config, name, value, where)
        values[name] = tuple(value) if isinstance(value, list) else value
    if missing:
        raise ValueError(f"{where} names files outside this output; where they are yours, add: {_options(missing)}")
    return dotted.override(config(), values)


def _is_shipped(name: str, value: object, stored: Mapping[str, Any]) -> bool:
    """Say whether what a file says of a place leads nowhere: nothing, or what comes with the package."""
    if value is None or value == "":
        return True
    if name == "model.weights" and value != "tiny" and stored.get("model.name") != "digits_dit":
        return False
    entries = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(entry, str) and entry in SHIPPED.get(name, ()) for entry in entries)


def _options(missing: Mapping[str, Any]) -> str:
    """Return the options that give these places, as they are typed."""
    parts: list[str] = []
    for name, value in missing.items():
        entries = value if isinstance(value, list | tuple) else [value]
        parts += [f"--{name.replace('_', '-')}", *(shlex.quote(_cut(str(entry), 300)) for entry in entries[:10])]
    return " ".join(parts)


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
