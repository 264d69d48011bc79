"""Turn a released checkpoint into safetensors, once: uv run jobs/convert.py uvit|edm|dit CHECKPOINT FOLDER"""

from clarep_ray import stopping

if __name__ == "__main__":  # before the imports below, which take seconds
    stopping.install(stopping.STARTS_AGAIN)

import sys
from importlib import import_module

import tyro

from clarep_ray import cli
from clarep_ray.dotted import check_local

CONVERTERS = {
    "uvit": "clarep_ray.models.uvit",
    "edm": "clarep_ray.models.edm_convert",
    "dit": "clarep_ray.models.dit_checkpoint",
}
"""Family -> module with `convert(checkpoint, folder, ...)`, whose parameters are the command's."""


def main() -> None:
    with cli.exit_codes():
        for argument in sys.argv[1:]:
            check_local("convert", argument)
        commands = {family: import_module(name).convert for family, name in CONVERTERS.items()}
        print(
            tyro.extras.subcommand_cli_from_dict(
                commands,
                description="CHECKPOINT is the released file, FOLDER the later model.weights.",
                config=(tyro.conf.PositionalRequiredArgs,),
            )
        )
    print("next: put a diffusers VAE into FOLDER/vae where the model works on latents, then --model.weights FOLDER")


if __name__ == "__main__":
    stopping.run(main)
