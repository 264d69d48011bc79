"""An output in S3-compatible object storage: the same commit protocol, with objects below s3://BUCKET/PREFIX for files.

A PUT is whole or not there, and listings are consistent, so that nothing is written under temporary names first. The
commit point is a PUT with `If-None-Match: *`; a store that does not heed it is refused. Credentials, region and
endpoint come from the environment (AWS_*) or the machine's role, never from settings. `tests/faults/test_objects.py`
cuts a run short after every operation.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import tempfile
import uuid
from collections.abc import Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from clarep_ray.config.credentials import SERVER, redact, shown_url
from clarep_ray.config.location import VALID, parse_s3
from clarep_ray.data.store import ABANDONED_S, SHARDS, SPECTRA, WORK, Store
from clarep_ray.errors import StorageFault

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig

WRITER = "writer"
"""Metadata of an object that was put if absent: a random name of the one PUT that made it."""
PROBE = "probe-"
CLIENT: ClientConfig = {"timeout": "300s", "connect_timeout": "10s", "user_agent": "clarep-ray"}
READERS, READ_AHEAD = 8, 64
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
LONGEST_REASON = 300


@dataclass(frozen=True)
class ObjectStore(Store):
    """An output below s3://BUCKET/PREFIX. Raises ValueError for another URL, and StorageFault from every operation."""

    url: str

    def __post_init__(self) -> None:
        if parse_s3(self.url) is None:
            raise ValueError(f"output.path: {shown_url(self.url)!r} is not valid; valid: {VALID}")

    @property
    def _place(self) -> tuple[str, str]:
        place = parse_s3(self.url)
        assert place is not None, "checked when it was made"
        return place

    @property
    def where(self) -> str:
        return "s3://{}/{}".format(*self._place)

    @property
    def desk(self) -> Path:
        """A folder of this user's: what is told to MLflow, the frozen input and pictures outlive the process."""
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state, "clarep-ray", "s3", *self._place)

    @property
    def _client(self) -> S3Store:
        return _client(*self._place, _endpoint())

    def check(self, setting: str = "output.path") -> None:
        """Raise StorageFault where the bucket, credentials or a permission lack, ValueError without put-if-absent."""
        probe = f"{WORK}/{PROBE}{uuid.uuid4().hex}"
        try:
            self.names("")
            first, second = self.put_new(probe, b"first"), self.put_new(probe, b"second")
            self.read(probe, limit=len(b"second"))
            self.remove(WORK, [probe.removeprefix(f"{WORK}/")])
        except FileNotFoundError as error:
            raise StorageFault(f"{self.where}: what is written there cannot be read at once ({error})") from None
        if not first or second:
            raise ValueError(
                f"{setting}: {self.where!r} is not valid: its store ignores If-None-Match, so that two writers could "
                "commit the same unit; valid: Amazon S3, or a store with conditional writes"
            )

    def prepare(self) -> None:
        self.desk.mkdir(parents=True, exist_ok=True)
        probes = {name: time for name, time in self.times(WORK).items() if name.startswith(PROBE)}
        if probes:
            now, limit = self.now(), timedelta(seconds=ABANDONED_S)
            self.remove(WORK, [name for name, time in probes.items() if now - time > limit])

    def holds_files(self) -> bool:
        with self._told():
            found = (entry["path"] for chunk in obstore.list(self._client) for entry in chunk)
            return any(not path.startswith(f"{WORK}/") for path in found)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name.

        Where the answer to a PUT is lost, the next one finds its own object: whose it is says the object itself.
        """
        writer = uuid.uuid4().hex
        try:
            obstore.put(self._client, name, data, mode="create", attributes={WRITER: writer})
            return True
        except AlreadyExistsError:
            return self._writer(name) == writer
        except BaseError as error:
            with self._told():
                if self.has(name):
                    return self._writer(name) == writer
                raise StorageFault(self._reason(error)) from None

    def put(self, name: str, data: bytes) -> None:
        with self._told():
            obstore.put(self._client, name, data)

    def read(self, name: str, limit: int) -> bytes:
        with self._told(name):
            found = obstore.get(self._client, name)
            if found.meta["size"] > limit:
                raise ValueError(f"{self.where}/{name} has more than {limit} bytes")
            return bytes(found.bytes())

    def size(self, name: str) -> int:
        with self._told(name):
            return obstore.head(self._client, name)["size"]

    def names(self, folder: str) -> list[str]:
        return sorted(_last(entry["path"]) for entry in self._listed(folder))

    def times(self, folder: str) -> dict[str, datetime]:
        """Return when each object of a folder was last written, by the store's clock."""
        return {_last(entry["path"]): entry["last_modified"] for entry in self._listed(folder)}

    def now(self) -> datetime:
        """Return the time by the store's clock, which stamped the objects too."""
        probe = f"{WORK}/{PROBE}{uuid.uuid4().hex}"
        self.put(probe, b"")
        with self._told(probe):
            found = obstore.head(self._client, probe)["last_modified"]
        self.remove(WORK, [_last(probe)])
        return found

    def remove(self, folder: str, names: Collection[str]) -> None:
        if names:
            with self._told():
                obstore.delete(self._client, [f"{folder}/{name}" if folder else name for name in names])

    def upload(self, name: str) -> None:
        with self._told(name):
            obstore.put(self._client, name, self.desk / name)

    @contextmanager
    def local(self, name: str) -> Generator[Path]:
        """Give a copy of an object, which is gone afterwards; a process that is killed leaves it to the machine."""
        with tempfile.TemporaryDirectory(prefix="clarep-ray-") as folder:
            path = Path(folder, _last(name))
            self.download(name, path)
            yield path

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file that is this process's alone, a piece in memory at a time; FileNotFoundError."""
        with self._told(name), path.open("wb") as file:
            for piece in obstore.get(self._client, name).stream():
                file.write(piece)

    def each_committed(self, to_the_byte: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield as `Store` does; manifests are read ahead, and sizes come from two listings."""
        sizes = {entry["path"]: entry["size"] for folder in (SHARDS, SPECTRA) for entry in self._listed(folder)}

        def size_of(name: str) -> int:
            if name not in sizes:
                raise self._missing(name)
            return sizes[name]

        units, read = iter(self.units()), partial(self._committed, size_of=size_of, to_the_byte=to_the_byte)
        with ThreadPoolExecutor(READERS) as pool:
            while ahead := list(islice(units, READ_AHEAD)):
                yield from zip(ahead, pool.map(read, ahead), strict=True)

    def _listed(self, folder: str) -> list[ObjectMeta]:
        with self._told(folder):
            return list(obstore.list_with_delimiter(self._client, folder or None)["objects"])

    def _writer(self, name: str) -> str | None:
        with self._told(name):
            return obstore.get(self._client, name, options={"head": True}).attributes.get(WRITER)

    @contextmanager
    def _told(self, name: str = "") -> Generator[None]:
        """Turn the library's errors into StorageFault, and one of a missing object into ours, which names it."""
        try:
            yield
        except FileNotFoundError:
            raise self._missing(name) from None
        except BaseError as error:
            raise StorageFault(self._reason(error)) from None

    def _missing(self, name: str) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.where}/{name}")

    def _reason(self, error: Exception) -> str:
        return f"object storage at {self.where} does not do as asked: {_short(str(error))}"


