"""The invariants of the soak, looked at from outside: with pyarrow, boto3 and the files alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.faults.readers import DATASETS
from tests.faults.stage import Secrets

_IN_BUCKET = {"copied", "already_present"}
_OURS = ("_limits/", "_open/", "_unfinished/", "_verdicts/", "_verified/")


@dataclass(frozen=True)
class Expected:
    """What a task has to end as. `files` are the SHA-256 of its artifacts that can be had, by name.

    `lost` are artifacts whose link is dead for good: they have a row and no object.
    """

    outcome: str
    state: str | None
    files: Mapping[str, str] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StoredObject:
    """An object of a bucket."""

    body: bytes
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Outside:
    """Where a round's data are, to be looked at without the pipeline.

    root: The folder of the datasets, or None where they are on S3.
    client: An S3 client on the store itself.
    """

    root: Path | None
    client: Any
    data_bucket: str
    data_prefix: str
    videos_bucket: str
    videos_prefix: str

    def data_files(self) -> dict[str, bytes]:
        """Every file of the data root, by its path below it."""
        if self.root is not None:
            paths = [path for path in self.root.rglob("*") if path.is_file()]
            return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}
        objects = self._objects(self.data_bucket, self.data_prefix)
        return {key[len(self.data_prefix) :]: found.body for key, found in objects.items()}

    def versions(self) -> dict[str, str]:
        """What tells whether a file of the datasets was written again, by its path below the root."""
        if self.root is not None:
            paths = self.root.glob("luma_*/*/*.parquet")
            return {str(path.relative_to(self.root)): str(path.stat().st_mtime_ns) for path in paths}
        listed = self._listed(self.data_bucket, self.data_prefix)
        found = {item["Key"][len(self.data_prefix) :]: f"{item['ETag']} {item['LastModified']}" for item in listed}
        return {path: version for path, version in found.items() if path.startswith("luma_")}

    def objects(self) -> dict[str, StoredObject]:
        """Every object of the videos, by its key."""
        return self._objects(self.videos_bucket, self.videos_prefix)

    def uploads(self) -> list[str]:
        """The multipart uploads that nobody has ended."""
        places = [(self.videos_bucket, self.videos_prefix), (self.data_bucket, self.data_prefix)]
        return [
            f"{bucket}/{upload['Key']}"
            for bucket, prefix in places
            for upload in self.client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
        ]

    def remove(self) -> None:
        """Delete what the round has put into the buckets."""
        for bucket, prefix in ((self.videos_bucket, self.videos_prefix), (self.data_bucket, self.data_prefix)):
            for item in self._listed(bucket, prefix):
                self.client.delete_object(Bucket=bucket, Key=item["Key"])

    def _listed(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item for page in pages for item in page.get("Contents", [])]

    def _objects(self, bucket: str, prefix: str) -> dict[str, StoredObject]:
        found = {}
        for item in self._listed(bucket, prefix):
            answer = self.client.get_object(Bucket=bucket, Key=item["Key"])
            found[item["Key"]] = StoredObject(answer["Body"].read(), answer["Metadata"])
        return found


@dataclass(frozen=True)
class Look:
    """One look at everything: files are read once, for all invariants."""

    files: Mapping[str, bytes]
    objects: Mapping[str, StoredObject]
    uploads: list[str]

    @classmethod
    def at(cls, outside: Outside) -> Look:
        return cls(outside.data_files(), outside.objects(), outside.uploads())

    def table(self, dataset: str) -> pa.Table | None:
        """A dataset as one table, without the files that cannot be read; None where it has no file."""
        tables = []
        for path, body in self.files.items():
            if path.startswith(f"{dataset}/") and _is_partition(path):
                with contextlib.suppress(pa.ArrowException):
                    tables.append(pq.read_table(io.BytesIO(body)))
        return pa.concat_tables(tables) if tables else None

    def rows(self, dataset: str, *columns: str) -> list[dict[str, Any]]:
        """Some columns of a dataset's rows."""
        table = self.table(dataset)
        return [] if table is None else table.select(columns).to_pylist()


