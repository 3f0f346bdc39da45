"""What an unusable store is told as: the store's own words, the first error, and the setting it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luma_pipeline.dataset import Dataset, DatasetSettingsError, DatasetUnavailableError
from luma_pipeline.errors import ConfigurationError, PassingError
from luma_pipeline.media import BucketError, CopyStatus, MediaCopier, TransferConfig
from luma_pipeline.s3 import ObjectStore, S3Error, S3SettingsError, check_bucket_name, make_client
from tests.media import stores
from tests.media.conftest import BUCKET, Area
from tests.media.copiers import make_copier
from tests.media.faulty_cdn import FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.media.stores import Store
from tests.media.test_guard import certificate
from tests.s3.test_capabilities import copies

PORTAL = "<html><body><p>Please log in<p>to go on<br></body></html>"
XHTML = "<html><body><p>Please log in</p></body></html>"
TOKEN = "AbC123" * 20
CASES: dict[str, tuple[Fault, list[str]]] = {
    "portal page": (Fault(200, text=PORTAL, content_type="text/html"), ["not S3's", "AWS_ENDPOINT_URL_S3", "portal"]),
    "portal page that is XML": (Fault(200, text=XHTML), ["not S3's", "AWS_ENDPOINT_URL_S3"]),
    "portal page of text": (
        Fault(200, text="Please log in", content_type="text/plain"),
        ["page of type text/plain", "AWS_ENDPOINT_URL_S3", "portal"],
    ),
    "portal answer in JSON": (
        Fault(200, text='{"login": "here"}', content_type="application/json"),
        ["page of type application/json", "AWS_ENDPOINT_URL_S3", "portal"],
    ),
    "portal page with 403": (Fault(403, text=PORTAL, content_type="text/html"), ["403", "portal"]),
    "portal redirect": (
        Fault(302, text="", content_type="text/html", headers=(("Location", "https://login.example/?a=b"),)),
        ["redirects", "AWS_ENDPOINT_URL_S3"],
    ),
    "quota": (Fault(403, "QuotaExceeded", message="The quota is used up"), ["QuotaExceeded", "used up", "free space"]),
    "quota with 400": (Fault(400, "QuotaExceeded", message="Used up"), ["QuotaExceeded: Used up", "free space"]),
    "quota with 413": (Fault(413, "StorageQuotaExceeded", message="Used up"), ["Used up", "free space"]),
    "storage full": (Fault(507, "XMinioStorageFull", message="Full"), ["XMinioStorageFull", "free space"]),
    "denied": (Fault(403, "AccessDenied", message="Not you"), ["AccessDenied: Not you", "need s3:ListBucket"]),
    "unsigned payload": (
        Fault(403, "AccessDenied", message="UNSIGNED-PAYLOAD is denied by policy"),
        ["payload_signing_enabled"],
    ),
    "wrong secret": (
        Fault(403, "SignatureDoesNotMatch", message="does not match"),
        ["SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"],
    ),
    "wrong key": (Fault(403, "InvalidAccessKeyId", message="no such key"), ["no such key", "AWS_ACCESS_KEY_ID"]),
    "expired token": (Fault(400, "ExpiredToken", message=f"expired: {TOKEN}"), ["ExpiredToken", "AWS_SESSION_TOKEN"]),
    "clock": (Fault(403, "RequestTimeTooSkewed", message="too large"), ["RequestTimeTooSkewed", "clock"]),
    "region": (
        Fault(400, "AuthorizationHeaderMalformed", message="the region 'a' is wrong; expecting 'eu-north-1'"),
        ["AuthorizationHeaderMalformed", "AWS_REGION"],
    ),
    "region redirect": (
        Fault(301, "PermanentRedirect", message="elsewhere", headers=(("x-amz-bucket-region", "eu-north-1"),)),
        ["PermanentRedirect", "eu-north-1", "AWS_REGION"],
    ),
    "no bucket": (Fault(404, "NoSuchBucket", message="no"), ["does not exist", "LUMA_S3_BUCKET"]),
    "out of order": (Fault(503, "SlowDown", message="too fast"), ["503", "SlowDown: too fast"]),
}


def check(area: Area, fault: Fault, when: str = "all") -> str:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return fault if when == "all" or request.is_listing is (when == "listing") else None

    with FaultyStore(area.store.port, rule) as proxy:
        client = area.store.client(endpoint=proxy.endpoint)
        with area.copier(s3_client=client) as copier, pytest.raises(BucketError) as caught:
            copier.check_bucket()
    return str(caught.value)


@pytest.mark.parametrize("when", ["all", "upload"])
@pytest.mark.parametrize(("fault", "parts"), CASES.values(), ids=CASES)
def test_the_check_tells_the_stores_words_and_the_setting(
    area: Area, fault: Fault, parts: list[str], when: str
) -> None:
    message = check(area, fault, when)
    for part in [*parts, BUCKET]:
        assert part in message
    for secret in (TOKEN, stores.SECRET_KEY, "a=b", "<p>", "\n"):
        assert secret not in message
    assert len(message) < 900


def test_a_portal_page_in_the_middle_of_a_run_costs_the_artifact_alone(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_first = request.method == "POST" and "uploads" in request.query and "t1/" in request.path
        return Fault(200, text=PORTAL, content_type="text/html") if is_first else None

    results, _ = copies(area, cdn, rule)
    assert [result.status for result in results] == [
        CopyStatus.FAILED if number == 1 else CopyStatus.COPIED for number in range(5)
    ]
    assert "not S3's" in (results[1].error_message or "")


def test_a_write_that_fails_is_told_and_not_the_look_after_it(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "PUT" and not request.is_part:
            return Fault(500, "InternalError", message="the disk is broken")
        return Fault(403, "AccessDenied") if request.method == "HEAD" else None

    results, _ = copies(area, cdn, rule)
    assert "the disk is broken" in (results[0].error_message or "")


def test_keys_for_one_prefix_are_enough(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        prefix = request.query.get("prefix", [""])[0]
        is_whole = request.path in {f"/{BUCKET}", f"/{BUCKET}/"} and not prefix.startswith(area.prefix + "/")
        is_outside = not request.path.startswith(f"/{BUCKET}/{area.prefix}/") and not prefix
        return Fault(403, "AccessDenied") if is_whole or is_outside or ("uploads" in request.query and prefix) else None

    results, _ = copies(area, cdn, rule)
    assert {(result.status, result.error_message) for result in results} == {(CopyStatus.COPIED, None)}
    with FaultyStore(area.store.port, rule) as proxy:
        client = area.store.client(endpoint=proxy.endpoint)
        with area.copier(s3_client=client) as copier:
            copier.look_for((f"t{number}", results[1].artifact) for number in range(20))
            assert copier.sweep_orphans(0) == 0


NAMES = [
    "s3://videos",
    "https://videos.s3.amazonaws.com",
    "videos/prefix",
    "/videos",
    "videos/",
    "",
    "  ",
    "Videos",
    "my_videos",
    "ab",
    "a" * 64,
    "videos.",
    "-videos",
    "my..videos",
    "192.168.0.1",
    "videos ",
    "vid\neos",
    "vidéos",
    "user:hunter2@videos",
    "https://user:hunter2@host/videos",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_no_bucket_can_have_are_refused_at_the_start(name: str) -> None:
    with pytest.raises(BucketError, match="LUMA_S3_BUCKET") as caught:
        TransferConfig(bucket=name)
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["my-videos", "a.b.c", "123", "arn:aws:s3:eu-west-1:1:accesspoint/x"])
def test_names_of_buckets_are_taken(name: str) -> None:
    check_bucket_name(name, "LUMA_S3_BUCKET")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"AWS_ENDPOINT_URL_S3": "localhost:9000"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_ENDPOINT_URL_S3": "minio.example.org"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_PROFILE": "no-such-profile"}, "AWS_PROFILE"),
        ({"AWS_REGION": "not a region!"}, "AWS_REGION"),
    ],
)
def test_aws_settings_that_cannot_work_are_named(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], part: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(S3SettingsError, match=part):
        make_client(max_connections=1, timeouts=(1.0, 1.0))
    with pytest.raises(BucketError, match=part):
        MediaCopier(TransferConfig(bucket="my-videos"))


PROFILE = """
[profile videos]
endpoint_url = {endpoint}
region = eu-north-1
s3 =
  addressing_style = path
