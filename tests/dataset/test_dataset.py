"""The datasets on disk and on S3: partitions that are replaced whole, and that every reader understands."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import luma_pipeline
from luma_pipeline.dataset import ROW_GROUP_ROWS, Dataset, DatasetError, StaleVersionError, UnreadableFileError
from luma_pipeline.luma import GENERATIONS_SCHEMA, Outcome, TaskResult, to_table
from luma_pipeline.luma.schema import SCHEMA_VERSION, TIMESTAMP
from luma_pipeline.sandbox.s3 import ObjectStore

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
AT = datetime(2024, 12, 24, 18, 1, 25, 319_001, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("at", TIMESTAMP),
        pa.field("number", pa.int64()),
        pa.field("never", pa.string()),
        pa.field("amount", pa.decimal128(38, 3)),
    ]
)
DAYS = ("2024-12-24", "2024-12-25")


def table(*task_ids: str, number: int = 0) -> pa.Table:
    rows = [{"task_id": task_id, "at": AT, "number": number} for task_id in task_ids]
    return pa.Table.from_pylist(rows, SCHEMA)


def put(root: str, path: str, content: bytes) -> None:
    """Have a file of the datasets hold something else."""
    if root.startswith("s3://"):
        bucket, _, key = path.partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)
    else:
        Path(path).write_bytes(content)


def write(dataset: Dataset, day: str, *task_ids: str, number: int = 0) -> None:
    dataset.partition("things", f"date={day}").replace(SCHEMA, [table(*task_ids, number=number)])


# What is in a file.


def test_what_was_written_is_read_back_with_its_types(dataset: Dataset) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    assert not file.exists()
    written = file.replace(SCHEMA, [table("a"), table("b", "c")])
    assert file.exists()
    assert written.rows == 3
    assert file.read().equals(pa.concat_tables([table("a"), table("b", "c")]))
    assert file.read().schema.equals(SCHEMA)
    assert file.read(["task_id"]).column_names == ["task_id"]
    assert {tuple(part.column_names) for part in file.batches(["number", "of a later version"])} == {("number",)}


def test_a_partition_without_rows_has_a_row_group_all_the_same(dataset: Dataset) -> None:
    """Not every reader takes a file without any."""
    file = dataset.partition("things", "date=2024-12-24")
    file.replace(SCHEMA, [])
    assert file.row_group(0).equals(SCHEMA.empty_table())


def test_columns_that_are_null_in_every_row_keep_their_type(dataset: Dataset) -> None:
    file = dataset.partition("luma_generations", "date=2024-12-24")
    for tables in ([GENERATIONS_SCHEMA.empty_table()], []):
        assert file.replace(GENERATIONS_SCHEMA, tables).rows == 0
        assert file.read().schema.equals(GENERATIONS_SCHEMA)
    file.replace(GENERATIONS_SCHEMA, [to_table([TaskResult("a", Outcome.NOT_FOUND, LONG_AGO)], [LONG_AGO])])
    assert file.read().schema.equals(GENERATIONS_SCHEMA)


def test_files_are_zstd_in_row_groups_and_name_their_versions(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    rows = table(*[f"{number:06}" for number in range(2 * ROW_GROUP_ROWS + 1)])
    written = dataset.partition("things", "date=2024-12-24").replace(SCHEMA, [rows])
    path = tmp_path / "things" / "date=2024-12-24" / "part-0.parquet"
    assert Path(written.path) == path
    assert written.size_bytes == path.stat().st_size
    parquet = pq.ParquetFile(path)
    groups = [parquet.metadata.row_group(number) for number in range(parquet.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 1]
    assert {group.column(number).compression for group in groups for number in range(len(SCHEMA))} == {"ZSTD"}
    assert parquet.schema_arrow.metadata == {
        b"luma_pipeline.schema_version": str(SCHEMA_VERSION).encode(),
        b"luma_pipeline.version": luma_pipeline.__version__.encode(),
    }
    at = parquet.schema.column(1).logical_type
    assert str(at).startswith("Timestamp(isAdjustedToUTC=true, timeUnit=microseconds")


def test_the_digest_is_of_the_named_columns(dataset: Dataset) -> None:
    file = dataset.partition("things", "")
    digests = [
        file.replace(SCHEMA, [rows], ["task_id"]).digest
        for rows in (table("a"), table("a", number=1), table("b"), table("a"))
    ]
    assert digests[0] == digests[1] == digests[3] != digests[2]


# Readers.


def _with_duckdb(root: str) -> list[Any]:
    columns = 'date::TEXT, task_id, epoch_us("at"), never, amount'
    query = f"SELECT {columns} FROM read_parquet('{root}/things/**/*.parquet') ORDER BY task_id"
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def _with_pandas(root: str) -> list[Any]:
    frame = pd.read_parquet(f"{root}/things").sort_values("task_id")
    assert f"{frame['at'].dtype}" == "datetime64[us, UTC]"
    nulls = frame[["never", "amount"]].isna().all(axis=None)
    return [
        (str(date), task_id, at.value // 1000, None if nulls else "", None if nulls else "")
        for date, task_id, at in zip(frame["date"], frame["task_id"], frame["at"], strict=True)
    ]


def _with_arrow(root: str) -> list[Any]:
    found = ds.dataset(f"{root}/things", partitioning="hive").to_table().sort_by("task_id")
    found = found.set_column(found.schema.get_field_index("at"), "at", found["at"].cast(pa.int64()))
    columns = ("date", "task_id", "at", "never", "amount")
    return [tuple(row[name] for name in columns) for row in found.to_pylist()]


@pytest.mark.parametrize("read", [_with_duckdb, _with_pandas, _with_arrow], ids=["duckdb", "pandas", "pyarrow"])
def test_readers_take_the_folder_with_no_help_and_see_the_partitions(
    tmp_path: Path, read: Callable[[str], list[Any]]
) -> None:
    dataset = Dataset(url=str(tmp_path))
    for number, day in enumerate(DAYS):
        write(dataset, day, f"task-{number}")
    (tmp_path / "things" / f"date={DAYS[0]}" / ".part-0.parquet.1234.tmp").write_bytes(b"PAR1 half a file")
    at = 1_735_063_285_319_001
    assert read(str(tmp_path)) == [(day, f"task-{number}", at, None, None) for number, day in enumerate(DAYS)]


# Replacing.

ROWS = 2 * ROW_GROUP_ROWS
_READER = """
import sys, pyarrow.parquet as pq
while True:
    table = pq.read_table(sys.argv[1])
    numbers = set(table["number"].to_pylist())
    if len(numbers) != 1 or len(table) != int(sys.argv[2]):
        sys.exit(f"{len(table)} rows of {numbers}")
    print(numbers.pop(), flush=True)
