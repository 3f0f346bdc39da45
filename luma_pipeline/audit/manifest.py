"""The audit's room: all rows of the manifests in few bytes each, and where a row can be read again.

A row is held as hashes: 8 bytes of its key, 8 of key, size and ETag together, 8 of its digest, 8 of its time, and what
numpy needs to find it: 155 bytes a row at the peak, while they are sorted (`benchmarks/audit.py`). Python's hash of a
text is keyed anew in each process, so nobody can choose keys that collide; of a million keys two collide by chance once
in 30 million audits.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luma_pipeline.dataset import Dataset, Forgotten, PartitionFile
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.earlier_videos import is_in_bucket
from luma_pipeline.engine.partition import VIDEOS
from luma_pipeline.s3 import ListedObject

__all__ = ["Flag", "ManifestIndex", "ManifestRow", "PartitionSeen", "microseconds", "read_rows", "rows_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = (
    "task_id",
    "artifact",
    "status",
    "bucket",
    "key",
    "size_bytes",
    "content_type",
    "sha256",
    "etag",
    "copied_at",
)
_DIGEST_LETTERS = 64


class Flag(IntFlag):
    """Why a row is looked at again."""

    NONE = 0
    LISTING = 1
    """The listing has not the object that the row tells of."""
    READING = 2
    """What was read is not what the row tells of."""
    ELSEWHERE = 4
    """Its object is in another bucket, or not below the prefix: the listing says nothing of it."""
    REPEATED = 8
    """Other rows have its key."""
    NO_DIGEST = 16
    NO_KEY = 32
    FORGOTTEN = 64
    """Its task has a tombstone."""


class ManifestRow(NamedTuple):
    """A row of a manifest that says that an object is in a bucket. `copied_at` is aware, UTC."""

    task_id: str
    artifact: str
    status: str
    bucket: str
    key: str | None
    size_bytes: int | None
    content_type: str | None
    sha256: str | None
    etag: str | None
    copied_at: datetime | None

    @property
    def has_digest(self) -> bool:
        """Whether it has a SHA-256 that can be one."""
        try:
            return len(self.sha256 or "") == _DIGEST_LETTERS and int(self.sha256 or "", 16) >= 0
        except ValueError:
            return False

    @property
    def has_object(self) -> bool:
        """Whether it says where its object is, and how large."""
        return bool(self.key) and self.size_bytes is not None

    def key_hash(self, bucket: str) -> int:
        """What its key is found by. `bucket` is the one that is audited."""
        if not self.key:
            return hash((self.task_id, self.artifact))
        return hash(self.key) if self.bucket == bucket else hash((self.bucket, self.key))


@dataclass(frozen=True)
class PartitionSeen:
    """A partition of the manifest as it was read, and the number of its first row."""

    folder: str
    version: str
    first_row: int


class ManifestIndex:
    """Every row that says that an object is in a bucket, over all partitions, in the order in which it was read.

    `seal` is called when all are added. Then `compare` takes the pages of a listing.
    """

    def __init__(self, bucket: str, prefix: str, forgotten: Forgotten) -> None:
        self.bucket = bucket
        self._forgotten = forgotten
        self._prefix = prefix
        self.partitions: list[PartitionSeen] = []
        self._keys, self._objects, self._copied_at = array("q"), array("q"), array("q")
        self._places, self._flags = array("Q"), array("B")
        self._other_keys = array("q")
        self._other_buckets: set[str] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, file: PartitionFile, folder: str, take: Callable[[ManifestRow, int, int], None]) -> None:
        """Take in a partition. `take` is given each row with its place on the dial and its number.

        Raises:
            DatasetError: The file cannot be read to its end; the rows before that are taken in.
        """
        with file.open(whole=True) as reader:
            self.partitions.append(PartitionSeen(folder, reader.version, len(self)))
            for table in reader.batches(_COLUMNS, VIDEOS_SCHEMA):
                self._add(table, take)

    def seal(self) -> None:
        """All rows are added."""
        self.keys = _frozen(self._keys, np.int64)
        self._expected = _frozen(self._objects, np.int64)
        self.copied_at = _frozen(self._copied_at, np.int64)
        self.places = _frozen(self._places, np.uint64)
        self.flags = _frozen(self._flags, np.uint8).copy()
        self._others = np.unique(_frozen(self._other_keys, np.int64))
        self._distinct, inverse, counts = np.unique(self.keys, return_inverse=True, return_counts=True)
        self._inverse = inverse.astype(np.int32)
        self.flags[counts[self._inverse] > 1] |= np.uint8(Flag.REPEATED)
        self._found = np.zeros(len(self._distinct), dtype=np.int64)
        self._modified_at = np.zeros(len(self._distinct), dtype=np.int64)
        self._is_found = np.zeros(len(self._distinct), dtype=bool)

    def compare(self, page: Sequence[ListedObject]) -> list[ListedObject]:
        """Take in a page of the listing; returns the objects whose keys no row has."""
        keys = np.fromiter((hash(each.key) for each in page), dtype=np.int64, count=len(page))
        at, is_known = _search(self._distinct, keys)
        objects = (hash((each.key, each.size_bytes, each.etag)) for each in page)
        found = np.fromiter(objects, dtype=np.int64, count=len(page))
        modified = np.fromiter((microseconds(each.modified_at) for each in page), dtype=np.int64, count=len(page))
        self._found[at[is_known]] = found[is_known]
        self._modified_at[at[is_known]] = modified[is_known]
        self._is_found[at[is_known]] = True
        is_other = _search(self._others, keys)[1]
        return [page[number] for number in np.flatnonzero(~(is_known | is_other)).tolist()]

    def judge(self, later_than: int, *, is_complete: bool) -> None:
        """Flag the rows that are not as the listing says, or whose object was written so many microseconds later.

        Where the listing broke off, a row whose object did not come is not flagged.
        """
        if not len(self):
            return
        is_found = self._is_found[self._inverse]
        is_other = is_found & (self._found[self._inverse] != self._expected)
        is_later = is_found & (self._modified_at[self._inverse] > self.copied_at + later_than) & (self.copied_at > 0)
        is_wrong = is_other | is_later | (~is_found if is_complete else np.zeros(len(self), dtype=bool))
        is_listed = (self.flags & np.uint8(Flag.ELSEWHERE | Flag.NO_KEY)) == 0
        self.flags[is_wrong & is_listed] |= np.uint8(Flag.LISTING)

    def flag(self, keys: Iterable[str | None]) -> None:
        """Flag the rows with these keys, to be read again."""
        hashes = [each for key in keys for each in (hash(key), *(hash((name, key)) for name in self._other_buckets))]
        if hashes:
            self.flags[np.isin(self.keys, np.array(hashes, dtype=np.int64))] |= np.uint8(Flag.READING)

    def flagged(self, flags: Flag) -> int:
        """How many rows have one of the flags."""
        return int(np.count_nonzero(self.flags & np.uint8(flags)))

    def spans(self) -> Iterator[tuple[PartitionSeen, slice]]:
        """The partitions, and where their rows are."""
        ends = [*(each.first_row for each in self.partitions[1:]), len(self)]
        for partition, end in zip(self.partitions, ends, strict=False):
            yield partition, slice(partition.first_row, end)

    def suspects(self) -> Iterator[tuple[PartitionSeen, Mapping[int, Flag]]]:
        """The partitions with flagged rows, and their flags by the hash of the key."""
        for partition, rows in self.spans():
            flags = self.flags[rows]
            numbers = np.flatnonzero(flags)
            if len(numbers):
                keys = self.keys[rows][numbers]
                by_key: dict[int, Flag] = {}
                for key, flag in zip(keys.tolist(), flags[numbers].tolist(), strict=True):
                    by_key[key] = by_key.get(key, Flag.NONE) | Flag(flag)
                yield partition, by_key

    def duplicates(self) -> npt.NDArray[np.uint64]:
        """The places on the dial that objects under more than one key have: that of their digest."""
        first = np.unique(self._inverse, return_index=True)[1]
        has_digest = (self.flags[first] & np.uint8(Flag.NO_DIGEST | Flag.NO_KEY)) == 0
        places, counts = np.unique(self.places[first][has_digest], return_counts=True)
        self.duplicate_objects = int((counts[counts > 1] - 1).sum())
        return places[counts > 1]

    def _add(self, table: pa.Table, take: Callable[[ManifestRow, int, int], None]) -> None:
        is_gone = self._forgotten.among(table["task_id"]).tolist()
        for row, is_forgotten in zip(rows_of(table, only_in_bucket=False), is_gone, strict=True):
            if row.status not in _IN_BUCKET:
                if row.key and row.bucket == self.bucket:
                    self._other_keys.append(hash(row.key))
                continue
            flags, place = self._flags_of(row) | (Flag.FORGOTTEN if is_forgotten else 0), place_of(row)
            if row.bucket != self.bucket:
                self._other_buckets.add(row.bucket)
            self._keys.append(row.key_hash(self.bucket))
            self._objects.append(hash((row.key, row.size_bytes, row.etag)))
            self._copied_at.append(microseconds(row.copied_at))
            self._places.append(place)
            self._flags.append(flags)
            take(row, place, len(self) - 1)

    def _flags_of(self, row: ManifestRow) -> int:
        flags = 0 if row.has_digest else int(Flag.NO_DIGEST)
        if not row.has_object:
            flags |= Flag.NO_KEY
        elif row.bucket != self.bucket or not str(row.key).startswith(self._prefix):
            flags |= Flag.ELSEWHERE
        return flags


_IN_BUCKET = frozenset({"copied", "already_present"})


def rows_of(table: pa.Table, *, only_in_bucket: bool = True) -> Iterator[ManifestRow]:
    """The rows of a table of a manifest."""
    if only_in_bucket:
        table = table.filter(is_in_bucket(table["status"]))
    columns = [table[name].to_pylist() for name in _COLUMNS]
    for values in zip(*columns, strict=True):
        yield ManifestRow(*values)


def read_rows(dataset: Dataset, folder: str, keys: Mapping[int, Any], bucket: str) -> Iterator[list[ManifestRow]]:
    """The rows of a partition as it is now whose keys are among the hashes, a row group at a time."""
    with dataset.partition(VIDEOS, folder).open(whole=True) as reader:
        for table in reader.batches(_COLUMNS, VIDEOS_SCHEMA):
            found = [row for row in rows_of(table) if row.key_hash(bucket) in keys]
            if found:
                yield found


def place_of(row: ManifestRow) -> int:
    """A row's place on the dial: the first 8 bytes of its digest, or of that of its key."""
    if row.has_digest:
        return int(str(row.sha256)[:16], 16)
    return int.from_bytes(hashlib.sha256((row.key or row.task_id).encode("utf-8", "surrogatepass")).digest()[:8], "big")


def microseconds(moment: datetime | None) -> int:
    """Microseconds since 1970 of an aware time; 0 for None."""
    return 0 if moment is None else int(moment.timestamp() * 1_000_000)


def _frozen(held: Any, dtype: Any) -> npt.NDArray[Any]:
    return np.frombuffer(held, dtype=dtype) if len(held) else np.empty(0, dtype=dtype)


def _search(known: npt.NDArray[np.int64], asked: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Any]:
    """Where each is among those known, and whether it is there."""
    if not len(known):
        return np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=bool)
    at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return at, known[at] == asked
