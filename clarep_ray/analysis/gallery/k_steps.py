"""Where the decodings of an extraction at fixed k lie, for the slider: `k_steps/0004` inside its folder."""

from __future__ import annotations

import re
from pathlib import Path

from clarep_ray.data.clarep_index import ROOT, read_root
from clarep_ray.data.derived import K_STEPS
from clarep_ray.data.inside import has_file_inside, refuse_links
from clarep_ray.data.store import OutputStore

STEP = re.compile("[0-9]{4}", re.ASCII)


def k_step_folder(folder: Path, k: int) -> Path:
    """Return where the decoding of an extraction at a fixed k belongs."""
    return refuse_links(folder, f"{K_STEPS}/{k:04d}")


def finished_k_steps(folder: Path) -> dict[int, Path]:
    """Return {k: output folder} of the finished decodings of an extraction, ascending.

    Raises ValueError where one was decoded from another extraction than the one that is there now.
    """
    below = refuse_links(folder, K_STEPS)
    names = sorted(path.name for path in below.iterdir() if STEP.fullmatch(path.name)) if below.is_dir() else []
    found = {int(name): below / name for name in names if has_file_inside(folder, f"{K_STEPS}/{name}/{ROOT}")}
    root = read_root(folder)["root_sha256"]
    for step in found.values():
        if OutputStore(step).read_record()["fields"].get("spectrum_root_sha256") != root:
            raise ValueError(
                f"k_steps: {str(step)!r} was decoded from an earlier extraction in {str(folder)!r}; delete "
                f"{str(folder / K_STEPS)!r} and decode again with --k-steps"
            )
    return found