def violations(look: Look, expected: Mapping[str, Expected], *, is_refreshed: bool = False) -> Iterator[str]:
    """How the datasets and the bucket are not what they have to be after a quiet run.

    `is_refreshed`: a refresh was broken off, whose checkpoints wait for the next one.
    """
    yield from unreadable(look)
    yield from rows_of_each_task(look, expected)
    yield from outcomes(look, expected)
    yield from manifest_and_bucket(look)
    yield from digests(look, expected)
    yield from strays(look, is_refreshed=is_refreshed)
    yield from orphans(look)


def unreadable(look: Look) -> Iterator[str]:
    """Every Parquet file is whole."""
    for path, body in look.files.items():
        if path.endswith(".parquet"):
            try:
                pq.read_table(io.BytesIO(body))
            except pa.ArrowException as error:
                yield f"unreadable: {path}: {error}"


def rows_of_each_task(look: Look, expected: Mapping[str, Expected]) -> Iterator[str]:
    """Rows = distinct IDs, and none but those submitted; in the manifest one for each artifact of a finished task."""
    for dataset in DATASETS[:2]:
        ids = Counter(row["task_id"] for row in look.rows(dataset, "task_id"))
        yield from _differences(f"rows: {dataset}", ids, Counter(expected.keys()))
    artifacts = Counter((row["task_id"], row["artifact"]) for row in look.rows("luma_videos", "task_id", "artifact"))
    awaited = Counter((task_id, name) for task_id, each in expected.items() for name in [*each.files, *each.lost])
    yield from _differences("rows: luma_videos", artifacts, awaited)


def _differences(what: str, found: Counter[Any], awaited: Counter[Any]) -> Iterator[str]:
    if found != awaited:
        more, fewer = found - awaited, awaited - found
        counts = f"{sum(found.values())} rows of {sum(awaited.values())}"
        yield f"{what} has {counts}; too many {_some(more)}, missing {_some(fewer)}"


def outcomes(look: Look, expected: Mapping[str, Expected]) -> Iterator[str]:
    """Each row says what the provider says of the task."""
    for row in look.rows("luma_generations", "task_id", "outcome", "state"):
        awaited = expected.get(row["task_id"])
        if awaited is not None and (row["outcome"], row["state"]) != (awaited.outcome, awaited.state):
            yield f"outcome: {row} is not {awaited.outcome}, {awaited.state}"


def manifest_and_bucket(look: Look) -> Iterator[str]:
    """Every object has its row, every row its object, and no two rows the same."""
    keys = Counter(row["key"] for row in look.rows("luma_videos", "key", "status") if row["status"] in _IN_BUCKET)
    yield from _differences("manifest and bucket: the manifest", keys, Counter(look.objects.keys()))


def digests(look: Look, expected: Mapping[str, Expected]) -> Iterator[str]:
    """The SHA-256 of each object is that of the manifest, and that of the file at the media host."""
    for row in look.rows("luma_videos", "task_id", "artifact", "status", "key", "sha256", "size_bytes", "error_code"):
        awaited = expected.get(row["task_id"], Expected("", None))
        if row["status"] not in _IN_BUCKET:
            if row["artifact"] not in awaited.lost:
                yield f"digest: {row['artifact']} of {row['task_id']} is {row['status']}: {row['error_code']}"
            continue
        found = look.objects.get(row["key"])
        if found is None:
            continue
        digest = hashlib.sha256(found.body).hexdigest()
        if not digest == row["sha256"] == awaited.files.get(row["artifact"]):
            yield (
                f"digest: {row['key']} has {digest} and {len(found.body)} bytes, the manifest {row['sha256']} and "
                f"{row['size_bytes']}, the host {awaited.files.get(row['artifact'])}"
            )


def strays(look: Look, *, is_refreshed: bool) -> Iterator[str]:
    """No file that is neither a partition's nor a mark."""
    for path in look.files:
        is_awaited = is_refreshed and path.startswith("_checkpoints/") and "/refresh-" in path
        if not _is_partition(path) and not path.startswith(_OURS) and not is_awaited:
            yield f"stray: {path}"


