"""The datasets: Hive-partitioned Parquet under one root, each partition one file that is replaced whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from luma_pipeline import __version__
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.luma.schema import SCHEMA_VERSION

__all__ = ["Checkpoints", "Dataset", "DatasetError", "PartitionFile", "Shard", "StaleVersionError", "Written"]

ROW_GROUP_ROWS = 10_000
"""Rows in a row group: about 50 MB of answers before compression, so that a reader of few columns skips well and the
writer holds little."""

_FILE = "part-0.parquet"
_STALE_SECONDS = 3600.0
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class DatasetError(LumaPipelineError):
    """The dataset's root cannot be read or written; the message says what to check."""


class StaleVersionError(DatasetError):
    """Another run has replaced the file, or removed the checkpoint, that this one had looked at. Look again."""


@dataclass(frozen=True)
class Written:
    """What a replaced partition holds. `digest` is a SHA-256 over the columns named in `PartitionFile.replace`."""

    rows: int
    size_bytes: int
    path: str
    digest: str


@dataclass
class Dataset:
    """The root of the Parquet datasets: a local folder, or `s3://bucket/prefix`.

    S3 is reached with the standard AWS settings (credentials, AWS_REGION, AWS_ENDPOINT_URL_S3) through Arrow's own
    file system. Folders whose names begin with an underscore are the pipeline's own; readers of Hive datasets skip
    them.
    """

    url: str
    _filesystem: fs.FileSystem | None = field(default=None, init=False, repr=False)
    _root: str = field(default="", init=False, repr=False)

    def partition(self, dataset: str, folder: str) -> PartitionFile:
        """The file of one partition (`folder` is empty for an unpartitioned dataset)."""
        filesystem, root = self._open()
        return PartitionFile(filesystem, "/".join(part for part in (root, dataset, folder, _FILE) if part), self.url)

    def checkpoints(self, dataset: str, folder: str) -> Checkpoints:
        """The unfinished answers of one partition."""
        filesystem, root = self._open()
        return Checkpoints(filesystem, f"{root}/_checkpoints/{dataset}/{folder}", self.url)

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

    def version(self) -> str:
        """What tells the file that is there from every other that was or will be; empty if none is there."""
        with _explained(self._url):
            try:
                if isinstance(self._filesystem, fs.LocalFileSystem):
                    found = os.stat(self._path)
                    # Not the inode: some network file systems give one file another each time.
                    return f"{found.st_size} {found.st_mtime_ns}"
                with self._filesystem.open_input_file(self._path) as source:
                    metadata = source.metadata()
            except (FileNotFoundError, NotADirectoryError):
                return ""
        return f"{metadata.get('ETag')} {metadata.get('Last-Modified')}"

    def row_count(self) -> int:
        """How many rows there are; 0 if the partition has not been written."""
        if not self.exists():
            return 0
        with self._opened() as file:
            return int(file.metadata.num_rows)

    def batches(self, columns: Sequence[str] | None = None, version: str | None = None) -> Iterator[pa.Table]:
        """The rows, a row group at a time. Columns the file lacks (an older schema) are left out.

        With a `version` the rows are those of that file: StaleVersionError, at the end at the latest, if another run
        has replaced it.
        """
        with self._opened(version) as file:
            there = file.schema_arrow.names
            wanted = None if columns is None else [name for name in columns if name in there]
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=wanted)

    def row_group(self, number: int, version: str | None = None) -> pa.Table:
        """One row group, in the order of `batches`; StaleVersionError if the file is not that `version` any more."""
        with self._opened(version) as file:
            return file.read_row_group(number)

    @contextmanager
    def _opened(self, version: str | None = None) -> Iterator[pq.ParquetFile]:
        try:
            with (
                _explained(self._url),
                self._filesystem.open_input_file(self._path) as source,
                pq.ParquetFile(source) as file,
            ):
                yield file
        except (DatasetError, pa.ArrowException):
            # An object that is replaced while it is read gives bytes of both.
            self._require(version)
            raise
        # No version comes twice: if it is this one still, it was all the time.
        self._require(version)

    def _require(self, version: str | None) -> None:
        if version is not None and self.version() != version:
            raise StaleVersionError(f"{self._path} has been replaced by another run")

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once."""
        with _explained(self._url), self._filesystem.open_input_file(self._path) as source:
            return pq.read_table(source, columns=None if columns is None else list(columns))

    def replace(
        self,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        digest_columns: Sequence[str] = (),
        over: str | None = None,
    ) -> Written:
        """Write the tables as the partition's new content, and show it only when it is whole.

        With `over` it takes the place of the file of that version alone (empty: of none): StaleVersionError, and
        nothing replaced, if there is another by then. That is looked up last of all, when only the renaming or, on S3,
        the upload is left to do.

        A reader, or a kill at any instant, sees the old file or the new one. On a local folder the file is written
        beside the old one, forced to disk and renamed; on S3 it is written to a local temporary file first and sent
        in one go, since an object appears when its upload is completed.
        """
        schema = schema.with_metadata(
            {"luma_pipeline.schema_version": str(SCHEMA_VERSION), "luma_pipeline.version": __version__}
        )
        with _explained(self._url):
            if isinstance(self._filesystem, fs.LocalFileSystem):
                return self._replace_local(schema, tables, digest_columns, over)
            with tempfile.TemporaryFile() as file:
                rows, digest = _write(file, schema, tables, digest_columns)
                size = file.tell()
                file.seek(0)
                self._require(over)
                with self._filesystem.open_output_stream(self._path) as stream:
                    shutil.copyfileobj(file, stream, 8 * 1024 * 1024)
            return Written(rows, size, self._path, digest)

    def _replace_local(
        self, schema: pa.Schema, tables: Iterable[pa.Table], digest_columns: Sequence[str], over: str | None
    ) -> Written:
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
            self._require(over)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return Written(rows, size, self._path, digest)


@dataclass(frozen=True)
class Shard:
    """Some answers of a run. `refresh_since` is when the refresh began that asked for them; None for other runs."""

    path: str
    refresh_since: datetime | None = None


class Checkpoints:
    """Answers of a partition whose run has not finished, in shards that the next run takes up.

    Nothing tells whether the run that wrote a shard is still alive: it may be on another machine, and it may be silent
    for as long as the provider makes it wait. So the rule for removing is one that holds either way:

    - When a run has written the partition's file it removes its own shards, and of those it took up the ones whose
      every row is in that file, or a better one for the same task.
    - A run that finds a shard gone, its own or one it took up, looks at the partition's file anew and takes the rows
      of those tasks from there.
    - A refresh's shards tell others that it was broken off, and when it began. They stay until a refresh has come to
      its end, which removes all of them.
    - What nobody comes back for goes after a day.

    That needs no more of the store than that a listing and a reading show what was written before, which a local folder
    and S3 both give. Each of a run's shards bears the run's own name, so no two runs write the same one.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, url: str) -> None:
        self._filesystem = filesystem
        self._folder = folder
        self._url = url
        self._run = uuid.uuid4().hex
        self._saved = 0

    def save(self, table: pa.Table, refresh_since: datetime | None = None) -> str:
        """Keep a table; returns the shard's path. It is seen by `shards` when it is whole and, locally, on disk."""
        kind = "run" if refresh_since is None else f"refresh-{(refresh_since - _EPOCH) // _MICROSECOND}"
        path = f"{self._folder}/{kind}-{self._run}-{self._saved:06}.parquet"
        self._saved += 1
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        with _explained(self._url):
            if isinstance(self._filesystem, fs.LocalFileSystem):
                _save_local(Path(path), sink.getvalue())
            else:
                with self._filesystem.open_output_stream(path) as stream:
                    stream.write(sink.getvalue())
        return path

    def shards(self, newer_than: datetime) -> list[Shard]:
        """The shards of all runs that were written after `newer_than` (aware), oldest first."""
        files = [info for info in self._listed() if info.path.endswith(".parquet") and info.mtime > newer_than]
        return [Shard(info.path, _refresh_since(info.base_name)) for info in sorted(files, key=lambda info: info.mtime)]

    def load(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a shard.

        Raises:
            StaleVersionError: Another run has removed it.
            DatasetError: It cannot be read.
        """
        try:
            with self._filesystem.open_input_file(path) as file:
                return pq.read_table(file, columns=None if columns is None else list(columns))
        except FileNotFoundError as error:
            raise StaleVersionError(f"the checkpoint {path} has been removed by another run") from error
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"the checkpoint {path} cannot be read: {error}") from error

    def remove(self, paths: Iterable[str]) -> None:
        """Remove shards whose rows have become part of the dataset, and any that have outlived a day."""
        old = datetime.now(timezone.utc) - timedelta(days=1)
        with _explained(self._url):
            for path in {info.path for info in self._listed() if info.mtime < old}.union(paths):
                with contextlib.suppress(FileNotFoundError):  # another run of the same partition was first
                    self._filesystem.delete_file(path)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            with contextlib.suppress(OSError):  # not empty: another run's
                Path(self._folder).rmdir()

    def _listed(self) -> list[fs.FileInfo]:
        with _explained(self._url):
            return list(self._filesystem.get_file_info(fs.FileSelector(self._folder, allow_not_found=True)))


def _refresh_since(name: str) -> datetime | None:
    found = re.match(r"refresh-(\d+)-", name)
    return None if found is None else _EPOCH + int(found[1]) * _MICROSECOND


def _save_local(path: Path, content: pa.Buffer) -> None:
    temporary = path.with_name(path.name + ".tmp")
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = temporary.open("wb")
        except FileNotFoundError:
            continue  # another run has just removed the folder, which was empty
        break
    with file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    with contextlib.suppress(FileNotFoundError):  # another run has taken it up already, and removed it
        _sync_folder(path.parent)


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
        if not groups:
            # pyarrow 18 and 19 cannot read a file that has no row group at all.
            writer.write_table(schema.empty_table())
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
