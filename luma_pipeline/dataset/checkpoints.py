"""The dataset's room: answers of runs that have not finished."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from luma_pipeline.dataset.errors import StaleVersionError
from luma_pipeline.dataset.partition_file import readable
from luma_pipeline.dataset.schema import conformed, fields_of
from luma_pipeline.dataset.storage import SHARD_NAME, Storage

__all__ = ["Checkpoints", "Shard"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OLDEST = timedelta(days=1)


@dataclass(frozen=True)
class Shard:
    """Some answers of a run. `refresh_since` is when the refresh began that asked for them; None for other runs."""

    path: str
    refresh_since: datetime | None = None


class Checkpoints:
    """Answers of a partition whose run has not finished, in shards that the next run takes up. Thread-safe.

    Nothing tells whether the run that wrote a shard is still alive: it may be on another machine, and it may be silent
    for as long as the provider makes it wait. So the rule for removing is one that holds either way:

    - When a run has written the partition's file it removes its own shards, and of those it took up the ones whose
      every row is in that file, or a better one for the same task.
    - A run that finds a shard gone, its own or one it took up, reads the partition's file again and takes the rows of
      those tasks from there.
    - A refresh's shards tell others that it was broken off, and when it began. They stay until a refresh has come to
      its end, which removes all of them.
    - What nobody comes back for goes after a day.

    That needs no more of the store than that a listing and a reading show what was written before, which a local folder
    and S3 both give. The name of each shard holds the run's own name, so no two runs write the same one.
    """

    def __init__(self, storage: Storage, folder: str, *, is_empty: bool = False) -> None:
        self._storage = storage
        self._folder = folder
        self._is_empty = is_empty
        self._run = uuid.uuid4().hex
        self._saved = 0

    def save(self, table: pa.Table, refresh_since: datetime | None = None) -> str:
        """Keep a table; returns the shard's path. It is seen by `shards` when it is whole and, locally, on disk."""
        kind = "run" if refresh_since is None else f"refresh-{(refresh_since - _EPOCH) // _MICROSECOND}"
        path = f"{self._folder}/{kind}-{self._run}-{self._saved:06}.parquet"
        self._saved += 1
        self._is_empty = False
        sink = pa.BufferOutputStream()
        # Read once and whole: dictionaries and statistics would take longer than they save.
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
        self._storage.write(path, sink.getvalue().to_pybytes())
        return path

    def shards(self, newer_than: datetime) -> list[Shard]:
        """The shards of all runs that were written after `newer_than` (aware), oldest first."""
        listed = [] if self._is_empty else self._storage.list(self._folder)
        self._is_empty = not listed
        files = [file for file in listed if file.name.endswith(".parquet") and file.modified_at > newer_than]
        return [
            Shard(file.path, _refresh_since(file.name)) for file in sorted(files, key=lambda file: file.modified_at)
        ]

    def load(self, path: str, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
        """The rows of a shard, all columns or some; with a `schema` as `conformed` makes them.

        Raises:
            StaleVersionError: Another run has removed it.
            UnreadableFileError: It is damaged.
        """
        try:
            source = self._storage.open(path).source
        except FileNotFoundError as error:
            raise StaleVersionError(f"the checkpoint {path} has been removed by another run") from error
        with readable(path), source:
            table = pq.ParquetFile(source).read(columns, use_threads=False)
        return table if schema is None else conformed(table, fields_of(schema, columns), path)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove shards whose rows have become part of the dataset, and any that are older than a day."""
        if self._is_empty:
            return
        oldest = datetime.now(UTC) - _OLDEST
        listed = self._storage.list(self._folder)
        for path in {file.path for file in listed if file.modified_at < oldest}.union(paths):
            self._storage.delete(path)
        self._storage.prune(self._folder)


def _refresh_since(name: str) -> datetime | None:
    found = SHARD_NAME.fullmatch(name)
    since = None if found is None else found["refresh_since"]
    return None if since is None else _EPOCH + int(since) * _MICROSECOND
