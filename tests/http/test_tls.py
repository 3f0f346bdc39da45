"""TLS as the HTTP room reads it: in large pieces, and as watchful as without TLS."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from luma_pipeline.http import tls
from luma_pipeline.http.errors import TransportError
from luma_pipeline.http.guard import Guard, parse_target
from luma_pipeline.http.session import Response
from luma_pipeline.media.transport import Transport

BODY = os.urandom(3_000_000)
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n"

Answer = Callable[[ssl.SSLSocket], None]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return found


@contextmanager
def serving(
    authority: trustme.CA, answer: Answer, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> Iterator[tuple[str, list[str]]]:
    """A TLS server's URL, and what went wrong in its handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = newest
    authority.issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    failures: list[str] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            try:
                secure = context.wrap_socket(connection, server_side=True)
            except ssl.SSLError as error:
                failures.append(str(error))
                return
            with secure:
                while secure.recv(65536):
                    answer(secure)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/x.mp4", failures


@contextmanager
def client(read_timeout: float = 20.0, stopping: threading.Event | None = None) -> Iterator[Transport]:
    made = Transport(Guard(allow_private_addresses=True), (5.0, read_timeout), 1, stopping or threading.Event())
    try:
        yield made
    finally:
        made.close()


def opened(transport: Transport, url: str) -> Response:
    return transport.get(parse_target(url), {}, time.monotonic() + 60)


def read(response: Response) -> bytes:
    found, buffer = bytearray(), bytearray(1 << 20)
    while count := response.readinto(memoryview(buffer)):
        found += buffer[:count]
    return bytes(found)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_body_comes_whole_and_the_connection_is_kept(authority: trustme.CA, newest: ssl.TLSVersion) -> None:
    ports = []

    def answer(secure: ssl.SSLSocket) -> None:
        ports.append(secure.getpeername()[1])
        secure.sendall(HEAD + BODY)

    with serving(authority, answer, newest) as (url, _), client() as transport:
        for _ in range(3):
            response = opened(transport, url)
            assert read(response) == BODY
            response.release()

    assert len(ports) == 3
    assert len(set(ports)) == 1


def test_the_kernel_is_asked_for_more_than_a_record(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tls.TLSSocket] = []
    receive = tls.TLSSocket._receive

    def counted(self: tls.TLSSocket) -> None:
        asked.append(self)
        receive(self)

    monkeypatch.setattr(tls.TLSSocket, "_receive", counted)
    sent = threading.Event()

    def answer(secure: ssl.SSLSocket) -> None:
        secure.sendall(HEAD + BODY[:160_000])
        sent.set()
        secure.sendall(BODY[160_000:])

    with serving(authority, answer) as (url, _), client() as transport:
        response = opened(transport, url)
        sent.wait(10)
        before = len(asked)
        assert response.readinto(memoryview(bytearray(100_000))) == 100_000
        assert len(asked) - before <= 3
        response.close()


def test_bytes_that_follow_a_body_are_not_the_next_answer(authority: trustme.CA) -> None:
    ports = []

    def answer(secure: ssl.SSLSocket) -> None:
        ports.append(secure.getpeername()[1])
        secure.sendall(HEAD + BODY)
        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    with serving(authority, answer) as (url, _), client() as transport:
        for _ in range(3):
            response = opened(transport, url)
            assert read(response) == BODY
            time.sleep(0.1)
            response.release()

    assert len(set(ports)) == 3


def ended(secure: ssl.SSLSocket) -> None:
    secure.sendall(HEAD + BODY[:100_000])
    secure.unwrap()


def broken(secure: ssl.SSLSocket) -> None:
    secure.sendall(HEAD + BODY[:100_000])
    secure.close()


@pytest.mark.parametrize("answer", [ended, broken])
def test_a_body_that_is_cut_ends_early(authority: trustme.CA, answer: Answer) -> None:
    with serving(authority, answer) as (url, _), client() as transport:
        response = opened(transport, url)
        assert read(response) == BODY[:100_000]
        response.close()


@pytest.mark.parametrize("head", [HEAD, TO_THE_END], ids=["length", "to the connection's end"])
def test_a_host_that_falls_silent_is_cut_and_what_came_before_is_kept(authority: trustme.CA, head: bytes) -> None:
    def answer(secure: ssl.SSLSocket) -> None:
        secure.sendall(head + BODY[:100_000])
        secure.recv(1)

    with serving(authority, answer) as (url, _), client(read_timeout=0.5) as transport:
        response = opened(transport, url)
        buffer, came = bytearray(1 << 20), 0
        code = None
        try:
            while count := response.readinto(memoryview(buffer)[came:]):
                came += count
        except TransportError as error:
            code = error.code
        response.close()

    assert code == "timeout"
    assert buffer[:came] == BODY[:100_000]


@pytest.mark.parametrize("head", [HEAD, TO_THE_END], ids=["length", "to the connection's end"])
def test_a_stop_wakes_a_reader(authority: trustme.CA, head: bytes) -> None:
    stopping = threading.Event()

    def answer(secure: ssl.SSLSocket) -> None:
        secure.sendall(head + BODY[:100_000])
        stopping.set()
        secure.recv(1)

    with serving(authority, answer) as (url, _), client(read_timeout=60.0, stopping=stopping) as transport:
        begun = time.monotonic()
        with pytest.raises(TransportError):
            read(opened(transport, url))
        assert time.monotonic() - begun < 10


def test_an_unknown_authority_is_refused_and_the_host_is_told(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "another.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "another.pem"))
    with serving(authority, lambda _: None) as (url, failures), client() as transport:
        with pytest.raises(TransportError, match="certificate"):
            opened(transport, url)
        for _ in range(100):
            if failures:
                break
            time.sleep(0.05)
    assert "unknown ca" in failures[0].lower()
