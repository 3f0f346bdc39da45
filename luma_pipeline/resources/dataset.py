"""The datasets: Hive-partitioned Parquet under one root, each partition one file that is replaced whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import Field, PrivateAttr

from luma_pipeline import __version__
from luma_pipeline.luma.schema import SCHEMA_VERSION

__all__ = ["Dataset", "DatasetError", "PartitionFile", "Written"]

ROW_GROUP_ROWS = 10_000
"""Rows in a row group: about 50 MB of answers before compression, so that a reader of few columns skips well and the
writer holds little."""

_FILE = "part-0.parquet"
_STALE_SECONDS = 3600.0


class DatasetError(Exception):
    """The dataset's root cannot be read or written; the message says what to check."""


@dataclass(frozen=True)
class Written:
    """What a replaced partition holds. `digest` is a SHA-256 over the columns named in `PartitionFile.replace`."""

    rows: int
    size_bytes: int
    path: str
    digest: str


class Dataset(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The root of the Parquet datasets: a local folder, or `s3://bucket/prefix`.

    S3 is reached with the standard AWS settings (credentials, AWS_REGION, AWS_ENDPOINT_URL_S3) through Arrow's own
    file system. Folders whose names begin with an underscore are the pipeline's own; readers of Hive datasets skip
    them.
    """

    url: str = Field(description="A folder, or s3://bucket/prefix.")

    _filesystem: fs.FileSystem | None = PrivateAttr(default=None)
    _root: str = PrivateAttr(default="")

    def partition(self, dataset: str, folder: str) -> PartitionFile:
        """The file of one partition (`folder` is empty for an unpartitioned dataset)."""
        filesystem, root = self._open()
        return PartitionFile(filesystem, "/".join(part for part in (root, dataset, folder, _FILE) if part), self.url)

    def checkpoints(self, dataset: str, folder: str) -> Checkpoints:
        """The unfinished answers of one partition."""
        filesystem, root = self._open()
        return Checkpoints(filesystem, f"{root}/_checkpoints/{dataset}/{folder}")

    def marks(self, name: str) -> Marks:
        """A set of marks, such as those of partitions with open tasks."""
        filesystem, root = self._open()
        return Marks(filesystem, f"{root}/_{name}")

    def check(self) -> None:
        """Raise DatasetError if nothing can be written under the root."""
        filesystem, root = self._open()
        with _explained(self.url):
            filesystem.create_dir(root, recursive=True)

    def _open(self) -> tuple[fs.FileSystem, str]:
        if self._filesystem is None:
            self._filesystem, self._root = _filesystem(self.url)
        return self._filesystem, self._root


class PartitionFile:
    """The one Parquet file of a partition."""

    def __init__(self, filesystem: fs.FileSystem, path: str, url: str) -> None:
        self._filesystem = filesystem
        self._path = path
        self._url = url

    @property
    def path(self) -> str:
        """The path within the file system."""
        return self._path

    def exists(self) -> bool:
        """Whether the partition has been written."""
        with _explained(self._url):
            return bool(self._filesystem.get_file_info(self._path).type == fs.FileType.File)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows, a row group at a time. Columns the file lacks (an older schema) are left out."""
        with self._opened() as file:
            there = file.schema_arrow.names
            wanted = None if columns is None else [name for name in columns if name in there]
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=wanted)

    def row_group(self, number: int) -> pa.Table:
        """One row group, in the order of `batches`."""
        with self._opened() as file:
            return file.read_row_group(number)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        with (
            _explained(self._url),
            self._filesystem.open_input_file(self._path) as source,
            pq.ParquetFile(source) as file,
        ):
            yield file

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        with _explained(self._url), self._filesystem.open_input_file(self._path) as source:
            return pq.read_table(source, columns=None if columns is None else list(columns))

    def replace(self, schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str] = ()) -> Written:
        """Write the tables as the partition's new content, and show it only when it is whole.

        A reader, or a kill at any instant, sees the old file or the new one. On a local folder the file is written
        beside the old one, forced to disk and renamed; on S3 it is written to a local temporary file first and sent
        in one go, since an object appears when its upload is completed.
        """
        schema = schema.with_metadata(
            {"luma_pipeline.schema_version": str(SCHEMA_VERSION), "luma_pipeline.version": __version__}
        )
        with _explained(self._url):
            if isinstance(self._filesystem, fs.LocalFileSystem):
                return self._replace_local(schema, tables, digest_columns)
            with tempfile.TemporaryFile() as file:
                rows, digest = _write(file, schema, tables, digest_columns)
                size = file.tell()
                file.seek(0)
                with self._filesystem.open_output_stream(self._path) as stream:
                    shutil.copyfileobj(file, stream, 8 * 1024 * 1024)
            return Written(rows, size, self._path, digest)

    def _replace_local(self, schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str]) -> Written:
        target = Path(self._path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent, f".{_FILE}.*.tmp")
        temporary = target.with_name(f".{_FILE}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as file:
                rows, digest = _write(file, schema, tables, digest_columns)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return Written(rows, size, self._path, digest)


class Checkpoints:
    """Answers of a partition whose run has not finished, in shards that the next run takes up.

    Every shard has a name of its own, so that two runs over the same partition do not touch each other's.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str) -> None:
        self._filesystem = filesystem
        self._folder = folder

    def save(self, table: pa.Table) -> str:
        """Keep a table; returns the shard's path. A shard that a kill has cut off is not seen by `shards`."""
        path = f"{self._folder}/{uuid.uuid4().hex}.parquet"
        self._filesystem.create_dir(self._folder, recursive=True)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        local = isinstance(self._filesystem, fs.LocalFileSystem)
        with self._filesystem.open_output_stream(path + ".tmp" if local else path) as stream:
            stream.write(sink.getvalue())
        if local:
            self._filesystem.move(path + ".tmp", path)
        return path

    def shards(self, newer_than: datetime) -> list[str]:
        """Paths of the shards written after `newer_than` (aware), oldest first."""
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        files = [info for info in self._filesystem.get_file_info(selector) if info.path.endswith(".parquet")]
        return [info.path for info in sorted(files, key=lambda info: info.mtime) if info.mtime > newer_than]

    def load(self, path: str) -> pa.Table:
        """The rows of a shard."""
        with self._filesystem.open_input_file(path) as file:
            return pq.read_table(file)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove shards whose rows have become part of the dataset, and any that have outlived a day."""
        old = datetime.now(timezone.utc) - timedelta(days=1)
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        stale = {info.path for info in self._filesystem.get_file_info(selector) if info.mtime < old}
        for path in stale.union(paths):
            with contextlib.suppress(FileNotFoundError):  # another run of the same partition was first
                self._filesystem.delete_file(path)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            with contextlib.suppress(OSError):  # not empty: another run's
                Path(self._folder).rmdir()


class Marks:
    """A set of names, each kept as an empty object. One listing tells all of them and when each was set."""

    def __init__(self, filesystem: fs.FileSystem, folder: str) -> None:
        self._filesystem = filesystem
        self._folder = folder

    def set(self, name: str) -> None:
        """Set a mark, or set it anew. A name holds no slash."""
        self._filesystem.create_dir(self._folder, recursive=True)
        self._filesystem.open_output_stream(f"{self._folder}/{name}").close()

    def clear(self, name: str) -> None:
        """Take a mark away, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(f"{self._folder}/{name}")

    def listed(self) -> dict[str, datetime]:
        """The names with the time (aware UTC) each was set."""
        selector = fs.FileSelector(self._folder, allow_not_found=True)
        return {info.base_name: info.mtime for info in self._filesystem.get_file_info(selector) if info.is_file}


def _filesystem(url: str) -> tuple[fs.FileSystem, str]:
    if url.startswith("s3://"):
        bucket, _, prefix = url[len("s3://") :].partition("/")
        if not bucket:
            raise DatasetError("LUMA_DATA_URL names no bucket: it looks like s3://bucket/prefix")
        return _s3(), "/".join(part for part in (bucket, prefix.strip("/")) if part)
    if "://" in url and not url.startswith("file://"):
        raise DatasetError(f"LUMA_DATA_URL must be a folder or s3://bucket/prefix, not {url.split('://')[0]}://…")
    folder = Path(url[len("file://") :] if url.startswith("file://") else url).expanduser().absolute()
    return fs.LocalFileSystem(), str(folder)


def _s3() -> fs.FileSystem:
    settings: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        settings["scheme"], _, settings["endpoint_override"] = endpoint.rstrip("/").partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        settings["region"] = region
    return fs.S3FileSystem(**settings)


def _write(
    file: IO[bytes], schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str]
) -> tuple[int, str]:
    rows = 0
    digest = hashlib.sha256()
    with pq.ParquetWriter(file, schema, compression="zstd", write_statistics=_with_statistics(schema)) as writer:
        for table in tables:
            table = table.cast(schema)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += len(table)
            if digest_columns:
                _update(digest, table.select(list(digest_columns)))
    return rows, digest.hexdigest()


def _with_statistics(schema: pa.Schema) -> list[str]:
    """All columns but the raw bodies, whose least and greatest value would be whole bodies."""
    return [field.name for field in schema if field.type != pa.large_string()]


def _update(digest: Any, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.combine_chunks().replace_schema_metadata(None))
    digest.update(sink.getvalue())


def _remove_stale(folder: Path, pattern: str) -> None:
    """Remove what killed runs have left; an hour is longer than writing one file takes."""
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"the dataset under {url} cannot be read or written: {error}. Check LUMA_DATA_URL and, for S3, the bucket, "
            "the credentials and AWS_ENDPOINT_URL_S3."
        ) from error
