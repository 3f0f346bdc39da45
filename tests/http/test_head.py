"""Heads of answers are read as http.client reads them."""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luma_pipeline.http.connection import FinalResponse
from luma_pipeline.http.head import read_headers


class Wire:
    """A socket on which an answer has come."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(cast("io.RawIOBase", io.BytesIO(self._answer)))


def headers_of(read: Any, head: bytes) -> object:
    file = io.BytesIO(head)
    try:
        return read(file).items(), file.read()
    except http.client.HTTPException as error:
        return type(error), str(error)


def frame_of(kind: type[http.client.HTTPResponse], answer: bytes, method: str) -> object:
    """What an answer's head says of its body."""
    response = kind(cast("socket.socket", Wire(answer)), method=method)
    try:
        response.begin()
    except http.client.HTTPException as error:
        return type(error)
    length = getattr(response, "length", None)
    found = (response.version, response.status, response.reason, response.headers.items())
    return (*found, response.chunked, length, response.will_close, response.read() if not response.chunked else None)


names = st.one_of(
    st.sampled_from([b"Content-Type", b"Content-Length", b"connection", b"X-A", b"keep-alive", b"From ", b"", b"a b"]),
    st.binary(max_size=4),
)
values = st.one_of(
    st.sampled_from([b"close", b"Keep-Alive", b"12", b"-1", b"+3", b" 5 ", b"1_0", b"multipart/mixed; boundary=a"]),
    st.binary(max_size=8),
)
lines = st.tuples(
    names,
    st.sampled_from([b":", b": ", b":\t", b"", b" :"]),
    values,
    st.sampled_from([b"\r\n"] * 6 + [b"\n", b"\r", b""]),
).map(b"".join)
heads = st.tuples(st.lists(lines, max_size=6).map(b"".join), st.sampled_from([b"\r\n", b"\n", b""])).map(b"".join)

ODD = [
    *(
        b"",
        b"\r\n",
        b"\n",
        b"A: 1\r\n",
        b"A: 1\r\n\r\nrest",
        b"A:1\n\n",
        b" folded\r\n\r\n",
        b"A: 1\r\n\tmore\r\nB: 2\r\n\r\n",
    ),
    *(
        b": no name\r\n\r\n",
        b"no colon\r\nB: 2\r\n\r\n",
        b"A: \xe4\x00\x85\x1c\r\n\r\n",
        b"A: 1\rB: 2\r\n\r\n",
        b"A :1\r\n\r\n",
    ),
    *(b"A: 1\r\n" * 100 + b"\r\n", b"A: 1\r\n" * 99 + b"\r\n", b"A: " + b"1" * 70_000 + b"\r\n\r\n", b"A:\r\n\r\n"),
    *(b"From me\r\nA: 1\r\n\r\n", b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n", b"A:  1 \t\r\n\r\n"),
]


@pytest.mark.parametrize("head", ODD, ids=lambda head: repr(head[:30]))
def test_odd_headers_are_read_as_by_http_client(head: bytes) -> None:
    assert headers_of(read_headers, head) == headers_of(http.client.parse_headers, head)


@given(head=heads)
@settings(max_examples=300, deadline=None)
def test_any_headers_are_read_as_by_http_client(head: bytes) -> None:
    assert headers_of(read_headers, head) == headers_of(http.client.parse_headers, head)


STATUSES = [b"HTTP/1.1 200 OK", b"HTTP/1.0 204 ", b"HTTP/1.1 304", b"HTTP/0.9 200 x", b"HTTP/2 200", b"ICY 200", b""]
STATUSES += [
    b"HTTP/1.1 abc",
    b"HTTP/1.1 99 x",
    b"HTTP/1.7 500  two  words ",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No",
]


@given(
    status=st.sampled_from(STATUSES),
    head=st.lists(
        st.sampled_from(
            [
                *(b"Content-Length: 3", b"content-length: 3", b"Content-Length: -3", b"Content-Length: x"),
                *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding: identity"),
                *(b"Transfer-Encoding: chunked ", b"Connection: close", b"Connection: keep-alive", b"Keep-Alive: 5"),
                *(b"Content-Length: ", b"Content-Length: 00", b"Proxy-Connection: keep-alive", b"X: 1"),
            ]
        ),
        max_size=4,
        unique_by=lambda line: line.partition(b":")[0].lower(),
    ),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
@settings(max_examples=300, deadline=None)
@example(status=STATUSES[0], head=[], method="GET")
def test_where_a_body_ends_is_told_as_by_http_client(status: bytes, head: list[bytes], method: str) -> None:
    answer = b"\r\n".join([status, *head, b"", b"body"])
    assert frame_of(FinalResponse, answer, method) == frame_of(http.client.HTTPResponse, answer, method)
