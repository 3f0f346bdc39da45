"""Answers as bytes on the wire: whole ones are read however they are framed, broken ones are known as broken."""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from luma_pipeline.luma import LumaClient, Outcome, ProviderConfig
from tests.luma.raw_server import once, raw_server

BODY = b'{"id": "t", "state": "completed"}'
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ZIPPED = gzip.compress(BODY)


def with_length(head: bytes, body: bytes) -> bytes:
    return OK + head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def ask(base_url: str, **settings: Any) -> Any:
    with LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, max_retry_seconds=0.0, **settings)) as luma:
        return luma.fetch_one("t")


WHOLE = {
    "with a length": with_length(b"", BODY),
    "in chunks": CHUNKED + b"5\r\n" + BODY[:5] + b"\r\n1C;x=y\r\n" + BODY[5:] + b"\r\n0\r\nTrailer: x\r\n\r\n",
    "until the connection closes": OK + b"\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
    "no reason": b"HTTP/1.1 200 \r\n\r\n" + BODY,
    "gzipped": with_length(b"Content-Encoding: gzip\r\n", ZIPPED),
    "identity": with_length(b"Content-Encoding: identity\r\n", BODY),
    "a charset as its encoding": with_length(b"Content-Encoding: utf-8\r\n", BODY),
    "no encoding, in words": with_length(b"Content-Encoding: None\r\n", BODY),
    "a binary encoding": with_length(b"Content-Encoding: BINARY\r\n", BODY),
    "an upload's encoding": with_length(b"Content-Encoding: aws-chunked\r\n", BODY),
    "an empty encoding": with_length(b"Content-Encoding:\r\n", BODY),
    "an upload's encoding, gzipped": with_length(b"Content-Encoding: aws-chunked, gzip\r\n", ZIPPED),
    "its length twice": with_length(b"Content-Length: %d\r\n" % len(BODY), BODY),
    "its length twice in one header": OK + b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "after an interim answer": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + with_length(b"", BODY),
    "after several": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n" + with_length(b"", BODY),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_answer_is_read(name: str) -> None:
    with raw_server(once(WHOLE[name])) as base_url:
        outcome = ask(base_url)
    assert (outcome.outcome, outcome.raw_response) == (Outcome.RESOLVED, BODY.decode())


BROKEN = {
    "no bytes": (b"", "connection"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_http"),
    "a line without end": (b"HTTP/1.1 200 " + b"x" * 100_000, "bad_http"),
    "no status line": (BODY, "bad_http"),
    "only an interim answer": (b"HTTP/1.1 103 Early Hints\r\n\r\n", "connection"),
    "lengths that do not agree": (with_length(b"Content-Length: 9\r\n", BODY), "bad_http"),
    "lengths that do not agree in one header": (OK + b"Content-Length: 9, 5\r\n\r\n" + BODY, "bad_http"),
    "a transfer coding unasked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "bad_http"),
    "too many headers": (OK + b"X: y\r\n" * 1000 + b"\r\n" + BODY, "bad_http"),
    "shorter than its length": (OK + b"Content-Length: 90\r\n\r\n" + BODY, "cut_body"),
    "cut in a chunk": (CHUNKED + b"90\r\n" + BODY, "cut_body"),
    "cut between chunks": (CHUNKED + b"21\r\n" + BODY + b"\r\n", "cut_body"),
    "cut in its compression": (with_length(b"Content-Encoding: gzip\r\n", ZIPPED[:-12]), "cut_body"),
    "not compressed": (with_length(b"Content-Encoding: gzip\r\n", BODY), "bad_encoding"),
    "compressed unasked": (with_length(b"Content-Encoding: br\r\n", BODY), "bad_encoding"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_no_generation(name: str) -> None:
    answer, code = BROKEN[name]
    with raw_server(once(answer)) as base_url:
        outcome = ask(base_url)
    assert (outcome.error_code, outcome.generation) == (code, None)


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


ENDLESS = {
    "in chunks": (CHUNKED, b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "in a chunk of negative length": (CHUNKED + b"-1\r\n", b"x" * 65536),
    "in a chunk of any length": (CHUNKED + b"fffffffffffffff\r\n", b"x" * 65536),
    "until the connection closes": (OK + b"\r\n", b"x" * 65536),
    "by its length": (OK + b"Content-Length: 999999999999\r\n\r\n", b"x" * 65536),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_body_is_refused(name: str) -> None:
    with raw_server(endless(*ENDLESS[name])) as base_url:
        outcome = ask(base_url, max_body_bytes=1_000_000, deadline=30.0)
    assert outcome.outcome is Outcome.INVALID_RESPONSE
    assert outcome.error_code in ("body_too_large", "bad_http")


def test_the_answer_after_an_interim_one_is_not_taken_for_another_tasks() -> None:
    numbers = itertools.count()

    def answer(connection: socket.socket) -> None:
        body = b'{"id": "%d", "state": "completed"}' % next(numbers)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        time.sleep(0.1)  # so that the two are not read at one go
        connection.sendall(with_length(b"", body))
        if not connection.recv(65536):
            raise ConnectionResetError

    with (
        raw_server(answer) as base_url,
        LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, max_retry_seconds=0.0)) as luma,
    ):
        outcomes = [luma.fetch_one(str(number)) for number in range(3)]
    assert [outcome.generation and outcome.generation["id"] for outcome in outcomes] == ["0", "1", "2"]


def test_a_kept_alive_connection_that_was_reset_is_no_failure() -> None:
    """The server reads a connection's second request and hangs up."""
    served = threading.local()

    def answer(connection: socket.socket) -> None:
        if getattr(served, "one", False):
            connection.close()
            raise ConnectionResetError
        served.one = True
        connection.sendall(with_length(b"", BODY))
        connection.recv(65536)

    with (
        raw_server(answer) as base_url,
        LumaClient(ProviderConfig(token="t" * 20, base_url=base_url, max_retry_seconds=0.0)) as luma,
    ):
        kinds = {luma.fetch_one("t").outcome for _ in range(5)}
    assert kinds == {Outcome.RESOLVED}


def test_threads_that_ask_for_one_task_each_share_the_connections() -> None:
    connections = []

    def answer(connection: socket.socket) -> None:
        if connection not in connections:
            connections.append(connection)
        connection.sendall(with_length(b"", BODY))
        if not connection.recv(65536):
            raise ConnectionResetError

    with raw_server(answer) as base_url, LumaClient(ProviderConfig(token="t" * 20, base_url=base_url)) as luma:
        for _ in range(10):
            thread = threading.Thread(target=luma.fetch_one, args=("t",))
            thread.start()
            thread.join()
    assert len(connections) == 1
