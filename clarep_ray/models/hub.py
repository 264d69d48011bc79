"""Weights from the Hugging Face Hub: only when asked, once, in the driver, and only files that hold no code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SWITCHES = ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE")
ALLOWED = ("*.json", "*.txt", "*/*.safetensors")
"""Files of components; single-file checkpoints at the top are for other programs."""
IGNORED = ("*.fp16.*", "*.non_ema.*", "safety_checker/*", "feature_extractor/*")


PLACEHOLDER = "weights/"
"""Where the presets expect folders; a missing one must not become an organisation of that name."""


def stay_offline() -> None:
    """Keep the Hub's libraries off the network in this process, imported already or not."""
    os.environ.update(dict.fromkeys(SWITCHES, "1"))
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True


def is_hub_id(name: str) -> bool:
    """Say whether a name that is no folder has the form of a Hub id, `org/name`."""
    formed = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII) is not None
    return formed and not name.startswith(PLACEHOLDER)


def local_folder(weights: str, allow_download: bool) -> Path:
    """Return the folder `model.weights` names, downloaded first where it is a Hub id and that is allowed.

    Another folder that is missing is left to the family to name, which knows what belongs in it. Raises ValueError,
    saying how to get the weights, for a Hub id that may not be or cannot be downloaded.
    """
    if Path(weights).is_dir() or not is_hub_id(weights):
        return Path(weights)
    if allow_download:
        return _download(weights)
    raise ValueError(
        f"model.weights: {weights!r} is not a folder; valid: a folder of weights, or with --model.allow-download an "
        "ORG/NAME of the Hugging Face Hub, which is then downloaded"
    )


def _download(identity: str) -> Path:
    from huggingface_hub import snapshot_download

    with _online():
        try:
            found = snapshot_download(identity, allow_patterns=list(ALLOWED), ignore_patterns=list(IGNORED))
        except Exception as error:  # no network, no such repository, no permission: many kinds, one meaning
            raise ValueError(f"model.weights: {identity!r} cannot be downloaded: {error}") from None
    return Path(found)


@contextmanager
def _online() -> Generator[None]:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        stay_offline()
