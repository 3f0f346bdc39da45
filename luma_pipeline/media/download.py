"""One artifact's bytes from its media host: redirects, resumption, stalls, budgets and lengths."""

from __future__ import annotations

import http.client
import math
import random
import re
import ssl
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from luma_pipeline.http.errors import TargetRefusedError
from luma_pipeline.http.guard import parse_target
from luma_pipeline.media.errors import CopyCancelled, CopyError, ErrorCode
from luma_pipeline.media.links import Link, redact_link
from luma_pipeline.media.transport import MOST_DIGITS, Response, Transport

READ_BYTES = 1 << 20
"""The most bytes taken from the socket at once; larger saves system calls, smaller saves nothing."""

_REDIRECTS = {301, 302, 303, 307, 308}
_DEAD = {403, 404, 410}
_RETRIED = {408, 425, 429}
_LONGEST_PAUSE_SECONDS = 30.0
_NUMBER = rf"([0-9]{{1,{MOST_DIGITS}}})"
_CONTENT_RANGE = re.compile(rf"bytes {_NUMBER}-{_NUMBER}/{_NUMBER}")


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """How long, how slow, how often and how much.

    min_bytes_per_second is held against each window of stall_window_seconds in which bytes were waited for; zero turns
    it off. max_attempts counts requests for one artifact, redirects not included; max_seconds runs from the first.
    """

    max_bytes: int
    min_bytes_per_second: float = 16 * 1024
    stall_window_seconds: float = 20.0
    max_attempts: int = 5
    max_seconds: float = 3600.0
    max_redirects: int = 5
    backoff_seconds: float = 0.5


class StreamRestarted(Exception):  # noqa: N818  (not an error: the bytes simply start again)
    """The host could not go on where it broke off: what was read is void, and the next read starts at byte 0."""


