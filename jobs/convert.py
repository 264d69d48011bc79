"""Turn a released checkpoint into safetensors, once: uv run jobs/convert.py uvit|edm|dit CHECKPOINT FOLDER"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

import sys
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any

import tyro

from clarep_ray import cli
from clarep_ray.data.writable import check_writable
from clarep_ray.dotted import check_local

CONVERTERS = {
    "uvit": "clarep_ray.models.uvit",
    "edm": "clarep_ray.models.edm_convert",
    "dit": "clarep_ray.models.dit_checkpoint",
}
"""Family -> module with `convert(checkpoint, folder, ...)`, whose parameters are the command's."""


def chosen(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with the parameters of a converter, which it does not call yet."""
    return wraps(convert)(lambda *values, **named: partial(convert, *values, **named))


def main() -> None:
    with cli.exit_codes():
        for argument in sys.argv[1:]:
            check_local("convert", argument)
        commands = {family: chosen(import_module(name).convert) for family, name in CONVERTERS.items()}
        convert = cli.read_arguments(
            partial(
                tyro.extras.subcommand_cli_from_dict,
                commands,
                description="CHECKPOINT is the released file, FOLDER the later model.weights.",
                config=(tyro.conf.PositionalRequiredArgs,),
            )
        )
        check_writable(convert.keywords["folder"], "FOLDER")
        print(convert())
    print("next: put a diffusers VAE into FOLDER/vae where the model works on latents, then --model.weights FOLDER")


if __name__ == "__main__":
    stopping.run(main)
