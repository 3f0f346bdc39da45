"""One artifact's bytes from its media host: redirects, resumption, stalls, budgets and lengths."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urljoin

from luma_pipeline.http.connection import MOST_DIGITS
from luma_pipeline.http.encoding import compressions
from luma_pipeline.http.errors import TargetRefusedError, TransportCode, TransportError
from luma_pipeline.http.guard import Target, parse_target
from luma_pipeline.http.redact import redact_link
from luma_pipeline.http.retry_after import full_jitter, retry_after_seconds
from luma_pipeline.http.session import Response
from luma_pipeline.media.errors import CopyCancelled, CopyError, ErrorCode
from luma_pipeline.media.links import Link
from luma_pipeline.media.transport import Transport

_REDIRECTS = {301, 302, 303, 307, 308}
_EXPIRED = {400, 401, 402, 403, 404, 410, 451}
"""How media hosts answer to a link that has died. 400 is S3's for an expired token."""
_RETRIED = {408, 425, 429}
_LONGEST_PAUSE_SECONDS = 30.0
_PROGRESS_BYTES = 536
"""A try that brings fewer new bytes has brought nothing: less than the smallest segment that every host sends whole."""
_MODIFIED_BEFORE = timedelta(seconds=60)
"""So much older than the answer itself a file's time has to be, to tell two versions apart: RFC 9110, 8.8.2.2."""
_NUMBER = rf"([0-9]{{1,{MOST_DIGITS}}})"
_CONTENT_RANGE = re.compile(rf"bytes {_NUMBER}-{_NUMBER}/{_NUMBER}")
_NO_LENGTH = "the host promised no length that can be read, so a cut could not be told"


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """How long, how slow, how often and how much.

    min_bytes_per_second is held against each window of stall_window_seconds in which bytes were waited for; zero turns
    it off. max_attempts counts requests in a row that bring nothing new, redirects not included; max_seconds runs from
    the first request.
    """

    max_bytes: int
    min_bytes_per_second: float = 16 * 1024
    stall_window_seconds: float = 20.0
    max_attempts: int = 5
    max_seconds: float = 3600.0
    max_redirects: int = 5
    backoff_seconds: float = 0.5


class StreamRestarted(Exception):  # noqa: N818  (not an error: the bytes simply start again)
    """What was read is void: the next read starts at byte 0."""


