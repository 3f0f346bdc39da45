"""The dataset's room: tombstones, which say that a task has been forgotten, so that no run brings it back.

A tombstone is the SHA-256 of the task's ID: no ID stands in the clear. They lie in Parquet files of sorted digests,
32 bytes each, under `_tombstones/`. A file never changes: its name is the digest of its content. So one listing tells
whether there are new ones, and two writers at once lose none.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from luma_pipeline.dataset.errors import StaleVersionError
from luma_pipeline.dataset.partition_file import readable
from luma_pipeline.dataset.storage import Storage

__all__ = ["Forgotten", "Tombstones", "digest_of"]

_COLUMN = "id_sha256"
_SUFFIX = ".parquet"
_DIGEST_BYTES = 32
_TYPE = pa.binary(_DIGEST_BYTES)
_MOST_FILES = 32
"""With more, all are put together into one: each look at the tombstones would read them one by one."""
_RECENT_SECONDS = 10.0
_MOST_TRIES = 40
_PAUSE_SECONDS = 0.01

Digests = npt.NDArray[np.bytes_]
_NONE: Digests = np.empty(0, dtype=f"S{_DIGEST_BYTES}")


def digest_of(task_id: str) -> bytes:
    """The SHA-256 of a task's ID in UTF-8: what a tombstone keeps of it.

    >>> digest_of("abc").hex()[:12]
    'ba7816bf8f01'
    """
    return hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, eq=False)
class Forgotten:
    """The tombstones as they were at one moment. `names` are those of their files.

    A look-up costs the digest of the ID, 1 µs, and a search in the sorted digests; nothing where there are none.

    >>> forgotten = Forgotten().including([digest_of("abc")])
    >>> forgotten.among(pa.array(["abc", "abd"])).tolist()
    [True, False]
    """

    names: frozenset[str] = frozenset()
    digests: Digests = field(default_factory=lambda: _NONE, repr=False)

    def __len__(self) -> int:
        return len(self.digests)

    def among(self, task_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """For each ID whether it has a tombstone; False for null."""
        if not len(self) or not len(task_ids):
            return np.zeros(len(task_ids), dtype=bool)
        asked = [b"" if each is None else digest_of(each) for each in task_ids.to_pylist()]
        return self._has(np.array(asked, dtype=self.digests.dtype))

    def has(self, task_id: str) -> bool:
        """Whether one ID has a tombstone."""
        return bool(self._has(np.array([digest_of(task_id)], dtype=self.digests.dtype))[0])

    def has_hex(self, sha256: str) -> bool:
        """Whether the ID with this SHA-256, in hex, has a tombstone; False for a text that is none."""
        try:
            digest = bytes.fromhex(sha256)
        except ValueError:
            return False
        return len(digest) == _DIGEST_BYTES and bool(self._has(np.array([digest], dtype=self.digests.dtype))[0])

    def without(self, table: pa.Table) -> pa.Table:
        """The rows of a table with `task_id` whose tasks are not forgotten; the table itself where none is."""
        is_gone = self.among(table["task_id"])
        return table.filter(pa.array(~is_gone)) if is_gone.any() else table

    def only(self, table: pa.Table) -> pa.Table:
        """The rows of a table with `task_id` whose tasks are forgotten."""
        return table.filter(pa.array(self.among(table["task_id"])))

    def including(self, digests: Iterable[bytes]) -> Forgotten:
        """These and others."""
        return Forgotten(self.names, _sorted([*_as_list(self.digests), *digests]))

    def _has(self, asked: Digests) -> npt.NDArray[np.bool_]:
        if not len(self):
            return np.zeros(len(asked), dtype=bool)
        at = np.minimum(np.searchsorted(self.digests, asked), len(self) - 1)
        return np.asarray(self.digests[at] == asked)


class Tombstones:
    """The tombstones of a dataset. Thread-safe; several processes may write at once."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder
        self._lock = threading.Lock()
        self._known = Forgotten()
        self._looked_at: float | None = None

    def now(self) -> Forgotten:
        """The tombstones as they are: one listing, and the files that have come since the last look.

        Where nothing has changed, it is the same object as before.

        Raises:
            UnreadableFileError: A file is damaged. Nothing may be written then that could bring back what it names.
            DatasetError: The storage does not answer.
        """
        with self._lock:
            return self._look()

    def recent(self) -> Forgotten:
        """The tombstones as they were ten seconds ago or later: most calls cost no listing. Raises as `now`."""
        with self._lock:
            if self._looked_at is not None and time.monotonic() - self._looked_at < _RECENT_SECONDS:
                return self._known
            return self._look()

    def add(self, digests: Iterable[bytes]) -> int:
        """Keep tombstones; returns how many are new. They are seen by every look that begins afterwards."""
        with self._lock:
            before = self._look()
            asked = _sorted(digests)
            new = asked[~before._has(asked)]
            if len(new):
                self._write(new)
            if len(before.names) + 1 > _MOST_FILES:
                self._put_together()
            return len(new)

    def remove(self, digests: Iterable[bytes]) -> int:
        """Take tombstones away; returns how many there were. The next run brings back what there is of the tasks."""
        with self._lock:
            before = self._look()
            asked = _sorted(digests)
            left = before.digests[~np.isin(before.digests, asked)]
            if len(left) < len(before):
                self._replace(before, left)
            return len(before) - len(left)

    def _look(self) -> Forgotten:
        for attempt in range(_MOST_TRIES):
            began = time.monotonic()
            names = frozenset(name for name in self._storage.names(self._folder) if name.endswith(_SUFFIX))
            if names != self._known.names:
                try:
                    self._known = self._read(names)
                except FileNotFoundError:
                    # They were put together between the listing and the reading.
                    if attempt + 1 == _MOST_TRIES:
                        raise StaleVersionError(f"the tombstones under {self._folder} kept changing") from None
                    time.sleep(_PAUSE_SECONDS * attempt)
                    continue
            self._looked_at = began
            break
        return self._known

    def _read(self, names: frozenset[str]) -> Forgotten:
        is_more = names > self._known.names
        parts = [self._known.digests] if is_more else []
        parts += [self._read_one(name) for name in sorted(names - self._known.names if is_more else names)]
        return Forgotten(names, _joined(parts))

    def _read_one(self, name: str) -> Digests:
        path = f"{self._folder}/{name}"
        source = self._storage.open(path).source
        with readable(path), source:
            column = pq.ParquetFile(source).read([_COLUMN])[_COLUMN].cast(_TYPE)
            if column.null_count:
                raise pa.ArrowInvalid(f"its column {_COLUMN} has nulls")
            return _joined([_digests_in(chunk) for chunk in column.chunks])

    def _write(self, digests: Digests) -> str:
        """Write a file, whose name tells what is in it."""
        content = digests.tobytes()
        name = f"{hashlib.sha256(content).hexdigest()[:32]}{_SUFFIX}"
        column = pa.FixedSizeBinaryArray.from_buffers(_TYPE, len(digests), [None, pa.py_buffer(content)])
        sink = pa.BufferOutputStream()
        table = pa.table({_COLUMN: column})
        pq.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
        self._storage.write(f"{self._folder}/{name}", sink.getvalue().to_pybytes())
        return name

    def _put_together(self) -> None:
        found = self._look()
        self._replace(found, found.digests)

    def _replace(self, found: Forgotten, digests: Digests) -> None:
        """One file in place of those that were found: who looks meanwhile sees the old ones, the new one, or both."""
        kept = {self._write(digests)} if len(digests) else set()
        self._storage.delete_all([f"{self._folder}/{name}" for name in sorted(found.names - kept)])


def _sorted(digests: Iterable[bytes]) -> Digests:
    return np.unique(np.array(list(digests), dtype=f"S{_DIGEST_BYTES}"))


def _joined(parts: Sequence[Digests]) -> Digests:
    """All digests, sorted and each once. A stable sort merges parts that are in order, as those of files are."""
    ordered: Digests = np.sort(np.concatenate([_NONE, *parts]), kind="stable")
    return np.asarray(ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]])


def _digests_in(chunk: pa.FixedSizeBinaryArray) -> Digests:
    found = np.frombuffer(chunk.buffers()[1], dtype=f"S{_DIGEST_BYTES}") if len(chunk) else _NONE
    return found[chunk.offset : chunk.offset + len(chunk)]


def _as_list(digests: Digests) -> Sequence[bytes]:
    """The digests whole: numpy leaves zeros at the end of its texts out."""
    content = digests.tobytes()
    return [content[start : start + _DIGEST_BYTES] for start in range(0, len(content), _DIGEST_BYTES)]
