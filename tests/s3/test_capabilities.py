"""What a store does not take is learnt once, and gone on without: the objects are whole all the same."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyStatus, ErrorCode, StoreUnavailableError
from luma_pipeline.s3 import ObjectStore, make_client
from luma_pipeline.s3.objects import clean_etag
from tests.media import samples
from tests.media.conftest import BUCKET, PART, Area, make_area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, Rule, StoreRequest
from tests.media.stores import Store

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)


def names_checksums(request: StoreRequest) -> bool:
    return any(name.startswith(("x-amz-checksum-", "x-amz-sdk-checksum-", "x-amz-trailer")) for name in request.headers)


def on_any(request: StoreRequest) -> bool:
    return names_checksums(request) or b"ChecksumCRC32" in request.body


def on_part(request: StoreRequest) -> bool:
    return request.is_part and names_checksums(request)


def on_beginning(request: StoreRequest) -> bool:
    return "uploads" in request.query and names_checksums(request)


def on_completion(request: StoreRequest) -> bool:
    return request.is_completion and b"ChecksumCRC32" in request.body


def on_head(request: StoreRequest) -> bool:
    return request.method == "HEAD" and names_checksums(request)


REFUSALS = [
    (on_any, Fault(400, "InvalidArgument", message="Unsupported header 'x-amz-checksum-algorithm'")),
    (on_any, Fault(400, "InvalidRequest")),
    (on_any, Fault(501, "NotImplemented")),
    (on_any, Fault(403, "SignatureDoesNotMatch")),
    (on_any, Fault(400, text="bad header", content_type="text/plain")),
    (on_any, Fault(403, "AccessDenied", message="The header x-amz-checksum-algorithm is not allowed")),
    (on_any, Fault(422, "UnprocessableEntity")),
    (on_part, Fault(400, "InvalidArgument")),
    (on_beginning, Fault(400, "InvalidArgument")),
    (on_head, Fault(400, "")),
]


def copies(area: Area, cdn: FaultyCdn, rule: Rule, **settings: Any) -> tuple[list[Any], list[StoreRequest]]:
    """Copy three small ones and two large ones through a proxy with this rule; results, and what was asked."""
    bodies = [SMALL, LARGE, SMALL, LARGE, SMALL]
    with FaultyStore(area.store.port, rule) as proxy:
        client = area.store.client(endpoint=proxy.endpoint)
        with area.copier(s3_client=client, max_workers=1, **settings) as copier:
            copier.check_bucket()
            links = [cdn.add(Answer(body)) for body in bodies]
            futures = [copier.submit(CopyRequest(f"t{n}", Artifact.VIDEO, link)) for n, link in enumerate(links)]
            return [future.result() for future in futures], list(proxy.seen)


@pytest.mark.parametrize(("is_refused", "fault"), REFUSALS)
def test_a_store_that_refuses_checksums_gets_whole_objects_without(
    area: Area, cdn: FaultyCdn, is_refused: Callable[[StoreRequest], bool], fault: Fault
) -> None:
    results, seen = copies(area, cdn, lambda request, nth: fault if is_refused(request) else None)

    assert {(result.status, result.error_message) for result in results} == {(CopyStatus.COPIED, None)}
    assert sorted(area.objects().values(), key=len) == [SMALL] * 3 + [LARGE] * 2
    assert area.uploads() == []
    # Parts that are on their way when the first of them is refused are refused as well.
    assert sum(is_refused(request) for request in seen) <= 4


def test_a_store_that_refuses_the_checksums_element_in_a_completion_gets_it_without(
    moto: Store, cdn: FaultyCdn
) -> None:
    # SeaweedFS wants the element where the upload was begun with checksums.
    area = make_area(moto)
    fault = Fault(400, "MalformedXML")
    results, seen = copies(area, cdn, lambda request, nth: fault if on_completion(request) else None)

    assert {(result.status, result.error_message) for result in results} == {(CopyStatus.COPIED, None)}
    assert sum(on_completion(request) for request in seen) == 1


def test_without_checksums_bytes_that_the_store_has_wrong_are_found_and_deleted(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if on_any(request):
            return Fault(400, "InvalidArgument")
        is_small = request.method == "PUT" and not request.is_part
        return Fault(passes=True, flips=True, drops=("etag",)) if is_small else None

    results, _ = copies(area, cdn, rule)
    assert [result.error_code for result in results] == [ErrorCode.STORE_ERROR.value, None] * 2 + ["store_error"]
    assert "other bytes were stored, and deleted again" in (results[0].error_message or "")
    assert list(area.objects().values()) == [LARGE] * 2


def test_without_checksums_an_etag_that_is_no_md5_is_made_up_for_by_reading_back(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if on_any(request):
            return Fault(400, "InvalidArgument")
        is_small = request.method == "PUT" and not request.is_part
        return Fault(passes=True, drops=("etag",)) if is_small else None

    results, seen = copies(area, cdn, rule)
    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert sum(request.method == "GET" and not request.query for request in seen) == 3


def test_neither_checksums_nor_conditions_is_learnt_too(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(501, "NotImplemented") if on_any(request) or request.has_condition else None

    results, seen = copies(area, cdn, rule)
    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert sum(request.has_condition for request in seen) <= 3


def test_a_refusal_of_everything_tells_the_first_reason(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method != "PUT" or request.is_part:
            return None
        if on_any(request):
            return Fault(400, "InvalidStorageClass", message="no such class")
        return Fault(400, "InvalidArgument", message="something else")

    results, _ = copies(area, cdn, rule)
    assert "InvalidStorageClass: no such class" in (results[0].error_message or "")


def test_corrupted_bytes_are_no_reason_to_send_no_checksum(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_first = request.method == "PUT" and "/t0/" in request.path
        return Fault(400, "BadDigest") if is_first else None

    results, seen = copies(area, cdn, rule)
    assert results[0].error_code == ErrorCode.STORE_ERROR.value
    assert {result.status for result in results[1:]} == {CopyStatus.COPIED}
    assert all(names_checksums(request) for request in seen if request.method == "PUT")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(400, "InvalidArgument"),
        Fault(501, "NotImplemented"),
        Fault(404, "NoSuchKey"),
        Fault(403, "SignatureDoesNotMatch"),
        Fault(500, "InternalError"),
        Fault(passes=True, ignores=("start-after",)),
    ],
)
def test_objects_are_found_without_start_after(moto: Store, cdn: FaultyCdn, fault: Fault) -> None:
    area = make_area(moto)
    link = cdn.add(Answer(SMALL))
    requests = [CopyRequest(f"task-{n:02}", Artifact.VIDEO, link) for n in range(20)]
    with area.copier() as copier:
        for request in requests[::2]:
            copier.copy(request)
    cdn.asked.clear()

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return fault if "start-after" in request.query else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        copier.check_bucket()
        copier.look_for((request.task_id, request.artifact) for request in requests)
        results = [copier.copy(request) for request in requests]
        asked = sum("start-after" in request.query for request in proxy.seen)

    assert [result.status for result in results] == [CopyStatus.ALREADY_PRESENT, CopyStatus.COPIED] * 10
    assert len(cdn.asked) == 10
    assert asked <= 2


def unsigned(request: StoreRequest, nth: int) -> Fault | None:
    is_unsigned = request.headers.get("x-amz-content-sha256") == "UNSIGNED-PAYLOAD"
    return Fault(403, "AccessDenied", message="UNSIGNED-PAYLOAD is not allowed") if is_unsigned else None


def test_a_store_that_wants_signed_payloads_gets_them(area: Area, cdn: FaultyCdn) -> None:
    results, seen = copies(area, cdn, unsigned)
    assert {(result.status, result.error_message) for result in results} == {(CopyStatus.COPIED, None)}
    assert sum(unsigned(request, 0) is not None for request in seen) == 1


@pytest.mark.parametrize("sets", ["true", "false"])
def test_what_the_aws_config_says_of_signed_payloads_holds(
    seaweedfs: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, sets: str
) -> None:
    config = tmp_path / "config"
    config.write_text(f"[default]\ns3 =\n  payload_signing_enabled = {sets}\n  addressing_style = path\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with FaultyStore(seaweedfs.port, unsigned) as proxy:
        for name, value in {**seaweedfs.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint}.items():
            monkeypatch.setenv(name, value)
        store = ObjectStore(make_client(max_connections=2, timeouts=(5.0, 10.0), max_attempts=1), BUCKET)
        if sets == "true":
            store.put("signed/key", b"body")
            assert all(unsigned(request, 0) is None for request in proxy.seen)
        else:
            with pytest.raises(Exception, match="set payload_signing_enabled = true under s3 in the AWS config"):
                store.put("signed/key", b"body")
            assert all(unsigned(request, 0) is not None for request in proxy.seen)


def test_a_completion_that_answers_200_with_an_error_is_no_success(area: Area, cdn: FaultyCdn) -> None:
    error = "<?xml version='1.0'?><Error><Code>InternalError</Code><Message>try again</Message></Error>"

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(200, text=error) if request.is_completion else None

    results, _ = copies(area, cdn, rule)
    assert [result.error_code for result in results] == [None, "store_error", None, "store_error", None]
    assert area.uploads() == []


def test_a_store_that_fails_sixteen_times_in_a_row_is_passing(area: Area, cdn: FaultyCdn) -> None:
    go_on = threading.Event()

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        go_on.wait(30)
        return Fault(500, message="out of order") if request.method == "PUT" else None

    link = cdn.add(Answer(SMALL))
    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=8) as copier,
    ):
        futures = [copier.submit(CopyRequest(f"task-{n}", Artifact.VIDEO, link)) for n in range(40)]
        go_on.set()
        errors = [future.exception() for future in futures]

    stopped = [error for error in errors if error is not None]
    assert {type(error) for error in stopped} == {StoreUnavailableError}
    assert "in a row" in str(stopped[0])
    assert "out of order" in str(stopped[0])


def test_names_of_metadata_in_capitals_are_the_same(area: Area) -> None:
    store = ObjectStore(area.client, BUCKET)
    store.put(f"{area.prefix}/key", b"x", settings={"Metadata": {"Luma-Task-Id": "a"}})
    head = store.head(f"{area.prefix}/key")
    assert head is not None
    assert dict(head.metadata) == {"luma-task-id": "a"}
    assert head.etag == hashlib.md5(b"x").hexdigest()


UPLOAD = "<Upload><Key>{key}</Key><UploadId>{id}</UploadId>{when}</Upload>"
LONG_AGO = "<Initiated>2020-01-01T00:00:00.000Z</Initiated>"
UPLOADS = "<ListMultipartUploadsResult>{marker}{uploads}</ListMultipartUploadsResult>"
ENDLESS = (
    "<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>x</NextUploadIdMarker>"
)


@pytest.mark.parametrize(
    ("name", "marker", "when", "aborted"),
    [
        ("task/video.mp4", "", LONG_AGO, 1),
        ("task/video.mp4", ENDLESS, LONG_AGO, 2),
        ("task/video.mp4", "<IsTruncated>true</IsTruncated>", LONG_AGO, 1),
        ("task/video.mp4", "", "", 0),
        ("others/file.bin", "", LONG_AGO, 0),
        ("../outside/task/video.mp4", "", LONG_AGO, 0),
    ],
    ids=["one", "the same page for ever", "no marker", "no time", "another's", "outside the prefix"],
)
def test_a_listing_of_uploads_that_misbehaves_harms_nothing(
    area: Area, name: str, marker: str, when: str, aborted: int
) -> None:
    key = f"{area.prefix}/{name}" if ".." not in name else "elsewhere/task/video.mp4"
    upload = UPLOAD.format(key=key, id="abc", when=when)
    text = UPLOADS.format(marker=marker.format(key=key), uploads=upload)

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "GET" and "uploads" in request.query:
            return Fault(200, text=text)
        return Fault(404, "NoSuchUpload") if request.method == "DELETE" else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        assert copier.sweep_orphans(3600) == aborted
        assert sum(request.method == "DELETE" for request in proxy.seen) == aborted


@pytest.mark.parametrize(
    ("etag", "expected"), [('"abc"', "abc"), ("abc", "abc"), ('W/"abc"', "abc"), ('""', None), ("", None), (None, None)]
)
def test_an_etag_is_read_with_or_without_quotation_marks(etag: str | None, expected: str | None) -> None:
    assert clean_etag(etag) == expected
