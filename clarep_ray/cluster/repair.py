"""Compute damaged units of a finished extraction again."""

from __future__ import annotations

from pathlib import Path

from clarep_ray.cluster.extract import run_extraction
from clarep_ray.config import ExtractConfig, Given
from clarep_ray.config.found import found
from clarep_ray.data.store import RUN, Store, as_store
from clarep_ray.data.verify import Damage


def repair(output: Path | Store, damages: list[Damage], given: Given | None = None) -> list[int]:
    """Compute damaged units again by the same extraction and rewrite index and root; return the units.

    An unfinished extraction is finished by it. Raises ValueError where the run's own record is lost, or names places
    that were not given; ResumeRefused where code, weights or input have changed since; nothing is taken out then.
    """
    store = as_store(output)
    run_extraction(recorded_config(store, given or Given()), damages=damages)
    return sorted({damage.unit for damage in damages if damage.unit is not None})


def recorded_config(store: Store, given: Given) -> ExtractConfig:
    """Return the config of the extraction that an output holds, as far as it may say it; ValueError as `repair`."""
    where = f"{store.where}/{RUN}"
    try:
        flat = dict(store.read_run()["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is damaged ({error}); run the command of the extraction again, which restores it where it can"
        ) from None
    own = {
        "output.path": store.where,
        "health.enabled": False,
    }  # the same bytes again, or none: nothing to be warned of
    return found(ExtractConfig, flat, given.said() | own, where)