class _Broken(Exception):  # noqa: N818
    """This attempt is over; another may follow."""

    def __init__(self, code: ErrorCode, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pause = pause


class _LinkDied(Exception):  # noqa: N818
    """The link leads to no media; a renewed one may."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class _Validator:
    """What tells one version of a file from every other: a header and its value."""

    header: str
    value: str

    def matches(self, response: Response) -> bool:
        """Whether an answer is of the same version."""
        return response.header(self.header) == self.value


class Download:
    """A stream of one artifact. `readinto` fills buffers until it returns 0; then everything promised has come.

    Raises CopyError when the artifact cannot be had, StreamRestarted when reading starts over, CopyCancelled when
    `stopping` is set.
    """

    def __init__(self, transport: Transport, link: Link, limits: DownloadLimits, stopping: threading.Event) -> None:
        self._transport = transport
        self.link = link
        self._limits = limits
        self._stopping = stopping
        self._response: Response | None = None
        self._validator: _Validator | None = None
        self._deadline = math.inf  # Set at the first byte: what waits for its turn has not begun.
        self._window_bytes = 0
        self._window_seconds = 0.0
        self._furthest = 0
        self._failures = 0
        self._was_incomplete = False
        self.position = 0
        self.total: int | None = None
        self.is_length_promised = True
        """False for a body that ends where the connection does: a cut looks like the end."""
        self.content_type = ""
        self.attempts = 0
        self.bytes_downloaded = 0

    def readinto(self, view: memoryview) -> int:
        """Put the next bytes at the start of `view`; 0 at the end of the whole artifact."""
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._limits.max_seconds
        while not self.at_end:
            self._check_time()
            try:
                if self._response is None:
                    self._response = self._open()
                return self._read_some(self._response, view)
            except _Broken as broken:
                self.close()
                self._pause_or_give_up(broken)
            except _LinkDied as dead:
                self.close()
                self._renew_or_give_up(dead.code, dead.message)
        return 0

    def close(self) -> None:
        """Drop the connection, if one is open."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    @property
    def at_end(self) -> bool:
        """Whether every promised byte has been read; False while no length is known."""
        return self.total is not None and self.position >= self.total

    def reject(self, code: ErrorCode, message: str) -> NoReturn:
        """The bytes are no media: start over with a renewed link, once, since dead links lead to pages with 200."""
        self.close()
        self._renew_or_give_up(code, message)
        self._start_over()

    def reject_incomplete(self, code: ErrorCode, message: str) -> NoReturn:
        """The file lacks something although all of it has come: start over, once."""
        if self._was_incomplete:
            raise CopyError(code, f"{message} ({self.attempts} attempts)")
        self._was_incomplete = True
        self._pause_or_give_up(_Broken(code, message))
        self._start_over()

    def _start_over(self) -> NoReturn:
        self.close()
        self._validator, self.total, self.position = None, None, 0
        raise StreamRestarted

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read_some(self, response: Response, view: memoryview) -> int:
        started = time.monotonic()
        # A range may bring more than it says; what is beyond the file's end goes with the connection.
        most = len(view) if self.total is None else min(len(view), self.total - self.position)
        try:
            with view[:most] as window:
                count = response.readinto(window)
        except TransportError as error:
            raise self._broken_body(error) from None
        if not count:
            return self._finish()
        self.position += count
        self.bytes_downloaded += count
        self._check_size(self.position)
        if self.at_end:
            self._release()
        else:
            self._check_speed(count, time.monotonic() - started)
        return count

    def _broken_body(self, error: TransportError) -> _Broken:
        if error.code in {TransportCode.TIMEOUT, TransportCode.DEADLINE}:
            return _Broken(ErrorCode.STALLED, "the host fell silent")
        if error.code is TransportCode.CUT_BODY:
            return _Broken(ErrorCode.WRONG_LENGTH, self._cut_message())
        return _Broken(ErrorCode.CONNECTION, f"the connection broke ({error.code})")

    def _finish(self) -> int:
        if self.total is None:
            self.total = self.position
        if self.position < self.total:
            raise _Broken(ErrorCode.WRONG_LENGTH, self._cut_message())
        self._release()
        return 0

    def _release(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.release()

    def _cut_message(self) -> str:
        return f"cut after {self.position} of {'?' if self.total is None else self.total} bytes"

    # -- budgets ----------------------------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_bytes:
            self.close()
            raise CopyError(
                ErrorCode.TOO_LARGE, f"{size} bytes or more, over max_video_bytes ({self._limits.max_bytes})"
            )

    def _check_time(self) -> None:
        if self._stopping.is_set():
            self.close()
            raise CopyCancelled("the copier was closed")
        if time.monotonic() > self._deadline:
            self.close()
            raise CopyError(
                ErrorCode.DEADLINE, f"not done after max_seconds ({self._limits.max_seconds:g}); {self._cut_message()}"
            )

    def _check_speed(self, count: int, seconds: float) -> None:
        """Only time spent waiting for the host counts, so that a slow store is not blamed on it."""
        self._window_bytes += count
        self._window_seconds += seconds
        if self._window_seconds < self._limits.stall_window_seconds:
            return
        speed = self._window_bytes / self._window_seconds
        self._window_bytes, self._window_seconds = 0, 0.0
        if speed < self._limits.min_bytes_per_second:
            raise _Broken(ErrorCode.STALLED, f"{speed:.0f} bytes/s; {self._cut_message()}")

    def _pause_or_give_up(self, broken: _Broken) -> None:
        """Count the attempts that brought nothing new. A host that is too slow is given up whatever it brings."""
        if self._stopping.is_set():
            raise CopyCancelled("the copier was closed")
        has_progressed = self.position - self._furthest >= _PROGRESS_BYTES and broken.code is not ErrorCode.STALLED
        self._furthest = max(self._furthest, self.position)
        self._failures = 1 if has_progressed else self._failures + 1
        if self._failures >= self._limits.max_attempts:
            raise CopyError(broken.code, f"{broken.message} ({self.attempts} attempts)") from None
        pause = broken.pause
        if pause is None:
            pause = full_jitter(self._failures - 1, self._limits.backoff_seconds, _LONGEST_PAUSE_SECONDS)
        self._stopping.wait(min(pause, max(0.0, self._deadline - time.monotonic())))

    # -- links ------------------------------------------------------------------------------------------------------

    def _renew_or_give_up(self, code: ErrorCode, message: str) -> None:
        shown = redact_link(self.link.url)
        if not self.link.renew():
            raise CopyError(code, f"{shown}: {message}")
        if self.link.is_past_expiry:
            raise CopyError(ErrorCode.LINK_EXPIRED, f"{shown}: the renewed link's own expiry is past too")

    # -- asking -----------------------------------------------------------------------------------------------------

    def _open(self) -> Response:
        """Have the host answer from `position` on, or from the start; raises StreamRestarted if bytes become void."""
        if self.link.is_past_expiry:
            raise _LinkDied(ErrorCode.LINK_EXPIRED, "the link's own expiry is past")
        response = self._request(self._range_headers())
        self._window_bytes, self._window_seconds = 0, 0.0
        if self.position and self._continues(response):
            return response
        return self._begin(response)

    def _range_headers(self) -> dict[str, str]:
        if not self.position or self._validator is None:
            return {}
        return {"Range": f"bytes={self.position}-", "If-Range": self._validator.value}

    def _continues(self, response: Response) -> bool:
        """Whether the answer goes on at `position` with the same version of the file. A 200 starts from byte 0."""
        if response.status not in {206, 416}:
            return False
        match = _CONTENT_RANGE.fullmatch(response.header("Content-Range"))
        is_same = self._validator is not None and self._validator.matches(response)
        if response.status == 206 and match is not None and is_same and not _is_encoded(response):
            first, total = int(match[1]), int(match[3])
            if first == self.position < total and self.total in {None, total}:
                self.total, self.is_length_promised = total, True
                return True
        # Without the validator the next request asks for the whole.
        response.close()
        self._validator = None
        raise _Broken(ErrorCode.CONNECTION, "the host answered another range than the one asked for", pause=0.0)

    def _begin(self, response: Response) -> Response:
        """Take a whole answer from its first byte."""
        try:
            length = self._promised_length(response)
        except BaseException:
            response.close()
            raise
        self._validator = _strong_validator(response)
        self.total = length
        self.is_length_promised = length is not None or response.is_chunked
        self.content_type = response.header("Content-Type")
        had_bytes, self.position = self.position > 0, 0
        self._response = response
        if had_bytes:
            raise StreamRestarted
        return response

    def _promised_length(self, response: Response) -> int | None:
        """The length of a body that can be taken; None when it comes in chunks, or until the connection ends."""
        _check_status(response)
        if _is_encoded(response):
            # A page in place of the media may be compressed too.
            raise _LinkDied(ErrorCode.ENCODED_BODY, "the body is content-encoded although identity was asked for")
        length = response.content_length
        if length is None and not response.is_chunked and response.header("Content-Length"):
            raise CopyError(ErrorCode.WRONG_LENGTH, _NO_LENGTH)
        self._check_size(length or 0)
        return length

    def _request(self, headers: dict[str, str]) -> Response:
        """One attempt: the answer behind the redirects, each of which is checked like the first link."""
        self.attempts += 1
        url = self.link.url
        target = _parsed(url)
        for hop in range(self._limits.max_redirects + 1):
            self._check_time()
            try:
                response = self._transport.get(target, headers, self._deadline)
            except TargetRefusedError as error:
                raise (_LinkDied if hop else CopyError)(ErrorCode(error.reason.value), str(error)) from None
            except TransportError as error:
                raise _no_answer(error, target.host) from None
            if response.status not in _REDIRECTS:
                return response
            location = response.header("Location")
            response.close()
            url, target = _redirected(url, target, location)
        raise _LinkDied(ErrorCode.TOO_MANY_REDIRECTS, f"more than {self._limits.max_redirects} redirects")


def _parsed(url: str) -> Target:
    try:
        return parse_target(url)
    except TargetRefusedError as error:
        raise CopyError(ErrorCode(error.reason.value), str(error)) from None


def _redirected(url: str, target: Target, location: str) -> tuple[str, Target]:
    """Where a redirect leads. One that leads nowhere, or out of https, is how a dead link may end."""
    if not location:
        raise _LinkDied(ErrorCode.TOO_MANY_REDIRECTS, "a redirect without a target")
    try:
        # http.client decodes headers as Latin-1; hosts that do not quote their links send UTF-8.
        joined = urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
        next_target = parse_target(joined)
    except ValueError:
        raise _LinkDied(ErrorCode.BAD_SCHEME, "a redirect to what is no link") from None
    except TargetRefusedError as error:
        raise _LinkDied(ErrorCode(error.reason.value), str(error)) from None
    if target.scheme == "https" and next_target.scheme != "https":
        raise _LinkDied(ErrorCode.BAD_SCHEME, "an https link redirects to something that is not https")
    return joined, next_target


def _no_answer(error: TransportError, host: str) -> CopyError | _Broken:
    if error.code is TransportCode.CERTIFICATE:
        return CopyError(ErrorCode.CONNECTION, f"{host} has no certificate we can trust")
    if error.code in {TransportCode.TIMEOUT, TransportCode.DEADLINE}:
        return _Broken(ErrorCode.CONNECTION, f"{host} did not answer in time")
    return _Broken(ErrorCode.CONNECTION, f"{host}: no answer ({error.code})")


def _check_status(response: Response) -> None:
    status = response.status
    if status == 200:
        return
    message = f"the host answered {status}"
    if status in _RETRIED or status >= 500:
        pause = retry_after_seconds(response.header("Retry-After"))
        longest = None if pause is None else min(pause, _LONGEST_PAUSE_SECONDS)
        raise _Broken(ErrorCode.HTTP_STATUS, message, pause=longest)
    raise _LinkDied(ErrorCode.LINK_EXPIRED if status in _EXPIRED else ErrorCode.HTTP_STATUS, message)


def _is_encoded(response: Response) -> bool:
    return bool(compressions(response.header("Content-Encoding")))


def _strong_validator(response: Response) -> _Validator | None:
    """The strong validator of an answer: two answers that share it are parts of one file, byte for byte.

    That is an ETag that is not marked as weak. A time of modification is one only where no ETag is sent (RFC 9110,
    section 13.1.5), and the file was not changed again within its second (section 8.8.2.2).
    """
    etag = response.header("ETag")
    if etag:
        return _Validator("ETag", etag) if etag.startswith('"') else None
    modified = response.header("Last-Modified")
    try:
        age = parsedate_to_datetime(response.header("Date")) - parsedate_to_datetime(modified)
    except (TypeError, ValueError, OverflowError):
        return None
    return _Validator("Last-Modified", modified) if age >= _MODIFIED_BEFORE else None
