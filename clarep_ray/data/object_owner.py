"""Who works on an output in object storage: claims as objects, written again every ten seconds as signs of life."""

from __future__ import annotations

from collections.abc import Collection

from clarep_ray.data import owner
from clarep_ray.data.object_store import ObjectStore
from clarep_ray.data.owner import Claims, Process, claim_name, epochs_of, parse_process, process_bytes
from clarep_ray.data.store import WORK, Store

MAX_BYTES = 4096


def claims_in(store: Store) -> ObjectClaims:
    """Return the claims on an output in object storage."""
    assert isinstance(store, ObjectStore), "there is no third kind"
    return ObjectClaims(store)


class ObjectClaims(Claims):
    """Claims below `tmp/`. Times are those of the store's clock alone."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.where = store, store.where

    def epochs(self) -> list[int]:
        return epochs_of(self.store.names(WORK))

    def put(self, epoch: int) -> bool:
        return self.store.put_new(_name(epoch), process_bytes())

    def read(self, epoch: int) -> Process | None:
        try:
            return parse_process(self.store.read(_name(epoch), MAX_BYTES))
        except (FileNotFoundError, ValueError):
            return None

    def beat(self, epoch: int) -> None:
        self.store.size(_name(epoch))  # who lost it must not bring it back
        self.store.put(_name(epoch), process_bytes())

    def silent(self, epoch: int) -> bool:
        last = self.store.times(WORK).get(claim_name(epoch))
        return last is None or (self.store.now() - last).total_seconds() > owner.SILENT_S

    def drop(self, epochs: Collection[int]) -> None:
        self.store.remove(WORK, [claim_name(epoch) for epoch in epochs])

    def tidy(self) -> None:
        """Object storage has no folders."""


def _name(epoch: int) -> str:
    return f"{WORK}/{claim_name(epoch)}"
