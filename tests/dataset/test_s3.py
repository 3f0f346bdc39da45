"""Datasets on S3 stores of several kinds: what is asked of them, what they are left with, what is said of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pytest

from luma_pipeline.dataset import (
    Dataset,
    DatasetSettingsError,
    DatasetUnavailableError,
    StaleVersionError,
    UnreadableFileError,
    s3_storage,
)
from luma_pipeline.engine.threads import start
from luma_pipeline.s3.uploads import begin_upload
from tests.media.faulty_store import Fault, FaultyStore, Rule, StoreRequest
from tests.media.stores import READER_KEY, READER_SECRET, Store
from tests.stalling import StallingProxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAY = "date=2024-12-24"
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
ROWS = 200_000


def small(name: str) -> pa.Table:
    return pa.table({"name": [name]})


def large(seed: int = 7) -> pa.Table:
    """About 2 MB, hardly compressed, in 20 row groups; one column is small. The file has one size for every seed."""
    numbers = pa.array(np.random.default_rng(seed).integers(0, 2**62, ROWS))
    return pa.table({"number": numbers, "zero": pa.array([0] * ROWS, pa.int8())})


def keys(client: S3Client, root: str) -> set[str]:
    bucket = root.removeprefix("s3://").partition("/")[0]
    return {item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])}


def uploads(client: S3Client, root: str) -> list[str]:
    bucket = root.removeprefix("s3://").partition("/")[0]
    return [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.fixture
def watched(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[FaultyStore]:
    """The store behind one that counts requests, and fails as the rule that a test has set says."""
    rule: Rule = getattr(request, "param", None) or (lambda request, number: None)
    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        yield faulty


def only(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", [name], indirect=True)


# What a store is asked for.


def test_all_that_a_run_does_works_on_any_store(store: Store, at_store: str) -> None:
    dataset = Dataset(url=at_store)
    dataset.check()
    file = dataset.partition("luma_tasks", DAY)
    assert not file.exists()
    for number, over in enumerate(("", None)):
        file.replace(small("").schema, [small(f"{number}")], over=over)
        assert file.read()["name"].to_pylist() == [f"{number}"]
    version = file.version()
    file.replace(small("").schema, [small("last")], over=version)
    with pytest.raises(StaleVersionError):
        file.replace(small("").schema, [small("late")], over="")
    checkpoints, marks = dataset.checkpoints("luma_tasks", DAY), dataset.marks("open")
    path = checkpoints.save(small("c"))
    marks.set("2024-12-24")
    assert [shard.path for shard in checkpoints.shards(LONG_AGO)] == [path]
    assert checkpoints.load(path)["name"].to_pylist() == ["c"]
    assert set(marks.listed()) == {"2024-12-24"}
    checkpoints.remove([path])
    marks.clear("2024-12-24")
    assert dataset.sweep(0) == 0
    assert keys(store.client(), at_store) == {f"luma/luma_tasks/{DAY}/part-0.parquet"}
    assert uploads_or_none(store, at_store) == []


def uploads_or_none(store: Store, root: str) -> list[str]:
    return [] if store.name == "rclone" else uploads(store.client(), root)


@only("seaweedfs")
def test_small_files_are_single_puts_and_make_no_folders(watched: FaultyStore, store: Store, at_store: str) -> None:
    dataset = Dataset(url=at_store)
    dataset.partition("luma_tasks", DAY).replace(small("").schema, [small("a")])
    dataset.checkpoints("luma_tasks", DAY).save(small("a"))
    dataset.marks("open").set("2024-12-24")
    assert [(request.method, request.is_part) for request in watched.seen] == [("PUT", False)] * 3
    assert not [key for key in keys(store.client(), at_store) if key.endswith("/")]


@only("seaweedfs")
def test_a_few_columns_of_a_large_file_cost_few_requests(watched: FaultyStore, at_store: str) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    file.replace(large().schema, [large()])
    watched.seen.clear()
    with file.open() as reader:
        assert sum(len(batch) for batch in reader.batches(["zero"])) == ROWS
    # The tail, and one range for each row group.
    assert {request.method for request in watched.seen} == {"GET"}
    assert len(watched.seen) <= 21


@only("seaweedfs")
def test_a_small_file_is_read_again_without_a_request_and_a_large_one_as_it_is(
    watched: FaultyStore, at_store: str
) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    assert file.reopen().rows == 0
    for name in ("old", "new"):
        file.replace(small("").schema, [small(name)])
        watched.seen.clear()
        with file.reopen() as reader:
            assert reader.read()["name"].to_pylist() == [name]
        assert not watched.seen
    with file.open() as reader, file.reopen() as again:
        assert (again.version, again.found()) == (reader.version, reader.found())
    assert len(watched.seen) == 1
    file.replace(large().schema, [large()])
    Dataset(url=at_store).partition("luma_tasks", DAY).replace(large().schema, [large(8)])
    with file.reopen() as reader:
        assert reader.read().equals(large(8))


# Large files.


@only("seaweedfs")
def test_a_large_file_goes_up_in_parts_and_is_aborted_when_one_fails(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_storage, "_LARGEST_PUT_BYTES", 5 * 1024 * 1024)
    table = pa.table({"number": np.random.default_rng(7).integers(0, 2**62, 1_500_000)})
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    file.replace(small("").schema, [small("old")])
    is_failing = True

    def rule(request: StoreRequest, number: int) -> Fault | None:
        return Fault(status=403, code="AccessDenied") if is_failing and request.is_part and number > 1 else None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        failing = Dataset(url=at_store).partition("luma_tasks", DAY)
        with pytest.raises(DatasetSettingsError, match="told to fail"):
            failing.replace(table.schema, [table])
        assert uploads(store.client(), at_store) == []
        assert file.read()["name"].to_pylist() == ["old"]
        is_failing = False
        failing.replace(table.schema, [table], over=file.version())
        assert any(request.is_completion for request in faulty.seen)
    assert file.read().equals(table)


@only("moto")
def test_a_sweep_aborts_uploads_under_our_keys_alone(store: Store, at_store: str) -> None:
    dataset = Dataset(url=at_store)
    storage = dataset._storage
    assert isinstance(storage, s3_storage.S3Storage)
    shard = f"_checkpoints/luma_generations/{DAY}/run-{'0' * 32}-000000.parquet"
    ours = [
        f"luma/luma_generations/{DAY}/part-0.parquet",
        f"luma/{shard}",
        "luma/_open/2024-12-24",
        "luma/_write-probe",
    ]
    others = ["elsewhere/luma_tasks/part-0.parquet", "luma/other/part-0.parquet", f"luma/luma_tasks/{DAY}/mine.parquet"]
    for key in (*ours, *others):
        begin_upload(storage._store, key)
    # Moto says of every upload that it began in 2010.
    assert dataset.sweep(100 * 365 * 86400) == 0
    assert dataset.sweep(3600) == len(ours)
    assert sorted(uploads(store.client(), at_store)) == sorted(others)


@only("moto")
@pytest.mark.parametrize("folder", ["/dev/null/tmp", None])
def test_a_machine_without_room_for_temporary_files_says_so(
    at_store: str, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    file.replace(large().schema, [large()])
    monkeypatch.setattr(tempfile, "tempdir", folder)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/tmp"])
    for action in (lambda: file.open(whole=True), lambda: file.replace(large().schema, [large()])):
        with pytest.raises(DatasetUnavailableError, match="set TMPDIR"):
            action()


# Two runs over one partition.


@pytest.mark.parametrize("store", ["seaweedfs", "moto"], indirect=True)
@pytest.mark.parametrize("is_there", [False, True])
def test_the_store_compares_the_version_when_the_file_is_sent(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    direct = Dataset(url=at_store).partition("luma_tasks", DAY)
    if is_there:
        direct.replace(small("").schema, [small("old")])
    over = direct.version()
    other_run = iter([lambda: direct.replace(small("").schema, [small("theirs")])])

    def rule(request: StoreRequest, number: int) -> Fault | None:
        if request.method == "PUT":
            next(other_run, lambda: None)()
        return None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        with pytest.raises(StaleVersionError):
            Dataset(url=at_store).partition("luma_tasks", DAY).replace(small("").schema, [small("mine")], over=over)
    assert direct.read()["name"].to_pylist() == ["theirs"]


def _refuses_conditions(request: StoreRequest, number: int) -> Fault | None:
    return Fault(status=412, code="PreconditionFailed") if request.has_condition else None


@only("seaweedfs")
@pytest.mark.parametrize("watched", [_refuses_conditions], indirect=True)
def test_a_store_that_refuses_conditions_that_hold_is_written_to_without(watched: FaultyStore, at_store: str) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    file.replace(small("").schema, [small("a")], over="")
    assert file.read()["name"].to_pylist() == ["a"]


def test_a_file_that_is_replaced_while_it_is_read_gives_no_bytes_of_both(store: Store, at_store: str) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    file.replace(large().schema, [large()])
    with file.open() as reader, file.open(whole=True) as whole:
        reader.row_group(0)
        size = file.replace(large().schema, [large(8)]).size_bytes
        with pytest.raises(StaleVersionError):
            reader.row_group(1)
        assert size == file.replace(large().schema, [large()]).size_bytes, "the bytes of one could be the other's"
        assert whole.read().equals(large())


# The end of a run.


@only("moto")
def test_a_store_that_stalls_is_waited_for_no_longer_than_a_stop_allows(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StallingProxy(store.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        dataset = Dataset(url=at_store)
        file = dataset.partition("luma_tasks", DAY)
        file.replace(large().schema, [large()])
        actions = {
            "check": dataset.check,
            "sweep": lambda: dataset.sweep(0),
            "read": file.read,
            "write": lambda: file.replace(large().schema, [large()]),
            "list": lambda: dataset.marks("open").listed(),
            "mark": lambda: dataset.marks("open").set("2024-12-24"),
            "checkpoint": lambda: dataset.checkpoints("luma_tasks", DAY).save(small("a")),
        }
        proxy.stalled.set()
        waiting = {name: start(action, name) for name, action in actions.items()}
        time.sleep(0.5)
        began = time.monotonic()
        dataset.stop()
        errors = {name: type(future.exception(timeout=30)) for name, future in waiting.items()}
        assert time.monotonic() - began < 12
        assert errors == {**dict.fromkeys(actions, DatasetUnavailableError), "sweep": type(None)}
        dataset.close()


# Credentials.


@only("seaweedfs")
def test_keys_that_are_scoped_to_a_prefix_are_enough(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = at_store.removeprefix("s3://").partition("/")[0]
    client = store.client()

    def rule(request: StoreRequest, number: int) -> Fault | None:
        key = unquote(request.path).removeprefix(f"/{bucket}").removeprefix("/")
        denied = Fault(status=403, code="AccessDenied")
        if not key:
            prefix = request.query.get("prefix", [""])[0]
            return None if request.method == "GET" and prefix.startswith("luma/") else denied
        # As AWS does for who may not list the bucket.
        is_missing = request.method in {"HEAD", "GET"} and key not in keys(client, at_store)
        return denied if is_missing or not key.startswith("luma/") else None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        test_all_that_a_run_does_works_on_any_store(store, at_store)


@only("seaweedfs")
def test_keys_that_may_only_read_are_found_by_the_check_with_the_stores_own_words(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    with pytest.raises(DatasetSettingsError, match=r"LUMA_DATA_URL.*AccessDenied: Access Denied.*s3:PutObject"):
        Dataset(url=at_store).check()


def _is_down(request: StoreRequest, number: int) -> Fault | None:
    return Fault(status=503, code="SlowDown")


@only("moto")
@pytest.mark.parametrize("watched", [_is_down], indirect=True)
def test_a_store_that_is_down_may_come_back(watched: FaultyStore, at_store: str) -> None:
    with pytest.raises(DatasetUnavailableError, match="SlowDown: told to fail"):
        Dataset(url=at_store).check()


@only("moto")
def test_an_object_that_is_no_parquet_is_told_with_its_path(store: Store, at_store: str) -> None:
    file = Dataset(url=at_store).partition("luma_tasks", DAY)
    bucket, _, key = file.path.partition("/")
    for body in (b"", b"no Parquet"):
        store.client().put_object(Bucket=bucket, Key=key, Body=body)
        with pytest.raises(UnreadableFileError, match=f"{key}.*Move it away"):
            file.read()


@pytest.mark.parametrize("url", ["s3://Not_A_Bucket/luma", "s3://s3:%2f%2fx/y"])
def test_a_bucket_that_cannot_be_names_the_setting(url: str) -> None:
    with pytest.raises(DatasetSettingsError, match="LUMA_DATA_URL"):
        Dataset(url=url).check()


# Objects as files.

BODY = np.random.default_rng(1).bytes(600_000)
"""More than the 256 KiB that are read first."""


def put_body(store: Store, at_store: str, body: bytes = BODY) -> str:
    bucket, _, prefix = at_store.removeprefix("s3://").partition("/")
    store.client().put_object(Bucket=bucket, Key=f"{prefix}/file", Body=body)
    return f"{bucket}/{prefix}/file"


def storage_of(at_store: str) -> s3_storage.S3Storage:
    storage = Dataset(url=at_store)._storage
    assert isinstance(storage, s3_storage.S3Storage)
    return storage


@only("moto")
@pytest.mark.parametrize("whole", [False, True])
def test_an_object_is_read_from_anywhere(store: Store, at_store: str, whole: bool) -> None:
    opened = storage_of(at_store).open(put_body(store, at_store), whole=whole)
    assert opened.size_bytes == len(BODY)
    with opened.source as file:
        for start, size in ((0, 10), (100, 500_000), (599_990, 10), (400_000, 100), (599_990, 100), (600_000, 5)):
            file.seek(start)
            assert file.read(size) == BODY[start : start + size]
            assert file.tell() == min(start + size, len(BODY))
        file.seek(-20, 2)
        assert file.read() == BODY[-20:]
        file.seek(5)
        file.seek(5, 1)
        assert file.read(3) == BODY[10:13]


@only("moto")
@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "removed"])
def test_an_object_that_goes_while_it_is_read_is_told_of(store: Store, at_store: str, is_replaced: bool) -> None:
    path = put_body(store, at_store)
    storage = storage_of(at_store)
    with storage.open(path).source as file:
        if is_replaced:
            put_body(store, at_store, BODY[::-1])
        else:
            storage.delete(path)
        with pytest.raises(StaleVersionError, match="replaced" if is_replaced else "removed"):
            file.read(10)


def is_whole_read(request: StoreRequest) -> bool:
    return request.method == "GET" and request.path.endswith("/file") and "range" not in request.headers


@only("moto")
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_an_object_that_breaks_off_is_read_again_twice(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    path = put_body(store, at_store)
    begun: list[StoreRequest] = []

    def rule(request: StoreRequest, number: int) -> Fault | None:
        if is_whole_read(request):
            begun.append(request)
            return Fault(passes=True, cuts=300_000) if len(begun) <= failures else None
        return None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        if failures < 3:
            with storage_of(at_store).open(path, whole=True).source as file:
                assert file.read() == BODY
        else:
            with pytest.raises(DatasetUnavailableError):
                storage_of(at_store).open(path, whole=True)
    assert len(begun) == min(failures + 1, 3)


@only("moto")
def test_an_object_that_is_replaced_before_it_is_read_whole_is_the_new_one(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put_body(store, at_store)
    replacements = iter([BODY[::-1]])

    def rule(request: StoreRequest, number: int) -> Fault | None:
        if is_whole_read(request):
            for body in replacements:
                put_body(store, at_store, body)
        return None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        with storage_of(at_store).open(path, whole=True).source as file:
            assert file.read() == BODY[::-1]


@only("moto")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_denied_object_is_missing_only_where_it_is_not_listed(
    store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    path = f"{at_store.removeprefix('s3://')}/file"
    # A key that begins alike is not the object.
    put_body(store, f"{at_store}/file")
    if is_there:
        put_body(store, at_store)

    def rule(request: StoreRequest, number: int) -> Fault | None:
        is_object = request.method in {"GET", "HEAD"} and request.path.endswith("luma/file")
        return Fault(status=403, code="AccessDenied") if is_object else None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        with pytest.raises(DatasetSettingsError if is_there else FileNotFoundError):
            storage_of(at_store).open(path)
        if not is_there:
            assert storage_of(at_store).version(path) == ""
            assert storage_of(at_store).modified_at(path) is None


# Old versions.


@only("moto")
def test_old_versions_go_and_the_latest_stays(store: Store, at_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, bucket = store.client(), f"versioned-{at_store.split('-')[-1].partition('/')[0]}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    storage = storage_of(f"s3://{bucket}/luma")
    for name in ("a", "b"):
        for number in range(3):
            storage.write(f"{bucket}/luma/day/{name}", b"%d" % number)
    storage.delete(f"{bucket}/luma/day/b")
    storage.write(f"{bucket}/luma/other/a", b"1")
    storage.write(f"{bucket}/luma/other/a", b"2")

    def versions() -> dict[str, int]:
        found = client.list_object_versions(Bucket=bucket)
        keys = [item["Key"] for item in (*found.get("Versions", []), *found.get("DeleteMarkers", []))]
        return {key: keys.count(key) for key in keys}

    assert storage.remove_old_versions(f"{bucket}/luma/day") == ""
    assert versions() == {"luma/day/a": 1, "luma/other/a": 2}
    oldest = client.list_object_versions(Bucket=bucket, Prefix="luma/other/")["Versions"][-1]["VersionId"]
    client.put_object_legal_hold(Bucket=bucket, Key="luma/other/a", VersionId=oldest, LegalHold={"Status": "ON"})
    said = storage.remove_old_versions(f"{bucket}/luma/other")
    assert said.startswith(f"1 versions below {bucket}/luma/other: ")
    assert versions() == {"luma/day/a": 1, "luma/other/a": 2}

    def rule(request: StoreRequest, number: int) -> Fault | None:
        return Fault(status=403, code="AccessDenied") if "versions" in request.query else None

    with FaultyStore(store.port, rule) as faulty:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.endpoint)
        assert "AccessDenied" in storage_of(f"s3://{bucket}/luma").remove_old_versions(f"{bucket}/luma/other")
