"""The dataset's room: the one Parquet file of a partition, which is replaced whole, and only by other rows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from luma_pipeline import __version__
from luma_pipeline.dataset.errors import DatasetError, StaleVersionError, UnreadableFileError
from luma_pipeline.dataset.schema import conformed, fields_of
from luma_pipeline.dataset.storage import Storage
from luma_pipeline.luma.schema import SCHEMA_VERSION

__all__ = ["ROW_GROUP_ROWS", "PartitionFile", "PartitionReader", "Written", "readable"]

ROW_GROUP_ROWS = 10_000
"""Rows in a row group: about 50 MB of answers before compression, so that a reader of few columns skips well and the
writer holds little."""

_JUST_WRITTEN = "just written"
"""In place of a version that has not been asked for."""
_DIGESTED_ROWS = 1_000
"""Rows that are digested together."""


@dataclass(frozen=True)
class Written:
    """What a replaced partition holds. `digest` is a SHA-256 over the columns named in `PartitionFile.replace`.

    `is_new`: it was written now, and not kept as it was.
    """

    rows: int
    size_bytes: int
    path: str
    digest: str
    is_new: bool = field(default=False, compare=False)


_DIGEST = b"luma_pipeline.digest"
_VERSION = b"luma_pipeline.schema_version"


class PartitionFile:
    """The one Parquet file of a partition."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._last: tuple[bytes, str] | None = None

    @property
    def path(self) -> str:
        """The path in the folder's file system; on S3 the bucket and the key."""
        return self._path

    def exists(self) -> bool:
        """Whether the partition has been written."""
        return bool(self.version())

    def version(self) -> str:
        """What tells the file that is there from every other that was or will be; empty if there is none."""
        return self._storage.version(self._path)

    def modified_at(self) -> datetime | None:
        """When the file was written (aware UTC); None if there is none."""
        return self._storage.modified_at(self._path)

    def open(self, *, whole: bool = False) -> PartitionReader:
        """A reader of the file as it is now, to be used in a `with` block. It has no rows where there is no file.

        `whole` fetches all of an object on S3 into a temporary file, so that no replacement disturbs the reader.

        Raises:
            UnreadableFileError: The file is no Parquet file, is cut, or may not be read.
        """
        try:
            opened = self._storage.open(self._path, whole=whole)
        except FileNotFoundError:
            return PartitionReader(self, None, "")
        self._last = None if opened.content is None else (opened.content, opened.version)
        return self._reader(opened.source, opened.version, opened.size_bytes)

    def reopen(self) -> PartitionReader:
        """As `open`, of the file as this object has last read or written it: of a small one on S3 without a request.

        For who reads it once more within moments.
        """
        if self._last is None:
            return self.open()
        content, version = self._last
        return self._reader(pa.BufferReader(content), version, len(content))

    def _reader(self, source: pa.NativeFile, version: str, size_bytes: int) -> PartitionReader:
        with readable(self._path):
            return PartitionReader(self, pq.ParquetFile(source, pre_buffer=True), version, size_bytes)

    def row_count(self) -> int:
        """How many rows there are; 0 if the partition has not been written."""
        with self.open() as reader:
            return reader.rows

    def batches(self, columns: Sequence[str] | None = None, version: str | None = None) -> Iterator[pa.Table]:
        """The rows, a row group at a time. Columns that the file lacks (an older schema) are left out.

        With a `version` the rows are those of that file: StaleVersionError, at the end at the latest, if another run
        has replaced it.
        """
        with self.open() as reader:
            self._require(version, reader.version)
            yield from reader.batches(columns)
            self._require(version)

    def row_group(self, number: int, version: str | None = None) -> pa.Table:
        """One row group, in the order of `batches`; StaleVersionError if the file is not that `version` any more."""
        with self.open() as reader:
            self._require(version, reader.version)
            table = reader.row_group(number)
            self._require(version)
            return table

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once.

        Raises:
            DatasetError: The partition has not been written.
            UnreadableFileError: The file cannot be read, or has not all of these columns.
        """
        with self.open() as reader:
            if not reader.version:
                raise DatasetError(f"{self._path} has not been written: materialize its partition first")
            return reader.read(columns)

    def replace(
        self,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        digest_columns: Sequence[str] = (),
        over: str | None = None,
    ) -> Written:
        """Write the tables as the partition's new content, and show it only when it is whole.

        With `over` it replaces the file of that version alone (empty: no file): StaleVersionError, and nothing
        replaced, if there is another by then. The version is compared last of all: before the renaming, and on
        S3 by the store itself where it has conditional writes.

        A reader, or a kill at any instant, sees the old file or the new one. On S3 the file is written to a local
        temporary file first and sent in one go.
        """
        schema = schema.with_metadata({_VERSION: str(SCHEMA_VERSION), "luma_pipeline.version": __version__})
        return self._replace(schema, tables, digest_columns, over)

    def rewrite(self, reader: PartitionReader, tables: Iterable[pa.Table], digest_columns: Sequence[str]) -> Written:
        """Write some of the rows of the file that `reader` has opened in its place, with its schema and its metadata.

        Raises StaleVersionError, and replaces nothing, if another run has replaced it.
        """
        return self._replace(reader.schema, tables, digest_columns, reader.version)

    def _replace(
        self, schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str], over: str | None
    ) -> Written:
        def write(file: IO[bytes]) -> tuple[Written, bytes | None]:
            rows, digest = _write(file, schema, tables, digest_columns)
            written = Written(rows, file.tell(), self._path, digest, is_new=True)
            if written.size_bytes > self._storage.whole_bytes:
                return written, None
            file.seek(0)
            return written, file.read()

        self._last = None
        written, content = self._storage.replace(self._path, write, over)
        self._last = None if content is None else (content, _JUST_WRITTEN)
        return written

    def replace_unless_same(self, table: pa.Table) -> Written:
        """Write one table as `replace` does, with a digest of all columns, unless the file has these rows already."""
        with self.open() as reader:
            found = reader.written(table.schema)
        if found is not None and found.digest == _digest_of(table):
            return found
        return self.replace(table.schema, [table], table.schema.names)

    def delete(self) -> None:
        """Delete the file, and its folder, if it is there."""
        self._storage.delete(self._path)
        self._storage.prune(self._path.rpartition("/")[0])

    def _require(self, version: str | None, found: str | None = None) -> None:
        if version is not None and (self.version() if found is None else found) != version:
            raise StaleVersionError(f"{self._path} has been replaced by another run")


class PartitionReader:
    """The rows of one version of a partition's file. It reads the footer once.

    Another run may replace the file meanwhile. Then the reader gives the rows of the version that it has opened, or
    raises StaleVersionError.
    """

    def __init__(self, of: PartitionFile, file: pq.ParquetFile | None, version: str, size_bytes: int = 0) -> None:
        self._of = of
        self._path = of.path
        self._file = file
        self._size_bytes = size_bytes
        self.version = version
        """The file's version; empty where there is no file."""

    def __enter__(self) -> PartitionReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close(force=True)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return 0 if self._file is None else int(self._file.metadata.num_rows)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the file, with the metadata of its footer but for the digest."""
        schema = self._opened().schema_arrow
        return schema.with_metadata({name: text for name, text in (schema.metadata or {}).items() if name != _DIGEST})

    def written(self, schema: pa.Schema) -> Written | None:
        """What `replace` returned for this file; None where writing the same rows with `schema` makes another file."""
        if self._file is None or not self._file.schema_arrow.equals(schema):
            return None
        found = self.found()
        is_of_today = self._metadata.get(_VERSION) == str(SCHEMA_VERSION).encode()
        return found if found.digest and is_of_today else None

    def found(self) -> Written:
        """What the file is, whichever version has written it; the digest is empty where the file tells none."""
        return Written(self.rows, self._size_bytes, self._path, self._metadata.get(_DIGEST, b"").decode())

    @property
    def _metadata(self) -> Mapping[bytes, bytes]:
        return {} if self._file is None else self._file.metadata.metadata or {}

    @property
    def row_group_lengths(self) -> list[int]:
        """How many rows each row group has."""
        metadata = None if self._file is None else self._file.metadata
        return [] if metadata is None else [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]

    def batches(self, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
        """The rows, a row group at a time; see `row_group`."""
        for number in range(len(self.row_group_lengths)):
            yield self.row_group(number, columns, schema)

    def row_group(self, number: int, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
        """One row group, all columns or some.

        Without a `schema`, columns that the file lacks are left out. With one, the table has its columns (those of
        `columns`) and types, as `conformed` makes them.

        Raises:
            UnreadableFileError: The file is damaged, or is of another dataset.
            StaleVersionError: Another run has replaced the file, and its bytes are gone.
        """
        file = self._opened()
        with self._readable():
            found = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            table = file.read_row_group(number, columns=found)
        return table if schema is None else conformed(table, fields_of(schema, columns), self._path)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        file = self._opened()
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        if missing:
            raise UnreadableFileError(
                f"{self._path} is no file of this dataset: it has no column {', '.join(missing)}. Move it away, and "
                "materialize its partition again."
            )
        with self._readable():
            return file.read(columns=None if columns is None else list(columns))

    def _opened(self) -> pq.ParquetFile:
        if self._file is None:
            raise AssertionError("a partition without a file has no rows")
        return self._file

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            with readable(self._path):
                yield
        except UnreadableFileError:
            # Not every store keeps a reader from getting bytes of two versions.
            if self._of.version() != self.version:
                raise StaleVersionError(f"{self._path} has been replaced by another run") from None
            raise


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what Arrow says of a file that it cannot read into UnreadableFileError.

    Arrow has no errno for a file that is cut; what the operating system refuses has one.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFileError(
            f"{path} cannot be read as Parquet: {error}. The file is damaged, or was written by something else. Move "
            "it away, or restore it, and materialize its partition again: what it held is then made again."
        ) from error


def _write(
    file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str]
) -> tuple[int, str]:
    rows = groups = 0
    digest = hashlib.sha256()
    with pq.ParquetWriter(file, schema, compression="zstd", write_statistics=_with_statistics(schema)) as writer:
        for table in tables:
            table = table.cast(schema)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += len(table)
            groups += 1
            if digest_columns:
                _update(digest, table.select(list(digest_columns)))
            del table  # not held while the next is made
        if not groups:
            # pyarrow 18 and 19 cannot read a file that has no row group at all.
            writer.write_table(schema.empty_table())
        writer.add_key_value_metadata({_DIGEST: digest.hexdigest()})
    return rows, digest.hexdigest()


def _digest_of(table: pa.Table) -> str:
    digest = hashlib.sha256()
    _update(digest, table)
    return digest.hexdigest()


def _with_statistics(schema: pa.Schema) -> list[str]:
    """All columns but the raw bodies, whose least and greatest value would be whole bodies."""
    return [field.name for field in schema if field.type != pa.large_string()]


def _update(digest: Any, table: pa.Table) -> None:
    table = table.replace_schema_metadata(None)
    with pa.PythonFile(_Digesting(digest), "w") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        # In pieces: a copy of a whole row group would be 25 MB more.
        for start in range(0, len(table), _DIGESTED_ROWS):
            stream.write_table(table.slice(start, _DIGESTED_ROWS).combine_chunks())


class _Digesting(io.RawIOBase):
    """A file that keeps nothing of what is written but its digest."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return len(data)
