"""The audit's room: rows whose objects are read in this audit, kept in a temporary file until it is their turn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from luma_pipeline.audit.manifest import ManifestRow
from luma_pipeline.audit.turns import Span
from luma_pipeline.luma.schema import TIMESTAMP

__all__ = ["DueRows"]

_ROWS = 500
_BYTES_IN_MEMORY = 256 * 1024
_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("task_id", "artifact", "status", "bucket", "key")),
        pa.field("size_bytes", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("content_type", "sha256", "etag")),
        pa.field("copied_at", TIMESTAMP),
        pa.field("number", pa.int64()),
    ]
)


class DueRows:
    """Rows by the part of the dial on which they are. A part holds up to 500 rows in memory, the rest on disk."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._parts = [_Part() for _ in range(span.parts)]
        self._new: list[tuple[ManifestRow, int, int]] = []
        self.rows = 0

    def take(self, row: ManifestRow, place: int, number: int) -> None:
        """Keep a row, if it is due."""
        self._new.append((row, place, number))
        if len(self._new) >= _ROWS:
            self.sort()

    def sort(self) -> None:
        """Put what was taken into its part."""
        new, self._new = self._new, []
        if not new:
            return
        parts = self._span.part_of(np.array([place for _, place, _ in new], dtype=np.uint64))
        for (row, _, number), part in zip(new, parts.tolist(), strict=True):
            if part >= 0 and row.has_object:
                self._parts[part].add(row, number)
                self.rows += 1

    def part(self, number: int) -> Iterator[list[tuple[ManifestRow, int]]]:
        """The rows of a part with their numbers, 500 at a time, once."""
        yield from self._parts[number].taken()

    def close(self) -> None:
        """Free the rows."""
        for part in self._parts:
            part.close()


class _Part:
    def __init__(self) -> None:
        self._new: list[tuple[ManifestRow, int]] = []
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, row: ManifestRow, number: int) -> None:
        self._new.append((row, number))
        if len(self._new) >= _ROWS:
            self._write()

    def taken(self) -> Iterator[list[tuple[ManifestRow, int]]]:
        if self._writer is not None and self._file is not None:
            self._writer.close()
            self._file.seek(0)
            reader = pa.ipc.open_file(pa.PythonFile(self._file, mode="r"))
            for at in range(reader.num_record_batches):
                columns = [column.to_pylist() for column in reader.get_batch(at).columns]
                yield [(ManifestRow(*values[:-1]), values[-1]) for values in zip(*columns, strict=True)]
        if self._new:
            yield self._new
        self.close()

    def close(self) -> None:
        self._new = []
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        if self._writer is None:
            self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115  (`close` closes it)
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), _SCHEMA)
        new, self._new = self._new, []
        rows = [{**row._asdict(), "number": number} for row, number in new]
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
