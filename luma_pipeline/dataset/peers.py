"""The dataset's room: what the runs of an account tell each other while they are at work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from luma_pipeline.dataset.storage import Storage
from luma_pipeline.limit import Peer, PeerError

__all__ = ["PeerEntries"]

_LARGEST_BYTES = 65_536
_NAME = re.compile(r"(?P<run>[0-9a-f]{16})\.json")


class PeerEntries:
    """A folder an account, and in it a small file for each run that is at work: `<account>/<run>.json`.

    Every method raises DatasetError for what the storage says against it.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def told_at(self, account: str) -> dict[str, datetime]:
        """The names of the runs, and when (aware UTC, by the store's clock) each has told something. One listing."""
        listed = self._storage.list(f"{self._folder}/{account}")
        matches = ((_NAME.fullmatch(file.name), file.modified_at) for file in listed)
        return {match["run"]: at for match, at in matches if match is not None}

    def read(self, account: str, run: str) -> Peer | None:
        """What a run has told last; None if it has just ended.

        Raises PeerError for what no run of this version tells.
        """
        path = self._path(account, run)
        try:
            with self._storage.open(path).source as source:
                return Peer.parse(source.read(_LARGEST_BYTES))
        except FileNotFoundError:
            return None
        except PeerError as error:
            raise PeerError(f"{path}: {error}") from None

    def tell(self, account: str, run: str, peer: Peer) -> None:
        """Tell the others."""
        self._storage.write(self._path(account, run), peer.to_json())

    def remove(self, account: str, runs: Iterable[str]) -> None:
        """Take away what runs that have ended have told, and the folder if it is empty then."""
        for run in runs:
            self._storage.delete(self._path(account, run))
        self._storage.prune(f"{self._folder}/{account}")

    def _path(self, account: str, run: str) -> str:
        return f"{self._folder}/{account}/{run}.json"
