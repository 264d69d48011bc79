"""Where the decodings of an extraction at fixed k lie, for the slider: `k_steps/0004` inside its folder."""

from __future__ import annotations

from pathlib import Path

from clarep_ray.data.clarep_index import ROOT, read_root
from clarep_ray.data.derived import K_STEPS
from clarep_ray.data.store import RUN
from clarep_ray.data.untrusted import read_json_object


def k_step_folder(folder: Path, k: int) -> Path:
    """Return where the decoding of an extraction at a fixed k belongs."""
    return folder / K_STEPS / f"{k:04d}"


def finished_k_steps(folder: Path) -> dict[int, Path]:
    """Return {k: output folder} of the finished decodings of an extraction, ascending.

    Raises ValueError where one was decoded from another extraction than the one that is there now.
    """
    found = {int(path.parent.name): path.parent for path in sorted((folder / K_STEPS).glob(f"[0-9]*/{ROOT}"))}
    root = read_root(folder)["root_sha256"]
    for step in found.values():
        if read_json_object(step / RUN)["fields"].get("spectrum_root_sha256") != root:
            raise ValueError(
                f"k_steps: {str(step)!r} was decoded from an earlier extraction in {str(folder)!r}; delete "
                f"{str(folder / K_STEPS)!r} and decode again with --k-steps"
            )
    return found
