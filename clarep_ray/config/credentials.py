"""Passwords and tokens: refused where every output would repeat them, and cut out of what is told."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "***"
MLFLOW_URI = "MLFLOW_TRACKING_URI"
ENVIRONMENT = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
SERVER = re.compile(r"https?://[\w.\-\[\]:]+(/[\w.~!$&'()*+,=:%/-]*)?", re.ASCII)
"""All that leads to a server: a host and a path."""
SECRET_WORD = re.compile(r"pass|pwd|secret|token|key|credential|auth|signature|^sig$", re.IGNORECASE)
PATHS = ("sslkey", "sslcert", "sslrootcert", "passfile")
"""Parameters of databases that sound like secrets and name files."""
SECRET_NAME = re.compile(
    r"(^|_)(PASSWORD|PASSWD|TOKEN|SECRET|SECRETS|CREDENTIAL|CREDENTIALS|(API|ACCESS|PRIVATE)_?KEY)($|_)"
)
"""Variables of the environment whose values are never told."""
NO_SECRET = re.compile(r"_(PATH|FILE|DIR|MODE|URL|URI)$")
SHORTEST = 6
"""Shorter values are not searched for in texts: they would blacken half of every word."""
USERINFO = re.compile(r"://[^/\s@'\"]+@")
PARAMETER = re.compile(
    r"([?&;#][^=&;\s'\"]*(?:pass|pwd|secret|token|key|credential|auth|sig)[^=&;\s'\"]*=)[^&;#\s'\"]+", re.IGNORECASE
)


def check_uri(name: str, uri: str) -> None:
    """Raise ValueError, without repeating it, for a tracking URI with a password, or with a place for one."""
    scheme = uri.partition(":")[0].lower()
    if uri != uri.strip() or not uri.isprintable():
        raise ValueError(f"{name}: a URI with blanks around it or control characters is not valid; valid: one without")
    if scheme in ("http", "https"):
        if "@" in unquote(uri):
            raise ValueError(_refusal(name, "user or password"))
        if not SERVER.fullmatch(uri):
            raise ValueError(_refusal(name, "anything beside scheme, host, port and path"))
        return
    parts = urlsplit(uri)
    if "@" in unquote(parts.netloc):
        raise ValueError(_refusal(name, "user or password"))
    local = scheme in ("sqlite", "file", "")
    for pair in re.split(r"[&;]", parts.query if local else f"{parts.query}&{parts.fragment}"):
        key = unquote(unquote(pair.partition("=")[0])).strip().lower()
        if SECRET_WORD.search(key) and key not in PATHS:
            raise ValueError(_refusal(name, "a password or token among its parameters"))


def check_environment_uri() -> None:
    """Raise ValueError as `check_uri` for MLflow's own variable, which may hold user and password before a host."""
    uri = os.environ.get(MLFLOW_URI, "")
    if uri:
        check_uri(f"environment: {MLFLOW_URI}", re.sub(r"(?<=://)[^/?#\s]*@", "", uri, count=1))


def _refusal(name: str, what: str) -> str:
    return f"{name}: a URI with {what} is not valid; valid: one without, and {ENVIRONMENT}"


def shown_url(url: str) -> str:
    """Return a URL for an error: without what may be a password before its host, or in its parameters."""
    scheme, slashes, rest = url.partition("://")
    return scheme + slashes + re.split(r"[?#;]", rest, maxsplit=1)[0].rpartition("@")[2]


def redact(text: str) -> str:
    """Return a text without passwords and tokens: those in URLs, and those that the environment holds."""
    text = PARAMETER.sub(rf"\1{HIDDEN}", USERINFO.sub(f"://{HIDDEN}@", text))
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets() -> set[str]:
    """Return the secrets of the environment, as they are and as URLs have them."""
    userinfo = urlsplit(os.environ.get(MLFLOW_URI, "")).netloc.rpartition("@")[0]
    password = userinfo.partition(":")[2]
    known = {
        name: value for name, value in os.environ.items() if SECRET_NAME.search(name) and not NO_SECRET.search(name)
    }
    mlflow = {value for name, value in known.items() if name.startswith("MLFLOW_")} | {
        userinfo,
        password,
        unquote(password),
    }
    found = {value for value in mlflow if len(value) >= 4} | {
        value for value in known.values() if len(value) >= SHORTEST
    }
    return {form for value in found for form in (value, quote(value, safe=""))}
