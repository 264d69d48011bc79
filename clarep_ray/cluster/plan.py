"""What an extraction will do, checked and costed before anything expensive starts. Does not import Ray."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clarep_ray import dotted, models
from clarep_ray.cluster.batch_choice import Choose, batch_here
from clarep_ray.cluster.cost import check_space, estimate_cost
from clarep_ray.cluster.identity import check_same_run, environment_fields, recorded_field
from clarep_ray.cluster.provenance import identity, provenance
from clarep_ray.cluster.runtime import resources_here
from clarep_ray.cluster.settings import check_effects, check_settings
from clarep_ray.cluster.workers import default_actors, worker_counts
from clarep_ray.config import ExtractConfig
from clarep_ray.config.found import check_found
from clarep_ray.config.location import is_url
from clarep_ray.data.calibration_file import check_model
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.class_list import UNKNOWN
from clarep_ray.data.decodable import check_decodable
from clarep_ray.data.manifest import (
    digest_of,
    freeze,
    names_sha256,
    unchanged_hashes,
    with_legacy_keys,
)
from clarep_ray.data.records import InputRow, RejectedImage, shown
from clarep_ray.data.selection import check_images, expand_classes, read_class_files, select
from clarep_ray.data.shards import MAX_MEMBER_NAME, longest_suffix
from clarep_ray.data.sources import Source, absolute_data, open_source
from clarep_ray.data.store import RUN, Store, open_store
from clarep_ray.data.units import decode_row
from clarep_ray.models.batch_memory import probe_memory
from clarep_ray.models.classifiers import absolute_classifiers, classifiers_sha256
from clarep_ray.models.extractor import uses_other_image
from clarep_ray.models.judges import check_judges
from clarep_ray.tracking import in_submitted_job

SCANNED_IMAGES = 64


@dataclass(frozen=True)
class Plan:
    """A checked run: its frozen input, its identity and its cost."""

    config: ExtractConfig
    rows: list[InputRow]
    class_names: tuple[str, ...]
    image_size: int
    latent_size: int
    clock: str
    """The model's noise schedule and grid in words, and where decoding ends."""
    fields: dict[str, Any]
    input_root: str = ""
    """Folder that the rows' sources are relative to, where they are files."""
    notes: tuple[str, ...] = ()
    """What the reader chose by itself, passed over or could not place, and how classes were matched."""

    @property
    def fingerprint(self) -> str:
        return dotted.fingerprint(self.fields)

    @property
    def provenance(self) -> dict[str, Any]:
        return provenance(self.config, self.fields, self.fingerprint)

    @property
    def identity(self) -> dict[str, Any]:
        return identity(self.fields, self.fingerprint)

    @property
    def num_units(self) -> int:
        return -(-len(self.rows) // self.config.engine.unit_size)


def make_plan(config: ExtractConfig, choose: Choose = batch_here) -> Plan:
    """Check model, settings and input and return the plan. Raises ValueError naming what is wrong.

    `choose` is asked for the network batch of a run that leaves it open, unless an earlier process recorded it. Image
    files that an earlier run into the same output hashed are hashed again only where they look touched.
    """
    if in_submitted_job() and not (is_url(config.output.path) or Path(config.output.path).is_absolute()):
        raise ValueError(
            f"output.path: {config.output.path!r} is relative, and a submitted job runs in a temporary copy of the "
            "working folder; valid: an absolute path that every node sees, or s3://BUCKET/PREFIX"
        )
    check_effects(config)
    if (there := resources_here()) is not None:
        worker_counts(config, there, num_units=1)
    config = self_contained(config)
    model = models.build(config.model)
    check_settings(model, config)
    if config.data.source == "spurious_digits" and config.data.digits.image_size != model.image_size:
        side = config.data.digits.image_size
        raise ValueError(f"data.digits.image_size: {side} is not what the model takes; valid: {model.image_size}")
    judges = config.gate.classifiers if config.gate.enabled else ()
    check_judges(judges, model.classes, wanted=())
    known = model.classes if len(model.classes) else None  # a model of no classes has nothing to match
    source = open_source(config.data, known, "the diffusion model")
    chosen = select(source.rows(), config.data, source.classes)
    judged = check_judges(judges, model.classes, {row.label for row in chosen} - {UNKNOWN})
    warning = check_images(source, chosen) if config.data.path else None
    if config.data.path:
        check_decodable(source, chosen)
    known_hashes = unchanged_hashes(open_store(config.output.path), str(source.root) if config.data.path else None)
    rows = freeze(source, chosen, known_hashes, model.prompts_per_class)
    rows = _with_kept_keys(rows, config)
    _check_neighbours(len(rows) // model.prompts_per_class, model.prompts_per_class, config)
    config = _with_batch(config, choose)
    check_settings(model, config)
    fields = dotted.fingerprint_fields(config) | environment_fields()
    fields["weights_sha256"] = models.weights_sha256(config.model)
    fields["input_sha256"] = digest_of(rows)
    fields["label_map_sha256"] = names_sha256(source.classes.names)
    classes = sorted(set(expand_classes(config.data.classes)))
    fields["classes_sha256"] = names_sha256(classes) if classes else None
    fields["gate_classifiers_sha256"] = classifiers_sha256(config.gate.classifiers) if config.gate.enabled else None
    if config.output.from_spectrum:
        fields["spectrum_root_sha256"] = _check_spectrum(config, fields)
    return Plan(
        config=config,
        rows=rows,
        class_names=source.classes.names,
        image_size=model.image_size,
        latent_size=int(torch.tensor(model.latent_shape).prod()),
        clock=str(model.schedule),
        fields=fields,
        input_root=str(source.root),
        notes=tuple(_notes(source, rows) + ([warning] if warning else []) + [f"judge {line}" for line in judged]),
    )


def _notes(source: Source, rows: Sequence[InputRow]) -> list[str]:
    """Return what a user should know of how an input was read, one short line each."""
    notes = source.notes()
    unknown = Counter(row.class_name for row in rows if row.label == UNKNOWN and not row.reason)
    if unknown:
        first = ", ".join(f"{shown(name)!r} ({count})" for name, count in unknown.most_common(3))
        more = ", ..." if len(unknown) > 3 else ""
        notes.append(f"{unknown.total()} images of {len(unknown)} classes that the model does not know: {first}{more}")
    return notes


def _with_batch(config: ExtractConfig, choose: Choose) -> ExtractConfig:
    """Return the config with a number for `engine.micro_batch`: bytes depend on it, so it belongs to the run."""
    if config.engine.micro_batch is not None:
        return config
    recorded = recorded_field(open_store(config.output.path), "engine.micro_batch")
    if recorded is not None:  # by an output that may be somebody else's; a choice never exceeds a unit
        most, path = config.engine.unit_size, f"{config.output.path}/{RUN}"
        check_found(ExtractConfig, "engine.micro_batch", recorded, path)
        if recorded > most:
            raise ValueError(
                f"engine.micro_batch: {path!r} says {recorded}, more than engine.unit_size ({most}); valid: "
                f"--engine.micro-batch {recorded} where that is yours"
            )
    return dotted.override(config, {"engine.micro_batch": choose(config) if recorded is None else recorded})


def check_output(plan: Plan, store: Store) -> bool:
    """Say whether the output holds this very run already, to be continued; writes nothing.

    Raises ResumeRefused where it holds another run, naming what differs, and ValueError for a foreign folder.
    """
    return check_same_run(plan.fields, store, "output.path")


def self_contained(config: ExtractConfig) -> ExtractConfig:
    """Return the config with absolute paths, for workers have working folders of their own, and classes by name."""
    paths = {
        "output.path": config.output.path,
        "output.from_spectrum": config.output.from_spectrum,
        "model.prompts": config.model.prompts,
    }
    absolute = {name: path if is_url(path) else str(Path(path).absolute()) for name, path in paths.items() if path}
    return dotted.override(
        config,
        absolute
        | absolute_data(config.data, "data")
        | {
            "model.weights": models.absolute_weights(config.model),
            "data.classes": tuple(read_class_files(config.data.classes)),
            "gate.classifiers": absolute_classifiers(config.gate.classifiers),
        },
    )


def check_calibration(path: str, config: ExtractConfig) -> None:
    """Raise ValueError where a calibration was made with another model than the config's."""
    found = dotted.override(config, {"model.weights": models.absolute_weights(config.model)})
    check_model(path, found.model.name, models.weights_sha256(found.model))


def _check_neighbours(num_images: int, num_prompts: int, config: ExtractConfig) -> None:
    """Raise ValueError where the other image that a control needs could be the same one with another prompt."""
    if num_prompts > 1 and uses_other_image(config) and num_images < config.engine.unit_size:
        raise ValueError(
            f"engine.unit_size: {config.engine.unit_size} with {num_prompts} prompts puts an image of {num_images} "
            f"beside itself, and other_image needs another; valid: at most {num_images}"
        )


def bound_to_spectrum(name: str) -> bool:
    """Say whether a spectrum belongs to one value of a field: a run from a side-car cannot change it."""
    bound = ("model.", "inversion.", "spectrum.", "weights_", "input_", "engine.unit_size", "seed")
    return name.startswith(bound) and name not in ("spectrum.num_directions", "spectrum.max_products")


def _check_spectrum(config: ExtractConfig, fields: dict[str, Any]) -> str:
    """Return the root hash of the earlier run; ValueError unless its spectra fit this config."""
    store = open_store(config.output.from_spectrum or "")
    root = read_root(store)
    earlier = _spectrum_fields(store)
    if not earlier["output.keep_spectrum"]:
        raise ValueError(f"output.from_spectrum: {store.where!r} was made without --output.keep-spectrum")
    for name, value in earlier.items():
        if bound_to_spectrum(name) and fields.get(name) != value:
            raise ValueError(f"output.from_spectrum: {name} was {value!r} there and is {fields.get(name)!r} here")
    if config.spectrum.num_directions > earlier["spectrum.num_directions"]:
        raise ValueError(
            f"spectrum.num_directions: {config.spectrum.num_directions} exceeds the "
            f"{earlier['spectrum.num_directions']} that {store.where!r} kept"
        )
    return root["root_sha256"]


def _with_kept_keys(rows: list[InputRow], config: ExtractConfig) -> list[InputRow]:
    """Return the rows with the keys under which an earlier version kept their spectra, where one did.

    Random streams follow from keys, and so does where a spectrum is found; an output has keys of one kind alone.
    """
    if not config.output.from_spectrum:
        return rows
    store = open_store(config.output.from_spectrum)
    read_root(store)
    kept = _spectrum_fields(store).get("input_sha256")
    if kept == digest_of(rows):
        return rows
    legacy = with_legacy_keys(rows)
    if kept != digest_of(legacy):
        return rows  # `_check_spectrum` says that it is another input
    longest = max(legacy, key=lambda row: len(row.key))
    if len(longest.key) + longest_suffix(config.output.extras) > MAX_MEMBER_NAME:
        raise ValueError(
            f"output.extras: their names behind the key of {shown(longest.id)!r}, as {store.where!r} has it, exceed "
            f"the {MAX_MEMBER_NAME} characters of a tar member's name; valid: shorter ones, or a new extraction"
        )
    return legacy


def _spectrum_fields(store: Store) -> dict[str, Any]:
    """Return the identity of an earlier run; ValueError where its record is damaged."""
    path = f"{store.where}/{RUN}"
    try:
        fields = store.read_record()["fields"]
        bound = ("output.keep_spectrum", "spectrum.num_directions")
        if not isinstance(fields["spectrum.num_directions"], int) or any(name not in fields for name in bound):
            raise ValueError("it lacks settings")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"output.from_spectrum: {path!r} cannot be read: {error}") from None
    return fields


def scan_images(plan: Plan, source: Source) -> Counter[str]:
    """Decode a spread of at most 64 inputs and count what is wrong with them."""
    stride = max(1, len(plan.rows) // SCANNED_IMAGES)
    found: Counter[str] = Counter()
    for row in plan.rows[::stride][:SCANNED_IMAGES]:
        try:
            decode_row(source, row, plan.image_size, plan.config.data)
            found["ok"] += 1
        except RejectedImage as rejected:
            found[rejected.reason.value] += 1
    return found


def describe(plan: Plan) -> str:
    """Return the plan as text: output, input, units, evaluations, time and disk, as if run on this machine alone.

    Raises as `check_output` does, and DiskFull.
    """
    store = open_store(plan.config.output.path)
    resumes = check_output(plan, store)
    done = sum(1 for _ in store.each_committed(to_the_byte=False)) if resumes else 0
    num_actors = default_actors(plan.config, torch.cuda.device_count(), os.cpu_count() or 1)
    cost = estimate_cost(plan)
    scanned = scan_images(plan, open_source(plan.config.data, None))
    count, rows = len(plan.rows), plan.config.engine.rows_per_call
    place = "cuda" if torch.cuda.is_available() else "cpu"
    memory, _ = probe_memory(plan.config, place)
    needed = cost.bytes_per_sample * (count - min(count, done * plan.config.engine.unit_size))
    free = check_space(store, needed)
    seconds = cost.total_evaluations * cost.seconds_per_evaluation * count / num_actors
    lines = [
        f"output       {store.where}: "
        + (f"continues, {done} of {plan.num_units} units are done" if resumes else "new"),
        f"clock        {plan.clock}",
        f"input        {count} images in {len({row.class_name for row in plan.rows if row.class_name})} classes",
        *(f"             {note}" for note in plan.notes),
        f"scan         {', '.join(f'{number} {what}' for what, number in sorted(scanned.items()))}"
        f" (of {sum(scanned.values())} decoded)",
        f"units        {plan.num_units} of up to {plan.config.engine.unit_size} images, one shard each",
        f"evaluations  {cost.total_evaluations:.0f} per sample",
        *(f"             {number:8.0f}  {what}" for what, number in cost.evaluations_per_sample.items()),
        f"time         about {seconds:.0f} s for all of it with {num_actors} actors, after start-up"
        f" ({cost.seconds_per_evaluation * 1e3:.2f} ms per evaluation, measured here)",
        f"memory       {memory}, {memory.of(rows) / 1e9:.2f} GB for batches of {rows} (measured here, {place})",
        f"disk         about {cost.bytes_per_sample * count / 1e6:.1f} MB{free}",
        f"machines     {'this one' if resources_here() else 'of a cluster, looked at once it is joined'}",
        f"weights      {plan.fields['weights_sha256']}",
        f"fingerprint  {plan.fingerprint[:16]}",
    ]
    return "\n".join(lines)
