"""The rows of luma_videos: their columns, and how the many rows of a partition are held in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["DIGEST_TYPE", "VIDEOS_SCHEMA", "Digests", "Identities", "ManifestRows", "Places", "digests_of"]

VIDEOS_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("artifact", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("source_url", pa.string()),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("content_type", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("copied_at", TIMESTAMP),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)
"""One row per task and artifact."""

Digests = npt.NDArray[np.bytes_]
Places = npt.NDArray[np.int64]

_DIGEST_BYTES = 16
DIGEST_TYPE = np.dtype(f"S{_DIGEST_BYTES}")
_PAGE_ROWS = 1000
_MOST_PAGES_OPEN = 4
# Handing the columns of a page to threads takes longer than compressing them.
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_IN_THIS_THREAD = pa.ipc.IpcReadOptions(use_threads=False)


def digests_of(task_ids: Iterable[str], artifact: str) -> Digests:
    """What artifacts of tasks are found by: 16 bytes each, too many for two of them ever to meet."""
    return _as_array(b"".join(_digest(task_id, artifact) for task_id in task_ids))


def _digest(task_id: str, artifact: str) -> bytes:
    return blake2b(f"{artifact}/{task_id}".encode(), digest_size=_DIGEST_BYTES).digest()


def _as_array(digests: bytes | bytearray) -> Digests:
    return np.frombuffer(bytes(digests), dtype=DIGEST_TYPE)


class Identities:
    """Tasks and artifacts in the order they were added, which is their place. About 24 bytes each."""

    def __init__(self) -> None:
        self._added = bytearray()
        self._sorted: Digests | None = None
        self._places: Places = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._added) // _DIGEST_BYTES if self._sorted is None else len(self._sorted)

    def add(self, task_id: str, artifact: str) -> None:
        """Add one; only as long as none has been looked for."""
        if self._sorted is not None:
            raise AssertionError("added after the first look")
        self._added += _digest(task_id, artifact)

    def find(self, wanted: Digests) -> Places:
        """The place of each, -1 for those that are not here."""
        if self._sorted is None:
            digests = _as_array(self._added)
            self._places = np.argsort(digests, kind="stable")
            self._sorted = digests[self._places]
            self._added = bytearray()
        if not len(self._sorted):
            return np.full(len(wanted), -1, dtype=np.int64)
        near = np.searchsorted(self._sorted, wanted)
        near[near == len(self._sorted)] = 0
        return np.where(self._sorted[near] == wanted, self._places[near], -1)


class ManifestRows:
    """Rows of a manifest, found by task and artifact.

    They are kept as compressed pages of a thousand: about 200 bytes a row, half of what they are in Arrow and a tenth
    of what they are as Python's dictionaries.
    """

    def __init__(self) -> None:
        self._identities = Identities()
        self._pending: list[Mapping[str, Any]] = []
        self._pages: list[bytes] = []
        self._starts: list[int] = []
        self._open: dict[int, pa.Table] = {}
        self._rows = 0

    def __len__(self) -> int:
        return self._rows + len(self._pending)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._pending.append(row)
        if len(self._pending) >= _PAGE_ROWS:
            self._pack_pending()

    def extend(self, table: pa.Table) -> None:
        """Add rows; columns that an older version did not have are null."""
        self._pack_pending()
        columns = [
            table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
            for field in VIDEOS_SCHEMA
        ]
        whole = pa.Table.from_arrays(columns, schema=VIDEOS_SCHEMA)
        for start in range(0, len(whole), _PAGE_ROWS):
            self._pack(whole.slice(start, _PAGE_ROWS))

    def find(self, wanted: Digests) -> Places:
        """The row of each task and artifact, -1 for those that have none. No rows can be added after that."""
        self._pack_pending()
        return self._identities.find(wanted)

    def row(self, place: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of one row."""
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        page, within = self._page(number), place - self._starts[number]
        return {column: page[column][within].as_py() for column in columns}

    def take(self, places: Places) -> pa.Table:
        """The rows at `places`, in their order."""
        numbers = np.searchsorted(self._starts, places, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        tables = [VIDEOS_SCHEMA.empty_table()]
        for number in np.unique(numbers):
            within = places[order][numbers[order] == number] - self._starts[number]
            tables.append(self._page(int(number)).take(pa.array(within)))
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(tables).take(pa.array(back))

    def _pack_pending(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._pack(pa.Table.from_pylist(pending, VIDEOS_SCHEMA))

    def _pack(self, page: pa.Table) -> None:
        for task_id, artifact in zip(page["task_id"].to_pylist(), page["artifact"].to_pylist(), strict=True):
            self._identities.add(task_id, artifact)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, VIDEOS_SCHEMA, options=_COMPRESSED) as stream:
            stream.write_table(page)
        # The sink's own buffer is up to twice as large as what is in it.
        self._pages.append(sink.getvalue().to_pybytes())
        self._starts.append(self._rows)
        self._rows += len(page)

    def _page(self, number: int) -> pa.Table:
        page = self._open.pop(number, None)
        if page is None:
            page = pa.ipc.open_stream(self._pages[number], options=_IN_THIS_THREAD).read_all().combine_chunks()
        self._open[number] = page
        if len(self._open) > _MOST_PAGES_OPEN:
            del self._open[next(iter(self._open))]
        return page
