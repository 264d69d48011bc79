"""Outputs of every kind as somebody might hand them on who means harm, and what reads them in each job."""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clarep_ray import tracking
from clarep_ray.analysis.calibration_findings import as_csv
from clarep_ray.analysis.figures import write_figures
from clarep_ray.analysis.gallery import write_extraction_page, write_sweep_page
from clarep_ray.analysis.outputs import ExtractionOutput
from clarep_ray.analysis.report import extraction_metrics
from clarep_ray.cadistill.run import read_metrics, read_result
from clarep_ray.cluster.health import health_lines, health_metrics, read_health
from clarep_ray.cluster.identity import check_same_run
from clarep_ray.cluster.sweep_rows import Row, ask_point, asked_points, claim, commit_row, read_row, take_out_failed
from clarep_ray.data.calibration_file import CALIBRATION, read_calibration, write_calibration
from clarep_ray.data.clarep_index import ROOT, ROOT_SEAL, finish
from clarep_ray.data.clarep_store import open_clareps
from clarep_ray.data.derived import HEALTH, SUMMARY, record_derived
from clarep_ray.data.inside import write_inside
from clarep_ray.data.manifest import MANIFEST, InputManifest, unchanged_hashes
from clarep_ray.data.owner import owned
from clarep_ray.data.parts import Parts
from clarep_ray.data.plain_json import json_line, plain_json
from clarep_ray.data.sealed import sealed
from clarep_ray.data.shards import sha256_file
from clarep_ray.data.store import RUN, UNIT_SEAL, OutputStore
from clarep_ray.data.verdicts import VerdictParts
from clarep_ray.data.verify import verify, withdraw
from clarep_ray.models.cdm_networks import read_result as read_cdm_result
from clarep_ray.models.checkpoints import check_checkpoints, load_newest, save_checkpoint
from clarep_ray.models.health import CURVES
from clarep_ray.models.students import Architecture, load_student, make_student, save_student
from clarep_ray.presets import EXTRACT
from clarep_ray.robustness.trust import Finding
from tests.analysis.made_output import made_output

CANARY = "THE-VICTIM-KEPT-THIS"
Plant = Callable[[Path, Path], None]
"""Changes an output (first) and may use the folder of the victim (second)."""


class SmallTraining:
    """A training of one tensor."""

    step = 2

    def parts(self) -> dict[str, Any]:
        return {"weights": {"w": torch.ones(3)}}

    def notes(self) -> dict[str, Any]:
        return {"loss": 0.5}

    def restore(self, parts: Any, notes: Any) -> None:
        self.weights = parts["weights"]["w"] * notes["loss"]


def make_extraction(folder: Path) -> None:
    made_output(folder, count=4, edge=16, extras=("original",), classes=("0", "1"), gate=True)
    write_inside(folder, "summary.json", plain_json({"metrics": {"nmi/original": 0.5}, "preset": "p", "input": []}))
    health = {
        "verdict": "ok",
        "warnings": [],
        "times": [1.0],
        "num_images": 1,
        "evaluations": 3,
        "seconds": 0.1,
        "max_gain": 0.01,
    }
    health |= {name: [0.1] for name in CURVES[1:]}
    health |= {"autoencoder": {"rms": 0.0, "bound": 1.0}, "labels": None, "max_gain": 0.01}
    write_inside(folder, "health.json", plain_json(health))
    record_derived(OutputStore(folder), [SUMMARY, HEALTH])
    open_clareps(str(folder))  # leaves members.parquet


def make_sweep(folder: Path) -> None:
    store = OutputStore(folder)
    store.prepare()
    for name in ("rows", "points", "claims"):
        (folder / name).mkdir()
    store.write_run({"a": 1}, {"a": 1})
    for seed, status in enumerate(("ok", "failed")):
        row = {"key": f"k{seed}", "trial": "t", "seed": seed, "point": {"a": 1}}
        commit_row(folder, Row(**row, status=status, metrics={"m": 0.5}, reason="x" * seed))
    ask_point(folder, "t", {"a": 1})
    claim(folder, "c", "somebody")
    about = {"name": "n", "metric": "m", "mode": "max", "fields": ["a"], "seeds": [0, 1], "metrics": ["m"]}
    store.put("sweep.json", plain_json(about))
    rows = [{"trial": "t", "status": "ok", "seed": seed, "a": 1, "metric/m": 0.5, "wall_s": 1} for seed in (0, 1)]
    store.put("trials.csv", as_csv(rows))