def _is_partition(path: str) -> bool:
    return path.startswith("luma_") and path.endswith("/part-0.parquet")


def orphans(look: Look) -> Iterator[str]:
    """No multipart upload that nobody has ended."""
    for upload in look.uploads:
        yield f"orphan: upload of {upload}"


def done(look: Look, artifacts: int) -> set[str]:
    """The tasks that need no request any more: in a final state, with all of their artifacts in the bucket."""
    copied = Counter(
        row["task_id"] for row in look.rows("luma_videos", "task_id", "status") if row["status"] in _IN_BUCKET
    )
    return {
        row["task_id"]
        for row in look.rows("luma_generations", "task_id", "state")
        if row["state"] == "failed" or (row["state"] == "completed" and copied[row["task_id"]] == artifacts)
    }


def asked_again(asked: Iterable[str], final: set[str], when: str) -> Iterator[str]:
    """No task that was final is asked for again."""
    again = sorted(set(asked) & final)
    if again:
        yield f"asked again: {len(again)} tasks {when}, such as {again[0]}"


def written_again(before: Mapping[str, str], after: Mapping[str, str], open_folders: set[str]) -> Iterator[str]:
    """No file of a partition in which nothing was open is written again."""
    for path, version in before.items():
        if after.get(path) != version and path.split("/")[1] not in open_folders:
            yield f"written again: {path}"


# -- secrets ----------------------------------------------------------------------------------------------------------

_MAY_HOLD_LINKS = "luma_generations"
"""Its columns are the fields of the provider's page, and hold what the provider sent."""


def secrets_in_files(secrets: Secrets, files: Mapping[str, Path]) -> Iterator[str]:
    """No secret in logs, and in nothing that Dagster keeps: events, compute logs, runs."""
    for what, folder in files.items():
        for path in sorted(folder.rglob("*") if folder.is_dir() else [folder]):
            if path.is_file():
                content = path.read_bytes()
                for name, secret in secrets.by_name().items():
                    if secret.encode() in content:
                        yield f"secret: the {name} is in {what}: {path.name}"


def secrets_in_data(secrets: Secrets, look: Look) -> Iterator[str]:
    """No secret in a Parquet file, in its metadata, in another file of the root, or in an object's metadata."""
    for path, body in look.files.items():
        if not path.endswith(".parquet"):
            yield from (f"secret: the {name} is in {path}" for name in _named(secrets, path.encode() + body))
            continue
        try:
            file = pq.ParquetFile(io.BytesIO(body))
        except pa.ArrowException:
            continue
        metadata = json.dumps({key.decode(): str(value) for key, value in (file.metadata.metadata or {}).items()})
        yield from (f"secret: the {name} is in the metadata of {path}" for name in _named(secrets, metadata.encode()))
        for name, column in _found_in_columns(secrets, file.read(), is_generations=_MAY_HOLD_LINKS in path):
            yield f"secret: the {name} is in column {column} of {path}"
    for key, found in look.objects.items():
        said = json.dumps(dict(found.metadata)).encode() + key.encode()
        yield from (f"secret: the {name} is in the metadata of {key}" for name in _named(secrets, said))


def _named(secrets: Secrets, content: bytes) -> list[str]:
    return [name for name, secret in secrets.by_name().items() if secret.encode() in content]


def _found_in_columns(secrets: Secrets, table: pa.Table, *, is_generations: bool) -> Iterator[tuple[str, str]]:
    for field_ in table.schema:
        if not pa.types.is_string(field_.type):
            continue
        for name, secret in secrets.by_name().items():
            if is_generations and name == "signed query" and (field_.name == "raw_response" or "url" in field_.name):
                continue
            if pc.any(pc.match_substring(table[field_.name], secret)).as_py():
                yield name, field_.name


def _some(found: Counter[Any]) -> str:
    names = sorted(map(str, found))
    return f"{sum(found.values())} ({', '.join(names[:3])})" if names else "none"
