"""Turn a released checkpoint into safetensors, once: uv run jobs/convert.py imagenet256_uvit_huge.pth weights/uvit"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from clarep_ray import cli


@dataclass(frozen=True)
class ConvertJob:
    """Read the tensors of a U-ViT checkpoint and write config.json and model.safetensors; put a vae/ beside them."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Released .pth file; nothing but tensors is unpickled from it."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Output folder, the later model.weights."""
    num_heads: int = 16
    """Attention heads; the tensors do not tell."""


def main() -> None:
    job = tyro.cli(ConvertJob)
    with cli.exit_codes():
        from clarep_ray.models.uvit import convert

        if not job.checkpoint.is_file():
            raise ValueError(f"checkpoint: {str(job.checkpoint)!r} is not a file")
        print(f"{job.folder}: {convert(job.checkpoint, job.folder, job.num_heads)}")
        print(f"next: copy a diffusers VAE to {job.folder}/vae, then --preset uvit_256 --model.weights {job.folder}")


if __name__ == "__main__":
    main()