def make_evaluation(folder: Path) -> None:
    folder.mkdir()
    parts = VerdictParts(folder)
    parts.write_verdicts("0.b.test.clean.0.0000000", {"key": ["a", "b"], "label": [0, 1], "right": [True, False]})
    parts.write_findings("0.b.test.trust.0.0000000", [vars(Finding("sane", True, "warn", {"x": 1.0}, "means"))])


def make_calibration(folder: Path) -> None:
    folder.mkdir()
    Parts(folder).write("judged", 0, {"labels": np.arange(3), "read": np.zeros((3, 1))})
    OutputStore(folder).prepare()
    settings = {"inversion.num_steps": 100}
    about: dict[str, Any] = {
        "model": "digits_dit",
        "weights_sha256": "w",
        "fingerprint": "f",
        "notes": [],
        "tables": {},
    }
    write_calibration(OutputStore(folder), settings=settings, **about)


def make_training(folder: Path) -> None:
    folder.mkdir()
    save_checkpoint(SmallTraining(), folder / "checkpoints", "mark")
    names = {"name": "small_cnn", "class_names": ("a", "b"), "image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_student(make_student(Architecture(**names)), folder / "last")
    end = {"val_accuracy": 0.5, "student": "/etc/passwd"}
    record: dict[str, Any] = {"fingerprint": "mark", "method": "vanilla", "seed": 0, "steps": 2, "epochs": 1}
    record |= {"config": {}, "last": end, "best": end, "data_sha256": "d", "val_sha256": "v", "store_sha256": None}
    record |= {"loss": 0.5, "num_images": 2, "class_names": ["a"], "model": "/etc"}
    write_inside(folder, "result.json", plain_json(record))
    write_inside(folder, "metrics.jsonl", json_line({"epoch": 1, "step": 2, "val_accuracy": 0.5}))


MAKERS = {
    "extraction": make_extraction,
    "sweep": make_sweep,
    "evaluation": make_evaluation,
    "calibration": make_calibration,
    "training": make_training,
}


def extraction_again(folder: Path) -> None:
    """Do what the same command does to a finished extraction, but for building the model and freezing the input."""
    store = OutputStore(folder)
    config = EXTRACT["digits"]().config
    with owned(folder, say=lambda _: None):
        fields = json.loads((GOLDEN["extraction"] / RUN).read_bytes())["fields"]
        check_same_run(fields, store, "output.path")
        store.prepare()
        health = read_health(store)
        health_metrics(health), health_lines(health) if health else None
        unchanged_hashes(store, "/")
        list(store.each_committed(to_the_byte=False))
        manifest = InputManifest(folder / MANIFEST, sha256_file(GOLDEN["extraction"] / MANIFEST))
        identity = {"fingerprint": json.loads((GOLDEN["extraction"] / ROOT).read_bytes())["fingerprint"]}
        finish(store, manifest, "train", identity | {"label_map_sha256": "0", "classes_sha256": None})
        output = ExtractionOutput(store)
        record_derived(store, [path.name for path in write_figures(output)])
        extraction_metrics(output, config)


def repaired(folder: Path) -> None:
    """Verify, and take out what `verify --repair` computes again."""
    damages = verify(folder)
    withdraw(folder, damages)
    if damages:
        raise ValueError("; ".join(damage.what for damage in damages).replace("\n", " "))


def distilled(folder: Path) -> None:
    store = open_clareps(str(folder))
    store.images(0), store.features([0, 1])


def sweep_again(folder: Path) -> None:
    store = OutputStore(folder)
    check_same_run({"a": 1}, store, "output")
    for key in ("k0", "k1"):
        read_row(folder, key)
    asked_points(folder)
    claim(folder, "c", "somebody")
    take_out_failed(folder)
    commit_row(folder, Row(key="k2", trial="t", seed=2, status="ok", point={}, metrics={"m": float("nan")}))


def evaluation_again(folder: Path) -> None:
    parts = VerdictParts(folder)
    for name in sorted(parts.names()):
        parts.findings(name) if ".trust." in name else parts.verdicts([name])
    parts.write_findings("0.b.test.trust.1.0000000", [])


def calibration_again(folder: Path) -> None:
    parts = Parts(folder)
    if parts.has("judged", 0):
        parts.column("judged", "labels"), parts.column("judged", "read")
    parts.write("judged", 1, {"labels": np.arange(2), "read": np.zeros((2, 1))})


def training_again(folder: Path) -> None:
    check_checkpoints(folder / "checkpoints", "mark")
    training = SmallTraining()
    load_newest(training, folder / "checkpoints", "mark")
    read_result(folder), read_cdm_result(folder), read_metrics(folder)
    training.step = 3
    save_checkpoint(training, folder / "checkpoints", "mark")
    write_inside(folder, "result.json", b"{}")
    save_student(make_student(load_student(folder / "last").architecture), folder / "last")


def told(folder: Path) -> None:
    class Deaf:
        def metrics(self, values: Mapping[str, float], step: int) -> None:
            assert all(isinstance(value, int | float) for value in values.values())

    tracking.tell_lines(Deaf(), folder / "metrics.jsonl", "epoch")  # type: ignore[arg-type]


READERS: dict[str, dict[str, Callable[[Path], object]]] = {
    "extraction": {
        "verify": verify,
        "report": write_extraction_page,
        "distill": distilled,
        "extract": extraction_again,
        "repair": repaired,
    },
    "sweep": {"report": write_sweep_page, "sweep": sweep_again},
    "evaluation": {"evaluate": evaluation_again},
    "calibration": {
        "calibrate": calibration_again,
        "extract --calibration": lambda folder: read_calibration(str(folder / CALIBRATION)),
    },
    "training": {"MLflow": told, "train": training_again, "student": lambda folder: load_student(folder / "last")},
}
GOLDEN: dict[str, Path] = {}


def link_away(name: str) -> Plant:
    """Move a file or folder to the victim and leave a link: who follows it finds everything right."""

    def plant(output: Path, victim: Path) -> None:
        target = victim / "moved"
        shutil.move(output / name, target)
        (output / name).symlink_to(target)

    return plant


def link_to_kept(name: str) -> Plant:
    """Put a link to a file of the victim at a name that a job writes."""

    def plant(output: Path, victim: Path) -> None:
        (output / name).unlink(missing_ok=True)
        (output / name).symlink_to(victim / "kept.txt")

    return plant


def special(name: str, kind: str) -> Plant:
    """Put a pipe, a socket, a link to a device or a folder in the place of a file."""

    def plant(output: Path, victim: Path) -> None:
        path = output / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            here = Path.cwd()
            os.chdir(path.parent)  # the name of a socket is short
            try:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(path.name)
            finally:
                os.chdir(here)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
            (path / "inner").write_text("x")

    return plant


def holds(name: str, data: bytes) -> Plant:
    """Put other bytes into a file."""

    def plant(output: Path, victim: Path) -> None:
        (output / name).write_bytes(data)

    return plant


def record(name: str, **changes: Any) -> Plant:
    """Change fields of a JSON file that has no hash; a field of None is taken out."""

    def plant(output: Path, victim: Path) -> None:
        found = json.loads((output / name).read_bytes()) | changes
        gone = {key for key, value in changes.items() if value is None}
        (output / name).write_text(json.dumps({key: value for key, value in found.items() if key not in gone}))

    return plant


def resealed(name: str, seal: str, change: Callable[[dict[str, Any]], object]) -> Plant:
    """Change a sealed record and seal it again, as somebody does who means harm; a unit's hash in the root too."""

    def plant(output: Path, victim: Path) -> None:
        path = output / name
        found = json.loads(path.read_bytes())
        change(found)
        found.pop(seal, None)
        path.write_bytes(sealed(found, seal))
        if name.startswith("units/"):
            root = json.loads((output / ROOT).read_bytes())
            root["unit_sha256"][int(Path(name).stem)] = hashlib.sha256(path.read_bytes()).hexdigest()
            root.pop(ROOT_SEAL)
            (output / ROOT).write_bytes(sealed(root, ROOT_SEAL))

    return plant


def the_shard(plant: Callable[[str], Plant]) -> Plant:
    """Do something to the only shard, whatever it is called."""
    return lambda output, victim: plant(f"shards/{next((output / 'shards').iterdir()).name}")(output, victim)


def entry(**changes: Any) -> Plant:
    """Change what a unit says of its shard."""
    return unit(lambda manifest: manifest["files"]["shards"].update(changes))


def finding(**changes: Any) -> Plant:
    return part(FINDINGS, lambda record: record["findings"][0].update(changes))


def unit(change: Callable[[dict[str, Any]], object]) -> Plant:
    return resealed("units/000000.json", UNIT_SEAL, change)


def root(change: Callable[[dict[str, Any]], object]) -> Plant:
    return resealed(ROOT, ROOT_SEAL, change)


def checkpoint(change: Callable[[dict[str, Any]], object]) -> Plant:
    return resealed("checkpoints/step-00000002/state.json", "state_sha256", change)


def part(name: str, change: Callable[[dict[str, Any]], object]) -> Plant:
    return resealed(f"parts/{name}", "part_sha256", change)


def sample(change: Callable[[dict[str, Any]], object]) -> Plant:
    """Change a sample's JSON inside the shard, with every hash right."""

    def plant(output: Path, victim: Path) -> None:
        from clarep_ray.data.shards import read_shard, shard_bytes

        found = json.loads((output / "units/000000.json").read_bytes())
        entry = found["files"]["shards"]
        old = entry["name"]
        samples = {each.key: dict(each.members) for each in read_shard(output / old)}
        members = next(iter(samples.values()))
        about = json.loads(members["json"])
        change(about)
        members["json"] = json.dumps(about).encode()
        data = shard_bytes(samples)
        sha = hashlib.sha256(data).hexdigest()
        entry |= {"name": f"shards/000000-{sha[:12]}.tar", "sha256": sha, "bytes": len(data)}
        (output / old).unlink()
        (output / entry["name"]).write_bytes(data)
        unit(lambda manifest: manifest["files"].update({"shards": entry}))(output, victim)
        root(lambda top: top.update({"files": [entry]}))(output, victim)
        (output / "members.parquet").unlink()

    return plant


def both(*plants: Plant) -> Plant:
    def plant(output: Path, victim: Path) -> None:
        for each in plants:
            each(output, victim)

    return plant


def foreign_members(output: Path, victim: Path) -> None:
    """Name a file of the victim in the note of where members lie, with a right hash of the note and right stamps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from clarep_ray.data.clarep_index import read_root
    from clarep_ray.data.clarep_members import _notes, _stamps

    table = pq.read_table(output / "members.parquet")
    outside = pa.array(["../victim/kept.txt"] * len(table)).dictionary_encode()
    table = table.set_column(table.column_names.index("shard"), "shard", outside)
    top = read_root(output)
    notes = json.dumps(_notes(top, _stamps(output, top)))
    pq.write_table(table.replace_schema_metadata({"checked": notes}), output / "members.parquet")
    (output / "members.sha256").write_text(sha256_file(output / "members.parquet"))


DEEP = b"[" * 200_000
DIGITS = b'{"version": ' + b"9" * 100_000 + b"}"
LAST_TWICE = b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b',"k299999":1}'
STATE = "checkpoints/step-00000002/state.json"
ROW = "rows/k0.json"
VERDICTS, FINDINGS = "0.b.test.clean.0.0000000.verdicts", "0.b.test.trust.0.0000000.json"


@dataclass(frozen=True)
class Case:
    """A plant, the kind of output, and what one of its readers must say; empty where nothing need be said."""

    kind: str
    plant: Plant
    says: str
    nightly: bool = False


def cases() -> dict[str, Case]:
    """Return every case by its name."""
    found: dict[str, Case] = {}

    def add(kind: str, says: str, nightly: bool = False, /, **plants: Plant) -> None:
        for name, plant in plants.items():
            found[f"{kind}: {name.replace('_', ' ')}"] = Case(kind, plant, says, nightly)

    for name in ("shards", "units", "spectra", "tmp"):
        add("extraction", "is a link", **{f"folder {name} is a link": link_away(name)})
    for name in (RUN, ROOT, "index.parquet", MANIFEST, "units/000000.json", "health.json", "summary.json"):
        add("extraction", "link|damaged|missing|cannot be read", **{f"{name} is a link": link_away(name)})
    for name in ("report.html", "contact_sheet.png", "members.parquet", "members.sha256", "_info.json"):
        add("extraction", "", name.startswith("m"), **{f"{name} is a link to be written through": link_to_kept(name)})
    for kind in ("pipe", "socket", "device", "folder"):
        for name in (RUN, ROOT, "units/000000.json"):
            add("extraction", "", kind != "pipe", **{f"{name} is a {kind}": special(name, kind)})
    for name in ("index.parquet", "health.json", "summary.json", "members.parquet", "input_stamps.jsonl"):
        add("extraction", "", **{f"{name} is a pipe": special(name, "pipe")})
    add("extraction", "", owner_is_a_pipe=special("tmp/owner.000001", "pipe"))
    add("extraction", "", True, owner_is_a_link=link_to_kept("tmp/owner.000001"))
    add("extraction", "", owner_says_nonsense=holds("tmp/owner.000007", b'{"host": [], "pid": "../..", "machine": 1}'))
    add(
        "extraction",
        "",
        shard_is_a_pipe=lambda o, v: special(f"shards/{next((o / 'shards').iterdir()).name}", "pipe")(o, v),
    )
    add("extraction", "", shard_is_a_link=lambda o, v: link_away(f"shards/{next((o / 'shards').iterdir()).name}")(o, v))
    for label, data in {"deep": DEEP, "digits": DIGITS, "NaN": b'{"a": NaN}', "twice": LAST_TWICE}.items():
        for name in (RUN, ROOT, "health.json"):
            says = "" if name == "health.json" else "cannot be read|damaged|not valid JSON|missing"
            add("extraction", says, name != RUN, **{f"{name} is {label}": holds(name, data)})
    damaged = "damaged|is no manifest|other number"
    add("extraction", damaged, unit_of_other_unit=unit(lambda m: m.update(unit=1)))
    add("extraction", damaged, unit_rows_are_a_number=unit(lambda m: m.update(rows=7)))
    add("extraction", damaged, True, unit_row_is_a_text=unit(lambda m: m["rows"].append("row")))
    add("extraction", damaged, True, unit_row_has_no_status=unit(lambda m: m["rows"][0].pop("status")))
    add("extraction", damaged, unit_counts_wrong=unit(lambda m: m.update(num_ok=10**30)))
    add("extraction", damaged, unit_number_is_a_list=unit(lambda m: m["rows"][0].update(round_trip_error=[1])))
    add("extraction", damaged, True, unit_number_is_huge=unit(lambda m: m["rows"][0].update(num_removed=10**200)))
    add(
        "extraction",
        damaged,
        unit_names_a_file_elsewhere=unit(lambda m: m["files"]["shards"].update(name="../../victim/kept.txt")),
    )
    add("extraction", damaged, True, unit_names_a_root_path=entry(name="/etc/passwd"))
    add(
        "extraction",
        damaged,
        unit_names_another_units_shard=entry(name="shards/000001-0123456789ab.tar"),
        unit_says_a_negative_size=entry(bytes=-1),
        unit_says_no_size=entry(bytes="9"),
    )
    add("extraction", damaged, True, unit_has_no_files=unit(lambda m: m.pop("files")))
    add("extraction", "MANIFEST", root_counts_a_trillion_units=root(lambda m: m.update(num_units=10**12)))
    add(
        "extraction",
        "MANIFEST",
        root_names_files_elsewhere=root(lambda m: m["files"][0].update(name="../victim/kept.txt")),
    )
    add("extraction", "MANIFEST", True, root_has_no_index_hash=root(lambda m: m.pop("index_sha256")))
    add("extraction", "sample", sample_without_singular_values=sample(lambda s: s.update(singular_values=None)))
    add("extraction", "sample", sample_that_removes_a_thousand=sample(lambda s: s.update(num_removed=1000)))
    add(
        "extraction",
        "sample",
        True,
        sample_with_words_for_numbers=sample(lambda s: s.update(singular_values=["x"] * 12)),
    )
    add("extraction", "sample", sample_with_a_list_as_class=sample(lambda s: s.update(class_name=["x"])))
    add("extraction", "health", health_curve_of_words=record("health.json", error_with_label=["x"]))
    add("extraction", "health", health_warning_is_a_list=record("health.json", warnings=[["x"]]))
    alone = b'{"verdict": "ok", "warnings": [], "max_gain": 1}'
    add("extraction", "", health_says_three_things_alone=holds("health.json", alone))
    add("extraction", "health", health_without_autoencoder=record("health.json", autoencoder=7))
    add("extraction", "metrics", summary_metric_is_a_text=record("summary.json", metrics={"nmi/x": "much"}))
    add("extraction", "", members_name_a_file_outside=foreign_members)
    add("extraction", "", True, stray_names_of_units=both(holds("units/1.json", b"{}"), holds("units/x.json", b"{}")))
    add("extraction", "", k_steps_is_a_link=lambda o, v: (o / "k_steps").symlink_to(v))

    for name in ("rows", "points", "claims", "tmp"):
        add("sweep", "is a link", **{f"folder {name} is a link": link_away(name)})
    add("sweep", "is a link", row_is_a_link=link_away(ROW))
    add("sweep", "not a regular file", row_is_a_pipe=special(ROW, "pipe"))
    add("sweep", "damaged|not valid JSON", row_is_deep=holds(ROW, DEEP))
    add("sweep", "damaged|holds no JSON object", row_is_a_list=holds(ROW, b'["ok"]'))
    add("sweep", "damaged", row_of_another_key=record(ROW, key="k9"))
    add("sweep", "damaged", row_metric_is_a_text=record(ROW, metrics={"m": "0.5"}))
    add("sweep", "damaged", row_status_is_unknown=record(ROW, status="best"))
    add("sweep", "damaged", row_lacks_its_seed=record(ROW, seed=None))
    add("sweep", "damaged", row_has_an_extra_field=record(ROW, code="evil.py"))
    add("sweep", "not valid JSON", point_is_no_number=holds("points/t.json", b'{"a": 1e999}'))
    add("sweep", "not a regular file|is no sweep", trials_is_a_pipe=special("trials.csv", "pipe"))
    add("sweep", "is no sweep", trials_is_a_device=special("trials.csv", "device"))
    add("sweep", "is no sweep", trials_has_a_ragged_line=holds("trials.csv", b"trial,status,seed,a,metric/m\nt,ok\n"))
    add("sweep", "is no sweep|is a link", sweep_json_is_a_link=link_away("sweep.json"))
    add("sweep", "is no sweep", sweep_fields_are_a_number=record("sweep.json", fields=7))
    add("sweep", "", page_is_a_link_to_be_written_through=link_to_kept("report.html"))

    add("evaluation", "is a link", folder_parts_is_a_link=link_away("parts"))
    add("evaluation", "is a link", verdicts_are_a_link=link_away(f"parts/{VERDICTS}"))
    add("evaluation", "not a regular file", verdicts_are_a_pipe=special(f"parts/{VERDICTS}", "pipe"))
    add("evaluation", "is damaged", verdicts_have_words=part(VERDICTS, lambda p: p.update(label=["a", "b"])))
    add("evaluation", "is damaged", verdicts_have_no_keys=part(VERDICTS, lambda p: p.update(key=[None, None])))
    add("evaluation", "is damaged", verdicts_lack_a_column=part(VERDICTS, lambda p: p.pop("right")))
    add("evaluation", "is damaged", verdicts_are_ragged=part(VERDICTS, lambda p: p.update(label=[0])))
    add("evaluation", "is damaged", findings_are_a_text=part(FINDINGS, lambda p: p.update(findings="passed")))
    add(
        "evaluation",
        "is damaged",
        finding_has_words=part(FINDINGS, lambda p: p["findings"][0].update(numbers={"x": "1"})),
    )
    add(
        "evaluation",
        "is damaged",
        finding_has_an_extra_field=part(FINDINGS, lambda p: p["findings"][0].update(code="x")),
    )

    piece = "parts/judged.00000.safetensors"
    add("calibration", "is a link", folder_parts_is_a_link=link_away("parts"))
    add("calibration", "", piece_is_a_link=link_away(piece))
    add("calibration", "", piece_is_a_pipe=special(piece, "pipe"))
    add("calibration", "is damaged", piece_is_garbage=holds(piece, b"\xff" * 100))
    add("calibration", "calibration", settings_are_a_list=record(CALIBRATION, settings=[1]))
    add("calibration", "calibration", calibration_is_deep=holds(CALIBRATION, DEEP))
    add("calibration", "calibration", calibration_is_a_long_number=holds(CALIBRATION, DIGITS))
    add("calibration", "calibration", calibration_is_a_pipe=special(CALIBRATION, "pipe"))

    add("training", "is a link", folder_checkpoints_is_a_link=link_away("checkpoints"))
    add("training", "is a link", checkpoint_is_a_link=link_away("checkpoints/step-00000002"))
    add("training", "damaged", state_is_a_link=link_away(STATE))
    add("training", "damaged", state_is_a_pipe=special(STATE, "pipe"))
    add("training", "damaged", weights_are_a_pipe=special("checkpoints/step-00000002/weights.safetensors", "pipe"))
    add("training", "damaged", weights_are_a_link=link_away("checkpoints/step-00000002/weights.safetensors"))
    add(
        "training",
        "damaged",
        state_names_a_part_elsewhere=checkpoint(lambda s: s.update(sha256={"../../../victim/moved": "x"})),
    )
    add("training", "damaged", state_step_is_a_text=checkpoint(lambda s: s.update(step="2")))
    add("training", "damaged", state_is_of_another_step=checkpoint(lambda s: s.update(step=10**9)))
    add("training", "damaged", state_hashes_are_a_list=checkpoint(lambda s: s.update(sha256=["x"])))
    add("training", "no checkpoint", state_loss_is_a_text=checkpoint(lambda s: s.update(loss="much")))
    add("training", "is a link", result_is_a_link=link_away("result.json"))
    add("training", "not a regular file", result_is_a_pipe=special("result.json", "pipe"))
    add("training", "JSON object", result_is_a_list=holds("result.json", b"[]"))
    add("training", "last.val_accuracy", result_lacks_its_end=record("result.json", last={}))
    add("training", "comes twice", result_says_twice=holds("result.json", b'{"fingerprint": "a", "fingerprint": "b"}'))
    add("training", "link", metrics_are_a_link=link_away("metrics.jsonl"))
    add("training", "regular file", metrics_are_a_pipe=special("metrics.jsonl", "pipe"))
    add("training", "epoch", metrics_have_words=holds("metrics.jsonl", b'{"epoch": "1", "val_accuracy": 0.5}\n'))
    add("training", "JSON", metrics_are_deep=holds("metrics.jsonl", DEEP + b"\n"))
    add("training", "link", student_config_is_a_link=link_away("last/config.json"))
    add("training", "link|no student", student_weights_are_a_link=link_away("last/model.safetensors"))
    add("training", "no student", student_weights_are_a_pipe=special("last/model.safetensors", "pipe"))
    add("training", "", folder_last_is_a_link=link_away("last"))
    return found


def tree_hash(folder: Path) -> str:
    """Return a hash over names, kinds and bytes of everything in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(f"{path.relative_to(folder)}\0{path.is_symlink()}\0".encode())
        if path.is_file() and not path.is_symlink():
            total.update(path.read_bytes())
    return total.hexdigest()
