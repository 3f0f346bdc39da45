"""What a store says of a write, and what stands under the key afterwards: each ending is an object or a row."""

from __future__ import annotations

import hashlib
import re

import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyStatus, KnownObject
from tests.media import samples
from tests.media.conftest import BUCKET, PART, Area, make_area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, Rule, StoreRequest
from tests.media.stores import Store

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(PART + 123_456)
NO_CHECKSUMS = ("x-amz-checksum-sha256", "x-amz-checksum-crc32")
REFUSED = Fault(403, "AccessDenied")


def is_write(request: StoreRequest) -> bool:
    return request.is_completion or (request.method == "PUT" and not request.is_part)


def every(
    *, write: Fault | None = None, look: Fault | None = None, delete: Fault | None = None, looks_before: int = 0
) -> Rule:
    """The faults for every write that makes an object visible, every look after so many, and every deletion."""

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if is_write(request):
            return write
        if request.method == "HEAD" and nth > looks_before:
            return look
        return delete if request.method == "DELETE" and "uploadId" not in request.query else None

    return rule


WRITES = {
    "written, and no answer tells": (SMALL, every(write=Fault(500, afterwards=True)), None),
    "the answer and the look fail": (SMALL, every(write=Fault(500, afterwards=True), look=REFUSED), "told to fail"),
    "not written": (SMALL, every(write=Fault(500)), "told to fail"),
    "conflicts, and nothing is there": (
        SMALL,
        every(write=Fault(412, "PreconditionFailed")),
        "conflicting writes to .*, and has no object there",
    ),
    "completed, and nothing is there": (
        LARGE,
        every(write=Fault(passes=True), look=Fault(404, "NoSuchKey")),
        f"{len(LARGE)} bytes were written to .*, no bytes are there",
    ),
    "stored shorter, and not to be deleted": (
        SMALL,
        every(write=Fault(passes=True, keeps=1000, drops=NO_CHECKSUMS), delete=REFUSED),
        "are there still: delete them",
    ),
}


@pytest.mark.parametrize(("body", "rule", "message"), WRITES.values(), ids=WRITES)
def test_what_a_write_comes_to(moto: Store, cdn: FaultyCdn, body: bytes, rule: Rule, message: str | None) -> None:
    area = make_area(moto)
    with (
        FaultyStore(moto.port, rule) as proxy,
        area.copier(s3_client=moto.client(endpoint=proxy.endpoint)) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(body))))
    if message is None:
        assert (result.status, result.error_code) == (CopyStatus.COPIED, None)
        assert result.sha256 == hashlib.sha256(body).hexdigest()
        assert area.objects() == {"task/video.mp4": body}
    else:
        assert (result.status, result.error_code) == (CopyStatus.FAILED, "store_error")
        assert (result.key, result.sha256) == (None, None)
        assert re.search(message, result.error_message or "")
    assert area.uploads() == []


def test_anothers_object_with_the_same_bytes_is_the_artifact(area: Area, cdn: FaultyCdn) -> None:
    area.client.put_object(Bucket=BUCKET, Key=f"{area.prefix}/task/video.mp4", Body=SMALL)
    with area.copier() as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))
    assert (result.status, result.sha256) == (CopyStatus.ALREADY_PRESENT, hashlib.sha256(SMALL).hexdigest())
    assert area.client.head_object(Bucket=BUCKET, Key=result.key or "")["Metadata"] == {}


def test_anothers_object_that_goes_meanwhile_is_in_nobodys_way(area: Area, cdn: FaultyCdn) -> None:
    key = f"{area.prefix}/task/video.mp4"
    area.client.put_object(Bucket=BUCKET, Key=key, Body=b"not ours")

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "HEAD" and nth == 2:
            area.client.delete_object(Bucket=BUCKET, Key=key)
        return None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))
    assert result.status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": SMALL}


@pytest.mark.parametrize("flips", [False, True], ids=["as sent", "another last byte"])
def test_what_a_store_cannot_confirm_is_read_back(moto: Store, cdn: FaultyCdn, flips: bool) -> None:
    """It takes no checksum, and its ETag is no MD5."""
    area = make_area(moto)
    key = f"{area.prefix}/task/video.mp4"

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if any(name in request.headers for name in NO_CHECKSUMS):
            return Fault(501, "NotImplemented")
        if is_write(request):
            return Fault(passes=True, flips=flips, drops=("etag", *NO_CHECKSUMS))
        return None

    with (
        FaultyStore(moto.port, rule) as proxy,
        area.copier(s3_client=moto.client(endpoint=proxy.endpoint)) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))
        reads = [request for request in proxy.seen if request.method == "GET" and request.path.endswith(key)]
    assert len(reads) == 1
    if flips:
        assert "other bytes were stored, and deleted again" in (result.error_message or "")
        assert area.objects() == {}
    else:
        assert result.status is CopyStatus.COPIED
        assert area.objects() == {"task/video.mp4": SMALL}


def test_a_damaged_write_over_a_known_object_leaves_no_row_of_an_object(moto: Store, cdn: FaultyCdn) -> None:
    """With `overwrite` what is deleted is the object that the manifest knew."""
    area = make_area(moto)
    link = cdn.add(Answer(SMALL))
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
    known = KnownObject(first.key or "", len(SMALL), first.sha256, first.etag, first.content_type, first.copied_at)
    damaging = Fault(passes=True, keeps=1000, drops=NO_CHECKSUMS)
    with (
        FaultyStore(moto.port, every(write=damaging)) as proxy,
        area.copier(s3_client=moto.client(endpoint=proxy.endpoint), overwrite=True) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known))
    assert (result.status, result.error_code, result.key) == (CopyStatus.FAILED, "store_error", None)
    assert area.objects() == {}


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "stored shorter"])
def test_an_object_that_does_not_say_who_wrote_it_is_told_by_its_size(
    moto: Store, cdn: FaultyCdn, is_whole: bool
) -> None:
    """The store keeps no metadata."""
    area = make_area(moto)
    metadata = tuple(f"x-amz-meta-luma-{name}" for name in ("task-id", "artifact", "source", "copy-id", "sha256"))

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "HEAD":
            return Fault(passes=True, drops=metadata)
        is_cut = request.is_part and request.query["partNumber"] == ["2"] and not is_whole
        return Fault(passes=True, keeps=1000, drops=NO_CHECKSUMS) if is_cut else None

    with (
        FaultyStore(moto.port, rule) as proxy,
        area.copier(s3_client=moto.client(endpoint=proxy.endpoint)) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(LARGE))))
    if is_whole:
        assert result.status is CopyStatus.COPIED
        assert area.objects() == {"task/video.mp4": LARGE}
    else:
        assert (result.status, result.error_code, result.key) == (CopyStatus.FAILED, "store_error", None)
        assert f"{len(LARGE)} bytes were written" in (result.error_message or "")
