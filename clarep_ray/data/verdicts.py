"""Verdicts of an evaluation on disk: one file for each work unit, whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clarep_ray.data.durable import make_folder
from clarep_ray.data.inside import new_inside, refuse_links, write_inside
from clarep_ray.data.parts import PARTS
from clarep_ray.data.sealed import as_damage, read_sealed, sealed
from clarep_ray.data.untrusted import Fields, check_fields

VERDICT = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int32()),
        ("prediction", pa.int32()),
        ("right", pa.bool_()),
        ("non_finite", pa.bool_()),
        ("attacked", pa.bool_()),
        ("linf_255", pa.float32()),
        ("l2", pa.float32()),
        ("num_gradients", pa.int32()),
        ("num_queries", pa.int32()),
        ("reject", pa.string()),
    ]
)
"""One picture. `right` is the verdict: answered right, under an attack in spite of it; null for a picture that could
not be read, whose reason is `reject`. `non_finite` says that a logit was no finite number, which is never right.
`prediction` is of answers without an attack (-2 where there is none for that reason, -1 a class that the benchmark does
not have), the columns after it of attacks."""
NAMES = pa.schema(
    [(name, pa.string()) for name in ("role", "model", "benchmark", "slice", "attack")] + [("seed", pa.int32())]
)
"""What a row of `verdicts.parquet` says besides: which model, on what, under which attack (`clean` for none)."""


SEAL = "part_sha256"
FINDING: Fields = {"name": str, "passed": bool, "severity": str, "numbers": dict, "meaning": str}
"""What a finding of a trust check is made of (`robustness/trust.py`)."""


@dataclass(frozen=True)
class VerdictParts:
    """A folder of an output with files that have their own hash: `<unit>.verdicts` (columns of VERDICT as JSON) and
    `<unit>.json` (findings of trust checks).

    Not Parquet: pyarrow ends the process on a footer with a wrong bit, before any hash inside could be compared."""

    output: Path

    @property
    def folder(self) -> Path:
        """The files' own folder; NotInside where that is a link."""
        return refuse_links(self.output, PARTS)

    def names(self) -> set[str]:
        """Return the units that are done."""
        return {path.stem for path in self.folder.glob("[!.]*") if path.suffix in (".verdicts", ".json")}

    def write_verdicts(self, unit: str, columns: Mapping[str, Any]) -> None:
        """Write the verdicts of a unit, columns of VERDICT; a missing one is null throughout."""
        count = len(columns["key"])
        arrays = [pa.array(columns.get(item.name, [None] * count), item.type) for item in VERDICT]
        self._write(f"{unit}.verdicts", sealed(pa.table(arrays, schema=VERDICT).to_pydict(), SEAL))

    def write_findings(self, unit: str, findings: list[dict[str, Any]]) -> None:
        """Write what trust checks found."""
        self._write(f"{unit}.json", sealed({"findings": findings}, SEAL))

    def verdicts(self, units: Iterable[str]) -> pa.Table:
        """Return the verdicts of some units, one after another; DamagedPart where one is not what was written."""
        return pa.concat_tables([self._verdicts_of(unit) for unit in units])

    def findings(self, unit: str) -> list[dict[str, Any]]:
        """Return what trust checks found; DamagedPart where that is not what was written."""
        name = f"{PARTS}/{unit}.json"
        with as_damage(self.output / name):
            findings = read_sealed(self.output, name, SEAL)["findings"]
            for finding in findings:
                check_fields(finding, FINDING, "a finding")
                check_fields(finding["numbers"], dict.fromkeys(finding["numbers"], (float, type(None))), "its numbers")
                if finding.keys() != FINDING.keys():
                    raise ValueError(f"a finding has the fields {sorted(finding)}")
            return findings

    def _verdicts_of(self, unit: str) -> pa.Table:
        name = f"{PARTS}/{unit}.verdicts"
        with as_damage(self.output / name):
            columns = read_sealed(self.output, name, SEAL)
            table = pa.table([pa.array(columns[item.name], item.type) for item in VERDICT], schema=VERDICT)
            if any(table[name].null_count for name in ("key", "label")):
                raise ValueError("a verdict has no key or no label")
            return table

    def _write(self, name: str, data: bytes) -> None:
        make_folder(self.output)
        write_inside(self.output, f"{PARTS}/{name}", data)


def write_verdict_table(path: Path, tables: Iterable[tuple[Mapping[str, Any], pa.Table]]) -> None:
    """Write all verdicts as one Parquet file in one step; each table with the columns of NAMES that hold for it."""
    schema = pa.unify_schemas([NAMES, VERDICT])
    with (
        new_inside(path.parent, path.name) as work,
        work.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        for names, table in tables:
            known = [pa.repeat(pa.scalar(names[item.name], item.type), len(table)) for item in NAMES]
            writer.write_table(pa.table([*known, *table.columns], names=[*NAMES.names, *VERDICT.names]))