class _Broken(Exception):  # noqa: N818
    """This attempt is over; another may follow."""

    def __init__(self, code: ErrorCode, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pause = pause


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
        self._validator = ""
        self._deadline = math.inf  # Set at the first byte: what waits for its turn has not begun.
        self._window_bytes = 0
        self._window_seconds = 0.0
        self.position = 0
        self.total: int | None = None
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

    def _read_some(self, response: Response, view: memoryview) -> int:
        started = time.monotonic()
        most = min(len(view), READ_BYTES)
        if self.total is not None:
            # A range may bring more than it says; what is beyond the file's end goes with the connection.
            most = min(most, self.total - self.position)
        try:
            data = response.read(most)
        except TimeoutError:
            raise _Broken(ErrorCode.STALLED, "the host fell silent") from None
        except http.client.IncompleteRead:
            raise _Broken(ErrorCode.WRONG_LENGTH, self._cut_message()) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Broken(ErrorCode.CONNECTION, f"the connection broke ({type(error).__name__})") from None
        count = len(data)
        if not count:
            return self._finish()
        view[:count] = data
        self.position += count
        self.bytes_downloaded += count
        self._check_size(self.position)
        if self.at_end:
            self._release()
        else:
            self._check_speed(count, time.monotonic() - started)
        return count

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
        if self.attempts >= self._limits.max_attempts:
            raise CopyError(broken.code, f"{broken.message} ({self.attempts} attempts)") from None
        longest = min(_LONGEST_PAUSE_SECONDS, self._limits.backoff_seconds * 2**self.attempts)
        pause = random.uniform(0, longest) if broken.pause is None else broken.pause  # noqa: S311  (jitter, no secret)
        self._stopping.wait(min(pause, max(0.0, self._deadline - time.monotonic())))

    def _open(self) -> Response:
        """Have the host answer from `position` on, or from the start; raises StreamRestarted if bytes become void."""
        if self.link.is_past_expiry:
            self._renew_link("the link's own expiry is past")
        response = self._request(self._range_headers())
        if response.status in _DEAD:
            response.close()
            self._renew_link(f"the host answered {response.status}")
            response = self._request(self._range_headers())
            if response.status in _DEAD:
                response.close()
                self._give_up_link(f"the host answered {response.status} for the renewed link too")
        self._window_bytes, self._window_seconds = 0, 0.0
        if self.position and self._continues(response):
            return response
        return self._begin(response)

    def _range_headers(self) -> dict[str, str]:
        if not self.position or not self._validator:
            return {}
        return {"Range": f"bytes={self.position}-", "If-Range": self._validator}

    def _continues(self, response: Response) -> bool:
        """Whether the answer goes on at `position` with the same file. A 200 starts it anew."""
        if response.status not in {206, 416}:
            return False
        match = _CONTENT_RANGE.fullmatch(response.header("Content-Range"))
        if response.status == 206 and match is not None and not _is_encoded(response):
            first, total = int(match[1]), int(match[3])
            if first == self.position < total and self.total in {None, total}:
                self.total = total
                return True
        # A range that does not fit: without the validator the next request asks for the whole.
        response.close()
        self._validator = ""
        raise _Broken(ErrorCode.CONNECTION, "the host answered another range than the one asked for", pause=0.0)

    def _begin(self, response: Response) -> Response:
        """Take a whole answer from its first byte."""
        try:
            length = self._promised_length(response)
        except BaseException:
            response.close()
            raise
        etag = response.header("ETag")
        # A weak validator promises the same meaning, not the same bytes (RFC 9110, section 13.1.5).
        self._validator = etag if etag.startswith('"') else ""
        self.total = length
        self.content_type = response.header("Content-Type")
        had_bytes, self.position = self.position > 0, 0
        self._response = response
        if had_bytes:
            raise StreamRestarted
        return response

    def _promised_length(self, response: Response) -> int | None:
        """The length of a body that can be taken; None when it comes in chunks."""
        self._check_status(response)
        if _is_encoded(response):
            raise CopyError(ErrorCode.ENCODED_BODY, "the body is content-encoded although identity was asked for")
        length = response.content_length
        if length is None and not response.is_chunked:
            raise CopyError(
                ErrorCode.WRONG_LENGTH, "the host promised no length that can be read, so a cut could not be told"
            )
        self._check_size(length or 0)
        return length

    @staticmethod
    def _check_status(response: Response) -> None:
        status = response.status
        if status == 200:
            return
        message = f"the host answered {status}"
        if status in _RETRIED or status >= 500:
            raise _Broken(ErrorCode.HTTP_STATUS, message, pause=_retry_after(response.header("Retry-After")))
        raise CopyError(ErrorCode.HTTP_STATUS, message)

    def _request(self, headers: dict[str, str]) -> Response:
        """One attempt: the answer behind the redirects, each of which is checked like the first link."""
        self.attempts += 1
        url = self.link.url
        for _ in range(self._limits.max_redirects + 1):
            self._check_time()
            try:
                target = parse_target(url)
                response = self._transport.get(target, headers, self._deadline)
            except TargetRefusedError as error:
                raise CopyError(ErrorCode(error.reason.value), str(error)) from None
            except TimeoutError:
                raise _Broken(ErrorCode.CONNECTION, f"{target.host} did not answer in time") from None
            except ssl.SSLCertVerificationError:
                raise CopyError(ErrorCode.CONNECTION, f"{target.host} has no certificate we can trust") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _Broken(ErrorCode.CONNECTION, f"{target.host}: no answer ({type(error).__name__})") from None
            if response.status not in _REDIRECTS:
                return response
            location = response.header("Location")
            response.close()
            url = _redirected(url, location)
        raise CopyError(ErrorCode.TOO_MANY_REDIRECTS, f"more than {self._limits.max_redirects} redirects")

    def _renew_link(self, reason: str) -> None:
        if not self.link.renew():
            self._give_up_link(reason)
        if self.link.is_past_expiry:
            self._give_up_link("the renewed link's own expiry is past too")

    def _give_up_link(self, reason: str) -> None:
        raise CopyError(ErrorCode.LINK_EXPIRED, f"{redact_link(self.link.url)}: {reason}")


def _is_encoded(response: Response) -> bool:
    return response.header("Content-Encoding").lower() not in {"", "identity"}


def _redirected(url: str, location: str) -> str:
    if not location:
        raise CopyError(ErrorCode.TOO_MANY_REDIRECTS, "a redirect without a target")
    try:
        # http.client decodes headers as Latin-1; hosts that do not quote their links send UTF-8.
        joined = urljoin(url, location.encode("latin-1").decode("utf-8", "replace"))
    except ValueError:
        joined = ""
    if url.startswith("https:") and not joined.startswith("https:"):
        raise CopyError(ErrorCode.BAD_SCHEME, "an https link redirects to something that is not https")
    return joined


def _retry_after(value: str) -> float | None:
    """Seconds to wait by a Retry-After header, in either of its forms; None when it says nothing we can read."""
    if value.isascii() and value.isdigit():
        return min(float(value), _LONGEST_PAUSE_SECONDS)
    try:
        when = parsedate_to_datetime(value)
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        seconds = (when - datetime.now(timezone.utc)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), _LONGEST_PAUSE_SECONDS)
