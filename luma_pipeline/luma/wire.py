"""The provider's room: reading an HTTP/1.1 answer from a connection (RFC 9112), with a bound on all that is read.

`http.client` builds an e-mail message of every answer's head, which costs more CPU than the rest of a request that is
not the kernel's. This reads the same bytes into a dict; it also refuses what `http.client` lets pass: a head that
breaks off, an interim answer taken for the final one, and chunks of a negative length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["BodyTooLargeError", "Head", "TransportError", "read_body", "read_head"]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: .*)?")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;.*)?")
_LONGEST_LINE = 64 * 1024
_MOST_LINES = 200
_MOST_INTERIM_ANSWERS = 10


class TransportError(Exception):
    """No complete answer came: the connection, the time or the bytes failed. `code` says which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class BodyTooLargeError(TransportError):
    """The answer is larger than `max_body_bytes`. Asking again would bring the same."""

    def __init__(self, limit: int) -> None:
        super().__init__("body_too_large", f"the answer has more than {limit} bytes")


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer. Names are in lower case; values of a repeated name are joined with commas."""

    status: int
    headers: Mapping[str, str]
    keeps_alive: bool
    """Whether the connection is good for another request once the body is read."""


def read_head(stream: BinaryIO) -> Head:
    """Read the head of the final answer; interim ones (1xx, such as 103 Early Hints) are passed over.

    Raises:
        ConnectionResetError: The connection was closed before the first byte.
        TransportError: What comes is not the head of an HTTP/1 answer, or breaks off.
    """
    for _ in range(_MOST_INTERIM_ANSWERS):
        first = stream.readline(_LONGEST_LINE)
        if not first:
            raise ConnectionResetError("closed without an answer")
        match = _STATUS_LINE.fullmatch(_ended(first))
        if match is None:
            raise TransportError("bad_http", "the answer does not begin with an HTTP/1 status line")
        headers = _read_headers(stream)
        status = int(match[2])
        if status >= 200:
            closes = match[1] == b"0" or "close" in headers.get("connection", "").lower()
            return Head(status, headers, not closes and _has_end(status, headers))
    raise TransportError("bad_http", "only interim answers came")


def read_body(stream: BinaryIO, head: Head, limit: int) -> bytes:
    """Read the whole body, and nothing if it is longer than `limit` bytes.

    Raises:
        BodyTooLargeError: It is longer than `limit`.
        TransportError: It breaks off, or its framing cannot be read.
    """
    if head.status in (204, 304):
        return b""
    coding = head.headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise TransportError("bad_http", f"the answer has the unknown transfer coding {coding[:40]!r}")
        return _read_chunks(stream, limit)
    length = head.headers.get("content-length")
    if length is None:
        body = stream.read(limit + 1)
        if len(body) > limit:
            raise BodyTooLargeError(limit)
        return body
    if not (length.isascii() and length.isdigit()):
        raise TransportError("bad_http", f"the answer has the length {length[:40]!r}")
    if len(length) > 18 or int(length) > limit:
        raise BodyTooLargeError(limit)
    return _exactly(stream, int(length))


def _has_end(status: int, headers: Mapping[str, str]) -> bool:
    return status in (204, 304) or "content-length" in headers or "transfer-encoding" in headers


def _read_headers(stream: BinaryIO) -> dict[str, str]:
    headers: dict[str, str] = {}
    for _ in range(_MOST_LINES):
        line = _ended(stream.readline(_LONGEST_LINE))
        if not line:
            return headers
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    raise TransportError("bad_http", f"the answer has more than {_MOST_LINES} headers")


def _read_chunks(stream: BinaryIO, limit: int) -> bytes:
    chunks = []
    left = limit
    while True:
        match = _CHUNK_SIZE.fullmatch(_ended(stream.readline(_LONGEST_LINE)))
        if match is None:
            raise TransportError("bad_http", "the answer's chunks cannot be read")
        size = int(match[1], 16)
        if not size:
            _read_headers(stream)  # the trailers
            return b"".join(chunks)
        if size > left:
            raise BodyTooLargeError(limit)
        left -= size
        chunks.append(_exactly(stream, size))
        if _exactly(stream, 2) != b"\r\n":
            raise TransportError("bad_http", "a chunk of the answer is longer than it says")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    body = stream.read(size)
    if len(body) < size:
        raise TransportError("cut_body", f"the answer broke off after {len(body)} of {size} bytes")
    return body


def _ended(line: bytes) -> bytes:
    """A line without its end."""
    if not line.endswith(b"\n"):
        if len(line) >= _LONGEST_LINE:
            raise TransportError("bad_http", "a line of the answer's head is too long")
        raise TransportError("cut_body", "the answer broke off in its head")
    return line.rstrip(b"\r\n")
