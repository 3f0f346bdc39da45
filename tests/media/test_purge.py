"""Everything that a bucket has of a task, found and removed for good, on stores with versions and without."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from luma_pipeline.media import Artifact, BucketError
from luma_pipeline.media.keys import KeyTemplate, template_of
from luma_pipeline.media.purge import ObjectPurge, open_purge
from luma_pipeline.s3 import ObjectStore, list_versions
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.media.stores import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_names = itertools.count(1)


def new_bucket(client: S3Client, *, lock: bool = False) -> str:
    name = f"purge-{next(_names)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
    return name


def purge_of(client: S3Client, bucket: str) -> ObjectPurge:
    return ObjectPurge(ObjectStore(client, bucket), [KeyTemplate()])


@pytest.mark.parametrize("name", ["seaweedfs", "moto"])
def test_every_version_marker_and_upload_of_a_task_goes_and_nothing_else(
    name: str, request: pytest.FixtureRequest
) -> None:
    client = request.getfixturevalue(name).client()
    bucket = new_bucket(client)
    client.put_object(Bucket=bucket, Key="a/video.mp4", Body=b"before versions were kept")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for number in range(3):
        client.put_object(Bucket=bucket, Key="a/video.mp4", Body=b"%d" % number)
    client.delete_object(Bucket=bucket, Key="a/video.mp4")
    for key in ("a/thumbnail.jpg", "a/notes.txt", "ab/video.mp4", "b/a/video.mp4"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    client.create_multipart_upload(Bucket=bucket, Key="a/video_raw.mp4")
    client.create_multipart_upload(Bucket=bucket, Key="ab/video_raw.mp4")
    store = ObjectStore(client, bucket)
    listed = list(list_versions(store, ""))
    assert sorted(map(str, list_versions(store, "", page_size=2))) == sorted(map(str, listed))

    purge = purge_of(client, bucket)
    found = purge.find("a")
    assert (len(found.versions), found.keys, found.markers, len(found.uploads), found.problem) == (6, 2, 1, 1, "")
    assert purge.remove([found]) == []

    assert {version.key for version in list_versions(store, "")} == {"a/notes.txt", "ab/video.mp4", "b/a/video.mp4"}
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["Key"] for upload in uploads] == ["ab/video_raw.mp4"]
    again = purge_of(client, bucket).find("a")
    assert (again.versions, again.uploads) == ([], [])


def test_a_store_without_versions_loses_the_objects(rclone: Store) -> None:
    client = rclone.client()
    bucket = f"purge-{next(_names)}"
    client.create_bucket(Bucket=bucket)
    for key in ("a/video.mp4", "ab/video.mp4"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    purge = purge_of(client, bucket)
    found = purge.find("a")
    assert ([version.key for version in found.versions], found.problem) == (["a/video.mp4"], "")
    assert purge.remove([found]) == []
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["ab/video.mp4"]


@pytest.mark.parametrize("others", [0, 1])
def test_a_version_under_a_lock_stays_and_is_told(moto: Store, others: int) -> None:
    client = moto.client()
    bucket = new_bucket(client, lock=True)
    client.put_object(Bucket=bucket, Key="a/video.mp4", Body=b"x")
    client.put_object_legal_hold(Bucket=bucket, Key="a/video.mp4", LegalHold={"Status": "ON"})
    for number in range(others):
        client.put_object(Bucket=bucket, Key=f"a/thumbnail.{'jpg' if number else 'png'}", Body=b"x")
    purge = purge_of(client, bucket)
    (left,) = purge.remove([purge.find("a")])
    assert left.version.key == "a/video.mp4"
    assert "AccessDenied" in left.reason


def test_where_versions_must_not_be_listed_objects_go_and_it_is_told(seaweedfs: Store) -> None:
    bucket = new_bucket(seaweedfs.client())
    for task_id in ("a", "b"):
        seaweedfs.client().put_object(Bucket=bucket, Key=f"{task_id}/video.mp4", Body=b"x")

    def deny(request: StoreRequest, _: int) -> Fault | None:
        return Fault(403, "AccessDenied") if "versions" in request.query else None

    with FaultyStore(seaweedfs.port, deny) as proxy:
        purge = purge_of(seaweedfs.client(endpoint=proxy.endpoint), bucket)
        found = [purge.find(task_id) for task_id in ("a", "b")]
        assert purge.remove(found) == []
        # The first denial is met once with a signed payload. The second task is not asked about.
        assert sum("versions" in request.query for request in proxy.seen) == 2
    for each in found:
        assert "older versions cannot be listed" in each.problem
        assert "s3:ListBucketVersions" in each.problem
    assert "Contents" not in seaweedfs.client().list_objects_v2(Bucket=bucket)


def test_a_bucket_that_cannot_be_listed_is_asked_eight_times_and_no_more(seaweedfs: Store) -> None:
    client = seaweedfs.client()
    purge = ObjectPurge(ObjectStore(client, "no-such-bucket"), [KeyTemplate()])
    found = [purge.find(str(number)) for number in range(10)]
    assert all("does not exist" in each.problem for each in found)
    assert found[-1].problem.startswith("not looked for: the store failed 8 times in a row, last: ")


def test_many_tasks_are_found_by_one_listing(seaweedfs: Store) -> None:
    bucket = new_bucket(seaweedfs.client())
    odd = "a/b ä"
    for key in ("7/video.mp4", "7/thumbnail.jpg", KeyTemplate().key(odd, Artifact.VIDEO, "mp4"), "other/video.mp4"):
        seaweedfs.client().put_object(Bucket=bucket, Key=key, Body=b"x")
    task_ids = [*map(str, range(20)), odd]
    with FaultyStore(seaweedfs.port, lambda *_: None) as proxy:
        purge = purge_of(seaweedfs.client(endpoint=proxy.endpoint), bucket)
        purge.load(task_ids)
        found = {task_id: len(purge.find(task_id).versions) for task_id in task_ids}
        assert sum("versions" in request.query for request in proxy.seen) == 1
    assert {task_id: count for task_id, count in found.items() if count} == {"7": 2, odd: 1}


def test_a_few_tasks_are_looked_for_one_by_one(seaweedfs: Store) -> None:
    bucket = new_bucket(seaweedfs.client())
    seaweedfs.client().put_object(Bucket=bucket, Key="0000/video.mp4", Body=b"x")
    with FaultyStore(seaweedfs.port, lambda *_: None) as proxy:
        purge = purge_of(seaweedfs.client(endpoint=proxy.endpoint), bucket)
        purge.load(["0000"] * 11)
        assert proxy.seen == []
        assert [version.key for version in purge.find("0000").versions] == ["0000/video.mp4"]


VERSIONS = "".join(
    f"<Version><Key>other/{number}</Key><VersionId>null</VersionId><IsLatest>true</IsLatest></Version>"
    for number in range(1_001)
)
LONG_LISTING = f"<ListVersionsResult><IsTruncated>false</IsTruncated>{VERSIONS}</ListVersionsResult>"


@pytest.mark.parametrize(
    "answer", [Fault(200, text=LONG_LISTING), Fault(400)], ids=["more keys than looks are worth", "it fails"]
)
def test_what_one_listing_does_not_tell_is_looked_for_by_itself(moto: Store, answer: Fault) -> None:
    bucket = new_bucket(moto.client())
    moto.client().put_object(Bucket=bucket, Key="7/video.mp4", Body=b"x")

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_of_all = "versions" in request.query and request.query.get("prefix", [""]) == [""]
        return answer if is_of_all else None

    with FaultyStore(moto.port, rule) as proxy:
        purge = purge_of(moto.client(endpoint=proxy.endpoint), bucket)
        purge.load([str(number) for number in range(12)])
        looks = len(proxy.seen)
        assert looks
        assert [version.key for version in purge.find("7").versions] == ["7/video.mp4"]
        assert len(proxy.seen) > looks


def test_keys_of_a_task_that_no_template_gives_are_looked_for_too(seaweedfs: Store) -> None:
    client = seaweedfs.client()
    bucket = new_bucket(client)
    for key in ("old/a.mp4", "old/a.mp4.bak", "a/video.mp4"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    client.create_multipart_upload(Bucket=bucket, Key="old/a.mp4")
    purge = purge_of(client, bucket)
    assert purge.bucket == bucket
    found = purge.find("a", ["old/a.mp4", "a/video.mp4", "old/gone.mp4"])
    assert sorted(version.key for version in found.versions) == ["a/video.mp4", "old/a.mp4"]
    assert found.uploads == []
    assert purge.remove([found]) == []
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["old/a.mp4.bak"]


def test_a_store_that_fails_while_it_deletes_is_told_for_each_version(moto: Store) -> None:
    client = moto.client()
    bucket = new_bucket(client)
    client.put_object(Bucket=bucket, Key="a/video.mp4", Body=b"x")
    client.put_object(Bucket=bucket, Key="a/thumbnail.jpg", Body=b"x")

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_deletion = request.method == "DELETE" or (request.method == "POST" and "delete" in request.query)
        return Fault(500) if is_deletion else None

    with FaultyStore(moto.port, rule) as proxy:
        purge = purge_of(moto.client(endpoint=proxy.endpoint), bucket)
        left = purge.remove([purge.find("a")])
    assert sorted(each.version.key for each in left) == ["a/thumbnail.jpg", "a/video.mp4"]
    assert all("told to fail" in each.reason for each in left)


def test_a_purge_is_opened_by_the_standard_settings(moto: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = new_bucket(moto.client())
    moto.client().put_object(Bucket=bucket, Key="a/video.mp4", Body=b"x")
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    purge = open_purge(bucket, [KeyTemplate()])
    assert [version.key for version in purge.find("a").versions] == ["a/video.mp4"]
    purge.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no address")
    with pytest.raises(BucketError):
        open_purge(bucket, [KeyTemplate()])


@pytest.mark.parametrize("key", ["abc", "abc/other.mp4", "x/video.mp4", "video.mp4", ""])
def test_a_key_that_no_template_gives_the_task_tells_none(key: str) -> None:
    assert template_of(key, "abc", Artifact.VIDEO) is None


@pytest.mark.parametrize(
    "template",
    [
        "{task_id}/{artifact}.{extension}",
        "luma/{artifact}/of {task_id}.{extension}",
        "{task_id}-{artifact}.{extension}",
        "v{{1}}/{task_id}/x/{artifact}",
    ],
)
@pytest.mark.parametrize("task_id", ["abc", "a/b ä", "x" * 300])
@pytest.mark.parametrize("artifact", list(Artifact))
def test_a_key_tells_the_template_that_made_it(template: str, task_id: str, artifact: Artifact) -> None:
    made = KeyTemplate(template)
    key = made.key(task_id, artifact, "mp4")
    found = template_of(key, task_id, artifact)
    assert found is not None
    for other in ("another", "a/b"):
        assert KeyTemplate(found).key(other, Artifact.LAST_FRAME, "jpg") == made.key(other, Artifact.LAST_FRAME, "jpg")
    assert made.segment_of(key) == KeyTemplate(found).segment_of(key)
