"""The rows of an input manifest and the closed list of reasons for which a sample can be rejected."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

MAX_KEY_LENGTH, STEM_LENGTH, DIGEST_LENGTH = 57, 24, 32
"""Characters of a key, of what is left of an id in one that ends in a hash, and hexadecimal digits of that hash. A tar
member's name takes 100; the longest suffix, of an extra's null feature, has 42 with its dot (`data/shards.py`)."""
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
PLAIN = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_KEY_LENGTH - 1}}}")
"""Ids that are keys as they are: no capitals, for `A.png` and `a.png` are one file where the shards may be unpacked; no
hyphen or underscore first, which would be an option of a command, or `_info.json`."""
NOT_PLAIN = re.compile(rf".*-[0-9a-f]{{{DIGEST_LENGTH}}}|con|prn|aux|nul|com[0-9]|lpt[0-9]")
"""But for those that look as if they ended in a hash, and devices of Windows, whatever the suffix."""
LEGACY_KEY_LENGTH, LEGACY_HASHED = 100, re.compile(r"-[0-9a-f]{10}$")


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
    """Return the key of the image behind a row: with the first prompt, and without prompts, the row's own."""
    if not prompt:
        return key
    return (safe_key if key == safe_key(identity) else legacy_key)(image_id(identity, prompt))


def image_id(identity: str, prompt: int) -> str:
    """Return the id of the image behind a row, whatever its prompt."""
    return identity.removesuffix(f"#{prompt}") if prompt else identity


def prompt_id(identity: str, prompt: int) -> str:
    """Return the id of a picture's row with one of several prompts; with the first it is the picture's own."""
    return f"{identity}#{prompt}" if prompt else identity


def safe_key(identity: str) -> str:
    """Return a WebDataset key for an id: `[A-Za-z0-9_-]`, at most 57 characters, distinct for distinct ids.

    Keys of distinct ids differ in more than the case of letters, too. An id that is a good key stays as it is; of any
    other the last 24 characters are kept, cleaned, and 128 bits of a hash of the whole id follow.
    """
    if PLAIN.fullmatch(identity) and not NOT_PLAIN.fullmatch(identity):
        return identity
    digest = hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=DIGEST_LENGTH // 2).hexdigest()
    stem = UNSAFE.sub("_", identity[-STEM_LENGTH:]).strip("_-") or "id"
    return f"{stem}-{digest}"


def legacy_key(identity: str) -> str:
    """Return the key that versions before `safe_key` gave an id, of 40 bits of a hash: kept spectra are under it."""
    cleaned = UNSAFE.sub("_", identity)
    if cleaned == identity and len(identity) <= LEGACY_KEY_LENGTH and not LEGACY_HASHED.search(identity):
        return identity
    digest = hashlib.blake2b(identity.encode(), digest_size=5).hexdigest()
    return f"{cleaned[: LEGACY_KEY_LENGTH - 11]}-{digest}"


def shown(name: str) -> str:
    """Return a name or a library's message fit for a log line: no control characters, at most 200 characters."""
    return printable(name)[:200]


def printable(text: str) -> str:
    """Return a text on one line, in which nothing can write on a terminal: other characters are escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
