"""The dataset's room: the columns of luma_videos, and how a run finds and holds many rows in little memory."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset.rows import Positions, take_rows
from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["VIDEOS_SCHEMA", "Identities", "ResultRows"]

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
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("duration_seconds", pa.float64()),
        pa.field("codec", pa.string()),
        pa.field("frame_rate", pa.float64()),
    ]
)
"""One row per task and artifact."""

_BATCH_ROWS = 1000
_BYTES_IN_MEMORY = 16 * 1024 * 1024
# Handing the columns of a batch to threads takes longer than compressing them.
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_IN_THIS_THREAD = pa.ipc.IpcReadOptions(use_threads=False)


class Identities:
    """Tasks and artifacts in the order in which they were added; about 45 bytes each. Arrow joins them by `find`.

    What is made for searching is kept: an identity that is added after the first search is found after `forget`.

    >>> identities = Identities()
    >>> identities.append("a", "video"), identities.append("b", "video")
    (0, 1)
    >>> identities.find(pa.array(["b", "x"]), "video").tolist()
    [1, -1]
    """

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._new: list[str] = []
        self._artifacts = array("B")
        self._codes: dict[str, int] = {}
        self._found: dict[str, tuple[pa.Array, Positions]] = {}
        self._by_id: dict[str, dict[str, int]] = {}

    def __len__(self) -> int:
        return len(self._artifacts)

    def append(self, task_id: str, artifact: str) -> int:
        """Add one; returns its number."""
        self._new.append(task_id)
        self._artifacts.append(self._code(artifact))
        if len(self._new) >= _BATCH_ROWS:
            self._pack()
        return len(self._artifacts) - 1

    def extend(self, rows: pa.Table) -> None:
        """Add the identities of rows."""
        self._pack()
        self._chunks += rows["task_id"].chunks
        self._artifacts.extend(self._code(artifact) for artifact in rows["artifact"].to_pylist())

    def task_ids(self) -> pa.ChunkedArray:
        """The ID of each, in their order."""
        self._pack()
        return pa.chunked_array(self._chunks, pa.string())

    def find(self, task_ids: pa.Array, artifact: str) -> Positions:
        """The number of each task with this artifact, -1 for those that are not here."""
        ids, numbers = self._of(artifact)
        index = np.asarray(pc.fill_null(pc.index_in(task_ids, value_set=ids), -1))
        found: Positions = np.append(numbers, -1)[index]
        return found

    def find_one(self, task_id: str, artifact: str) -> int:
        """The number of one task. The first call makes a dictionary of all."""
        if artifact not in self._by_id:
            ids, numbers = self._of(artifact)
            self._by_id[artifact] = dict(zip(ids.to_pylist(), numbers.tolist(), strict=True))
        return self._by_id[artifact].get(task_id, -1)

    def forget(self) -> None:
        """Free what was made for searching."""
        self._found.clear()
        self._by_id.clear()

    def _of(self, artifact: str) -> tuple[pa.Array, Positions]:
        if artifact not in self._found:
            self._pack()
            codes = np.frombuffer(self._artifacts, dtype=np.uint8) if len(self) else np.empty(0, dtype=np.uint8)
            numbers = np.flatnonzero(codes == self._codes.get(artifact, -1))
            self._chunks = [pa.concat_arrays([pa.array([], pa.string()), *self._chunks])]
            ids = self._chunks[0] if len(numbers) == len(self) else self._chunks[0].take(pa.array(numbers))
            self._found[artifact] = ids, numbers
        return self._found[artifact]

    def _code(self, artifact: str) -> int:
        return self._codes.setdefault(artifact, len(self._codes))

    def _pack(self) -> None:
        new, self._new = self._new, []
        if new:
            self._chunks.append(pa.array(new, pa.string()))


class ResultRows:
    """Rows of a manifest on their way into the file: compressed, in memory up to 16 MiB, then in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115  (`close` closes it)
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), VIDEOS_SCHEMA, options=_COMPRESSED)
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._new: list[Mapping[str, Any]] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Mapping[str, Any]) -> int:
        """Add a row; returns its number. No row can be added after `take`."""
        self._new.append(row)
        self._rows += 1
        if len(self._new) >= _BATCH_ROWS:
            self._write()
        return self._rows - 1

    def close(self) -> None:
        """Free the rows."""
        self._file.close()

    def take(self, numbers: Positions) -> pa.Table:
        """The rows with these numbers, in their order."""
        if not len(numbers):
            return VIDEOS_SCHEMA.empty_table()
        if self._reader is None:
            self._write()
            self._writer.close()
            self._file.seek(0)
            self._reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"), options=_IN_THIS_THREAD)
        reader = self._reader

        def load(batch: int) -> pa.Table:
            return pa.Table.from_batches([reader.get_batch(batch)])

        return take_rows(load, numbers // _BATCH_ROWS, numbers % _BATCH_ROWS)

    def _write(self) -> None:
        new, self._new = self._new, []
        if new:
            self._writer.write_batch(pa.RecordBatch.from_pylist(new, VIDEOS_SCHEMA))
