"""Summary, figures and page of a finished extraction, made again from its units where they are damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarep_ray import dotted
from clarep_ray.analysis.figures import write_figures
from clarep_ray.analysis.gallery import write_extraction_page
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.analysis.report import extraction_metrics
from clarep_ray.cluster.health import put_health, read_health
from clarep_ray.config import ExtractConfig
from clarep_ray.data.clarep_index import read_root
from clarep_ray.data.derived import (
    DERIVED,
    FIGURES,
    HEALTH,
    MEMBERS,
    MEMBERS_SHA256,
    NAMES,
    PAGE,
    SUMMARY,
    record_derived,
    wrong_derived,
)
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.store import OutputStore, Store
from clarep_ray.data.untrusted import MAX_JSON_BYTES, parse_json_object
from clarep_ray.data.verify import AGAIN, Damage

COUNTS = ("num_inputs", "num_ok", "rejects", "num_units")


def is_derived(damage: Damage) -> bool:
    """Say whether a damage is one of files that are made from the units, for which nothing is computed again."""
    return damage.what.endswith(AGAIN)


def make_again(store: Store) -> list[str]:
    """Make what is damaged or missing of summary, figures, health record and page again; return the names.

    Neither model nor input is needed. What only the process that did the work knew, its times, is not in a summary that
    was made again; the health record comes back from an intact summary, or is gone. Raises ValueError where the units
    or the run's record are damaged themselves.
    """
    root = read_root(store)
    wrong = set(wrong_derived(store, root)) | {name for name in (SUMMARY, HEALTH) if _is_no_json(store, name)}
    if not wrong:
        return []
    if DERIVED in wrong:  # of no file can be said whether it is as it was
        wrong |= {name for name in NAMES if store.has(name)}
    if HEALTH in wrong:
        _restore_health(store, intact=SUMMARY not in wrong)
    output = ExtractionOutput(store)
    if wrong & set(FIGURES):
        for path in write_figures(output) if output.samples else []:
            store.upload(path.name)
    if SUMMARY in wrong:
        store.put(SUMMARY, plain_json(_summary(store, root, output)))
    if PAGE in wrong and isinstance(store, OutputStore):
        write_extraction_page(store.root)
    if MEMBERS in wrong:
        store.remove("", [MEMBERS, MEMBERS_SHA256])
    record_derived(store, [name for name in NAMES if name in wrong and store.has(name)], gone=wrong & set(NAMES))
    return sorted(wrong)


def _is_no_json(store: Store, name: str) -> bool:
    """Say whether there is such a file and it cannot be read, as may be where no hash of it was noted."""
    return store.has(name) and _read(store, name) is None


def _read(store: Store, name: str) -> dict[str, Any] | None:
    try:
        return parse_json_object(store.read(name, MAX_JSON_BYTES), f"{store.where}/{name}")
    except (OSError, ValueError):
        return None


def _restore_health(store: Store, intact: bool) -> None:
    """Write the record that the summary holds, if that is `intact` or says what the damaged record says."""
    told = (_read(store, SUMMARY) or {}).get("health")
    if isinstance(told, dict) and (intact or told == _read(store, HEALTH)):
        put_health(store, told)
    else:
        store.remove("", [HEALTH])


def _summary(store: Store, root: Mapping[str, Any], output: ExtractionOutput) -> dict[str, Any]:
    config = dotted.from_flat(ExtractConfig, store.read_run()["config"])
    return {
        "output": store.where,
        **{name: root[name] for name in ("fingerprint", *COUNTS, "root_sha256")},
        "input": [],
        "reject_rate": 1 - root["num_ok"] / root["num_inputs"],
        "units_resumed": root["num_units"],
        "wall_s": 0.0,
        "images_per_s": 0.0,
        "stage_s": {},
        "num_actors": 0,
        "health": read_health(store),
        "preset": None,
        "metrics": extraction_metrics(output, config) if output.samples else {},
        "made_again": True,
    }
