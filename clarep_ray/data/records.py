"""The rows of an input manifest and the closed list of reasons for which a sample can be rejected."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

MAX_KEY_LENGTH = 100
UNSAFE, HASHED = re.compile(r"[^A-Za-z0-9_-]+"), re.compile(r"-[0-9a-f]{10}$")  # once: a plan makes millions of keys


class RejectReason(StrEnum):
    """Why an input has no Canonical Sample. Infrastructure faults never appear here."""

    NAME_NOT_UTF8 = "name_not_utf8"
    UNREADABLE_FILE = "unreadable_file"
    UNKNOWN_CLASS = "unknown_class"
    UNLABELLED = "unlabelled"
    EMPTY_FILE = "empty_file"
    IMAGE_ELSEWHERE = "image_elsewhere"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    NONFINITE_INVERSION = "nonfinite_inversion"
    NONFINITE_JACOBIAN = "nonfinite_jacobian"
    NONFINITE_DECODING = "nonfinite_decoding"
    NONFINITE_FEATURES = "nonfinite_features"
    RANK_DEFICIENT = "rank_deficient"
    NO_OTHER_IMAGE = "no_other_image"
    POISON = "poison"


class RejectedImage(Exception):
    """An input that cannot be used, with its reason."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One input of a run, frozen before work starts.

    `source` is a path relative to the input root (or the embedded set's name); `offset` and `size` locate the
    encoded image inside it: bytes in a file or tar, a row number (size 0) in Parquet, a picture number in the
    embedded set. `label` is -1 where the class is unknown to the model. `reason` is why the row was a reject when
    the input was frozen: its bytes could not be read then, `sha256` is empty and nobody tries again. `prompt` is the
    number of the class's prompt where a picture is extracted once with each; from 1 on, the id ends in `#prompt`.
    """

    ordinal: int
    id: str
    key: str
    source: str
    offset: int
    size: int
    sha256: str
    label: int
    class_name: str
    reason: str = ""
    prompt: int = 0

    @property
    def image_key(self) -> str:
        """The key of the picture, whatever the prompt; random streams follow from it, so that prompts compare."""
        return image_key(self.key, self.id, self.prompt)


def image_key(key: str, identity: str, prompt: int) -> str:
    """Return the key of the picture behind a row: with the first prompt, and without prompts, the row's own."""
    return safe_key(identity.removesuffix(f"#{prompt}")) if prompt else key


def prompt_id(identity: str, prompt: int) -> str:
    """Return the id of a picture's row with one of several prompts; with the first it is the picture's own."""
    return f"{identity}#{prompt}" if prompt else identity


def safe_key(identity: str) -> str:
    """Return a WebDataset key for an id: `[A-Za-z0-9_-]`, at most 100 characters, distinct for distinct ids.

    An id that is already a safe key stays as it is; any other is cleaned and ends in a hash of the original.
    """
    cleaned = UNSAFE.sub("_", identity)
    if cleaned == identity and len(identity) <= MAX_KEY_LENGTH and not HASHED.search(identity):
        return identity
    digest = hashlib.blake2b(identity.encode(), digest_size=5).hexdigest()
    return f"{cleaned[: MAX_KEY_LENGTH - 11]}-{digest}"


def shown(name: str) -> str:
    """Return a name or a library's message fit for a log line: no control characters, at most 200 characters."""
    return printable(name)[:200]


def printable(text: str) -> str:
    """Return a text on one line, in which nothing can write on a terminal: other characters are escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
