"""The same behaviour on every store, the object settings of S3, and a bucket that cannot be used says what to do."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest

from luma_pipeline.media import Artifact, BucketError, CopyCancelled, CopyError, CopyRequest, CopyStatus, KnownObject
from luma_pipeline.media.errors import StoreUnavailableError
from luma_pipeline.media.store import Bucket, ObjectSettings
from luma_pipeline.s3.client import make_client
from tests.media import samples, stores
from tests.media.conftest import BUCKET, PART, Area, make_area
from tests.media.copiers import make_copier
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.media.stores import Store
from tests.ports import free_ports

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_copy_look_again_overwrite_and_sweep_on_every_store(any_area: Area, cdn: FaultyCdn, body: bytes) -> None:
    link = cdn.add(Answer(body))
    with any_area.copier() as copier:
        copier.check_bucket()
        assert any_area.uploads() == []
        copied = copier.submit(CopyRequest("task", Artifact.VIDEO, link)).result()
    assert copied.status is CopyStatus.COPIED, copied.error_message
    assert (copied.key, copied.sha256) == (f"{any_area.prefix}/task/video.mp4", hashlib.sha256(body).hexdigest())
    assert any_area.objects() == {"task/video.mp4": body}

    known = KnownObject(copied.key or "", len(body), copied.sha256 or "", copied.etag)
    with any_area.copier() as copier:
        copier.look_for((task_id, Artifact.VIDEO) for task_id in ("task", *map(str, range(20))))
        for request in (CopyRequest("task", Artifact.VIDEO, link, known), CopyRequest("task", Artifact.VIDEO, link)):
            again = copier.copy(request)
            assert (again.status, again.sha256) == (CopyStatus.ALREADY_PRESENT, copied.sha256)

    other = samples.mp4(len(body) + 1000, seed=3)
    with any_area.copier(overwrite=True) as copier:
        assert copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(other)))).status is CopyStatus.COPIED
        assert any_area.objects() == {"task/video.mp4": other}
        any_area.client.create_multipart_upload(Bucket=BUCKET, Key=f"{any_area.prefix}/task/video.mp4")
        copier.sweep_orphans(0)
    assert any_area.uploads() == []


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_objects_are_kept_as_the_settings_say(moto: Store, cdn: FaultyCdn, body: bytes) -> None:
    client = moto.client()
    with make_copier(
        bucket=BUCKET,
        prefix=f"settings-{len(body)}",
        s3_client=client,
        part_size_bytes=PART,
        max_video_bytes=1 << 30,
        allow_private_addresses=True,
        server_side_encryption="aws:kms",
        sse_kms_key_id="alias/videos",
        storage_class="STANDARD_IA",
        acl="public-read",
        tags={"team": "video", "cost centre": "7:8"},
    ) as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(body))))

    assert result.status is CopyStatus.COPIED, result.error_message
    where: Any = {"Bucket": BUCKET, "Key": result.key}
    head = client.head_object(**where)
    tags = client.get_object_tagging(**where)["TagSet"]
    grants = client.get_object_acl(**where)["Grants"]
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/videos")
    assert head["StorageClass"] == "STANDARD_IA"
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "video", "cost centre": "7:8"}
    assert any(grant["Grantee"].get("URI", "").endswith("AllUsers") for grant in grants)


def test_an_object_in_an_archive_is_present_and_its_digest_unknown(moto: Store, cdn: FaultyCdn) -> None:
    area = make_area(moto)
    request = CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(LARGE)))
    with area.copier(storage_class="GLACIER") as copier:
        copied = copier.copy(request)
    with area.copier() as copier:
        found = copier.copy(request)
        known = KnownObject(found.key or "", found.size_bytes or 0, found.sha256, found.etag)
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, None, known))

    assert copied.status is CopyStatus.COPIED
    for result in (found, again):
        assert (result.status, result.size_bytes, result.sha256) == (CopyStatus.ALREADY_PRESENT, len(LARGE), None)
        assert (result.key, result.etag) == (copied.key, copied.etag)
    assert len(cdn.asked) == 1


def bucket_error(**settings: Any) -> str:
    with make_copier(**settings) as copier, pytest.raises(BucketError) as caught:
        copier.check_bucket()
    return str(caught.value)


def test_a_bucket_that_cannot_be_used_says_what_to_do(seaweedfs: Store) -> None:
    client = seaweedfs.client()
    reader = seaweedfs.client(key=stores.READER_KEY, secret=stores.READER_SECRET)
    stranger = seaweedfs.client(key="nobody", secret="nothing-at-all")
    liar = seaweedfs.client(secret="wrong-secret")
    nowhere = seaweedfs.client(endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    messages = {
        "missing": bucket_error(bucket="no-such-bucket", s3_client=client),
        "read-only": bucket_error(bucket=BUCKET, s3_client=reader),
        "unknown key": bucket_error(bucket=BUCKET, s3_client=stranger),
        "wrong secret": bucket_error(bucket=BUCKET, s3_client=liar),
        "unreachable": bucket_error(bucket=BUCKET, s3_client=nowhere),
    }

    assert "'no-such-bucket'" in messages["missing"]
    assert "does not exist; create it" in messages["missing"]
    assert "need s3:ListBucket, s3:GetObject, s3:PutObject" in messages["read-only"]
    assert "credentials" in messages["unknown key"]
    assert "credentials" in messages["wrong secret"]
    assert "AWS_ENDPOINT_URL_S3" in messages["unreachable"]
    for message in messages.values():
        assert not {"wrong-secret", "nothing-at-all", stores.SECRET_KEY, stores.READER_SECRET} & set(message.split())
    assert client.list_multipart_uploads(Bucket=BUCKET, Prefix=".luma").get("Uploads", []) == []


def test_the_check_needs_and_names_every_permission(area: Area) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(403, "AccessDenied") if request.method == "DELETE" else None

    settings = {"tags": {"team": "video"}, "acl": "private", "sse_kms_key_id": "alias/videos"}
    with FaultyStore(area.store.port, rule) as proxy:
        client = area.store.client(endpoint=proxy.endpoint)
        plain = bucket_error(bucket=BUCKET, prefix=area.prefix, s3_client=client)
        with area.copier(s3_client=client, **settings) as copier, pytest.raises(BucketError) as caught:
            copier.check_bucket()

    for permission in ("s3:DeleteObject", "s3:AbortMultipartUpload"):
        assert permission in plain
    for permission in ("s3:PutObjectTagging", "s3:PutObjectAcl", "kms:GenerateDataKey", "alias/videos"):
        assert permission not in plain
        assert permission in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, name: str) -> None:
    for other in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv(name, "eu-central-1")

    assert make_client(max_connections=1, timeouts=(1.0, 1.0)).meta.region_name == "eu-central-1"


def test_no_credentials_at_all_says_what_to_set(
    seaweedfs: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint)

    assert "AWS_ACCESS_KEY_ID" in bucket_error(bucket=BUCKET)


def test_the_standard_chain_of_settings_is_enough(
    seaweedfs: Store, area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environment().items():
        monkeypatch.setenv(name, value)
    with area.copier(s3_client=None) as copier:
        copier.check_bucket()
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))

    assert result.status is CopyStatus.COPIED, result.error_message


def test_a_bucket_that_vanishes_stops_everything(seaweedfs: Store, cdn: FaultyCdn) -> None:
    with make_copier(bucket="vanished", s3_client=seaweedfs.client(), allow_private_addresses=True) as copier:
        future = copier.submit(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))
        with pytest.raises(BucketError, match="does not exist"):
            future.result()
        with pytest.raises(BucketError, match="does not exist"):
            copier.submit(CopyRequest("other", Artifact.VIDEO, cdn.add(Answer(SMALL))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"part_size_bytes": 1 << 20}, "part_size_bytes"),
        ({"max_video_bytes": 10**12}, "part_size_bytes"),
        ({"key_template": "{artifact}.{extension}"}, "needs {task_id}"),
        ({"key_template": "{task_id}.{extension}"}, "needs {task_id} and {artifact}"),
        ({"key_template": "{extension}/{task_id}/{artifact}"}, "at the end"),
        ({"key_template": "{date}/{task_id}/{artifact}"}, "unknown field 'date'"),
        ({"key_template": "{task_id"}, "key_template"),
        ({"key_template": "/{task_id}/{artifact}"}, "slash"),
        ({"prefix": "p" * 900}, "1024 bytes"),
        ({"allowed_media_hosts": ["*.*.com"]}, "allowed_media_hosts"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(area: Area, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        area.copier(**settings)


def test_a_check_whose_part_is_refused_leaves_no_upload(area: Area) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(403, "AccessDenied") if request.is_part else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
        pytest.raises(BucketError, match="s3:PutObject"),
    ):
        copier.check_bucket()
    assert area.uploads() == []


def test_a_listing_that_fails_stops_whoever_needs_it(area: Area) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(503, "SlowDown") if request.is_listing else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        many = [(f"task-{number}", Artifact.VIDEO) for number in range(100)]
        with pytest.raises(StoreUnavailableError, match="SlowDown"):
            copier.look_for(many)
        with pytest.raises(StoreUnavailableError, match="SlowDown"):
            copier.seen([(task_id, 1, "etag") for task_id, _ in many])


def test_a_copier_removes_what_the_bucket_has_of_tasks(
    moto: Store, cdn: FaultyCdn, caplog: pytest.LogCaptureFixture
) -> None:
    area = make_area(moto)
    with area.copier() as copier:
        for task_id in ("a", "b"):
            copier.copy(CopyRequest(task_id, Artifact.VIDEO, cdn.add(Answer(SMALL))))
    area.client.put_object(Bucket=BUCKET, Key=f"{area.prefix}/old.mp4", Body=SMALL)

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(403, "AccessDenied") if "versions" in request.query else None

    with (
        FaultyStore(moto.port, rule) as proxy,
        area.copier(s3_client=moto.client(endpoint=proxy.endpoint)) as copier,
    ):
        assert copier.purge({}) == []
        assert copier.purge({"a": [f"{area.prefix}/old.mp4"], "c": []}) == []
    assert area.objects() == {"b/video.mp4": SMALL}
    assert "not all objects of a forgotten task were found: older versions cannot be listed" in caplog.text
    with area.copier() as copier:
        assert copier.purge({"b": []}) == []
    assert area.objects() == {}


def test_an_object_is_read_with_its_digest(moto: Store) -> None:
    client, prefix = moto.client(), make_area(moto).prefix
    bucket = Bucket(client, BUCKET, ObjectSettings(), threading.Event())
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=SMALL)
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/frozen", Body=SMALL, StorageClass="GLACIER")
    stored, digest = bucket.read_whole(f"{prefix}/a") or (None, None)
    assert stored is not None
    assert (stored.size_bytes, digest) == (len(SMALL), hashlib.sha256(SMALL).hexdigest())
    frozen, digest = bucket.read_whole(f"{prefix}/frozen") or (None, "")
    assert frozen is not None
    assert (frozen.size_bytes, digest) == (len(SMALL), None)
    assert bucket.read_whole(f"{prefix}/none") is None
    with pytest.raises(CopyError, match="was deleted while it was looked at"):
        bucket.read(f"{prefix}/none")
    stopped = threading.Event()
    stopped.set()
    for read in (Bucket.read, Bucket.read_whole):
        with pytest.raises(CopyCancelled):
            read(Bucket(client, BUCKET, ObjectSettings(), stopped), f"{prefix}/a")
