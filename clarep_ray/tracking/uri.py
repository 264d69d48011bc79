"""Where runs are logged, and how that is told without its password."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from clarep_ray.config import TrackingConfig
from clarep_ray.config.credentials import check_environment_uri

DEFAULT_FILE = "mlflow.db"


def tracking_uri(config: TrackingConfig, output: Path) -> str:
    """Return where runs are logged: the config, MLFLOW_TRACKING_URI, or a sqlite file.

    The file lies in the current folder; inside a submitted Ray job, whose folder is temporary, beside the output.
    Raises ValueError as `check_environment_uri`.
    """
    check_environment_uri()
    if config.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return config.uri or os.environ["MLFLOW_TRACKING_URI"]
    folder = output.parent if in_submitted_job() else Path.cwd()
    return f"sqlite:///{folder.absolute() / DEFAULT_FILE}"


def pinned(config: TrackingConfig, output: Path) -> TrackingConfig:
    """Return the config for processes that work in other folders: the default file as an absolute URI.

    A URI of the environment stays there, for it may hold a password; workers inherit or are given the environment.
    """
    if config.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return config
    return dataclasses.replace(config, uri=tracking_uri(config, output))


def in_submitted_job() -> bool:
    """Say whether this process is the entrypoint of a submitted Ray job, whose folder is a temporary copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def without_credentials(uri: str) -> str:
    """Return a URI without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def credentials_aside(uri: str) -> str:
    """Return a server's URI without user and password, which go where MLflow reads them without repeating them.

    The URI of a database keeps them: there is no other place for them.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.password:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return without_credentials(uri)


def browse_hint(uri: str) -> str:
    """Return what to run or open to look at runs there."""
    shown = without_credentials(uri)
    if shown.startswith(("http://", "https://")):
        return shown
    return f"uv run mlflow ui --backend-store-uri {shown}"
