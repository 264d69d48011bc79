"""Tags that every run has: who ran what, from which revision."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
GIT_TIMEOUT_S = 5.0


@lru_cache(maxsize=1)
def environment_tags() -> dict[str, str]:
    """Return version, git revision, user, script and Ray's submitted job, as far as they are known."""
    tags = {"version": version("clarep-ray"), **git_tags()}
    tags |= {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    with suppress(KeyError, OSError):  # a user without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    submission = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("metadata", {})
    if "job_submission_id" in submission:
        tags |= {"ray_job": submission["job_submission_id"], "mlflow.source.type": "JOB"}
    return tags


def git_tags() -> dict[str, str]:
    """Return revision and state of the checkout this package lies in; nothing where it was installed from a wheel."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    revision = _git("rev-parse", "HEAD") or ""
    state = "clean" if _git("status", "--porcelain", "--untracked-files=no") == "" else "changed"
    return {"mlflow.source.git.commit": revision, "git_state": state}


def _git(*arguments: str) -> str | None:
    """Return what git prints about this package's folder; None where it fails or is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
