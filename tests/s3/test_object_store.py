"""One bucket, the same on every store: what is written is read, listed, replaced on a condition, and deleted."""

from __future__ import annotations

import hashlib
import itertools
from datetime import datetime
from typing import Any

import pytest

from luma_pipeline.s3 import ObjectExistsError, ObjectStore, abort_uploads, begin_upload
from luma_pipeline.s3.client import make_client
from luma_pipeline.s3.listing import read_contents
from tests.media.conftest import BUCKET
from tests.media.stores import Store

_areas = itertools.count(1)
BODY = b"0123456789" * 100


@pytest.fixture(params=["seaweedfs", "moto", "rclone"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    server: Store = request.getfixturevalue(request.param)
    return ObjectStore(server.client(), BUCKET)


@pytest.fixture
def folder() -> str:
    return f"objects-{next(_areas)}/"


def initiated(store: ObjectStore, folder: str) -> list[datetime]:
    try:
        answer = store.client.list_multipart_uploads(Bucket=BUCKET, Prefix=folder)
    except store.client.exceptions.NoSuchUpload:  # What rclone says when there is none.
        return []
    return [upload["Initiated"] for upload in answer.get("Uploads", []) if "Initiated" in upload]


def test_what_is_written_is_read_listed_and_deleted(store: ObjectStore, folder: str) -> None:
    key = folder + "a/b.bin"
    written = store.put(key, BODY, settings={"ContentType": "text/html", "Metadata": {"Luma-Thing": "x"}})
    head = store.head(key)
    assert head is not None
    assert (head.size_bytes, head.etag) == (len(BODY), written.etag)
    assert store.get(key) == BODY == b"".join(store.chunks(key))
    assert (store.get(key, start=5, end=15), store.get(key, start=-3)) == (BODY[5:15], BODY[-3:])
    assert [(listed.key, listed.size_bytes) for listed in store.list_all(folder)] == [(key, len(BODY))]
    page = store.list_after(folder, folder + "a/a")
    assert page is not None
    assert [listed.key for listed in page.objects] == [key]
    store.delete(key)
    store.delete(key)
    assert store.head(key) is None
    with pytest.raises(FileNotFoundError):
        store.get(key)


def test_a_condition_that_does_not_hold_is_told(store: ObjectStore, folder: str) -> None:
    first = store.put(folder + "key", b"one", only_if_absent=True)
    if store.client.meta.endpoint_url and not store.capabilities.conditional_writes:
        pytest.skip("no conditional writes")
    try:
        store.put(folder + "key", b"two", only_if_absent=True)
    except ObjectExistsError:
        assert store.get(folder + "key") == b"one"
        store.put(folder + "key", b"three", only_if_etag=first.etag)
        assert store.get(folder + "key") == b"three"
    else:  # rclone takes the header and ignores it
        assert store.get(folder + "key") == b"two"


def test_a_multipart_upload_is_completed_or_swept(store: ObjectStore, folder: str) -> None:
    parts = [b"a" * 5 * 1024 * 1024, b"b" * 1000]
    upload = begin_upload(store, folder + "big", {"ContentType": "video/mp4"})
    uploaded = [upload.put_part(number, body) for number, body in enumerate(parts, 1)]
    assert all(part.is_confirmed for part in uploaded)
    upload.complete(uploaded, only_if_absent=False)
    assert hashlib.sha256(store.get(folder + "big")).digest() == hashlib.sha256(b"".join(parts)).digest()
    begin_upload(store, folder + "left")
    begin_upload(store, folder + "foreign")
    if all(listed.year > 2020 for listed in initiated(store, folder)):  # Moto's uploads all begin in 2010.
        assert abort_uploads(store, folder, lambda key: key.endswith("left"), 3600) == 0
    abort_uploads(store, folder, lambda key: key.endswith("left"), 0)
    abort_uploads(store, folder, lambda key: True, 0)


STRANGE_NAMES = ["plain", "a b", "50%", "%2F", "späte", "a&b<c>", 'quoted"', "plus+"]


def test_a_listing_is_read_as_botocore_reads_it(store: ObjectStore, folder: str) -> None:
    for name in STRANGE_NAMES:
        store.put(folder + name, name.encode())
    read: list[str] = []

    def watched(**arguments: Any) -> None:
        read_contents(**arguments)
        read.extend(listed["Key"] for listed in arguments["customized_response_dict"].get("Contents", []))

    theirs = store.list_page(folder)
    store.client.meta.events.register("before-parse.s3.ListObjectsV2", watched)
    ours = store.list_page(folder)
    store.client.meta.events.unregister("before-parse.s3.ListObjectsV2", watched)
    assert len(read) == len(STRANGE_NAMES)
    assert {listed.key for listed in ours.objects} == {folder + name for name in STRANGE_NAMES}
    assert ours == theirs


def test_botocores_own_look_for_errors_parses_no_objects(moto: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    for name, value in zip(names, (moto.client().meta.endpoint_url, "key", "secret", "us-east-1"), strict=True):
        monkeypatch.setenv(name, value)
    store = ObjectStore(make_client(max_connections=1, timeouts=(5.0, 5.0)), BUCKET)
    store.put("errors/a", b"x")
    bodies: list[bytes] = []

    def look(response_dict: dict[str, Any], **_: Any) -> None:
        bodies.append(response_dict["body"])

    # Where botocore has its own.
    store.client.meta.events.register_first("before-parse.s3.*", look)
    assert [listed.key for listed in store.list_page("errors/").objects] == ["errors/a"]
    assert b"ListBucketResult" in bodies[-1]
    assert b"Contents" not in bodies[-1]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><body>busy</body></html>", b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>"],
)
def test_what_is_no_listing_of_s3_is_left_to_botocore(body: bytes) -> None:
    response, found = {"status_code": 200, "body": body}, dict[str, Any]()
    read_contents(response, found)
    assert (response["body"], found) == (body, {})


def test_many_objects_are_deleted_together_and_on_any_store(store: ObjectStore, folder: str) -> None:
    keys = [f"{folder}{name}" for name in STRANGE_NAMES]
    for key in keys[1:]:
        store.put(key, b"x")
    store.delete_all(keys)
    assert list(store.list_all(folder)) == []
    store.capabilities.deletes_of_many = False
    store.put(keys[0], b"x")
    store.delete_all(keys)
    assert list(store.list_all(folder)) == []