@lru_cache(maxsize=8)
def _client(bucket: str, prefix: str, endpoint: str | None) -> S3Store:
    """Return the connection of this process; credentials it finds itself, in AWS_* or the machine's role."""
    plain = endpoint is not None and endpoint.startswith("http://")
    return S3Store(bucket, prefix=prefix, client_options={**CLIENT, "allow_http": plain})


def _endpoint() -> str | None:
    """Return the endpoint of the environment, None for Amazon's; ValueError for one that would give secrets away."""
    name = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if name is None:
        return None
    endpoint = os.environ[name]
    parts = urlsplit(endpoint)
    if not SERVER.fullmatch(endpoint) or "@" in endpoint or not parts.hostname:
        raise ValueError(f"environment: {name} is not valid; valid: https://HOST[:PORT], without user or password")
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
    if parts.scheme == "http" and not allowed and not _is_loopback(parts.hostname):
        raise ValueError(
            f"environment: {name} is http://{parts.hostname}, and what is written there could be read and changed on "
            "its way; valid: https://, or AWS_ALLOW_HTTP=true in a network that is trusted"
        )
    return endpoint


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _short(text: str) -> str:
    """Return what a store said, without its page of XML, and without what the environment keeps secret."""
    code = re.search(r"<Code>(\w+)</Code>", text)
    told = re.split(r"<\?xml|<Error|<!doctype|\n", text, maxsplit=1, flags=re.IGNORECASE)[0].strip()
    return redact(told)[:LONGEST_REASON] + (f" ({code[1]})" if code else "")


def _last(path: str) -> str:
    return path.rpartition("/")[2]