"""


def _version(number: int) -> Iterator[pa.Table]:
    columns = {
        "task_id": pa.array([f"{row:06}" for row in range(ROW_GROUP_ROWS)]),
        "at": pa.nulls(ROW_GROUP_ROWS, TIMESTAMP),
        "number": pa.array([number] * ROW_GROUP_ROWS, pa.int64()),
        "never": pa.nulls(ROW_GROUP_ROWS, pa.string()),
        "amount": pa.nulls(ROW_GROUP_ROWS, pa.decimal128(38, 3)),
    }
    for _ in range(0, ROWS, ROW_GROUP_ROWS):
        yield pa.table(columns, SCHEMA)


def test_a_reader_sees_the_old_file_or_the_new_one_and_nothing_between(tmp_path: Path) -> None:
    file = Dataset(url=str(tmp_path)).partition("things", "date=2024-12-24")
    file.replace(SCHEMA, _version(0))
    command = [sys.executable, "-c", _READER, file.path, str(ROWS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        seen = [int(reader.stdout.readline())]
        version = 0
        while len(set(seen)) < 6 and version < 500:
            version += 1
            file.replace(SCHEMA, _version(version))
            seen.append(int(reader.stdout.readline() or -1))
        assert reader.poll() is None, reader.stderr.read()
        reader.kill()
    assert seen == sorted(seen)
    assert len(set(seen)) >= 6, "the reader saw the file change"


def test_an_object_on_s3_is_the_old_one_or_the_new_one_for_who_reads_it_in_one_go(
    s3_root: str, s3_environment: ObjectStore
) -> None:
    file = Dataset(url=s3_root).partition("things", "date=2024-12-24")
    bucket, _, key = file.path.partition("/")
    file.replace(SCHEMA, _version(0))
    client = s3_environment.client()
    seen: set[int] = set()

    def write() -> None:
        for number in range(1, 1000):
            file.replace(SCHEMA, _version(number))
            if number >= 8 and len(seen) > 2:
                break

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            found = pq.read_table(io.BytesIO(body))
            (number,) = set(found["number"].to_pylist())
            assert len(found) == ROWS
            seen.add(number)
        writing.result()
    assert len(seen) > 2


_WRITER = """
import sys, time
from tests.dataset.test_dataset import SCHEMA, _version
from luma_pipeline.dataset import Dataset

