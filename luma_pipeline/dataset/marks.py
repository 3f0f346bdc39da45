"""The dataset's room: marks, names that one listing tells all of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from luma_pipeline.dataset.storage import Storage

__all__ = ["Marks"]


class Marks:
    """A set of names, each kept as an empty file. One listing tells all of them and when each was set."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def set(self, name: str) -> None:
        """Set a mark, or set it again. A name holds no slash."""
        self._storage.write(f"{self._folder}/{name}", b"")

    def set_at(self, name: str) -> datetime | None:
        """When (aware UTC) a mark was set; None if it is not."""
        return self._storage.modified_at(f"{self._folder}/{name}")

    def clear(self, name: str) -> None:
        """Take a mark away, if it is there. A deletion would leave a version in some buckets."""
        if self.set_at(name) is not None:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Take away a mark that is known to be there."""
        self._storage.delete(f"{self._folder}/{name}")

    def clear_all(self, names: Sequence[str]) -> None:
        """Take away marks that are there, many by one request where the store can."""
        self._storage.delete_all([f"{self._folder}/{name}" for name in names])

    def listed(self, prefix: str = "") -> dict[str, datetime]:
        """The names that begin with `prefix`, with the time (aware UTC) at which each was set."""
        return {file.name: file.modified_at for file in self._storage.list(self._folder, prefix)}
