"""The sandbox's CDN: sample videos and pictures by path, plain or behind presigned links that die."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.server import Answer, HttpServer, Request, utc_now

_SIGNING_KEY = b"sandbox-signing-key"
_NAMESPACE = uuid.UUID("5b0e8f0a-6d0f-4f0e-9a53-0f6a2f1c7d11")
_AMZ_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class ArtifactUrls:
    """Where a task's files are. `video_raw` is the video itself, as in the provider's own example."""

    video: str
    video_raw: str
    thumbnail: str
    last_frame: str


@dataclass(frozen=True)
class MediaRequest:
    """One request the CDN has seen. `at` is UTC; the query of a signed link is left out."""

    at: datetime
    method: str
    path: str
    status: int
    range_header: str | None
    has_authorization: bool


@dataclass(frozen=True)
class _Media:
    read: Callable[[], bytes]
    content_type: str
    etag: str
    needs_signature: bool = False
    gone_status: int | None = None


class CdnServer:
    """Serves published media with strong ETags, Content-Length, Range and If-Range (RFC 9110, 13.1.5 and 14).

    `publish(task_id)` puts a task's sample files under paths like the real CDN's: nothing in them tells the task, and
    the thumbnail's has no extension. Paths are the same at every start. `sign(url, ...)` gives the same file behind a
    presigned storage link on another host name, answered 403 once it has expired, when it is altered, and to HEAD, as
    S3 does with a link signed for GET. `clock` gives the time, aware. `bytes_per_second` (None: no limit) is what each
    connection gets, and may be set at any time.
    """

    def __init__(self, *, port: int = 0, clock: Callable[[], datetime] = utc_now):
        self.clock = clock
        self.bytes_per_second: float | None = None
        self._server = HttpServer(self._answer, port=port)
        self._media: dict[str, _Media] = {}
        self._lock = threading.Lock()
        self._requests: list[MediaRequest] = []

    @property
    def base_url(self) -> str:
        """The CDN's address, without a slash at the end."""
        return self._server.base_url

    @property
    def storage_base_url(self) -> str:
        """The address that presigned links have: another host name, as they do in practice."""
        return f"http://localhost:{self._server.port}"

    def start(self) -> CdnServer:
        """Serve until `stop()`; raises PortTakenError when the port is in use."""
        self._server.start()
        return self

    def stop(self) -> None:
        """Stop serving; what was published stays known."""
        self._server.stop()

    def __enter__(self) -> CdnServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def publish(self, task_id: str) -> ArtifactUrls:
        """Put a task's sample files on the CDN; the same URLs every time."""
        folder, frames, picture = (uuid.uuid5(_NAMESPACE, f"{part}:{task_id}") for part in ("dir", "frames", "picture"))
        video_path = f"/dream-machine/{folder}/{frames}/video0{picture.hex}.mp4"
        thumbnail_path = f"/{folder.hex[:22]}/{picture}/public"
        last_frame_path = f"/dream-machine/{folder}/{frames}/video_0_last_frame.jpg"
        self._put(video_path, lambda: samples.video(task_id), "video/mp4", f"video:{task_id}")
        self._put(thumbnail_path, lambda: samples.thumbnail(task_id), "image/jpeg", f"thumbnail:{task_id}")
        self._put(last_frame_path, lambda: samples.last_frame(task_id), "image/jpeg", f"last_frame:{task_id}")
        video = self.base_url + video_path
        return ArtifactUrls(video, video, self.base_url + thumbnail_path, self.base_url + last_frame_path)

    def add(self, path: str, body: bytes, content_type: str) -> str:
        """Serve `body` at `path` (starts with a slash); returns its URL."""
        self._put(path, lambda: body, content_type, hashlib.sha256(body).hexdigest())
        return self.base_url + path

    def sign(self, url: str, expires_seconds: int, *, signed_at: datetime | None = None) -> str:
        """A presigned link to what is at `url`, good for `expires_seconds` from `signed_at` (now)."""
        path = "/ai-lumalabs-storage-private" + urlsplit(url).path
        with self._lock:
            self._media[path] = replace(self._media[urlsplit(url).path], needs_signature=True, gone_status=None)
        at = (signed_at or self.clock()).astimezone(UTC).strftime(_AMZ_DATE)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"sandbox/{at[:8]}/auto/s3/aws4_request",
            "X-Amz-Date": at,
            "X-Amz-Expires": str(expires_seconds),
            "X-Amz-SignedHeaders": "host",
            "X-Amz-Signature": _signature(path, at, str(expires_seconds)),
        }
        return f"{self.storage_base_url}{path}?{urlencode(query, quote_via=quote, safe='')}"

    def revoke(self, url: str, status: int = 410) -> None:
        """Answer the plain link with `status` (403, 404, 410) from now on; a signed link to the file still works."""
        with self._lock:
            path = urlsplit(url).path
            self._media[path] = replace(self._media[path], gone_status=status)

    def content(self, url: str) -> bytes:
        """The bytes behind a URL, with no request; raises KeyError for one that was never published."""
        with self._lock:
            return self._media[urlsplit(url).path].read()

    @property
    def requests(self) -> list[MediaRequest]:
        """Every request so far, oldest first."""
        with self._lock:
            return list(self._requests)

    @property
    def total(self) -> int:
        """The number of requests so far."""
        with self._lock:
            return len(self._requests)

    def count(self, url: str) -> int:
        """The number of requests for a URL's path."""
        path = urlsplit(url).path
        return sum(request.path == path for request in self.requests)

    def clear_log(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()

    @property
    def has_seen_authorization(self) -> bool:
        """Whether any client ever sent an Authorization header here: none should."""
        return any(request.has_authorization for request in self.requests)

    def _put(self, path: str, read: Callable[[], bytes], content_type: str, identity: str) -> None:
        etag = f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'
        with self._lock:
            self._media[path] = _Media(read, content_type, etag)

    def _answer(self, request: Request) -> Answer:
        with self._lock:
            media = self._media.get(request.path)
        answer = self._media_answer(request, media)
        record = MediaRequest(
            self.clock(),
            request.method,
            request.path,
            answer.status,
            request.headers.get("range"),
            "authorization" in request.headers,
        )
        with self._lock:
            self._requests.append(record)
        return replace(answer, drip_bytes_per_second=self.bytes_per_second)

    def _media_answer(self, request: Request, media: _Media | None) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, {"Allow": "GET, HEAD"})
        if media is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if media.gone_status is not None:
            return _error(media.gone_status, "AccessDenied", "This link is no longer valid.")
        if media.needs_signature:
            refusal = self._refusal(request)
            if refusal is not None:
                return refusal
        return _ranged(request, media)

    def _refusal(self, request: Request) -> Answer | None:
        query = {name: values[0] for name, values in parse_qs(request.query).items()}
        at, expires = query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")
        expected = _signature(request.path, at, expires)
        if request.method != "GET" or not hmac.compare_digest(query.get("X-Amz-Signature", ""), expected):
            return _error(403, "SignatureDoesNotMatch", "The request signature does not match.")
        signed_at = datetime.strptime(at, _AMZ_DATE).replace(tzinfo=UTC)
        if self.clock() >= signed_at + timedelta(seconds=int(expires)):
            return _error(403, "AccessDenied", "Request has expired")
        return None


def _signature(path: str, at: str, expires: str) -> str:
    return hmac.new(_SIGNING_KEY, f"{path}\n{at}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _error(status: int, code: str, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, {"Content-Type": "application/xml"}, body.encode())


def _ranged(request: Request, media: _Media) -> Answer:
    body = media.read()
    headers = {"Content-Type": media.content_type, "ETag": media.etag, "Accept-Ranges": "bytes"}
    requested = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    # A validator that is not this file's ETag means the client's part is of another file: it gets the whole one.
    is_same_file = request.headers.get("if-range", media.etag) == media.etag
    if requested is None or requested.group(0) == "bytes=-" or not is_same_file:
        return Answer(200, headers, body)
    first, last = _bounds(requested.group(1), requested.group(2), len(body))
    if first > last:
        return Answer(416, {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return Answer(206, headers, body[first : last + 1])


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
