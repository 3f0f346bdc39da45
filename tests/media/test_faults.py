"""Whatever goes wrong on the way, a whole object is in the bucket or none, no upload is left, and the row says why."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from luma_pipeline.media import Artifact, BucketError, CopyRequest, CopyResult, CopyStatus, ErrorCode, KnownObject
from tests.media import samples
from tests.media.conftest import BUCKET, PART, Area, make_area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, Rule, StoreRequest
from tests.media.stores import Store

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)
EXACT = samples.mp4(PART)
TWO_PARTS = samples.mp4(2 * PART)


def whole(body: bytes) -> Answer:
    return Answer(body)


def cut(body: bytes, share: float) -> Answer:
    return Answer(body, sends=int(len(body) * share))


def copy(area: Area, link: str | None, artifact: Artifact = Artifact.VIDEO, **settings: Any) -> CopyResult:
    with area.copier(**settings) as copier:
        return copier.submit(CopyRequest("task", artifact, link)).result()


def assert_whole(area: Area, result: CopyResult, body: bytes) -> None:
    digest = hashlib.sha256(body).hexdigest()
    assert (result.status, result.error_code, result.error_message) == (CopyStatus.COPIED, None, None)
    assert (result.size_bytes, result.sha256) == (len(body), digest)
    assert area.objects() == {"task/video.mp4": body}
    assert area.uploads() == []


def assert_nothing(area: Area, result: CopyResult, code: ErrorCode) -> None:
    status = CopyStatus.EXPIRED if code is ErrorCode.LINK_EXPIRED else CopyStatus.FAILED
    assert (result.status, result.error_code) == (status, code.value), result.error_message
    assert result.error_message
    assert (result.key, result.size_bytes, result.sha256, result.copied_at) == (None, None, None, None)
    assert area.objects() == {}
    assert area.uploads() == []


@pytest.mark.parametrize("body", [SMALL, LARGE, EXACT, TWO_PARTS], ids=["small", "large", "one part", "two parts"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_good_file_arrives_byte_for_byte(area: Area, cdn: FaultyCdn, body: bytes, chunked: bool) -> None:
    result = copy(area, cdn.add(whole(body).but(chunked=chunked)))

    assert_whole(area, result, body)
    assert (result.content_type, result.attempts, result.bytes_downloaded) == ("video/mp4", 1, len(body))
    assert result.copied_at is not None
    assert abs((datetime.now(UTC) - result.copied_at).total_seconds()) < 60


GONE = [
    *[
        pytest.param(cut(body, share), ErrorCode.WRONG_LENGTH, id=f"{name} cut at {share:.0%}")
        for name, body in (("small", SMALL), ("large", LARGE))
        for share in (0.0, 0.01, 0.5, 0.99)
    ],
    pytest.param(cut(LARGE, 0.5).but(chunked=True), ErrorCode.WRONG_LENGTH, id="chunks end in the middle"),
    pytest.param(
        whole(SMALL).but(promises=len(SMALL) + 7, sends=len(SMALL)), ErrorCode.WRONG_LENGTH, id="promises more"
    ),
    pytest.param(whole(SMALL).but(promises=len(SMALL) - 7), ErrorCode.WRONG_LENGTH, id="promises less than it sends"),
    pytest.param(whole(LARGE).but(promises=len(LARGE) - 7), ErrorCode.WRONG_LENGTH, id="promises less, large"),
    pytest.param(whole(LARGE[:-9]), ErrorCode.WRONG_LENGTH, id="keeps the promise of a cut file"),
    pytest.param(whole(SMALL[:-9]).but(no_length=True), ErrorCode.WRONG_LENGTH, id="promises nothing"),
    pytest.param(whole(samples.HTML).but(content_type="text/html"), ErrorCode.NOT_MEDIA, id="page as 200"),
    pytest.param(whole(samples.HTML), ErrorCode.NOT_MEDIA, id="page that claims to be a video"),
    pytest.param(whole(b""), ErrorCode.NOT_MEDIA, id="nothing as 200"),
    pytest.param(whole(b"\x00" * 20), ErrorCode.NOT_MEDIA, id="a few zeros"),
    pytest.param(whole(samples.JPEG).but(content_type="image/jpeg"), ErrorCode.WRONG_TYPE, id="picture for a video"),
    pytest.param(
        whole(SMALL).but(content_type="image/jpeg"), ErrorCode.WRONG_TYPE, id="video that claims to be a picture"
    ),
    pytest.param(whole(SMALL).but(content_type="text/html"), ErrorCode.WRONG_TYPE, id="video that claims to be a page"),
    pytest.param(whole(SMALL).but(headers={"Content-Encoding": "gzip"}), ErrorCode.ENCODED_BODY, id="content-encoded"),
    pytest.param(whole(SMALL).but(status=418), ErrorCode.HTTP_STATUS, id="refused"),
    pytest.param(whole(SMALL).but(status=206), ErrorCode.HTTP_STATUS, id="a part that nobody asked for"),
    pytest.param(
        whole(b"busy").but(status=503, headers={"Retry-After": "0"}), ErrorCode.HTTP_STATUS, id="busy forever"
    ),
    pytest.param(whole(b"no").but(status=403), ErrorCode.LINK_EXPIRED, id="forbidden"),
    pytest.param(whole(b"no").but(status=404), ErrorCode.LINK_EXPIRED, id="not found"),
    pytest.param(whole(b"no").but(status=410), ErrorCode.LINK_EXPIRED, id="gone"),
]


@pytest.mark.parametrize(("answer", "code"), GONE)
def test_a_file_that_cannot_be_had_whole_leaves_nothing(
    area: Area, cdn: FaultyCdn, answer: Answer, code: ErrorCode
) -> None:
    # With no validator each attempt starts at byte 0, so that a cut stays a cut.
    assert_nothing(area, copy(area, cdn.add(answer.but(etag=None))), code)


@dataclass(frozen=True)
class Mended:
    """Answers of which the last is good, and how many bytes have to be fetched for one whole file."""

    answers: tuple[Answer, ...]
    fetched: int


HALF = len(LARGE) // 2
MENDED = {
    "cut, then resumed": Mended((cut(LARGE, 0.5), whole(LARGE)), len(LARGE)),
    "cut in the first part, then resumed": Mended((cut(LARGE, 0.1), whole(LARGE)), len(LARGE)),
    "small, cut, then resumed": Mended((cut(SMALL, 0.5), whole(SMALL)), len(SMALL)),
    "cut twice": Mended((cut(LARGE, 0.5), cut(LARGE, 0.25), whole(LARGE)), len(LARGE)),
    "cut, no validator": Mended((cut(LARGE, 0.5).but(etag=None), whole(LARGE)), HALF + len(LARGE)),
    "cut, weak validator": Mended((cut(LARGE, 0.5).but(etag='W/"v1"'), whole(LARGE)), HALF + len(LARGE)),
    "cut, no ranges": Mended((cut(LARGE, 0.5), whole(LARGE).but(ranges=False)), HALF + len(LARGE)),
    "cut, then another file": Mended(
        (Answer(samples.mp4(len(LARGE), seed=2), sends=HALF), whole(LARGE).but(etag='"v2"')), HALF + len(LARGE)
    ),
    "busy, then well": Mended((Answer(b"busy", 503), whole(SMALL)), len(SMALL)),
    "limited, then well": Mended((Answer(b"slow", 429, headers={"Retry-After": "0"}), whole(SMALL)), len(SMALL)),
}


@pytest.mark.parametrize("case", MENDED.values(), ids=MENDED.keys())
def test_a_broken_stream_is_mended_and_fetched_no_more_than_needed(area: Area, cdn: FaultyCdn, case: Mended) -> None:
    result = copy(area, cdn.add(*case.answers), max_attempts=4)

    assert_whole(area, result, case.answers[-1].body)
    assert (result.attempts, result.bytes_downloaded) == (len(case.answers), case.fetched)


def test_bytes_sent_beyond_the_promise_reach_neither_this_file_nor_the_next(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL + b"HTTP/1.1 200 OK\r\n", promises=len(SMALL)))
    with area.copier(max_workers=1) as copier:
        results = [copier.copy(CopyRequest(f"task-{n}", Artifact.VIDEO, link)) for n in range(3)]

    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert set(area.objects().values()) == {SMALL}


def test_a_range_that_does_not_fit_is_not_spliced_in(area: Area, cdn: FaultyCdn) -> None:
    wrong = Answer(LARGE, 206, headers={"Content-Range": f"bytes 5-{len(LARGE) - 1}/{len(LARGE)}"}, ranges=False)

    result = copy(area, cdn.add(cut(LARGE, 0.5), wrong, whole(LARGE)), max_attempts=4)

    assert_whole(area, result, LARGE)
    assert (result.attempts, result.bytes_downloaded) == (3, HALF + len(LARGE))


@pytest.mark.parametrize(
    ("answer", "settings", "code"),
    [
        (Answer(LARGE, pause_between=0.05, step=100), {"min_bytes_per_second": 100_000.0}, ErrorCode.STALLED),
        (Answer(LARGE, pause_between=3.0, step=100), {"read_timeout": 0.3}, ErrorCode.STALLED),
        (
            Answer(LARGE, pause_between=0.05, step=100),
            {"max_seconds": 0.5, "stall_window_seconds": 60.0},
            ErrorCode.DEADLINE,
        ),
        (Answer(LARGE), {"max_video_bytes": 6_000_000}, ErrorCode.TOO_LARGE),
        (Answer(LARGE, chunked=True), {"max_video_bytes": 6_000_000}, ErrorCode.TOO_LARGE),
    ],
    ids=["drips", "falls silent", "never ends", "too large by its promise", "too large by its bytes"],
)
def test_a_transfer_out_of_bounds_is_given_up(
    area: Area, cdn: FaultyCdn, answer: Answer, settings: dict[str, Any], code: ErrorCode
) -> None:
    result = copy(area, cdn.add(answer), **{"stall_window_seconds": 0.3, **settings})

    assert_nothing(area, result, code)


@pytest.mark.parametrize(
    ("artifact", "body", "key"),
    [
        (Artifact.VIDEO, samples.mp4(5000, brand=b"qt  "), "task/video.mov"),
        (Artifact.VIDEO_RAW, samples.WEBM, "task/video_raw.webm"),
        (Artifact.THUMBNAIL, samples.JPEG, "task/thumbnail.jpg"),
        (Artifact.THUMBNAIL, samples.WEBP, "task/thumbnail.webp"),
        (Artifact.LAST_FRAME, samples.PNG, "task/last_frame.png"),
        (Artifact.LAST_FRAME, samples.GIF, "task/last_frame.gif"),
    ],
)
def test_the_extension_and_the_content_type_come_from_the_bytes(
    area: Area, cdn: FaultyCdn, artifact: Artifact, body: bytes, key: str
) -> None:
    result = copy(area, cdn.add(Answer(body, content_type="binary/octet-stream")), artifact)

    assert area.objects() == {key: body}
    stored = area.client.head_object(Bucket=result.bucket, Key=result.key or "")
    assert stored["ContentType"] == result.content_type != "binary/octet-stream"


def part(number: int, fault: Fault) -> Rule:
    """The fault for every request for the part, however often it is tried."""

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return fault if request.is_part and request.query["partNumber"] == [str(number)] else None

    return rule


def first(kind: str, fault: Fault) -> Rule:
    """The fault for the first request of a kind."""

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return fault if getattr(request, kind) and nth == 1 else None

    return rule


BUSY = Fault(503, "SlowDown")
STORE_FAULTS = {
    "500 for a part": (part(2, Fault(500)), ErrorCode.STORE_ERROR),
    "503 for a part": (part(2, BUSY), ErrorCode.STORE_ERROR),
    "connection dropped on a part": (part(1, Fault(0)), ErrorCode.STORE_ERROR),
    "500 for one try of a part": (first("is_part", Fault(500)), None),
    "503 for one completion": (first("is_completion", BUSY), None),
    "slow parts": (first("is_part", Fault(delay=0.5, passes=True)), None),
    "completed, and the answer lost": (first("is_completion", Fault(500, afterwards=True)), None),
}


@pytest.mark.parametrize(("rule", "code"), STORE_FAULTS.values(), ids=STORE_FAULTS.keys())
def test_a_store_that_fails_in_a_multipart(area: Area, cdn: FaultyCdn, rule: Rule, code: ErrorCode | None) -> None:
    with FaultyStore(area.store.port, rule) as proxy:
        result = copy(area, cdn.add(Answer(LARGE)), s3_client=area.store.client(endpoint=proxy.endpoint))

    if code is None:
        assert_whole(area, result, LARGE)
    else:
        assert_nothing(area, result, code)


def test_a_small_object_whose_answer_got_lost_counts_as_copied(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(0, afterwards=True) if request.method == "PUT" and nth == 1 else None

    with FaultyStore(area.store.port, rule) as proxy:
        result = copy(area, cdn.add(Answer(SMALL)), s3_client=area.store.client(endpoint=proxy.endpoint))

    assert_whole(area, result, SMALL)


@pytest.mark.parametrize("number", [1, 3], ids=["first part", "last part"])
def test_a_permission_lost_in_the_middle_stops_everything(area: Area, cdn: FaultyCdn, number: int) -> None:
    with (
        FaultyStore(area.store.port, part(number, Fault(403, "AccessDenied"))) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        future = copier.submit(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(LARGE))))
        with pytest.raises(BucketError, match="s3:PutObject"):
            future.result()
        with pytest.raises(BucketError, match="s3:PutObject"):
            copier.submit(CopyRequest("other", Artifact.VIDEO, cdn.add(Answer(SMALL))))

    assert area.objects() == {}
    assert area.uploads() == []


def test_a_store_that_fails_for_everything_stops_the_run(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(500) if request.method == "PUT" else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=8) as copier,
    ):
        futures = [copier.submit(CopyRequest(f"task-{n}", Artifact.VIDEO, link)) for n in range(40)]
        errors = [future.exception() for future in futures]

    stopped = [error for error in errors if isinstance(error, BucketError)]
    rows = [future.result() for future, error in zip(futures, errors, strict=True) if error is None]
    assert len(stopped) + len(rows) == 40
    assert stopped
    assert {row.error_code for row in rows} == {"store_error"}
    assert "in a row" in str(stopped[0])


def test_a_closed_copier_leaves_nothing_half_done(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(LARGE, pause_between=0.02, step=200_000))
    copier = area.copier()
    future = copier.submit(CopyRequest("task", Artifact.VIDEO, link))
    while not area.uploads():
        time.sleep(0.02)
    copier.close(cancel=True)

    assert type(future.exception()).__name__ == "CopyCancelled"
    assert area.objects() == {}
    assert area.uploads() == []


def test_an_artifact_without_a_link_is_a_row(area: Area) -> None:
    for link in (None, "", "  "):
        assert_nothing(area, copy(area, link), ErrorCode.NO_LINK)


def test_a_failed_file_does_not_harm_the_next_on_the_same_worker(area: Area, cdn: FaultyCdn) -> None:
    body = samples.mp4(6_000_000)
    dead, cut_short, good = cdn.add(Answer(b"no", 403)), cdn.add(cut(body, 0.1).but(etag=None)), cdn.add(whole(body))
    with area.copier(max_workers=1, part_size_bytes=8 << 20) as copier:
        futures = [
            copier.submit(CopyRequest(f"task-{n}", Artifact.VIDEO, link))
            for n, link in enumerate([dead, good, cut_short, good])
        ]
        codes = [future.result().error_code for future in futures]

    assert codes == ["link_expired", None, "wrong_length", None]
    assert area.objects() == {"task-1/video.mp4": body, "task-3/video.mp4": body}


def test_what_nobody_has_foreseen_costs_one_row_and_tells_no_secret(
    area: Area, cdn: FaultyCdn, caplog: pytest.LogCaptureFixture
) -> None:
    what_it_says = "https://cdn.example/x?sig=s3cr3t"

    def broken_hook_before_put_part(**_: object) -> None:
        raise KeyError(what_it_says)

    with FaultyStore(area.store.port, lambda request, nth: None) as proxy:
        client = area.store.client(endpoint=proxy.endpoint)
        client.meta.events.register("before-call.s3.UploadPart", broken_hook_before_put_part)
        with area.copier(s3_client=client, max_workers=1) as copier:
            futures = [
                copier.submit(CopyRequest(task_id, Artifact.VIDEO, cdn.add(whole(body)) + "?sig=s3cr3t"))
                for task_id, body in (("bad", LARGE), ("good", SMALL))
            ]
            bad, good = [future.result() for future in futures]

    assert (bad.status, bad.error_code) == (CopyStatus.FAILED, ErrorCode.UNEXPECTED.value)
    assert bad.error_message == "unexpected KeyError; the log says where"
    assert "bad" in caplog.text
    assert "put_part" in caplog.text
    assert "s3cr3t" not in caplog.text
    assert good.status is CopyStatus.COPIED
    assert area.objects() == {"good/video.mp4": SMALL}
    assert area.uploads() == []


@pytest.mark.parametrize("asks", ["refresh", "better_link"])
def test_what_the_provider_refuses_passes_through(area: Area, asks: str) -> None:
    def ask(*_: object) -> str | None:
        raise PermissionError("the token was refused")

    refresh, better = (ask, None) if asks == "refresh" else (None, ask)
    with area.copier(refresh=refresh) as copier, pytest.raises(PermissionError, match="the token was refused"):
        copier.submit(CopyRequest("task", Artifact.VIDEO, None, better_link=better)).result()


def stores_less(request: StoreRequest, nth: int) -> Fault | None:
    """Of an object and of a last part it keeps a thousand bytes, and does not say what their digest is."""
    is_last_part = request.is_part and request.query["partNumber"] == ["3"]
    is_object = request.method == "PUT" and not request.is_part
    keeps = 1000 if is_last_part or is_object else None
    return Fault(passes=True, keeps=keeps, drops=("x-amz-checksum-sha256", "x-amz-checksum-crc32"))


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_an_object_that_was_stored_shorter_is_deleted_and_not_taken_for_a_copy(
    moto: Store, cdn: FaultyCdn, body: bytes
) -> None:
    area = make_area(moto)
    with FaultyStore(moto.port, stores_less) as proxy:
        result = copy(area, cdn.add(whole(body)), s3_client=moto.client(endpoint=proxy.endpoint))
    assert_nothing(area, result, ErrorCode.STORE_ERROR)
    assert "deleted" in (result.error_message or "")

    assert_whole(area, copy(area, cdn.add(whole(body))), body)


def test_an_object_that_must_not_be_looked_at_costs_one_row(area: Area, cdn: FaultyCdn) -> None:
    for task_id in ("hidden", "seen"):
        area.client.put_object(Bucket=BUCKET, Key=f"{area.prefix}/{task_id}/video.mp4", Body=b"not ours")

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(403, "AccessDenied") if request.method == "HEAD" and "hidden" in request.path else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        codes = [
            copier.copy(CopyRequest(task_id, Artifact.VIDEO, cdn.add(whole(SMALL)))).error_code
            for task_id in ("hidden", "seen", "fine")
        ]

    assert codes == ["store_error", "key_taken", None]


def fails(kind: str, fault: Fault, when: threading.Event | None = None) -> Rule:
    """The fault for every listing, every look at an object, or every PUT; not before it is time."""

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_listing = request.method == "GET" and "list-type" in request.query
        is_look = request.method == "HEAD"
        if not {"listing": is_listing, "look": is_look, "object": request.method == "PUT", "nothing": False}[kind]:
            return None
        if when is not None:
            when.wait(30)
        return fault

    return rule


@pytest.mark.parametrize("kind", ["listing", "object"])
def test_a_permission_that_concerns_every_artifact_stops_everything(area: Area, cdn: FaultyCdn, kind: str) -> None:
    are_queued = threading.Event()
    with (
        FaultyStore(area.store.port, fails(kind, Fault(403, "AccessDenied"), are_queued)) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, cdn.add(whole(SMALL))) for n in range(4)]
        futures = [copier.submit(request) for request in requests]
        are_queued.set()
        errors = [future.exception() for future in futures]

    assert {type(error) for error in errors} == {BucketError}
    assert all("AccessDenied" in str(error) for error in errors)
    # Those that were not begun tell of what the first ones met: one is fetched and one written at a time.
    assert len({str(error) for error in errors}) <= 2
    # Of their own: one that is raised again and again collects a traceback of all those times.
    assert len({id(error) for error in errors}) == len(errors)


@pytest.mark.parametrize("link", [None, "", "  "])
def test_without_a_link_the_provider_is_asked_for_one(area: Area, cdn: FaultyCdn, link: str | None) -> None:
    asked: list[str] = []

    def refresh(task_id: str, artifact: Artifact) -> str | None:
        asked.append(task_id)
        return cdn.add(whole(SMALL)) if task_id == "task" else None

    with area.copier(refresh=refresh) as copier:
        results = [copier.copy(CopyRequest(task_id, Artifact.VIDEO, link)) for task_id in ("task", "other")]

    assert_whole(area, results[0], SMALL)
    assert results[1].error_code == ErrorCode.NO_LINK.value
    assert asked == ["task", "other"]


def known_of(result: CopyResult) -> KnownObject:
    return KnownObject(
        result.key or "", result.size_bytes or 0, result.sha256, result.etag, result.content_type, result.copied_at
    )


@pytest.mark.parametrize(
    ("failing", "link", "overwrite", "status", "is_kept"),
    [
        ("look", "alive", False, CopyStatus.FAILED, True),
        ("nothing", "dead", True, CopyStatus.EXPIRED, True),
        ("object", "alive", True, CopyStatus.FAILED, True),
        ("nothing", "dead", False, CopyStatus.EXPIRED, False),
    ],
    ids=["a look that fails", "a dead link", "a write that fails", "an object that is gone"],
)
def test_a_failure_keeps_what_is_known_of_an_object_that_stands(
    area: Area, cdn: FaultyCdn, failing: str, link: str, overwrite: bool, status: CopyStatus, is_kept: bool
) -> None:
    links = {"alive": cdn.add(whole(SMALL)), "dead": cdn.add(Answer(b"no", 404))}
    with area.copier() as copier:
        known = known_of(copier.copy(CopyRequest("task", Artifact.VIDEO, links["alive"])))
    if not is_kept:
        area.client.delete_object(Bucket=BUCKET, Key=known.key)
    with (
        FaultyStore(area.store.port, fails(failing, Fault(500))) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), overwrite=overwrite) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, links[link], known))

    assert result.status is status
    assert result.error_code
    kept = known_of(result)
    assert kept == (known if is_kept else KnownObject("", 0, None))
