"""Compute damaged units of a finished extraction again."""

from __future__ import annotations

from pathlib import Path

from clarep_ray import dotted
from clarep_ray.cluster.extract import run_extraction
from clarep_ray.config import ExtractConfig
from clarep_ray.data.store import RUN, Store, as_store
from clarep_ray.data.verify import Damage


def repair(output: Path | Store, damages: list[Damage]) -> list[int]:
    """Compute damaged units again by the same extraction and rewrite index and root; return the units.

    An unfinished extraction is finished by it. Raises ValueError where the run's own record is lost, ResumeRefused
    where code, weights or input have changed since; nothing is taken out then.
    """
    store = as_store(output)
    try:
        flat = store.read_run()["config"]
        changes = {"output.path": store.where, "engine.take_over": False}
        config = dotted.override(dotted.from_flat(ExtractConfig, flat), changes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{store.where}/{RUN} is damaged ({error}); run the command of the extraction again, "
            "which restores it where it can"
        ) from None
    run_extraction(config, damages=damages)
    return sorted({damage.unit for damage in damages if damage.unit is not None})