def half():
    yield from _version(1)
    print("half", flush=True)
    time.sleep(600)

Dataset(url=sys.argv[1]).partition("things", "date=2024-12-24").replace(SCHEMA, half())
"""


def test_a_writer_that_is_killed_leaves_the_old_file(dataset: Dataset, root: str) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    file.replace(SCHEMA, _version(0))
    before = file.read()
    with subprocess.Popen([sys.executable, "-c", _WRITER, root], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "half\n"
        writer.send_signal(signal.SIGKILL)
    assert file.read().equals(before)
    if not root.startswith("s3"):
        (left,) = Path(file.path).parent.glob(".*.tmp")
        file.replace(SCHEMA, _version(2))
        assert dataset.sweep(3600) == 0
        assert left.exists(), "it might be another run's"
        hours_ago = time.time() - 7200
        os.utime(left, (hours_ago, hours_ago))
        assert dataset.sweep(3600) == 1
        assert not left.exists()
    file.replace(SCHEMA, _version(2))
    assert set(file.read()["number"].to_pylist()) == {2}


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(dataset: Dataset, root: str) -> None:
    write(dataset, DAYS[0], "old")
    file = dataset.partition("things", f"date={DAYS[0]}")

    def broken() -> Iterator[pa.Table]:
        yield table("new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        file.replace(SCHEMA, broken())
    with pytest.raises(pa.ArrowInvalid):
        file.replace(SCHEMA, [pa.table({"task_id": ["new"], "at": ["x"], "number": [1], "never": [1], "amount": [1]})])
    assert file.read()["task_id"].to_pylist() == ["old"]
    if not root.startswith("s3"):
        assert [path.name for path in Path(file.path).parent.iterdir()] == ["part-0.parquet"]


def test_writers_at_the_same_time_end_with_the_file_of_one_of_them(dataset: Dataset) -> None:
    file = dataset.partition("things", f"date={DAYS[0]}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: file.replace(SCHEMA, [table("a", "b", number=number)]), range(24)))
    rows = file.read()
    assert len(rows) == 2
    assert len(set(rows["number"].to_pylist())) == 1


def test_a_file_that_has_been_replaced_is_not_taken_for_the_one_that_was_looked_at(dataset: Dataset) -> None:
    file = dataset.partition("things", f"date={DAYS[0]}")
    assert (file.version(), file.row_count()) == ("", 0)
    file.replace(SCHEMA, [table("old")], over="")
    old = file.version()
    assert [part["task_id"].to_pylist() for part in file.batches(version=old)] == [["old"]]
    assert file.row_group(0, old)["task_id"].to_pylist() == ["old"]
    reading = file.batches(version=old)
    next(reading)
    _let_the_clock_move(dataset)
    file.replace(SCHEMA, [table("new")], over=old)
    with pytest.raises(StaleVersionError):
        list(reading)
    for look in (lambda: list(file.batches(version=old)), lambda: file.row_group(0, old)):
        with pytest.raises(StaleVersionError, match="replaced by another run"):
            look()
    for version in ("", old):
        with pytest.raises(StaleVersionError):
            file.replace(SCHEMA, [table("mine")], over=version)
    assert file.read()["task_id"].to_pylist() == ["new"]


def test_a_file_that_is_replaced_while_another_is_written_over_it_stays(dataset: Dataset, root: str) -> None:
    file = dataset.partition("things", f"date={DAYS[0]}")

    def slow() -> Iterator[pa.Table]:
        yield table("mine")
        file.replace(SCHEMA, [table("theirs")])

    with pytest.raises(StaleVersionError):
        file.replace(SCHEMA, slow(), over="")
    assert file.read()["task_id"].to_pylist() == ["theirs"]
    if not root.startswith("s3"):
        assert [path.name for path in Path(file.path).parent.iterdir()] == ["part-0.parquet"]


# Checkpoints and marks.


def test_checkpoints_are_taken_up_oldest_first_until_they_are_removed(dataset: Dataset) -> None:
    checkpoints = dataset.checkpoints("things", "date=2024-12-24")
    assert checkpoints.shards(LONG_AGO) == []
    paths = []
    for name in ("a", "b"):
        paths.append(checkpoints.save(table(name)))
        _let_the_clock_move(dataset)
    assert [shard.path for shard in checkpoints.shards(LONG_AGO)] == paths
    assert [checkpoints.load(path)["task_id"].to_pylist() for path in paths] == [["a"], ["b"]]
    assert checkpoints.shards(datetime.now(UTC) + timedelta(hours=1)) == []
    assert dataset.checkpoints("things", "date=2024-12-25").shards(LONG_AGO) == []
    checkpoints.remove(paths[:1])
    checkpoints.remove(paths[:1])
    assert [shard.path for shard in checkpoints.shards(LONG_AGO)] == paths[1:]
    with pytest.raises(StaleVersionError, match="removed by another run"):
        checkpoints.load(paths[0])
    checkpoints.remove(paths)
    assert checkpoints.shards(LONG_AGO) == []


def test_checkpoints_tell_which_refresh_they_are_of(dataset: Dataset) -> None:
    runs = [dataset.checkpoints("things", "date=2024-12-24") for _ in range(2)]
    paths = {checkpoints.save(table("a"), since) for checkpoints in runs for since in (None, AT, AT)}
    assert len(paths) == 6
    since = [shard.refresh_since for shard in runs[0].shards(LONG_AGO)]
    assert (since.count(None), since.count(AT)) == (2, 4)
    runs[0].remove(paths)


def test_a_checkpoint_that_is_cut_says_which_it_is(dataset: Dataset, root: str) -> None:
    checkpoints = dataset.checkpoints("things", "date=2024-12-24")
    path = checkpoints.save(table("a"))
    for content in (b"", b"PAR1 half"):
        put(root, path, content)
        with pytest.raises(DatasetError, match=Path(path).name) as error:
            checkpoints.load(path)
        assert not isinstance(error.value, StaleVersionError)


def test_checkpoints_are_saved_while_another_run_removes_the_folder(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))

    def save_and_remove(number: int) -> None:
        checkpoints = dataset.checkpoints("things", "date=2024-12-24")
        for _ in range(30):
            checkpoints.remove([checkpoints.save(table(f"{number}"))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save_and_remove, range(4)))
    assert dataset.checkpoints("things", "date=2024-12-24").shards(LONG_AGO) == []


def _let_the_clock_move(dataset: Dataset) -> None:
    time.sleep(1.05 if dataset.url.startswith("s3") else 0.01)  # S3 keeps times in whole seconds.


def test_a_checkpoint_that_was_cut_off_is_not_seen_and_outlives_no_day(tmp_path: Path) -> None:
    checkpoints = Dataset(url=str(tmp_path)).checkpoints("things", "date=2024-12-24")
    folder = Path(checkpoints.save(table("a"))).parent
    for name in ("cut.parquet.tmp", "old.parquet"):
        (folder / name).write_bytes(b"PAR1 half")
    days_ago = time.time() - 2 * 86400
    os.utime(folder / "old.parquet", (days_ago, days_ago))
    (shard,) = checkpoints.shards(datetime.now(UTC) - timedelta(hours=6))
    checkpoints.remove([shard.path])
    assert [path.name for path in folder.iterdir()] == ["cut.parquet.tmp"]
    os.utime(folder / "cut.parquet.tmp", (days_ago, days_ago))
    checkpoints.remove([])
    assert not folder.exists()


def test_marks_are_listed_with_the_time_they_were_set(dataset: Dataset) -> None:
    marks = dataset.marks("open")
    assert marks.listed() == {}
    marks.clear("2024-12-24")
    before = datetime.now(UTC) - timedelta(seconds=2)
    for name in ("2024-12-24", "2024-12-24-18%3A00"):
        marks.set(name)
    first = marks.listed()
    assert set(first) == {"2024-12-24", "2024-12-24-18%3A00"}
    assert min(first.values()) > before
    assert dataset.marks("unfinished").listed() == {}
    _let_the_clock_move(dataset)
    marks.set("2024-12-24")
    assert marks.listed()["2024-12-24"] > first["2024-12-24"]
    marks.clear("2024-12-24")
    assert set(marks.listed()) == {"2024-12-24-18%3A00"}


# Roots.

ROOTS = [
    ("s3://", ["LUMA_DATA_URL", "s3://bucket/prefix"]),
    ("gs://lake/luma", ["LUMA_DATA_URL", "gs://"]),
    ("s3://no-such-lake/luma", ["LUMA_DATA_URL", "no-such-lake", "AWS_ENDPOINT_URL_S3"]),
    ("/dev/null/luma", ["LUMA_DATA_URL", "/dev/null/luma"]),
    *(
        (url, ["LUMA_DATA_URL", "s3://"])
        for url in ("", "  ", "a\0b", "s3:lake/luma", "s3:/lake", "S3://lake", "s3a://lake")
    ),
    *((url, ["LUMA_DATA_URL", "file:///"]) for url in ("file:luma", "file://luma/x", "FILE:///luma", "https://h/luma")),
    *((f"s3://lake/{key}", ["LUMA_DATA_URL", "segment"]) for key in ("a//b", "/a", "a//", "../a", "a/./b")),
    *((f"s3://lake/{key}", ["LUMA_DATA_URL", "control"]) for key in ("a\nb", "a\tb", "a\u2028b")),
    *((f"s3://lake/{key}", ["LUMA_DATA_URL", "AWS_"]) for key in ("luma?region=eu-north-1", "luma#part")),
    ("s3://key:SECRET@lake/luma", ["LUMA_DATA_URL", "'lake'"]),
    ("s3://lake:9000/luma", ["LUMA_DATA_URL", "no bucket's name"]),
]


@pytest.mark.parametrize(("url", "said"), ROOTS)
def test_a_root_that_cannot_be_says_what_to_check(
    s3_environment: ObjectStore, url: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = Dataset(url=url)
    for action in (dataset.check, lambda: write(dataset, DAYS[0], "a")):
        with pytest.raises(DatasetError) as error:
            action()
        for words in said:
            assert words in str(error.value)
        assert "SECRET" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_wrong_s3_keys_are_told_of_without_them(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-mine")
    with pytest.raises(DatasetError, match="credentials") as error:
        write(Dataset(url=s3_root), DAYS[0], "a")
    assert "wrong-secret-of-mine" not in str(error.value)


@pytest.mark.parametrize("form", ["{}", "{}/", "file://{}", "relative"])
def test_a_folder_may_be_written_in_several_ways(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Dataset(url=form.format(tmp_path / "relative")), DAYS[0], "a")
    assert (tmp_path / "relative" / "things" / "date=2024-12-24" / "part-0.parquet").is_file()


def test_a_prefix_may_end_with_a_slash(s3_root: str) -> None:
    write(Dataset(url=s3_root + "/"), DAYS[0], "a")
    assert Dataset(url=s3_root).partition("things", f"date={DAYS[0]}").exists()


def test_some_rows_of_a_file_are_written_in_its_place_with_its_columns(dataset: Dataset) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    assert (file.modified_at(), file.row_count()) == (None, 0)
    older = pa.schema([pa.field("number", pa.int64()), pa.field("gone", pa.string())])
    file.replace(older, [pa.table({"number": [1, 2, 3], "gone": ["a", "b", "c"]}, older)], ("number",))
    assert file.modified_at() is not None
    with file.open() as reader:
        rows = reader.row_group(0)
        written = file.rewrite(reader, [rows.slice(1)], ("number",))
        assert (written.rows, written.is_new) == (2, True)
        with pytest.raises(StaleVersionError):
            file.rewrite(reader, [rows], ("number",))
    with file.open() as reader:
        assert reader.read().to_pylist() == [{"number": 2, "gone": "b"}, {"number": 3, "gone": "c"}]
        assert reader.schema.names == ["number", "gone"]
        assert reader.found() == dataclasses.replace(written, is_new=False)
        assert reader.written(SCHEMA) is None
    file.delete()
    assert not file.exists()
    assert dataset.folders("things") == set()
    file.delete()


def test_the_same_rows_are_not_written_again(dataset: Dataset) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    rows = pa.table({"number": [1, 2]})
    first = file.replace_unless_same(rows)
    assert first.is_new
    version = file.version()
    again = file.replace_unless_same(rows)
    assert again == dataclasses.replace(first, is_new=False)
    assert file.version() == version
    others = [rows.slice(1), rows.rename_columns(["amount"]), rows.cast(pa.schema([("number", pa.int32())])), rows]
    for other in others:
        written = file.replace_unless_same(other)
        assert written.is_new
        assert file.read().equals(other)


def test_a_file_that_was_just_read_or_written_is_opened_again_as_it_was(dataset: Dataset) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    with file.reopen() as none:
        assert (none.rows, none.version) == (0, "")
    rows = pa.table({"number": [1, 2]})
    file.replace(rows.schema, [rows])
    with file.reopen() as written, file.open() as read, file.reopen() as again:
        assert written.read().equals(rows)
        assert read.read().equals(rows)
        assert again.read().equals(rows)
        assert again.version == read.version == file.version()


def test_a_column_that_a_file_lacks_is_null_and_one_that_must_be_there_is_missed(dataset: Dataset) -> None:
    file = dataset.partition("things", "date=2024-12-24")
    rows = pa.table({"number": [1, 2]})
    file.replace(rows.schema, [rows])
    more = pa.schema([pa.field("number", pa.int64()), pa.field("note", pa.string())])
    must = pa.schema([pa.field("note", pa.string(), nullable=False)])
    with file.open() as reader:
        assert reader.row_group(0, schema=rows.schema).equals(rows)
        assert reader.row_group(0, schema=more).to_pylist() == [{"number": number, "note": None} for number in (1, 2)]
        assert reader.row_group(0, ["note", "other"]).column_names == []
        with pytest.raises(UnreadableFileError, match="it has no column note"):
            reader.row_group(0, schema=must)
    none = dataset.partition("things", "date=2024-12-25")
    with none.open() as reader:
        assert (reader.rows, reader.row_group_lengths, list(reader.batches())) == (0, [], [])
        assert reader.written(rows.schema) is None


def test_checkpoints_that_are_known_to_be_none_are_not_looked_for(dataset: Dataset) -> None:
    rows = pa.table({"number": [1]})
    path = dataset.checkpoints("things", "date=2024-12-24").save(rows)
    known_empty = dataset.checkpoints("things", "date=2024-12-24", is_empty=True)
    assert known_empty.shards(LONG_AGO) == []
    known_empty.remove([path])
    checkpoints = dataset.checkpoints("things", "date=2024-12-24")
    assert [shard.path for shard in checkpoints.shards(LONG_AGO)] == [path]
    assert checkpoints.load(path).equals(rows)
    checkpoints.remove([path])
    assert dataset.checkpoints("things", "date=2024-12-24").shards(LONG_AGO) == []
