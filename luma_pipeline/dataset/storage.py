"""The dataset's room: what a storage under a root does, be it a local folder or S3."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, NamedTuple, Protocol, TypeVar

import pyarrow as pa

__all__ = ["PARTITION_FILE", "SHARD_NAME", "OpenedFile", "Storage", "StoredFile", "is_temporary_name", "temporary_name"]

T = TypeVar("T")

PARTITION_FILE = "part-0.parquet"
"""The name of the one file of each partition."""
SHARD_NAME = re.compile(r"(?:run|refresh-(?P<refresh_since>\d+))-[0-9a-f]{32}-\d{6,}\.parquet")
"""The names of checkpoints. `refresh_since` is in microseconds since 1970."""

_TOMBSTONES = r"[0-9a-f]{32}\.parquet"
_LIMIT = r"[0-9a-f]{16}\.json"
_TEMPORARY = re.compile(
    rf"\.(?:{re.escape(PARTITION_FILE)}|{SHARD_NAME.pattern}|{_TOMBSTONES}|{_LIMIT}|write-probe)\.[0-9A-Za-z]+\.tmp"
)
_TEMPORARY_OF_0_1 = re.compile(rf"{SHARD_NAME.pattern}\.tmp")


def temporary_name(name: str, unique: str) -> str:
    """The name under which a local file is written until it is whole. Readers skip names that begin with a dot."""
    return f".{name}.{unique}.tmp"


def is_temporary_name(name: str) -> bool:
    """Whether a local file of this name is one of ours that was not whole when its writer ended."""
    return bool(_TEMPORARY.fullmatch(name) or _TEMPORARY_OF_0_1.fullmatch(name))


@dataclass(frozen=True)
class StoredFile:
    """A file of a listing. `modified_at` is aware, UTC."""

    path: str
    name: str
    modified_at: datetime


class OpenedFile(NamedTuple):
    """A file to read from, and its version. It gives the bytes of that version or raises StaleVersionError.

    `content` is the whole file where opening it has read all of it.
    """

    source: pa.NativeFile
    version: str
    size_bytes: int
    content: bytes | None = None


class Storage(Protocol):
    """Whole files under a root. Every path begins with `root`; thread-safe.

    Each method raises DatasetError, with what to check, for what the storage says against it. A file that is not there
    raises FileNotFoundError from `open`, and from no other method.
    """

    @property
    def root(self) -> str:
        """The path that every other begins with; no slash at its end."""

    @property
    def whole_bytes(self) -> int:
        """Opening a file up to this size reads all of it."""

    def list(self, folder: str, prefix: str = "") -> list[StoredFile]:
        """The files directly in a folder whose names begin with `prefix`; none where there is no such folder."""

    def names(self, folder: str) -> Sequence[str]:
        """The names of what is directly in a folder: at a tenth of the cost of `list`, since nothing else is read."""

    def folders(self, folder: str, holding: str | None = None) -> Sequence[str]:
        """The names of the folders in a folder; with `holding` of those that have a file of that name."""

    def open(self, path: str, *, whole: bool = False) -> OpenedFile:
        """Open a file for reading. `whole` reads all of it now, so that no later reading meets another version."""

    def version(self, path: str) -> str:
        """What tells this file from each that was or will be under the path; empty if there is none."""

    def modified_at(self, path: str) -> datetime | None:
        """When a file was written (aware UTC); None if there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file, which is seen when it is whole."""

    def replace(self, path: str, write: Callable[[IO[bytes]], T], over: str | None = None) -> T:
        """Have `write` write a file, show it when it is whole, and return what `write` returned.

        With `over` it replaces the file of that version alone (empty: no file); StaleVersionError if there is another.
        """

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""

    def delete_all(self, paths: Sequence[str]) -> None:
        """Delete files, as far as they are there."""

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty."""

    def remove_old_versions(self, folder: str) -> str:
        """Remove for good what the storage keeps of files below a folder that were replaced or deleted.

        Returns why some of it is still there; empty text if none is.
        """

    def check(self) -> None:
        """Raise DatasetError unless files can be listed and written. Leaves nothing behind."""

    def sweep(self, older_than_seconds: float) -> int:
        """Remove what writers that were killed have left unfinished; how many. A fault is logged, not raised."""

    def stop(self) -> None:
        """Let what is under way end within ten seconds, with an error if need be, and begin nothing after that.

        Returns at once.
        """

    def close(self) -> None:
        """Close the connections. After a `stop`, what is still under way is cut at once."""
