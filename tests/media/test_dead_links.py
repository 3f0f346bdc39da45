"""A link that leads to anything but media is renewed once through the provider, whatever the host says of it."""

from __future__ import annotations

import gzip
import ssl
from pathlib import Path

import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyResult, CopyStatus, ErrorCode
from tests.media import samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.test_guard import certificate

BODY = samples.mp4(50_000)
XML = b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code></Error>"
JSON = b'{"error": {"code": "ExpiredToken"}}'
FORBIDDEN = "http://forbidden.example/login"


def page(body: bytes, content_type: str) -> Answer:
    return Answer(body, content_type=content_type, etag=None)


def redirect(location: str) -> Answer:
    return Answer(b"", 302, headers={"Location": location})


EXPIRED, OTHER = ErrorCode.LINK_EXPIRED, ErrorCode.HTTP_STATUS
DEAD = {
    **{str(status): (Answer(XML, status), EXPIRED) for status in (400, 401, 402, 403, 404, 410, 451)},
    **{str(status): (Answer(b"no", status), OTHER) for status in (405, 406, 409, 412, 416, 418, 421, 422, 423, 499)},
    "a page": (page(samples.HTML, "text/html; charset=utf-8"), ErrorCode.NOT_MEDIA),
    "a page that claims to be a video": (page(samples.HTML, "video/mp4"), ErrorCode.NOT_MEDIA),
    "XML": (page(XML, "application/xml"), ErrorCode.NOT_MEDIA),
    "JSON": (page(JSON, "application/json"), ErrorCode.NOT_MEDIA),
    "a long page in chunks": (page(samples.HTML * 100, "text/html").but(chunked=True), ErrorCode.NOT_MEDIA),
    "a page without length": (page(samples.HTML, "text/html").but(no_length=True), ErrorCode.NOT_MEDIA),
    "a compressed page": (
        page(gzip.compress(samples.HTML), "text/html").but(headers={"Content-Encoding": "gzip"}),
        ErrorCode.ENCODED_BODY,
    ),
    "a compressed page that does not say so": (page(gzip.compress(samples.HTML), "text/html"), ErrorCode.NOT_MEDIA),
    "a picture that says so": (page(samples.PNG, "image/png"), ErrorCode.WRONG_TYPE),
    "a video that claims to be a page": (page(BODY, "text/html"), ErrorCode.WRONG_TYPE),
    "an empty video": (page(b"", "video/mp4"), ErrorCode.NOT_MEDIA),
    **{f"{status} and nothing": (Answer(b"", status), OTHER) for status in (202, 203, 204, 300, 304)},
    "a login page": (redirect("/login"), ErrorCode.NOT_MEDIA),
    "a login page that refuses": (redirect("/refused"), EXPIRED),
    "a login page on a host that is not allowed": (redirect(FORBIDDEN), ErrorCode.FORBIDDEN_HOST),
    "a login page at a private address": (redirect("http://0.0.0.0/login"), ErrorCode.FORBIDDEN_ADDRESS),
    "a redirect to no link": (redirect("app://login"), ErrorCode.BAD_SCHEME),
    "a redirect to nothing": (redirect(""), ErrorCode.TOO_MANY_REDIRECTS),
    "a circle": (redirect("/circle"), ErrorCode.TOO_MANY_REDIRECTS),
}


def copy(area: Area, cdn: FaultyCdn, dead: Answer, fresh: Answer | None) -> tuple[CopyResult, list[str]]:
    """The result for a link with this answer, and who was asked for a fresh one."""
    cdn.add(page(samples.HTML, "text/html"), path="/login")
    cdn.add(Answer(b"no", 401), path="/refused")
    cdn.add(redirect("/circle"), path="/circle")
    link, asked = cdn.add(dead), list[str]()

    def refresh(task_id: str, artifact: Artifact) -> str | None:
        asked.append(task_id)
        return None if fresh is None else cdn.add(fresh)

    hosts = ["127.0.0.1", "0.0.0.0"]
    with area.copier(refresh=refresh, allowed_media_hosts=hosts) as copier:
        return copier.copy(CopyRequest("task", Artifact.VIDEO, link)), asked


@pytest.mark.parametrize("dead", [dead for dead, _ in DEAD.values()], ids=DEAD.keys())
def test_a_dead_link_is_renewed(area: Area, cdn: FaultyCdn, dead: Answer) -> None:
    result, asked = copy(area, cdn, dead, Answer(BODY))

    assert (result.status, result.error_code, asked) == (CopyStatus.COPIED, None, ["task"]), result.error_message
    assert area.objects() == {"task/video.mp4": BODY}


@pytest.mark.parametrize("fresh", [True, False], ids=["dead too", "none"])
@pytest.mark.parametrize(("dead", "code"), DEAD.values(), ids=DEAD.keys())
def test_a_dead_link_that_cannot_be_renewed_is_a_row(
    area: Area, cdn: FaultyCdn, dead: Answer, code: ErrorCode, fresh: bool
) -> None:
    result, asked = copy(area, cdn, dead, dead if fresh else None)

    assert (result.error_code, asked) == (code.value, ["task"])
    assert (result.status is CopyStatus.EXPIRED) == (code is EXPIRED)
    assert area.objects() == {}


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_host_that_is_busy_says_nothing_of_the_link(area: Area, cdn: FaultyCdn, status: int) -> None:
    busy = Answer(b"busy", status, headers={"Retry-After": "0"})
    result, asked = copy(area, cdn, busy, Answer(BODY))

    assert (result.status, result.error_code, asked) == (CopyStatus.FAILED, "http_status", [])


def test_a_link_that_dies_while_its_file_is_read_is_renewed_for_the_rest(area: Area, cdn: FaultyCdn) -> None:
    cut = Answer(BODY, sends=20_000)
    with area.copier(refresh=lambda *_: cdn.add(Answer(BODY))) as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(cut, Answer(XML, 400))))

    assert (result.status, result.bytes_downloaded) == (CopyStatus.COPIED, len(BODY))


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "hTTpS", " https"])
def test_https_is_not_left_whatever_the_letters(
    area: Area, cdn: FaultyCdn, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate_file = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
    assert isinstance(context, ssl.SSLContext)
    with FaultyCdn(context) as secure:
        link = secure.add(redirect(cdn.add(Answer(BODY)).replace("http", "HTTP", 1)))
        with area.copier() as copier:
            result = copier.copy(CopyRequest("task", Artifact.VIDEO, link.replace("https", scheme, 1)))

    assert (result.status, result.error_code) == (CopyStatus.FAILED, "bad_scheme")
    assert cdn.asked == []
