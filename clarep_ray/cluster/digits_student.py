"""One student of the embedded digits, trained and measured on the sets that tell digits from backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clarep_ray import dotted
from clarep_ray.config import DistillConfig
from clarep_ray.data.inside import read_record_inside, write_inside
from clarep_ray.data.plain_json import plain_json
from clarep_ray.data.untrusted import check_fields

if TYPE_CHECKING:
    from clarep_ray.data.picture_rows import Pictures
    from clarep_ray.models.students import Student

SPLITS = ("same_background", "random_background", "foreground_only")
PGD_EPS_255, PGD_STEP_255, PGD_STEPS = 8.0, 2.0, 10
PGD_COLUMN = f"PGD {PGD_EPS_255:g}"
COLUMNS = ("clean", *SPLITS, PGD_COLUMN)
EVALUATION = "evaluation.json"


def evaluate_one(
    flat: Mapping[str, Any], report: Callable[[dict[str, Any]], None] = lambda record: None
) -> dict[str, float]:
    """Train one student in this process and return its accuracies, {column: share}; read where it was done before.

    `report` is called as by `run_training`.
    """
    import torch

    from clarep_ray.cadistill.evaluation import accuracy
    from clarep_ray.cadistill.run import LAST, train_alone
    from clarep_ray.data.picture_rows import open_pictures
    from clarep_ray.models.students import load_student

    torch.set_num_threads(1)
    config = dotted.from_flat(DistillConfig, flat)
    result = train_alone(config, report)
    output = Path(config.output)
    if (kept := _read_accuracy(output, result["fingerprint"])) is not None:
        return kept
    student = load_student(output / LAST)
    known = student.architecture.classes
    sets = {
        split: open_pictures(dotted.override(config.val, {"digits.split": split}), student.view, known)
        for split in ("test", *SPLITS)
    }
    found = {"clean": accuracy(student, sets["test"])} | {split: accuracy(student, sets[split]) for split in SPLITS}
    found[PGD_COLUMN] = _pgd_accuracy(student, sets["test"])
    record = {"fingerprint": result["fingerprint"], "accuracy": found}
    write_inside(output, EVALUATION, plain_json(record))
    return found


def _read_accuracy(output: Path, fingerprint: str) -> dict[str, float] | None:
    """Return what was measured before; None where nothing was, or of another training, ValueError where it is none."""
    record = read_record_inside(output, EVALUATION, {"fingerprint": str, "accuracy": dict})
    if record.get("fingerprint") != fingerprint:
        return None
    return check_fields(record["accuracy"], dict.fromkeys(COLUMNS, float), str(output / EVALUATION))


def _pgd_accuracy(student: Student, pictures: Pictures) -> float:
    """Return the share of pictures that are right at every step of PGD."""
    from clarep_ray.cadistill.evaluation import batches
    from clarep_ray.robustness.pgd import Pgd

    attack = Pgd(eps=PGD_EPS_255 / 255, step=PGD_STEP_255 / 255, num_steps=PGD_STEPS, random_start=False)
    keys, fallen = iter(pictures.keys), 0
    for pixels, labels in batches(pictures):
        fallen += int(attack(student, pixels, labels, [next(keys) for _ in labels]).success.sum())
    return (len(pictures) - fallen) / len(pictures)