source_profile = keys
{role}
[profile keys]
aws_access_key_id = testkey
aws_secret_access_key = testsecret
"""


@pytest.mark.parametrize("has_role", [False, True])
def test_the_settings_of_a_profile_are_obeyed(
    moto: Store, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, has_role: bool
) -> None:
    role = "role_arn = arn:aws:iam::123456789012:role/copier" if has_role else ""
    text = PROFILE.format(endpoint=moto.endpoint, role=role)
    if not has_role:
        text = text.replace("source_profile = keys", "aws_access_key_id = k\naws_secret_access_key = s")
    config = tmp_path / "config"
    config.write_text(text)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "videos")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint)
    client = make_client(max_connections=2, timeouts=(5.0, 5.0))
    assert (client.meta.endpoint_url, client.meta.region_name) == (moto.endpoint, "eu-north-1")
    assert client.meta.config.s3["addressing_style"] == "path"  # type: ignore[attr-defined]
    with make_copier(bucket=BUCKET, prefix="profile") as copier:
        copier.check_bucket()
    Dataset(url=f"s3://{BUCKET}/profile").check()


def test_a_certificate_that_is_not_trusted_is_a_matter_of_settings_and_the_bundle_is_obeyed(
    area: Area, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context, certificate_file = certificate(tmp_path)
    for name, value in area.store.environment().items():
        monkeypatch.setenv(name, value)
    proxy = FaultyStore(area.store.port, lambda request, nth: None)
    proxy._server.socket = context.wrap_socket(proxy._server.socket, server_side=True)
    with proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint.replace("http", "https"))
        for bundle in (None, str(tmp_path / "missing.pem"), str(tmp_path)):
            if bundle is not None:
                monkeypatch.setenv("AWS_CA_BUNDLE", bundle)
            with make_copier(bucket=BUCKET) as copier, pytest.raises(BucketError, match="AWS_CA_BUNDLE") as told:
                copier.check_bucket()
            assert not isinstance(told.value, PassingError)
            with pytest.raises(DatasetSettingsError, match="AWS_CA_BUNDLE"):
                Dataset(url=f"s3://{BUCKET}/data").check()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate_file))
        with make_copier(bucket=BUCKET) as copier:
            copier.check_bucket()
        Dataset(url=f"s3://{BUCKET}/data").check()


def test_a_proxy_that_is_not_there_is_named(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in area.store.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(DatasetUnavailableError, match="HTTP_PROXY") as told:
        Dataset(url=f"s3://{BUCKET}/data").check()
    assert "hunter2" not in str(told.value)


def test_a_role_that_cannot_be_assumed_is_told_and_not_the_stores_permissions(
    area: Area, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = tmp_path / "config"
    role = "role_arn = arn:aws:iam::123456789012:role/copier"
    config.write_text(PROFILE.format(endpoint=area.store.endpoint, role=role))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "videos")
    text = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no trust</Message></Error></ErrorResponse>"
    with FaultyStore(area.store.port, lambda request, nth: Fault(403, text=text)) as sts:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.endpoint)
        with make_copier(bucket=BUCKET) as copier, pytest.raises(BucketError) as caught:
            copier.check_bucket()
    assert "AssumeRole failed (AccessDenied: no trust); check role_arn" in str(caught.value)


def test_the_password_of_an_endpoint_is_not_shown(area: Area) -> None:
    store = ObjectStore(area.store.client(endpoint="http://user:hunter2@127.0.0.1:9/"), BUCKET)
    with pytest.raises(S3Error) as caught:
        store.check("")
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
