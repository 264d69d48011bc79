"""What must hold before a job does anything: versions without known holes, and an environment that opens none.

Imports nothing but the standard library and `packaging`: it is asked at every start.
"""

from __future__ import annotations

import os
import stat
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

FLOORS = {
    "ray": "2.56",  # CVE-2026-57516: its WebDataset reader unpickles
    "mlflow": "3.17.2",  # CVE-2026-53995: its file store leaves its folder
    "diffusers": "0.42.1",  # GHSA-4prv-5hj7-c2xr: a folder's model_index.json names the code to run
    "transformers": "5.2.1",  # CVE-2026-5241: a folder's config.json turns trust_remote_code on
    "pillow": "12.3",  # CVE-2026-59200: memory of the process from crafted pictures
    "torch": "2.10",  # CVE-2026-24747: weights_only corrupts memory
}
"""The oldest versions a job starts with, and why."""
ANY_VALUE = ("GOPEN_REWRITE", "USE_AIS_FOR")
SWITCHES = (
    "RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR",
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA",
    "RAY_DATA_AUTOLOAD_PYEXTENSIONTYPE",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
    "HF_DATASETS_TRUST_REMOTE_CODE",
)
"""Variables of our libraries that would let data run code: refused with any value, and unless switched off."""
OFF = ("", "0", "false", "no", "off")
AUTH_MODE, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"


def check_start() -> None:
    """Raise ValueError naming a library that is too old, a variable that would let input run code, a folder gone."""
    try:
        Path.cwd()
    except OSError as error:
        raise ValueError(f"the working folder is not there: {error.strerror}; valid: to start in one that is") from None
    check_versions()
    check_environment()


def check_versions() -> None:
    """Raise ValueError naming the first library below its floor."""
    for name, floor in FLOORS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            raise ValueError(f"{name}: it is not installed; valid: {floor} or later") from None
        if Version(found) < Version(floor):
            raise ValueError(f"{name}: {found} is not valid, for it has known holes; valid: {floor} or later")


def check_environment() -> None:
    """Raise ValueError naming a variable that would let input data run code."""
    for name in (*ANY_VALUE, *SWITCHES):
        value = os.environ.get(name, "")
        if value and (name in ANY_VALUE or value.strip().lower() not in OFF):
            raise ValueError(f"environment: {name} is set; unset it: it lets input data run code")


def check_authentication() -> None:
    """Raise ValueError unless Ray will ask for a token, and its file is this user's alone.

    Everything that reaches a Ray cluster can run code on it; the token is all that keeps others from doing so.
    """
    mode = os.environ.get(AUTH_MODE)
    if mode != "token":
        raise ValueError(
            f"environment: {AUTH_MODE} is {mode!r}; valid: token, on the head, its nodes and here: a cluster "
            "without it runs the code of whoever reaches it"
        )
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")
    try:
        found = path.stat()
    except OSError as error:
        raise ValueError(f"environment: the token file {str(path)!r} cannot be read: {error.strerror}") from None
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(
            f"environment: the token file {str(path)!r} has mode {stat.S_IMODE(found.st_mode):04o}; valid: 0600, "
            f"for who reads it runs code on the cluster: chmod 600 {path}"
        )
    if found.st_uid != os.geteuid():
        raise ValueError(f"environment: the token file {str(path)!r} belongs to user {found.st_uid}; valid: to you")
